import csv
import io

from rich.console import Console

from benchmarks import tables
from benchmarks.results import summarise
from envs.lab import LAB


def row_of(summary: dict, perception: str) -> dict:
    return next(row for row in summary["rows"] if row["perception"] == perception)


def test_tables_hold_every_row_in_the_readers_order(scores_of) -> None:
    scores = scores_of("none", algorithm="random-policy", seeds=1, frames=0)
    for perception in ("random", "pixels", "factors", "darla"):
        scores += scores_of(perception)
    summary = summarise(scores)
    lines = tables.markdown_table(summary).splitlines()
    assert lines[0].startswith("| algorithm | perception | source | target | gap | encoder-ood |")
    shown = [line.split(" | ")[1] for line in lines[2:]]
    assert shown == [
        "DARLA",
        "untrained encoder",
        "pixels, end to end",
        "true factors (ceiling)",
        "random policy (floor)",
    ]
    darla = row_of(summary, "darla")
    assert tables.format_estimate(darla["target"]) in lines[2]
    console = Console(width=200, file=io.StringIO())
    console.print(tables.terminal_table(summary))
    assert tables.format_estimate(darla["gap"]) in console.file.getvalue()


def test_csv_holds_every_estimate(scores_of) -> None:
    scores = scores_of() + scores_of("pixels", encoder_ood=None)
    summary = summarise(scores, LAB)
    lines = list(csv.DictReader(io.StringIO(tables.csv_table(summary))))
    darla = [line for line in lines if line["perception"] == "darla" and not line["against"]]
    assert len(darla) == 5 + 5 + 2
    by_measure = {line["measure"]: line for line in darla if not line["domain"]}
    gap, drop = by_measure["gap"], by_measure["drop"]
    row = row_of(summary, "darla")
    assert float(gap["mean"]) == row["gap"]["mean"]
    assert float(gap["ci95_low"]) == row["gap"]["ci95"][0]
    assert float(gap["median_ci95_high"]) == row["gap"]["median_ci95"][1]
    assert (drop["group"], drop["shift"]) == ("encoder-ood", "light=0.5 + new conjunction")
    improvement = next(line for line in lines if line["measure"] == "improvement")
    assert (improvement["against"], improvement["group"]) == ("pixels", "target")
    assert float(improvement["mean"]) == summary["comparisons"][0]["improvement"]["value"]


def test_csv_holds_every_protocol(scores_of) -> None:
    summary = summarise(scores_of())
    other = summary | {"suite": "lab-single"}
    lines = csv.DictReader(io.StringIO(tables.csv_table(summary | {"protocols": {"x": other}})))
    suites = [line["suite"] for line in lines]
    assert suites.count("lab") == suites.count("lab-single") > 0


def test_numbers_are_written_for_people() -> None:
    assert tables.number(-1.234) == "−1.23"
    assert tables.number(-0.001) == "0.00"
    assert tables.grouped(1_440_000) == "1\u202f440\u202f000"
    assert tables.format_estimate(None) == "–"
    share = {"value": 0.934, "ci95": [-0.001, 1.2]}
    assert tables.format_share(share) == "93 % [0, 120]"
    assert tables.format_share(None) == "–"
