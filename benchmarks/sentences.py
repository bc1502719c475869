"""What results say, in sentences: the headline, and what limits the evidence.

The headline follows a rule that cannot flatter. Among DARLA's rows it takes the algorithm with the
highest *source* score, so that no target score decides what is shown, and sets it beside the rival
with the highest *target* score among the other zero-shot perceptions of that algorithm. Two scores
are told apart when the interval of their difference does not include zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.rows import entrant
from benchmarks.scores import RANDOM_POLICY
from benchmarks.statistics import FEW_SEEDS
from benchmarks.tables import format_estimate, format_share, grouped

Row = Mapping[str, Any]
OF_WHAT = " of its source score above chance"
PLACES = {"target": "in the target", "encoder_ood": "in looks that the vision never saw"}


def headline(rows: Sequence[Row], comparisons: Sequence[Row]) -> str:
    """One sentence: what DARLA keeps of its source score, beside its strongest rival.

    Args:
        rows: `rows` of `benchmarks.results.summarise`.
        comparisons: `comparisons` of the same.
    """
    group = next((group for group in PLACES if chosen(rows, group)), "target")
    row = chosen(rows, group)
    if row is None:
        return "No trained policy has been scored in a target domain yet."
    text = f"Zero-shot {PLACES[group]}, {row['algorithm'].upper()} on"
    text += f" {_words(row)} {_result(row, group, OF_WHAT)}"
    against = rival(rows, row, group)
    if against is not None:
        text += f"; its strongest rival, {_words(against)},"
        text += f" {_result(against, group, '' if row['kept'][group] else OF_WHAT)}"
        text += _budgets(row, against)
        text += _verdict(row, against, group, comparisons)
    return f"{text} (95 % intervals; {_evidence(row[group])})."


def chosen(rows: Sequence[Row], group: str) -> Row | None:
    """The row that the headline is about: DARLA's with the highest source score, if there is one.

    Without DARLA it is any row but ceiling and floor, if there is one.
    """
    scored = [row for row in rows if row[group] and row["algorithm"] != RANDOM_POLICY]
    ours = [row for row in scored if row["kind"] == "ours"]
    others = [row for row in scored if row["kind"] != "ceiling"]
    return max(ours or others or scored, key=_source, default=None)


def rival(rows: Sequence[Row], row: Row, group: str) -> Row | None:
    """The other zero-shot row of the same algorithm with the highest target score."""
    others = [
        other
        for other in rows
        if other is not row
        and other[group]
        and other["algorithm"] == row["algorithm"]
        and entrant(other["perception"]).zero_shot
    ]
    return max(others, key=lambda other: float(other[group]["mean"]), default=None)


def _words(row: Row) -> str:
    return entrant(row["perception"], row["algorithm"]).words


def limits(rows: Sequence[Row]) -> list[str]:
    """What a reader must know before trusting the numbers, and what is left out of them and why."""
    trained = [row for row in rows if row["algorithm"] != RANDOM_POLICY]
    notes = []
    fewest = min((len(row["seeds"]) for row in trained), default=FEW_SEEDS)
    if fewest == 1:
        notes.append(
            f"One training seed (fewer than {FEW_SEEDS}): the intervals range over layouts only."
            " They cover the luck of the evaluation, not that of the training; another seed may"
            " score differently."
        )
    elif fewest < FEW_SEEDS:
        notes.append(
            f"Only {fewest} training seeds (fewer than {FEW_SEEDS}): a bootstrap over so few"
            " trainings gives intervals that are too narrow."
        )
    return notes + _scale_limits(trained, len(trained) < len(rows)) if trained else notes


def _scale_limits(trained: Sequence[Row], floor: bool) -> list[str]:
    """What is not defined for want of a floor, of a ceiling, or of learning."""
    if not floor:
        return [
            "The random policy was not scored: normalised scores, and what is kept of the source"
            " score, are left out."
        ]
    notes = []
    ceilings = {row["algorithm"]: row for row in trained if row["kind"] == "ceiling"}
    algorithms = dict.fromkeys(row["algorithm"] for row in trained)
    without = [name for name in algorithms if name not in ceilings]
    if without:
        notes.append(
            f"True factors were not scored with {_names(without)}: normalised scores are left out."
        )
    for name, ceiling in ceilings.items():
        own = [row for row in trained if row["algorithm"] == name and row is not ceiling]
        blurred = [
            words
            for group, words in {"source": "in the source", **PLACES}.items()
            if ceiling[group] and any(row[group] and not row["normalised"][group] for row in own)
        ]
        if blurred:
            notes.append(
                f"True factors with {name.upper()} are not told apart from the random policy"
                f" {' and '.join(blurred)}: normalised scores are left out there."
            )
    for row in trained:
        name = f"{row['algorithm'].upper()} on {_words(row)}"
        if row["source"] and row["target"] and not row["kept"]["target"]:
            notes.append(
                f"{name} is not told apart from the random policy in the source: it learned"
                " nothing of which a share could be kept."
            )
        if row["kind"] != "ceiling" and not entrant(row["perception"]).zero_shot:
            notes.append(
                f"{name} was trained in all domains of D_U, targets among them where D_U holds"
                " any: its target score is not zero-shot."
            )
    return notes


def _names(algorithms: Sequence[str]) -> str:
    return " and ".join(name.upper() for name in algorithms)


def _source(row: Row) -> float:
    return float(row["source"]["mean"]) if row["source"] else float("-inf")


def _result(row: Row, group: str, of_what: str) -> str:
    """The target score, and what it is of the source score."""
    text = f"scores {format_estimate(row[group])}"
    if row["kept"][group]:
        return f"{text} and keeps {format_share(row['kept'][group])}{of_what}"
    if row["source"]:
        return f"{text}, after {format_estimate(row['source'])} in the source"
    return text


def _verdict(row: Row, against: Row, group: str, comparisons: Sequence[Row]) -> str:
    """Who scores more in the target, as far as the interval of the difference tells."""
    found = [
        each["difference"]
        for each in comparisons
        if (each["algorithm"], each["group"]) == (row["algorithm"], group)
        and each["against"] == against["perception"]
        and row["kind"] == "ours"
    ]
    if not found:
        return ""
    low, high = found[0]["ci95"]
    if low <= 0 <= high:
        return f": the two are not told apart, difference {format_estimate(found[0])}"
    if low > 0:
        return f": DARLA scores {format_estimate(found[0])} more"
    less = {"value": -found[0]["value"], "ci95": (-high, -low)}
    return f": DARLA scores {format_estimate(less)} less"


def _budgets(row: Row, other: Row) -> str:
    if row["frames"] == other["frames"]:
        return ""
    return f" after {grouped(other['frames'])} frames against {grouped(row['frames'])}"


def _evidence(entry: Row) -> str:
    seeds = int(entry["seeds"])
    if seeds == 1:
        return f"one seed, fewer than {FEW_SEEDS}, so over layouts only"
    return f"{seeds} seeds" + (f", fewer than {FEW_SEEDS}" if seeds < FEW_SEEDS else "")
