import dataclasses
import json
import random
import time

import numpy as np
import pytest

from benchmarks.results import results_of, summarise
from benchmarks.scores import UNFINISHED, Score, parse_scores
from benchmarks.tables import csv_table, markdown_table
from darla.config import Config
from darla.errors import CorruptFileError
from darla.rundir import RunDirectory
from darla.storage import append_jsonl
from envs.lab import LAB


def row_of(summary: dict, perception: str) -> dict:
    return next(row for row in summary["rows"] if row["perception"] == perception)


@pytest.fixture
def full(scores_of) -> list[Score]:
    """DARLA, pixels, ceiling and floor, of five seeds."""
    return [
        *scores_of("darla", seeds=5, source=8.0, target=7.0),
        *scores_of("pixels", seeds=5, source=8.0, target=1.0),
        *scores_of("factors", seeds=5, source=9.0, target=9.0),
        *scores_of("none", algorithm="random-policy", seeds=1, source=0.0, target=0.0, frames=0),
    ]


def test_results_are_the_numbers_of_the_rows(scores_of) -> None:
    scores = scores_of()
    row = row_of(summarise(scores), "darla")

    def mean(group: str) -> float:
        return float(np.mean([score.value for score in scores if score.group == group]))

    for group in ("source", "target", "encoder_ood"):
        assert row[group]["mean"] == pytest.approx(mean(group))
        assert row[group]["ci95"][0] < row[group]["mean"] < row[group]["ci95"][1]
    assert row["gap"]["mean"] == pytest.approx(mean("source") - mean("target"))
    assert row["encoder_ood_gap"]["mean"] == pytest.approx(mean("source") - mean("encoder_ood"))
    assert (row["source"]["episodes"], row["target"]["episodes"], row["gap"]["episodes"]) == (
        90,
        30,
        120,
    )
    assert (row["seeds"], row["decisions"], row["frames"]) == ([0, 1, 2], 120_000, 1_440_000)
    for entry in row["domains"]:
        expected = np.mean([score.value for score in scores if score.domain == entry["domain"]])
        assert entry["score"]["mean"] == pytest.approx(expected)


def test_success_is_told_where_a_world_reports_it(scores_of) -> None:
    scores = [dataclasses.replace(each, success=each.episode % 4 == 0) for each in scores_of()]
    assert Score.of_row(json.loads(json.dumps(scores[0].row())), "here") == scores[0]
    summary = summarise(scores)
    share = np.mean([score.success for score in scores if score.group == "target"])
    assert row_of(summary, "darla")["success"]["target"] == pytest.approx(share)
    assert f"| {100 * share:.0f} % |" in markdown_table(summary)
    assert "darla,success," in csv_table(summary)
    without = summarise(scores_of())
    assert row_of(without, "darla")["success"] is None
    assert "success" not in markdown_table(without)
    sparse = [dataclasses.replace(each, success=each.success or None) for each in scores]
    assert row_of(summarise(sparse), "darla")["success"] == row_of(summary, "darla")["success"]
    with pytest.raises(CorruptFileError, match="'success' holds 'yes'"):
        parse_scores([scores[0].row() | {"success": "yes"}])


def test_encoder_ood_is_never_averaged_into_the_target(scores_of) -> None:
    near, far = (
        row_of(summarise(scores_of(encoder_ood=value)), "darla") for value in (2.0, -100.0)
    )
    assert near["target"]["mean"] == far["target"]["mean"]
    assert near["gap"] == far["gap"]
    assert far["encoder_ood"]["mean"] < -90


def test_results_do_not_depend_on_the_order_or_on_other_rows(scores_of) -> None:
    scores = scores_of("darla") + scores_of("pixels", target=1.0)
    shuffled = random.Random(3).sample(scores, len(scores))
    assert json.dumps(summarise(scores, LAB)) == json.dumps(summarise(shuffled, LAB))
    alone = row_of(summarise(scores_of("darla")), "darla")
    assert alone == row_of(summarise(scores), "darla")


def test_a_seed_without_a_domain_is_left_out_and_noted(scores_of) -> None:
    scores = [score for score in scores_of() if (score.seed, score.domain) != (1, "lab/A/hat-can")]
    summary = summarise(scores)
    row = row_of(summary, "darla")
    assert (row["source"]["seeds"], row["target"]["seeds"], row["gap"]["seeds"]) == (2, 3, 2)
    assert any("seed(s) [1] lack domains of source" in note for note in summary["notes"])


def test_normalised_scores_have_the_floor_at_0_and_the_ceiling_at_1(full) -> None:
    def mean(perception: str) -> float:
        own = [s for s in full if (s.perception, s.group) == (perception, "target")]
        return float(np.mean([score.value for score in own]))

    summary = summarise(full)
    expected = (mean("darla") - mean("none")) / (mean("factors") - mean("none"))
    found = row_of(summary, "darla")["normalised"]["target"]
    assert found["value"] == pytest.approx(expected)
    assert found["ci95"][0] < expected < found["ci95"][1]
    assert row_of(summary, "factors")["normalised"]["target"] is None
    without = summarise([score for score in full if score.perception != "factors"])
    assert row_of(without, "darla")["normalised"]["target"] is None


def test_what_is_kept_is_the_share_above_chance(full) -> None:
    def mean(perception: str, group: str) -> float:
        own = [s for s in full if (s.perception, s.group) == (perception, group)]
        return float(np.mean([score.value for score in own]))

    found = row_of(summarise(full), "pixels")["kept"]["target"]
    left = mean("pixels", "target") - mean("none", "target")
    learned = mean("pixels", "source") - mean("none", "source")
    assert found["value"] == pytest.approx(left / learned)


def test_nothing_is_kept_of_what_was_not_learned(scores_of) -> None:
    floor = scores_of("none", algorithm="random-policy", seeds=1, source=0.0, target=0.0)
    row = row_of(summarise(scores_of("pixels", source=0.0, target=5.0) + floor), "pixels")
    assert row["kept"]["target"] is None


def test_darla_is_compared_with_every_other_row(full) -> None:
    summary = summarise(full)
    found = {each["against"]: each for each in summary["comparisons"] if each["group"] == "target"}
    assert list(found) == ["pixels", "factors", "none"]
    assert found["pixels"]["improvement"] == {"value": 1.0, "ci95": [1.0, 1.0]}
    low, high = found["pixels"]["difference"]["ci95"]
    assert low < found["pixels"]["difference"]["value"] < high
    assert found["pixels"]["difference"]["value"] == pytest.approx(6.0)
    assert found["factors"]["difference"]["value"] == pytest.approx(-2.0)


def test_profiles_fall_from_all_to_none(full) -> None:
    for group in ("target", "encoder_ood"):
        for row in summarise(full)["profiles"][group]["rows"]:
            assert (row["share"][0], row["share"][-1]) == (1.0, 0.0)
            assert row["share"] == sorted(row["share"], reverse=True)
            assert np.all(np.array(row["low"]) <= row["high"])


def test_drops_are_attributed_with_intervals(full) -> None:
    row = row_of(summarise(full, LAB), "darla")
    assert [(each["tag"], each["label"]) for each in row["attribution"]] == [
        ("policy-ood", "new conjunction"),
        ("encoder-ood", "light=0.5 + new conjunction"),
    ]
    means = {each["domain"]: each["score"]["mean"] for each in row["domains"]}
    near = (means["lab/A/hat-can"] + means["lab/B/cake-balloon"]) / 2
    drop = row["attribution"][0]["drop"]
    assert drop["mean"] == pytest.approx(near - means["lab/B/hat-can"])
    assert drop["ci95"][0] < drop["mean"] < drop["ci95"][1]
    assert row_of(summarise(full), "darla")["attribution"] == []


def test_pairs_interact_with_changes_that_another_suite_scored_alone(tmp_path, scores_of) -> None:
    run = RunDirectory.open(Config(name="r", runs=str(tmp_path), suite="lab"))
    returns = {
        "lab-single": {"walls=grey": 5.0, "light=0.5": 4.0},
        "lab-pairs": {"walls=grey/light=0.5": 1.5, "walls=grey/light=0.6": 3.0},
    }
    scores = [score for score in scores_of(source=8.0, spread=0.0) if score.split == "source"]
    template = next(score for score in scores if score.domain == "lab/A/hat-can")
    for suite, targets in returns.items():
        for words, value in targets.items():
            for seed in range(3):
                where = {"domain": f"lab/A/hat-can/{words}", "suite": suite, "split": "target"}
                tags = ("target", "encoder-ood")
                scores.append(
                    dataclasses.replace(template, **where, tags=tags, value=value, seed=seed)
                )
    append_jsonl(run.scores, [score.row() for score in scores])
    results = results_of(run)
    assert results["suite"] == "lab" and list(results["protocols"]) == ["lab-single", "lab-pairs"]
    (row,) = results["protocols"]["lab-pairs"]["rows"]
    assert [(each["kind"], each["label"]) for each in row["attribution"]] == [
        ("pair", "walls=grey + light=0.5"),
        ("interaction", "walls=grey + light=0.5"),
        ("pair", "walls=grey + light=0.6"),
    ]
    again = [dataclasses.replace(s, suite="other") for s in scores if s.suite == "lab-single"]
    append_jsonl(run.scores, [score.row() for score in again])
    (same,) = results_of(run)["protocols"]["lab-pairs"]["rows"]
    assert same["attribution"] == row["attribution"], "a domain of two suites counts once"
    pair, interaction = (each["drop"]["mean"] for each in row["attribution"][:2])
    assert pair == pytest.approx(6.5) and interaction == pytest.approx(6.5 - 3.0 - 4.0)
    (row,) = results["protocols"]["lab-single"]["rows"]
    assert {each["kind"] for each in row["attribution"]} == {"single"}


def test_unfinished_seeds_are_marked(scores_of) -> None:
    scores = [
        Score(**{**vars(score), "tags": (*score.tags, UNFINISHED)}) if score.seed == 1 else score
        for score in scores_of()
    ]
    summary = summarise(scores)
    assert summary["rows"][0]["label"] == "DARLA (unfinished)"
    assert any("seed(s) [1] were scored before" in note for note in summary["notes"])


def test_thirty_thousand_episodes_take_seconds(scores_of) -> None:
    scores = [
        score
        for perception in ("darla", "pixels", "factors", "random")
        for score in scores_of(perception, seeds=15, episodes=100)
    ]
    assert len(scores) == 30_000
    began = time.monotonic()
    summarise(scores, LAB)
    assert time.monotonic() - began < 20.0


def test_algorithms_are_compared_with_themselves_only(scores_of):
    scores = scores_of() + scores_of("pixels") + scores_of(algorithm="ec")
    assert {(c["algorithm"], c["against"]) for c in summarise(scores)["comparisons"]} == {
        ("dqn", "pixels")
    }


def test_an_uncertain_ceiling_gives_no_scale(scores_of):
    floor = scores_of("none", algorithm="random-policy", seeds=1, target=0.0, spread=0.1)
    scores = scores_of(seeds=5) + scores_of("factors", seeds=5, target=0.5, spread=3.0) + floor
    summary = summarise(scores)
    ceiling, floor = (
        row_of(summary, "factors")["target"]["mean"],
        row_of(summary, "none")["target"]["mean"],
    )
    assert ceiling > floor, "but not for certain"
    assert row_of(summary, "darla")["normalised"]["target"] is None


def test_a_single_layout_of_each_domain_is_noted(scores_of) -> None:
    told = "Each domain of target was played in a single layout"
    scores = scores_of()
    assert not any(told in note for note in summarise(scores)["notes"])
    first: dict = {}
    for score in scores:
        first.setdefault((score.cell, score.domain), score)
    assert any(told in note for note in summarise(list(first.values()))["notes"])
