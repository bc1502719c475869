import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.acting import Episode
from agents.algorithms import POLICY_FILE
from agents.cells import Cell
from agents.dqn import QPolicy
from agents.networks import QNetwork
from agents.pool import WorkerPool
from agents.training import checkpoints_of
from benchmarks import transfer
from benchmarks.results import write_results
from benchmarks.scores import RANDOM_POLICY, UNFINISHED, by_protocol, read_scores
from darla.cluster import ray_session
from darla.config import Config, RayConfig, TransferConfig
from darla.errors import CorruptFileError, DarlaError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import write_bytes
from envs.domains import Suite
from envs.registry import get_suite
from tests.toys import Catch, toy_perception

SUITE = get_suite("lab-single")
PAPER = get_suite("lab")
ROWS = 12 + 10 + 23
CELLS = [Cell("dqn", "darla", 0), Cell("dqn", "pixels", 0)]


class FakePlayer:
    """Returns are a function of who plays where, so that rows can be checked; counts its calls."""

    def __init__(self, die_at: int | None = None, value: float = 0.0) -> None:
        self.calls: list[tuple[object, str, int, float, int]] = []
        self.opened = 0
        self.die_at, self.value = die_at, value

    @contextmanager
    def open(self) -> Iterator["FakePlayer"]:
        self.opened += 1
        yield self

    def evaluate(self, policy, perception, exams, *, epsilon, seed):
        played = []
        for (domain,), episodes in exams:
            if len(self.calls) == self.die_at:
                raise KeyboardInterrupt
            self.calls.append((policy, domain.id, episodes, epsilon, seed))
            played.append(
                [
                    Episode(0, float(len(domain.id) + n + self.value), 7, n % 4, n // 4, seed)
                    for n in range(episodes)
                ]
            )
        return played


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    config = Config(
        name="r", runs=str(tmp_path), suite=SUITE.name, transfer=TransferConfig(episodes=10)
    )
    run = RunDirectory.open(config)
    for cell in CELLS:
        write_bytes(run.agent(cell.id) / POLICY_FILE, b"weights")
    return run


def score(
    run: RunDirectory,
    player: FakePlayer,
    cells: Sequence[Cell] = CELLS,
    *,
    suite: Suite = SUITE,
    allow_unfinished: bool = False,
) -> None:
    """Scores; a finished policy is said to have learned for 120,000 decisions."""

    def load(cell: Cell, _: object) -> transfer.Contestant:
        left = [int(path.stem) for path in checkpoints_of(run, cell)[-1:]]
        return transfer.Contestant(cell.id, None, *(left or [120_000]))

    transfer.score(
        run.config,
        run,
        cells,
        [suite],
        load=load,
        players=player.open,
        allow_unfinished=allow_unfinished,
        quiet=True,
    )


def checkpoint(run: RunDirectory, cell: Cell, decisions: int) -> None:
    write_bytes(run.agent(cell.id) / "checkpoints" / f"{decisions:012d}.safetensors", b"x")


def test_each_kind_of_domain_gets_its_episodes() -> None:
    exams = transfer.exams_of(SUITE, 10)
    by_kind = {}
    for exam in exams:
        kind = "encoder-ood" if "encoder-ood" in exam.tags else exam.split
        by_kind.setdefault(kind, []).append(exam.episodes)
    assert by_kind == {"source": [4, 4, 4], "target": [5, 5], "encoder-ood": [1] * 23}
    assert [exam.domain for exam in exams] == [*SUITE.d_s, *SUITE.d_t]


def test_rows_say_who_played_where(run: RunDirectory) -> None:
    player = FakePlayer()
    score(run, player)
    scores = read_scores(run)
    assert len(scores) == 3 * ROWS
    assert {(s.algorithm, s.perception, s.seed) for s in scores} == {
        ("dqn", "darla", 0),
        ("dqn", "pixels", 0),
        (RANDOM_POLICY, "none", 0),
    }
    for item in scores:
        assert item.value == len(item.domain) + item.episode
        assert item.tags == SUITE.tags(SUITE.domain(item.domain))
        assert item.split == ("source" if "source" in item.tags else "target")
        assert item.layout_seed == (10_000, item.episode % 4, item.episode // 4)
        assert item.frames == (0 if item.algorithm == RANDOM_POLICY else 120_000 * 12)
        assert (item.suite, item.length) == ("lab-single", 7)
    assert {call[0] for call in player.calls} == {"dqn-darla-s0", "dqn-pixels-s0", None}
    assert {call[3:] for call in player.calls} == {(TransferConfig().epsilon, 10_000)}
    assert all(
        run.finished(f"score/{name}") for name in ("dqn-darla-s0", "dqn-pixels-s0", "random")
    )


def test_the_random_policy_can_be_left_out(run: RunDirectory) -> None:
    config = run.config
    run.config = config.model_copy(
        update={"transfer": TransferConfig(episodes=10, random_policy=False)}
    )
    score(run, FakePlayer())
    assert {item.algorithm for item in read_scores(run)} == {"dqn"}


def test_what_is_scored_is_not_played_again(run: RunDirectory) -> None:
    score(run, FakePlayer())
    before = run.scores.read_bytes()
    again = FakePlayer()
    score(run, again)
    assert (again.calls, again.opened) == ([], 0)
    assert run.scores.read_bytes() == before


@pytest.mark.parametrize("die_at", [1, 20])
@pytest.mark.parametrize("torn", [0, 60, 700])
def test_a_killed_scoring_ends_with_the_same_table(
    run: RunDirectory, die_at: int, torn: int, monkeypatch
) -> None:
    monkeypatch.setattr(transfer, "TOGETHER", 1)
    with pytest.raises(KeyboardInterrupt):
        score(run, FakePlayer(die_at=die_at))
    data = run.scores.read_bytes()
    run.scores.write_bytes(data[: len(data) - torn])
    score(RunDirectory.load(run.path), FakePlayer())
    resumed = sorted(read_scores(run), key=lambda item: item.key)
    run.scores.unlink()
    score(RunDirectory.load(run.path), FakePlayer())
    assert resumed == sorted(read_scores(run), key=lambda item: item.key)


def test_a_new_cell_is_added_to_the_table(run: RunDirectory) -> None:
    score(run, FakePlayer(), CELLS[:1])
    before = run.scores.read_text()
    score(run, FakePlayer(), CELLS)
    assert run.scores.read_text().startswith(before)
    assert len(read_scores(run)) == 3 * ROWS


def test_a_corrupt_line_is_named_and_nothing_is_lost(run: RunDirectory) -> None:
    score(run, FakePlayer())
    lines = run.scores.read_text().splitlines()
    lines[9] = lines[9][:40]
    run.scores.write_text("\n".join(lines) + "\n")
    before = run.scores.read_bytes()
    with pytest.raises(CorruptFileError, match=r"scores.jsonl.*line 10"):
        score(run, FakePlayer())
    assert run.scores.read_bytes() == before


def test_a_planted_nan_is_named(run: RunDirectory) -> None:
    score(run, FakePlayer())
    lines = run.scores.read_text().splitlines()
    planted = json.loads(lines[3]) | {"return": float("nan")}
    lines[3] = json.dumps(planted)
    run.scores.write_text("\n".join(lines) + "\n")
    with pytest.raises(CorruptFileError, match=r"line 4: the return of dqn on darla, seed 0.*nan"):
        score(run, FakePlayer())


def test_a_return_that_is_no_number_is_not_written(run: RunDirectory) -> None:
    with pytest.raises(DarlaError, match=r"return of dqn-darla-s0 in lab/.*, episode 0, is not a"):
        score(run, FakePlayer(value=np.inf))
    assert not run.scores.exists()


def test_untrained_cells_are_refused_in_one_line(run: RunDirectory) -> None:
    cells = [*CELLS, Cell("dqn", "darla", 1), Cell("dqn", "pixels", 1)]
    with pytest.raises(MissingFileError) as caught:
        score(run, FakePlayer(), cells)
    message = str(caught.value)
    assert "dqn-darla-s1, dqn-pixels-s1;" in message
    assert "dqn-darla-s0" not in message
    assert "\n" not in message
    assert not run.scores.exists()


def test_protocols_share_the_sources_and_are_never_mixed(run: RunDirectory) -> None:
    score(run, FakePlayer(), suite=PAPER)
    again = FakePlayer()
    score(run, again)
    assert not {call[1] for call in again.calls} & {domain.id for domain in PAPER.d_s}
    assert len(read_scores(run)) == 3 * (ROWS + 10)
    parts = by_protocol(read_scores(run))
    assert {name: len(rows) for name, rows in parts.items()} == {
        "lab": 3 * 22,
        "lab-single": 3 * ROWS,
    }
    results = write_results(run)
    assert results["suite"] == "lab-single" and list(results["protocols"]) == ["lab"]
    (paper,) = results["protocols"].values()
    assert [
        entry["domain"] for entry in paper["rows"][0]["domains"] if entry["group"] != "source"
    ] == ["lab/B/hat-can"]
    csv = run.results_csv.read_text().splitlines()
    assert sum(line.startswith("lab,dqn,darla,target,,") for line in csv) == 1
    assert sum(line.startswith("lab-single,dqn,darla,target,,") for line in csv) == 1


def test_several_protocols_are_scored_at_once(run: RunDirectory) -> None:
    player = FakePlayer()
    transfer.score(
        run.config,
        run,
        CELLS,
        [PAPER, SUITE],
        load=lambda cell, _: transfer.Contestant(cell.id, None, 120_000),
        players=player.open,
        quiet=True,
    )
    assert player.opened == 1
    parts = by_protocol(read_scores(run))
    assert {name: len(rows) for name, rows in parts.items()} == {
        "lab": 3 * 22,
        "lab-single": 3 * ROWS,
    }
    assert {item.suite for item in parts["lab-single"] if item.split == "source"} == {"lab"}


def test_a_domain_of_two_protocols_is_scored_for_each(run: RunDirectory) -> None:
    score(run, FakePlayer())
    twin = dataclasses.replace(SUITE, name="lab-single@v1")
    again = FakePlayer()
    score(run, again, suite=twin)
    assert {call[1] for call in again.calls} == {domain.id for domain in SUITE.d_t}
    assert len(by_protocol(read_scores(run))["lab-single@v1"]) == 3 * ROWS


def test_an_unfinished_cell_is_refused_unless_told_and_marked(run: RunDirectory) -> None:
    begun, nothing = Cell("dqn", "darla", 1), Cell("dqn", "darla", 2)
    cells = [*CELLS, begun, nothing]
    checkpoint(run, begun, 4000)
    with pytest.raises(MissingFileError, match="dqn-darla-s1, dqn-darla-s2; .*--allow-unfinished"):
        score(run, FakePlayer(), cells)
    score(run, FakePlayer(), cells, allow_unfinished=True)
    marked = [item for item in read_scores(run) if UNFINISHED in item.tags]
    assert len(marked) == ROWS
    assert {(item.seed, item.decisions, item.frames) for item in marked} == {(1, 4000, 48_000)}
    results = write_results(run)
    darla = results["rows"][0]
    assert darla["label"] == "DARLA (unfinished)" and darla["seeds"] == [0, 1]
    assert "dqn on darla: seed(s) [1] were scored before their training ended." in results["notes"]
    assert results["rows"][1]["label"] == "pixels, end to end"
    with pytest.raises(MissingFileError, match="dqn-darla-s1;"):
        score(run, FakePlayer(), [*CELLS, begun])


def test_no_score_is_lost_before_another_takes_its_place(run: RunDirectory) -> None:
    begun, gone = Cell("dqn", "darla", 1), Cell("dqn", "darla", 2)
    cells = [*CELLS, begun, gone]
    for cell in (begun, gone):
        checkpoint(run, cell, 4000)
    score(run, FakePlayer(), cells, allow_unfinished=True)
    before = run.scores.read_bytes()
    checkpoint(run, begun, 8000)
    shutil.rmtree(run.agent(gone.id) / "checkpoints")
    with pytest.raises(MissingFileError, match="dqn-darla-s1, dqn-darla-s2"):
        score(run, FakePlayer(), cells)
    score(run, FakePlayer(), CELLS, allow_unfinished=True)
    assert run.scores.read_bytes() == before
    score(run, FakePlayer(), cells, allow_unfinished=True)
    kept = {(item.seed, item.decisions) for item in read_scores(run) if UNFINISHED in item.tags}
    assert kept == {(1, 8000), (2, 4000)}


def test_scores_of_an_unfinished_cell_give_way_when_it_is_trained_further(run) -> None:
    begun = Cell("dqn", "darla", 1)

    def decisions() -> set[int]:
        return {item.decisions for item in read_scores(run) if item.seed == 1}

    checkpoint(run, begun, 4000)
    score(run, FakePlayer(), [*CELLS, begun], allow_unfinished=True)
    again = FakePlayer()
    score(run, again, [*CELLS, begun], allow_unfinished=True)
    assert again.calls == [] and decisions() == {4000}
    checkpoint(run, begun, 8000)
    score(run, again, [*CELLS, begun], allow_unfinished=True)
    assert {call[0] for call in again.calls} == {begun.id} and decisions() == {8000}
    write_bytes(run.agent(begun.id) / POLICY_FILE, b"weights")
    shutil.rmtree(run.agent(begun.id) / "checkpoints")
    score(run, FakePlayer(), [*CELLS, begun])
    assert decisions() == {120_000}
    assert not any(UNFINISHED in item.tags for item in read_scores(run))
    assert len(read_scores(run)) == 4 * ROWS


@pytest.mark.timeout(300)
def test_ray_workers_play_the_same_layouts_for_every_cell(run: RunDirectory) -> None:
    ray_config = RayConfig(workers=2, envs_per_worker=3)
    perception = toy_perception()

    @contextmanager
    def workers() -> Iterator[WorkerPool]:
        with ray_session(ray_config), WorkerPool(ray_config, Catch) as pool:
            yield pool

    def load(cell: Cell, _: object) -> transfer.Contestant:
        generator = torch.Generator().manual_seed(CELLS.index(cell))
        network = QNetwork(perception.shape, 3, (8,), generator)
        return transfer.Contestant(QPolicy(network, perception.fingerprint), perception, 1)

    transfer.score(run.config, run, CELLS, [SUITE], load=load, players=workers, quiet=True)
    scores = read_scores(run)
    assert len(scores) == 3 * ROWS
    layouts = {}
    for item in scores:
        assert item.value in (-1.0, 1.0)
        layouts.setdefault((item.domain, item.episode), set()).add(item.layout_seed)
    assert all(len(seeds) == 1 for seeds in layouts.values())
    assert len({next(iter(seeds)) for seeds in layouts.values()}) > 1
