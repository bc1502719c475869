"""From results and metrics of a run to the figures of its report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from agents.cells import cells_of
from benchmarks import figures
from benchmarks.rows import entrant, find, order
from benchmarks.scores import RANDOM_POLICY
from darla.errors import DarlaError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import read_jsonl

Row = Mapping[str, Any]


def name_of(row: Row, rows: Sequence[Row]) -> str:
    """The label of a row, with its algorithm where there are several."""
    algorithms = {other["algorithm"] for other in rows} - {RANDOM_POLICY}
    if row["algorithm"] == RANDOM_POLICY or len(algorithms) == 1:
        return str(row["label"])
    return f"{row['algorithm'].upper()}, {row['label']}"


def interval_figure(rows: Sequence[Row]) -> Markup:
    """Source and target of every row; a row may name the `run` that it is of."""
    lines = [
        figures.IntervalRow(
            key=row["perception"],
            label=" · ".join(filter(None, [row.get("run"), name_of(row, rows)])),
            source=_interval(row["source"]) if row["source"] else None,
            target=_interval(target) if target else None,
        )
        for row in rows
        for target in [row["target"] or row["encoder_ood"]]
    ]
    return Markup(figures.interval_plot(lines, "Return in source and target with 95 % intervals"))


def profile_figures(results: Row, group: str) -> list[tuple[str, Markup]]:
    """(algorithm, figure) of performance profiles in a group of targets, with their legends.

    The random policy is in each.
    """
    found = results["profiles"].get(group, {"rows": []})
    algorithms = dict.fromkeys(each["algorithm"] for each in found["rows"])
    plots = []
    for algorithm in algorithms:
        if algorithm == RANDOM_POLICY:
            continue
        profiles = [
            figures.Profile(
                key=each["perception"],
                label=entrant(each["perception"], each["algorithm"]).label,
                share=each["share"],
                low=each["low"],
                high=each["high"],
            )
            for each in found["rows"]
            if each["algorithm"] in (algorithm, RANDOM_POLICY)
        ]
        title = f"Share of runs of {algorithm} that score more than a return"
        legend = figures.legend([(each.key, each.label) for each in profiles])
        plot = figures.profile_plot(profiles, found["thresholds"], title)
        plots.append((algorithm.upper(), Markup(legend + plot)))
    return plots


def improvement_figure(results: Row, group: str) -> Markup | None:
    """How probable it is that a run of DARLA scores more than one of each other row."""
    compared = [each for each in results["comparisons"] if each["group"] == group]
    if not compared:
        return None
    several = len({each["algorithm"] for each in compared}) > 1
    lines = [
        figures.ForestRow(
            key=each["against"],
            label=f"{each['algorithm'].upper()}, {each['label']}" if several else each["label"],
            value=_interval(each["improvement"]),
        )
        for each in compared
    ]
    unit = "probability that a run of DARLA scores more"
    return Markup(figures.forest_plot(lines, unit, unit, reference=0.5, span=(0.0, 1.0)))


def attribution_figure(row: Row) -> Markup | None:
    """The drops of one row, by what moved."""
    lines = [
        figures.ForestRow(
            key=row["perception"],
            label=each["label"] + (", all values" if each["kind"] == "factor" else ""),
            value=_interval(each["drop"]),
        )
        for each in row["attribution"]
        if each["drop"] and each["kind"] != "interaction"
    ]
    if not lines:
        return None
    title = f"Drop from source to target by what moved, {row['label']}"
    unit = "drop in return, source minus target"
    return Markup(figures.forest_plot(lines, title, unit, reference=0.0, span=(0.0, 1.0)))


def curve_figures(
    run: RunDirectory, results: Row | None
) -> tuple[list[tuple[str, Markup]], list[str]]:
    """Learning curves from the evaluations in `agents/*/metrics.jsonl`.

    Returns:
        (algorithm, figure) of each algorithm, and a sentence for each file that cannot be read.
    """
    points: dict[str, dict[str, list[list[tuple[float, float]]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    problems = []
    for cell in cells_of(run.config):
        try:
            rows = read_jsonl(run.agent(cell.id) / "metrics.jsonl")
        except MissingFileError:
            continue
        except DarlaError as error:
            problems.append(str(error))
            continue
        curve = [
            (float(row["frames"]), float(row["return"]))
            for row in rows
            if row.get("split") == "source" and row.get("return") is not None
        ]
        if curve:
            points[cell.algorithm][cell.perception].append(curve)
    scored = results["rows"] if results else []
    floor = find(scored, RANDOM_POLICY, "none")
    plots = []
    for algorithm, perceptions in points.items():
        names = sorted(perceptions, key=lambda perception: order(algorithm, perception))
        figure = figures.curve_plot(
            [
                _curve(
                    name,
                    entrant(name, algorithm).label,
                    perceptions[name],
                    find(scored, algorithm, name),
                )
                for name in names
            ],
            f"Learning curves of {algorithm}",
            floor=floor["source"]["mean"] if floor and floor["source"] else None,
        )
        plots.append((algorithm.upper(), Markup(figure)))
    return plots, problems


def _curve(
    perception: str,
    label: str,
    seeds: Sequence[Sequence[tuple[float, float]]],
    score: Row | None,
) -> figures.Curve:
    """Mean and range over seeds, at the frames of the shortest curve."""
    shortest = min(seeds, key=lambda seed: seed[-1][0])
    frames = [frame for frame, _ in shortest]
    curves = [np.array(seed) for seed in seeds]
    values = np.array([np.interp(frames, curve[:, 0], curve[:, 1]) for curve in curves])
    return figures.Curve(
        key=perception,
        label=label,
        frames=frames,
        mean=values.mean(axis=0).tolist(),
        low=values.min(axis=0).tolist(),
        high=values.max(axis=0).tolist(),
        target=_interval(score["target"]) if score and score["target"] else None,
    )


def _interval(entry: Row) -> figures.Interval:
    return figures.Interval(entry.get("mean", entry.get("value")), *entry["ci95"])
