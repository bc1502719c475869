import base64
import hashlib
import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.report import write_report
from benchmarks.scores import UNFINISHED, read_scores
from darla.config import AgentsConfig, Config, load_config
from darla.errors import CorruptFileError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import append_jsonl, write_json, write_jsonl


class Reader(HTMLParser):
    """Collects what a page refers to, its ids, and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "xlink:href", "poster"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += " ".join(data.split()) + " "


def empty_run(folder: Path, name: str = "r") -> RunDirectory:
    return RunDirectory.open(
        Config(name=name, runs=str(folder), agents=AgentsConfig(seeds=(0, 1, 2)))
    )


@pytest.fixture
def full_run(tmp_path: Path, scores_of) -> RunDirectory:
    run = empty_run(tmp_path)
    scores = scores_of("darla") + scores_of("pixels", target=1.0)
    scores += scores_of(
        "none", algorithm="random-policy", seeds=1, source=0.0, target=0.0, frames=0
    )
    append_jsonl(run.scores, [score.row() for score in scores])
    for perception in ("darla", "pixels"):
        for seed in range(3):
            points = [
                {"frames": 12_000 * step, "split": split, "return": step + seed}
                for step in (1, 2, 3)
                for split in ("train", "source")
            ]
            append_jsonl(run.agent(f"dqn-{perception}-s{seed}") / "metrics.jsonl", points)
    run.vision.mkdir()
    for name in ("vision/reconstructions.png", "vision/traversals.png", "domains.png"):
        Image.new("RGB", (64, 32), "red").save(run.path / name)
    write_json(
        run.vision / "report.json",
        {
            "share of frames with an object": 0.71,
            "dae": {"object_error": 0.2125, "epochs": 12_345},
            "vae": {"kl_per_latent": [3.0, 2.0, 1.0, 0.5], "active": 3, "gate": True, "note": None},
            "probes": {"room": {"accuracy": 0.99, "n": 10}, "pair": {"accuracy": 0.5, "n": 10}},
        },
    )
    run.start("frames")
    run.finish("frames", count=3)
    run.start("train/dqn-darla-s0")
    return run


def report(*runs: RunDirectory) -> str:
    output = runs[0].path / "report.html"
    write_report([run.path for run in runs], output)
    return output.read_text()


def test_the_page_asks_for_nothing_from_anywhere(full_run: RunDirectory) -> None:
    text = report(full_run)
    page = Reader(text)
    assert page.references
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import|//cdn", text)
    assert page.tags.count("img") == 3
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline';" in text
    assert f"script-src 'sha256-{digest}'" in text


def test_links_into_replays_are_relative(full_run: RunDirectory) -> None:
    text = report(full_run)
    scores = [s for s in read_scores(full_run) if s.perception == "darla" and s.split == "target"]
    worst = min(scores, key=lambda score: score.value)
    words = f"--cell dqn-darla-s{worst.seed} --domain {worst.domain} --episode {worst.episode} -o"
    assert words in text
    elsewhere = replace(worst, suite="lab-single", value=worst.value - 100, episode=99)
    append_jsonl(full_run.scores, [elsewhere.row()])
    assert words in report(full_run), "an episode of another suite needs another command"
    (full_run.path / "replay").mkdir()
    (full_run.path / "replay" / "worst.html").write_text("<!doctype html>")
    text = report(full_run)
    assert '<a href="replay/worst.html">worst</a>' in text
    assert words not in text and "replay/best.html" in text


def test_a_model_card_lies_beside_the_models(full_run: RunDirectory) -> None:
    text = report(full_run)
    card = (full_run.path / "MODEL_CARD.md").read_text()
    headline = re.search(r"<h1>(.*?)</h1>", text, re.S)
    assert headline and html.unescape(headline[1]) in card
    for words in (
        "(D_S):\n  lab/A/hat-can, lab/A/cake-balloon, lab/B/cake-balloon",
        "(D_T, scored zero-shot; the vision saw frames of those that are in D_U): lab/B/hat-can.",
        "- Scores are of finished policies that take 5 %",
        "| dqn | DARLA | 6.",
        "Only 3 training seeds",
        "## Intended use",
        "6 of 12 cells are not scored yet",
    ):
        assert words in card, words


def test_what_is_unfinished_is_named_and_not_replayed(full_run: RunDirectory) -> None:
    scores = read_scores(full_run)
    marked = [replace(s, tags=(*s.tags, UNFINISHED)) if s.seed == 1 else s for s in scores]
    write_jsonl(full_run.scores, [score.row() for score in marked])
    text = report(full_run)
    assert "except in rows that are marked as unfinished" in (
        (full_run.path / "MODEL_CARD.md").read_text()
    )
    assert "--cell dqn-darla-s" in text and "--cell dqn-darla-s1" not in text


def test_a_model_card_without_scores_says_so(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    report(run)
    assert "have not been scored yet" in (run.path / "MODEL_CARD.md").read_text()


def test_a_model_card_says_what_was_trained_and_how(tmp_path: Path) -> None:
    words = ["frames.policy=random", "vision.vae.objective=capacity", "vision.vae.capacity.end=5"]
    words += ["agents.perceptions=[fine-tuned]", f"runs={tmp_path}"]
    run = RunDirectory.open(load_config("lab-smoke", words))
    write_report([run.path], run.report)
    card = (run.path / "MODEL_CARD.md").read_text()
    assert "frames of a uniform random policy in 4 domains" in card
    assert "gamma 1000.0, capacity up to 5.0 nats" in card and "beta 1" not in card
    assert "but for copies that `fine-tuned` learns further" in card
    assert "(none of them is trained yet)" in card


def test_a_run_without_a_vision_says_so_and_describes_none(tmp_path: Path) -> None:
    words = ["agents.perceptions=[pixels,factors]", f"runs={tmp_path}"]
    run = RunDirectory.open(load_config("lab-smoke", words))
    write_report([run.path], run.report)
    card, page = (run.path / "MODEL_CARD.md").read_text(), run.report.read_text()
    assert "**Vision**: none" in card and "autoencoder" not in card
    assert "frames of" not in card and "share one vision" not in card
    assert "**Policies** (stage 2): dqn" in card
    assert "No policy of this run sees through a vision" in page
    assert "no reconstructions" not in page


def test_a_model_card_names_the_models_that_there_are_and_no_other(tmp_path: Path) -> None:
    words = ["agents.perceptions=[beta-vae]", "vision.vae.warm_start=false", f"runs={tmp_path}"]
    run = RunDirectory.open(load_config("benchmark-dev", words))
    write_report([run.path], run.report)
    card = (run.path / "MODEL_CARD.md").read_text()
    assert "`beta-vae`: a beta-VAE judged in pixels, 200 000 images, beta 0.3, 32" in card
    assert "denoising" not in card and "`darla`" not in card
    words = [f"runs={tmp_path}", "name=all", "vision.vae.objective=normalised"]
    run = RunDirectory.open(load_config("benchmark-dev", words))
    write_report([run.path], run.report)
    card = (run.path / "MODEL_CARD.md").read_text()
    assert "`dae`: a denoising autoencoder, 300 000 images" in card
    assert "`darla`: a beta-VAE judged in the autoencoder's features, 200 000 images, norm" in card
    assert "`entangled`: a beta-VAE judged in the autoencoder's features, 200 000" in card
    assert "images, beta 0.01, 32 latents, begun from" in card


@pytest.mark.parametrize("piece", ["scores.jsonl", "contamination.json"])
def test_an_empty_piece_is_like_one_that_is_missing(full_run: RunDirectory, piece: str) -> None:
    (full_run.path / piece).write_text("" if piece.endswith("jsonl") else "{}")
    write_report([full_run.path], full_run.report)
    page = full_run.report.read_text()
    assert ("There is no scores.jsonl" in page) == (piece == "scores.jsonl")
    assert ("contamination.json is damaged: it has no targets" in page) == piece.endswith(".json")


def test_flagged_targets_are_named_at_the_top(full_run: RunDirectory) -> None:
    clean = {"seen_by_vision": True, "trained_on": [], "nearest": 7.25, "duplicates": 0.0}
    seen = {"seen_by_vision": False, "trained_on": ["dqn-pixels-s0"], "nearest": None}
    targets = {
        "lab/B/hat-can": {**clean, "flags": []},
        "lab/B/hat-can/light=0.5": {**seen, "duplicates": 1.0, "flags": ["trained on by x"]},
    }
    write_json(full_run.path / "contamination.json", {"targets": {"lab": targets}})
    text = report(full_run)
    assert "<li>Target lab/B/hat-can/light=0.5 may be contaminated: trained on by x.</li>" in text
    rows = [[cell.strip() for cell in row] for row in Reader(text).rows]
    assert ["lab/B/hat-can", "yes", "none", "7.2", "0 %", "none"] in rows
    assert [
        "lab/B/hat-can/light=0.5",
        "no",
        "dqn-pixels-s0",
        "–",
        "100 %",
        "trained on by x",
    ] in rows


def test_protocols_have_a_section_of_their_own(full_run: RunDirectory) -> None:
    moved = [
        score.row() | {"suite": "lab-single", "domain": "lab/B/cake-balloon/walls=grey"}
        for score in read_scores(full_run)
        if "encoder-ood" in score.tags
    ]
    append_jsonl(full_run.scores, moved)
    text = report(full_run)
    assert "<h3>Protocol lab-single</h3>" in text
    assert "walls=grey" in text


def test_every_domain_is_in_the_page_under_its_kind(full_run: RunDirectory) -> None:
    rows = [row[0].strip() for row in Reader(report(full_run)).rows if row]
    order = [
        next(i for i, cell in enumerate(rows) if cell.startswith(start))
        for start in (
            "Source:",
            "lab/B/cake",
            "Target, policy-ood",
            "Target, encoder-ood",
            "lab/B/hat-can/l",
        )
    ]
    assert order == sorted(order)


def test_curves_vision_and_stages_are_shown(full_run: RunDirectory) -> None:
    text = report(full_run)
    assert text.count("at the end</title></polyline>") == 2 * 2
    rows = [[cell.strip() for cell in row] for row in Reader(text).rows]
    assert ["object error", "0.212"] in rows or ["object error", "0.213"] in rows
    assert ["epochs", "12 345"] in rows
    assert ["gate", "yes"] in rows
    assert ["room", "0.99", "10"] in rows
    assert text.count('<rect class="bar"') == 4 * 2
    assert ["frames", "finished", "0 s"] in rows
    assert ["train/dqn-darla-s0", "not finished", "0 s"] in rows
    assert "name: r" in text


def test_pictures_say_of_which_vision_they_are(full_run: RunDirectory) -> None:
    for name in ("beta-vae", "entangled"):
        Image.new("RGB", (64, 32), "blue").save(full_run.vision / f"reconstructions-{name}.png")
    captions = re.findall(r"<figcaption>(.*?): frames kept from training", report(full_run))
    assert captions == ["DARLA", "β-VAE, pixel loss", "DARLA, entangled"]


def test_a_run_that_has_nothing_yet_says_so(tmp_path: Path) -> None:
    text = report(empty_run(tmp_path))
    for words in (
        "This run has not been scored yet.",
        "There is no scores.jsonl",
        "No policy of this run has been evaluated yet.",
        "There are no reconstructions",
        "There are no traversals",
        "There are no measurements of the vision",
        "There is no contact sheet",
    ):
        assert words in text


@pytest.mark.parametrize(
    "piece",
    [
        "vision/report.json",
        "vision/reconstructions.png",
        "agents/dqn-darla-s1/metrics.jsonl",
        "domains.png",
    ],
)
def test_any_piece_may_be_missing(full_run: RunDirectory, piece: str) -> None:
    (full_run.path / piece).unlink()
    assert "DQN on DARLA" in report(full_run)


def test_cells_without_scores_are_named(full_run: RunDirectory) -> None:
    text = report(full_run)
    assert "6 of 12 cells are not scored yet: dqn-factors-s0, dqn-factors-s1" in text


def test_frame_digests_are_among_the_digests(full_run: RunDirectory) -> None:
    write_json(full_run.path / "digests.json", {"lab/B/hat-can": "c0ffee" * 10})
    rows = [[cell.strip() for cell in row] for row in Reader(report(full_run)).rows]
    assert ["frames of lab/B/hat-can", "c0ffee" * 10] in rows


def test_a_damaged_piece_is_named_in_the_page(full_run: RunDirectory) -> None:
    (full_run.vision / "report.json").write_text('{"torn')
    metrics = full_run.agent("dqn-pixels-s2") / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-9])
    (full_run.path / "digests.json").write_text("{")
    picture = full_run.vision / "traversals.png"
    picture.write_bytes(picture.read_bytes()[:40])
    text = report(full_run)
    assert "digests.json&#39; is not valid JSON" in text
    assert "traversals.png cannot be read: it is damaged" in text
    assert "report.json&#39; is not valid JSON" in text
    assert "metrics.jsonl&#39;, line 6, is not a JSON object" in text
    assert text.count("at the end</title></polyline>") == 2 * 2


def test_damaged_scores_are_refused(full_run: RunDirectory) -> None:
    lines = full_run.scores.read_text().splitlines()
    full_run.scores.write_text("\n".join([lines[0], lines[0][:30], *lines[1:]]) + "\n")
    with pytest.raises(CorruptFileError, match="line 2"):
        report(full_run)


def test_everything_is_escaped(full_run: RunDirectory) -> None:
    evil = "<script>alert(1)</script>"
    score = read_scores(full_run)[0].row()
    append_jsonl(full_run.scores, [score | {"domain": evil, "perception": evil, "suite": evil}])
    write_json(full_run.vision / "report.json", {evil: {"a": evil}, "b": {evil: [1, 2, 3, 4]}})
    status = full_run.status()
    write_json(full_run.path / "run.json", status | {"versions": {evil: evil}})
    text = report(full_run)
    assert text.count("<script") == 1
    assert "&lt;script&gt;" in text


def test_several_runs_share_a_page(full_run: RunDirectory, tmp_path: Path) -> None:
    page = Reader(report(full_run, empty_run(tmp_path, "other")))
    assert len(page.ids) == len(set(page.ids))
    assert all(link[1:] in page.ids for link in page.references if link.startswith("#"))
    assert page.tags.count("article") == 2


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="at least one run"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(MissingFileError, match="no run directory"):
        write_report([tmp_path / "absent"], tmp_path / "report.html")
