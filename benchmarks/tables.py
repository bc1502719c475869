"""Results as tables: CSV for programs, Markdown and terminal for people, and numbers as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

SCORES = ("source", "target", "gap", "encoder_ood", "encoder_ood_gap")
COLUMNS = (
    *("suite", "algorithm", "perception", "measure", "domain"),
    *("mean", "ci95_low", "ci95_high", "iqm", "iqm_ci95_low", "iqm_ci95_high"),
    *("seeds", "episodes", "decisions", "frames"),
    *("median", "median_ci95_low", "median_ci95_high", "group", "against", "shift"),
)
"""Columns of `results.csv`, explained in docs/report.md; new ones are added at the end alone."""


def csv_table(results: Mapping[str, Any]) -> str:
    """All estimates as CSV, one a line; what does not apply to a line is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for part in (results, *results.get("protocols", {}).values()):
        for line in (*_row_lines(part["rows"]), *_comparison_lines(part["comparisons"])):
            writer.writerow({"suite": part["suite"]} | line)
    return buffer.getvalue()


def _row_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        about = {name: row[name] for name in ("algorithm", "perception", "decisions", "frames")}
        for line in _lines(row):
            yield about | line


def _comparison_lines(comparisons: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in comparisons:
        about = {"algorithm": each["algorithm"], "perception": "darla"}
        about |= {"group": each["group"], "against": each["against"]}
        for measure in ("improvement", "difference"):
            yield about | {"measure": measure} | _columns(each[measure])


def _lines(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The estimates of a row of results: scores, ratios, domains, drops."""
    for measure in SCORES:
        if row[measure]:
            yield {"measure": measure} | _columns(row[measure])
    for measure in ("normalised", "kept"):
        for group, entry in row[measure].items():
            if entry:
                yield {"measure": measure, "group": group} | _columns(entry)
    for group, share in (row["success"] or {}).items():
        yield {"measure": "success", "group": group, "mean": share}
    for each in row["domains"]:
        yield {"measure": each["group"], "domain": each["domain"]} | _columns(each["score"])
    for each in row["attribution"]:
        if each["drop"]:
            measure = "interaction" if each["kind"] == "interaction" else "drop"
            where = {"measure": measure, "group": each["tag"], "shift": each["label"]}
            yield where | _columns(each["drop"])


def _columns(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An estimate as columns; the value of what is no score stands in `mean`."""
    low, high = entry["ci95"]
    columns = {"mean": entry.get("value", entry.get("mean")), "ci95_low": low, "ci95_high": high}
    for name in ("median", "iqm"):
        if name in entry:
            low, high = entry[f"{name}_ci95"]
            columns |= {name: entry[name], f"{name}_ci95_low": low, f"{name}_ci95_high": high}
    return columns | {name: entry[name] for name in ("seeds", "episodes") if name in entry}


def terminal_table(results: Mapping[str, Any]) -> Table:
    """Source, target and gap of every row, with 95 % intervals, for a terminal."""
    from rich.table import Table

    table = Table(title=results["headline"], title_justify="left", title_style="bold")
    header, *lines = _cells(results)
    for name in header:
        table.add_column(name, justify="left" if name in ("algorithm", "perception") else "right")
    for line in lines:
        table.add_row(*line)
    return table


def markdown_table(results: Mapping[str, Any]) -> str:
    """The table of `terminal_table` in Markdown, for a README, ending in a newline."""
    header, *lines = _cells(results)
    rule = [":--" if name in ("algorithm", "perception") else "--:" for name in header]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *lines))


def format_estimate(entry: Mapping[str, Any] | None) -> str:
    """`mean [low, high]` with two decimals, or a dash where nothing was scored."""
    if not entry:
        return "–"
    low, high = entry["ci95"]
    return f"{number(entry.get('mean', entry.get('value')))} [{number(low)}, {number(high)}]"


def format_share(entry: Mapping[str, Any] | None) -> str:
    """`value % [low, high]` in whole percent, or a dash where it is not defined."""
    if not entry:
        return "–"
    low, high = (number(100 * end, 0) for end in entry["ci95"])
    return f"{number(100 * entry['value'], 0)} % [{low}, {high}]"


def number(value: float, decimals: int = 2) -> str:
    """A number with a true minus sign and without a negative zero."""
    text = f"{value:.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def grouped(value: int) -> str:
    """An integer with thin no-break spaces between its thousands."""
    return f"{value:,}".replace(",", "\u202f")


def _cells(results: Mapping[str, Any]) -> list[list[str]]:
    """The header and the lines of the result table, as text."""
    extra = any(row["encoder_ood"] for row in results["rows"])
    header = ["algorithm", "perception", "source", "target", "gap", "seeds", "episodes", "frames"]
    if extra:
        header.insert(5, "encoder-ood")
    told = {group: None for row in results["rows"] for group in row["success"] or ()}
    header += [f"success, {group.replace('_', '-')}" for group in told]
    lines = [header]
    for row in results["rows"]:
        episodes = sum(entry["score"]["episodes"] for entry in row["domains"])
        line = [row["algorithm"], row["label"]]
        line += [format_estimate(row[measure]) for measure in ("source", "target", "gap")]
        line += [str(len(row["seeds"])), grouped(episodes), grouped(row["frames"])]
        if extra:
            line.insert(5, format_estimate(row["encoder_ood"]))
        shares = [(row["success"] or {}).get(group) for group in told]
        line += ["–" if share is None else f"{number(100 * share, 0)} %" for share in shares]
        lines.append(line)
    return lines
