import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import films
from benchmarks.episodes import Recording, load_recording
from benchmarks.replay import (
    choose_cell,
    choose_domains,
    choose_episode,
    most_moved,
    reference_latents,
    write_page,
)
from darla import doctor
from darla.cli import app
from darla.doctor import Check
from darla.errors import ConfigError, DependencyError, DomainError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import append_jsonl
from envs import registry
from tests.benchmarks.toy_replay import CELLS, SUITE, made_up, toy_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setattr(registry, "_SIMULATORS", dict(registry.simulators()))
    monkeypatch.setattr(doctor, "check_gl", lambda: Check("OpenGL", "ok", "fake"))
    return toy_run(tmp_path)


def darla(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        app([str(word) for word in words])
    return int(ended.value.code or 0)


def data_of(page: Path) -> dict:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)
    assert found is not None
    return json.loads(found[1])


def with_arrays(recording: Recording, **arrays: np.ndarray) -> Recording:
    return Recording(recording.facts, {**recording.arrays, **arrays})


class TestChoices:
    def test_darla_plays_unless_another_is_named(self, run: RunDirectory) -> None:
        assert choose_cell(run, None).id == "dqn-darla-s0"
        assert choose_cell(run, "a3c-factors-s0") == CELLS[2]

    def test_a_cell_that_is_not_there_is_refused(self, run: RunDirectory) -> None:
        with pytest.raises(ConfigError, match=r"no cell 'dqn-darla-s1' \(did you mean 'dqn-da"):
            choose_cell(run, "dqn-darla-s1")
        with pytest.raises(MissingFileError, match=r"dqn-pixels-s0 .* not trained yet; those that"):
            choose_cell(run, "dqn-pixels-s0")
        for cell in CELLS:
            (run.agent(cell.id) / "policy.safetensors").unlink()
        with pytest.raises(MissingFileError, match="`darla train`"):
            choose_cell(run, None)

    def test_the_first_source_and_target_unless_others_are_named(self) -> None:
        assert choose_domains(SUITE, []) == [SUITE.d_s[0], SUITE.d_t[0]]
        assert choose_domains(SUITE, ["catch/pink", "catch/pink"]) == [SUITE.d_t[0]]
        with pytest.raises(DomainError, match="did you mean 'catch/pink'"):
            choose_domains(SUITE, ["catch/punk"])

    def test_best_and_worst_are_those_of_the_table(self, scores_of) -> None:
        rows = [
            dataclasses.replace(score, domain="catch/pink", suite="catch")
            for score in scores_of("factors", seeds=2)
            if score.domain == "lab/B/hat-can"
        ]
        (domain,) = SUITE.d_t
        values = [row.value for row in rows if row.seed == 0]
        assert choose_episode(rows, SUITE, CELLS[0], domain, "best") == np.argmax(values)
        assert choose_episode(rows, SUITE, CELLS[0], domain, "worst") == np.argmin(values)
        with pytest.raises(MissingFileError, match="dqn-darla-s0 was not scored in"):
            choose_episode(rows, SUITE, CELLS[1], domain, "best")


class TestLatents:
    def test_the_latents_that_moved_most_are_known(self) -> None:
        source = np.stack([np.array([-1.0, 1.0]), np.array([0.0, 4.0]), np.full(2, 5.0)], 1)
        target = np.array([[3.0, 4.0, 5.0]] * 2)
        one = with_arrays(made_up(), latents=source)
        mean, spread = reference_latents(one)
        assert mean.tolist() == [0.0, 2.0, 5.0]
        assert spread.tolist() == [1.0, 2.0, pytest.approx(0.2)]
        assert most_moved(with_arrays(made_up(), latents=target), mean, spread) == [
            (0, 3.0),
            (1, 1.0),
            (2, 0.0),
        ]

    def test_a_policy_on_frames_has_none(self) -> None:
        arrays = {k: v for k, v in made_up().arrays.items() if k != "latents"}
        blind = Recording(made_up().facts, arrays)
        assert most_moved(blind, *reference_latents(blind)) == []


class TestPage:
    def test_a_page_of_two_lanes_is_small_and_asks_for_nothing(self, tmp_path: Path) -> None:
        page = tmp_path / "replay.html"
        write_page([made_up(), made_up("lab/B/hat-can", 301)], page)
        assert page.stat().st_size < 3_000_000
        text = page.read_text()
        assert "default-src 'none'" in text
        references = re.findall(r'\b(?:src|href|action|srcset)="([^"]*)"', text)
        assert references and all(r.startswith(("#", "data:")) for r in references)
        assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]

    def test_its_numbers_are_those_of_the_recordings(self, tmp_path: Path) -> None:
        page, lanes = tmp_path / "replay.html", [made_up(length=20), made_up("lab/B/hat-can", 30)]
        write_page(lanes, page)
        data = data_of(page)
        for lane, recording in zip(data["lanes"], lanes, strict=True):
            for name in ("actions", "rewards", "returns", "preferences", "latents"):
                assert np.allclose(lane[name], recording.arrays[name], rtol=1e-3, atol=1e-6)
        assert [lane["reference"] for lane in data["lanes"]] == [True, False]
        assert "≠ B" in page.read_text()

    def test_the_source_is_the_reference_wherever_it_stands(self, tmp_path: Path) -> None:
        page = tmp_path / "replay.html"
        write_page([made_up("lab/B/hat-can", 20), made_up(length=20)], page)
        assert [lane["reference"] for lane in data_of(page)["lanes"]] == [False, True]

    def test_an_option_that_was_never_tried_has_no_number(self, tmp_path: Path) -> None:
        values = made_up(length=20).arrays["preferences"].copy()
        values[3, 2] = np.inf
        write_page([with_arrays(made_up(length=20), preferences=values)], tmp_path / "r.html")
        (lane,) = data_of(tmp_path / "r.html")["lanes"]
        assert lane["preferences"][3][2] is None

    def test_what_a_world_calls_things_is_escaped(self, tmp_path: Path) -> None:
        evil = "</script><script>alert(1)</script>"
        facts = made_up(length=20).facts.model_copy(
            update={"domain": evil, "factors": {evil: evil}, "options": (evil,) * 8, "run": evil}
        )
        write_page([Recording(facts, made_up(length=20).arrays)], tmp_path / "r.html")
        assert (tmp_path / "r.html").read_text().count("<script") == 2

    @pytest.mark.parametrize("scored", ["same", "other", "none"])
    def test_it_says_how_the_episode_was_scored(self, tmp_path: Path, scored: str) -> None:
        facts = made_up(length=20).facts
        other = facts.outcome.model_copy(update={"return_": -2.5})
        known = {"same": facts.outcome, "other": other, "none": None}[scored]
        facts = facts.model_copy(update={"scored": known})
        write_page([Recording(facts, made_up(length=20).arrays)], tmp_path / "r.html")
        words = {
            "same": "the same as when it was scored",
            "other": "when it was scored: −2.5 in 20 steps",
            "none": "it was not scored",
        }
        assert words[scored] in (tmp_path / "r.html").read_text()


class TestFilms:
    def test_a_lane_that_is_over_holds_its_last_frame(self) -> None:
        lanes = [made_up(length=20), made_up("lab/B/hat-can", 23)]
        pictures = list(films.pictures(lanes))
        assert len(pictures) == 23 and len({picture.shape for picture in pictures}) == 1
        height, width, _ = pictures[0].shape
        assert height % 2 == width % 2 == 0
        left = (slice(0, 200), slice(0, 200))
        assert np.array_equal(pictures[22][left], pictures[19][left])
        assert not np.array_equal(pictures[18][left], pictures[19][left])

    def test_a_gif_plays_every_step_in_real_time(self, tmp_path: Path) -> None:
        films.write_gif([made_up(length=20)], tmp_path / "r.gif")
        with Image.open(tmp_path / "r.gif") as gif:
            assert gif.n_frames == 20
            assert gif.info["duration"] == 200

    def test_an_mp4_plays_every_step_in_real_time(self, tmp_path: Path) -> None:
        ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg")
        films.write_mp4([made_up(length=20)], tmp_path / "r.mp4")
        assert ffmpeg.count_frames_and_secs(tmp_path / "r.mp4") == (20, pytest.approx(4.0))
        assert [file.name for file in tmp_path.iterdir()] == ["r.mp4"]

    def test_an_rrd_holds_every_array_along_the_steps(self, tmp_path: Path) -> None:
        pytest.importorskip("rerun", reason="needs rerun-sdk")
        films.write_rrd([made_up(length=20)], tmp_path / "r.rrd")
        data = (tmp_path / "r.rrd").read_bytes()
        assert data[:3] == b"RRF" and len(data) > 20 * 64 * 64 * 3

    def test_a_format_that_is_not_there_is_refused_before_anything_is_played(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ConfigError, match=r"'gift', allowed .* \(did you mean 'gif'\?\)"):
            films.choose_writer("gift")
        monkeypatch.setitem(films.PACKAGES, "mp4", ("no_such_package", "pip install it"))
        with pytest.raises(DependencyError, match="no_such_package; type pip install it"):
            films.choose_writer("mp4")


class TestCommand:
    def test_it_writes_a_page_and_recordings(self, run: RunDirectory, capsys) -> None:
        assert darla("replay", run.path, "--json", "--quiet") == 0
        answer = json.loads(capsys.readouterr().out)
        page = run.path / "replay" / "replay.html"
        assert answer["replay"] == str(page)
        assert [row["domain"] for row in answer["episodes"]] == ["catch/yellow", "catch/pink"]
        kept = sorted((run.path / "replay" / "dqn-darla-s0").glob("*.json"))
        assert [path.stem for path in kept] == ["catch-pink-e0", "catch-yellow-e0"]
        recorded = load_recording(kept[0])
        assert recorded.facts.outcome.return_ == answer["episodes"][1]["return"]
        assert data_of(page)["lanes"][1]["returns"] == recorded.arrays["returns"].tolist()

    def test_the_worst_is_played_again(self, run: RunDirectory, scores_of, capsys) -> None:
        rows = [
            score.row() | {"domain": "catch/pink", "suite": "catch", "perception": "factors"}
            for score in scores_of(seeds=1)
            if score.domain == "lab/B/hat-can"
        ]
        append_jsonl(run.scores, rows)
        words = ("--cell", "dqn-factors-s0", "--domain", "catch/pink", "--json", "--quiet")
        assert darla("replay", run.path, *words, "--worst") == 0
        (row,) = json.loads(capsys.readouterr().out)["episodes"]
        assert row["episode"] == min(rows, key=lambda score: score["return"])["episode"]

    def test_another_format_and_another_seed(self, run: RunDirectory, tmp_path: Path) -> None:
        gif = tmp_path / "film.gif"
        words = ("--format", "gif", "-o", gif, "--seed", "3", "--episode", "2", "--quiet")
        assert darla("replay", run.path, *words) == 0
        assert gif.read_bytes()[:3] == b"GIF"
        kept = (run.path / "replay" / "dqn-darla-s0").glob("*.json")
        assert {path.stem for path in kept} == {"catch-pink-seed3-e2", "catch-yellow-seed3-e2"}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--domain", "catch/punk"), "did you mean 'catch/pink'"),
            (("--cell", "dqn-darla-s3"), "did you mean 'dqn-darla-s0'"),
            (("--episode", "99"), "give --episode from 0 to 6"),
            (("--best", "--worst"), "--best and --worst exclude each other"),
            (("--worst", "--seed", "3"), "--worst and --seed exclude each other"),
            (("--best",), "was not scored in 'catch/yellow'"),
            (("--format", "avi"), "allowed is one of html, gif, mp4, rrd"),
            (("-o", "x.gif"), "'x.gif' must end in .html"),
        ],
    )
    def test_what_cannot_be_is_said_in_one_line(self, run, words, message, capsys) -> None:
        assert darla("replay", run.path, "--quiet", *words) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (run.path / "replay").exists()
