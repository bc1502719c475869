"""What the report claims, computed again from `scores.jsonl` by other code: NumPy and no more."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import write_report
from darla.config import AgentsConfig, Config
from darla.rundir import RunDirectory
from darla.storage import append_jsonl

RESAMPLES = 20_000
KEYS = ("perception", "split", "seed", "domain")
LABELS = {
    "darla": "DARLA",
    "pixels": "pixels, end to end",
    "factors": "true factors (ceiling)",
    "none": "random policy (floor)",
}


@pytest.fixture
def run(tmp_path: Path, scores_of) -> RunDirectory:
    config = Config(name="r", runs=str(tmp_path), agents=AgentsConfig(seeds=tuple(range(6))))
    run = RunDirectory.open(config)
    common = {"encoder_ood": None, "episodes": 25}
    chance = {"algorithm": "random-policy", "seeds": 1, "frames": 0}
    rows = [
        *scores_of("darla", seeds=6, target=6.0, **common),
        *scores_of("pixels", seeds=6, target=4.0, spread=1.5, **common),
        *scores_of("factors", seeds=6, source=9.0, target=9.0, **common),
        *scores_of("none", source=0.5, target=0.5, **common, **chance),
    ]
    append_jsonl(run.scores, [score.row() for score in rows])
    return run


class Again:
    """The statistics, from the lines of the file, with a bootstrap of its own.

    `returns[perception][split]` is an array [seeds, domains, layouts].
    """

    def __init__(self, path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found = {
            (e["perception"], e["split"], e["seed"], e["domain"], tuple(e["layout_seed"])): e[
                "return"
            ]
            for e in lines
        }
        layouts = sorted({key[4] for key in found})
        self.returns: dict[tuple[str, str], np.ndarray] = {}
        for name, split in {key[:2] for key in found}:
            seeds = sorted({key[2] for key in found if key[:2] == (name, split)})
            domains = sorted({key[3] for key in found if key[:2] == (name, split)})
            self.returns[name, split] = np.array(
                [[[found[name, split, s, d, x] for x in layouts] for d in domains] for s in seeds]
            )
        rng = np.random.default_rng(99)
        weights = rng.exponential(size=(RESAMPLES, len(layouts)))
        self.share = weights / weights.sum(axis=1, keepdims=True)
        self.drawn = {
            name: rng.integers(len(own), size=(RESAMPLES, len(own)))
            for (name, split), own in sorted(self.returns.items())
            if split == "source"
        }

    def mean(self, name: str, split: str) -> float:
        return float(self.returns[name, split].mean())

    def draws(self, name: str, split: str) -> np.ndarray:
        """The mean in every replicate, [RESAMPLES]."""
        by_seed = np.einsum("se,re->rs", self.returns[name, split].mean(axis=1), self.share)
        return np.take_along_axis(by_seed, self.drawn[name], axis=1).mean(axis=1)


def triple(value: float, draws: np.ndarray) -> list[float]:
    return [value, *(float(end) for end in np.percentile(draws, [2.5, 97.5]))]


def numbers_in(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


def score_table(text: str) -> dict[str, dict[str, list[float]]]:
    """The numbers that each row shows under each heading of the first table."""
    table = re.search(r'<table class="sortable.*?</table>', text, re.S)
    assert table
    rows = [
        [re.sub("<.*?>", " ", cell).strip() for cell in re.split(r"<t[hd]\b.*?>", row, flags=re.S)]
        for row in re.findall(r"<tr>.*?</tr>", table[0], re.S)
    ]
    header = rows[0]
    return {
        row[1]: dict(zip(header[2:], map(numbers_in, row[2:]), strict=True)) for row in rows[1:]
    }


def test_every_number_of_the_table(run: RunDirectory) -> None:
    write_report([run.path], run.report)
    shown, again = score_table(run.report.read_text()), Again(run.scores)
    zero = {split: again.mean("none", split) for split in ("source", "target")}
    zero_draws = {split: again.draws("none", split) for split in ("source", "target")}
    top, top_draws = again.mean("factors", "target"), again.draws("factors", "target")
    for name, label in LABELS.items():
        s, t = again.mean(name, "source"), again.mean(name, "target")
        s_draws, t_draws = again.draws(name, "source"), again.draws(name, "target")
        row = shown[label]
        assert row["source"] == pytest.approx(triple(s, s_draws), abs=0.08)
        assert row["target"] == pytest.approx(triple(t, t_draws), abs=0.08)
        assert row["gap"] == pytest.approx(triple(s - t, s_draws - t_draws), abs=0.08)
        means = (row["source"][0], row["target"][0], row["gap"][0])
        assert means == pytest.approx((s, t, s - t), abs=0.0051), "no luck in a mean"
        scores = np.sort(again.returns[name, "target"].mean(axis=2).ravel())
        cut = len(scores) // 4
        assert row["IQM"][0] == pytest.approx(scores[cut : len(scores) - cut].mean(), abs=0.0051)
        assert row["seeds"] == [len(again.returns[name, "target"])]
        if name != "none":
            kept = 100 * (t - zero["target"]) / (s - zero["source"])
            draws = (t_draws - zero_draws["target"]) / (s_draws - zero_draws["source"])
            assert row["kept"] == pytest.approx(triple(kept, 100 * draws), abs=2.0)
        if name in ("darla", "pixels"):
            scaled = (t - zero["target"]) / (top - zero["target"])
            draws = (t_draws - zero_draws["target"]) / (top_draws - zero_draws["target"])
            assert row["normalised"] == pytest.approx(triple(scaled, draws), abs=0.03)


def test_every_number_of_the_headline(run: RunDirectory) -> None:
    write_report([run.path], run.report)
    again = Again(run.scores)
    heading = re.search(r"<h1>(.*?)</h1>", run.report.read_text(), re.S)
    assert heading
    ours, theirs, verdict = re.split(r";|: ", heading[1], maxsplit=2)
    draws = {name: again.draws(name, "target") for name in ("darla", "pixels")}
    means = {name: again.mean(name, "target") for name in draws}
    for name, words in (("darla", ours), ("pixels", theirs)):
        source = again.mean(name, "source") - again.mean("none", "source")
        kept = 100 * (means[name] - again.mean("none", "target")) / source
        change = draws[name] - again.draws("none", "target")
        change = 100 * change / (again.draws(name, "source") - again.draws("none", "source"))
        claimed = numbers_in(words)
        assert claimed[:3] == pytest.approx(triple(means[name], draws[name]), abs=0.08)
        assert claimed[3:] == pytest.approx(triple(kept, change), abs=2.0)
    difference = triple(means["darla"] - means["pixels"], draws["darla"] - draws["pixels"])
    assert verdict.startswith("DARLA scores") and "more" in verdict
    assert numbers_in(verdict) == pytest.approx([*difference, 95, 6], abs=0.1)
