import csv
import io
import json
import random

import numpy as np
import pytest
from rich.console import Console

from benchmarks import results
from benchmarks.results import Score, parse_scores, summarise
from darla.errors import CorruptFileError


def row_of(summary: dict, perception: str) -> dict:
    return next(row for row in summary["rows"] if row["perception"] == perception)


def test_a_score_survives_its_row(scores_of) -> None:
    for score in scores_of():
        assert Score.of_row(json.loads(json.dumps(score.row())), "here") == score


@pytest.mark.parametrize(("text", "shown"), [("NaN", "nan"), ("Infinity", "inf"), ("null", "None")])
def test_a_planted_return_that_is_no_number_is_named(scores_of, text: str, shown: str) -> None:
    rows = [json.dumps(score.row()) for score in scores_of(episodes=2, seeds=1)]
    planted = json.loads(rows[4])
    rows[4] = json.dumps({**planted, "return": None}).replace("null", text)
    with pytest.raises(CorruptFileError) as caught:
        parse_scores([json.loads(row) for row in rows], "runs/x/scores.jsonl")
    message = str(caught.value)
    assert message.startswith("runs/x/scores.jsonl, line 5: the return of dqn on darla, seed 0, in")
    assert f"({shown})" in message
    assert "\n" not in message


def test_rows_that_are_no_scores_are_named(scores_of) -> None:
    row = scores_of()[0].row()
    for damage, words in (
        ({"split": "train"}, "'split' holds 'train'"),
        ({"seed": "0"}, "'seed' holds '0'"),
        ({"return": True}, "'return' holds True"),
        ({"tags": None}, "'tags' holds None"),
    ):
        with pytest.raises(CorruptFileError, match=words):
            parse_scores([row | damage])
    del row["frames"]
    with pytest.raises(CorruptFileError, match=r"line 1: the field\(s\) frames are missing"):
        parse_scores([row])


def test_an_episode_that_is_there_twice_is_refused(scores_of) -> None:
    rows = [score.row() for score in scores_of()]
    with pytest.raises(CorruptFileError, match=f"line {len(rows) + 1}: the same episode as line 3"):
        parse_scores([*rows, rows[2]])


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
    assert json.dumps(summarise(scores)) == json.dumps(summarise(shuffled))
    alone = row_of(summarise(scores_of("darla")), "darla")
    assert alone == row_of(summarise(scores), "darla")


def test_a_seed_without_a_domain_is_left_out_and_noted(scores_of) -> None:
    scores = [score for score in scores_of() if (score.seed, score.domain) != (1, "lab/A/hat-can")]
    summary = summarise(scores)
    row = row_of(summary, "darla")
    assert (row["source"]["seeds"], row["target"]["seeds"], row["gap"]["seeds"]) == (2, 3, 2)
    assert any("seed(s) [1] lack domains of source" in note for note in summary["notes"])


def test_few_seeds_are_said(scores_of) -> None:
    assert "One training seed" in summarise(scores_of(seeds=1))["notes"][0]
    assert "Only 3 training seeds" in summarise(scores_of(seeds=3))["notes"][0]
    assert summarise(scores_of(seeds=5))["notes"] == []
    assert row_of(summarise(scores_of(seeds=1)), "darla")["target"]["over"] == "episodes"


def test_the_headline_says_that_darla_wins(scores_of) -> None:
    text = summarise(scores_of("pixels", target=1.0) + scores_of("darla", source=8.0))["headline"]
    assert "DQN on DARLA's frozen vision scores" in text
    assert "more than on end-to-end pixels" in text
    assert "after the same frames" in text
    assert "it loses 2." in text


def test_the_headline_says_that_darla_loses(scores_of) -> None:
    text = summarise(scores_of("pixels", target=9.0) + scores_of("darla", target=2.0))["headline"]
    assert "less than on end-to-end pixels" in text
    assert "more than" not in text


def test_the_headline_settles_nothing_that_the_intervals_do_not(scores_of) -> None:
    text = summarise(scores_of("pixels", target=6.1, frames=12) + scores_of("darla", source=6.0))[
        "headline"
    ]
    assert "not told apart from 5." in text
    assert "on end-to-end pixels after 1\u202f440\u202f000 against 12 frames in the source" in text
    assert "is within noise" in text


def test_the_headline_without_target_scores(scores_of) -> None:
    only_random = scores_of("none", algorithm="random-policy", seeds=1)
    assert "No trained policy" in summarise(only_random)["headline"]
    assert "No trained policy" in summarise([])["headline"]


def test_tables_hold_every_row_in_the_readers_order(scores_of) -> None:
    scores = scores_of("none", algorithm="random-policy", seeds=1, frames=0)
    for perception in ("random", "pixels", "factors", "darla"):
        scores += scores_of(perception)
    summary = summarise(scores)
    lines = results.markdown_table(summary).splitlines()
    assert lines[0].startswith("| algorithm | perception | source | target | gap | encoder-ood |")
    shown = [line.split(" | ")[1] for line in lines[2:]]
    assert shown == [
        "DARLA",
        "pixels, end to end",
        "untrained encoder",
        "true factors (ceiling)",
        "random policy (floor)",
    ]
    darla = row_of(summary, "darla")
    assert results.format_estimate(darla["target"]) in lines[2]
    console = Console(width=200, file=io.StringIO())
    console.print(results.terminal_table(summary))
    assert results.format_estimate(darla["gap"]) in console.file.getvalue()


def test_csv_holds_every_estimate(scores_of) -> None:
    summary = summarise(scores_of() + scores_of("pixels", encoder_ood=None))
    lines = list(csv.DictReader(io.StringIO(results.csv_table(summary))))
    assert len(lines) == (5 + 5) + (3 + 4)
    line = next(
        line for line in lines if line["perception"] == "darla" and line["measure"] == "gap"
    )
    assert float(line["mean"]) == row_of(summary, "darla")["gap"]["mean"]
    assert float(line["ci95_low"]) == row_of(summary, "darla")["gap"]["ci95"][0]


def test_numbers_are_written_for_people() -> None:
    assert results.number(-1.234) == "−1.23"
    assert results.number(-0.001) == "0.00"
    assert results.grouped(1_440_000) == "1\u202f440\u202f000"
    assert results.format_estimate(None) == "–"
