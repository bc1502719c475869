"""The report: one HTML file that a reader can open offline, print and send.

The page is a pure function of run directories. It makes no request to anywhere: style, figures and
pictures are inside of it, and it has no script. What a run lacks is said in its place instead of
failing, so that a report can be written at any time while a run is under way.
"""

from __future__ import annotations

import base64
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from agents.cells import cells_of
from benchmarks import figures
from benchmarks.results import (
    LABELS,
    RANDOM_POLICY,
    format_estimate,
    grouped,
    number,
    read_scores,
    summarise,
)
from benchmarks.sight import scalar, show_vision
from darla.config import to_yaml
from darla.errors import DarlaError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import read_json, read_jsonl, write_text

GROUPS = {
    "source": "Source: the policy learned here",
    "target": "Target, policy-ood: the encoder saw the parts, the policy never this conjunction",
    "encoder_ood": "Target, encoder-ood: a factor value that the encoder never saw",
}


@dataclass(frozen=True)
class Picture:
    """A PNG inside of the page.

    Attributes:
        uri: The picture as a data URI.
        alt: What a reader who cannot see it is told.
    """

    uri: str
    alt: str


@dataclass
class Page:
    """What the template shows of one run; None or empty where the run does not have it.

    Attributes:
        anchor: Prefix of the run's anchors in the page.
        name: Name of the run.
        results: As `summarise` returns them.
        intervals: Interval plot of source and target.
        curves: (algorithm, figure) of learning curves.
        reconstructions: Input, DAE and VAE.
        traversals: Latents moved one at a time.
        vision: Figures and tables of `vision/report.json`.
        domains: Contact sheet.
        commands: What to type for the same run.
        config: The configuration as YAML.
        facts: (name, value) of versions, host, code and seeds.
        stages: (stage, state, duration) in the order of the run.
        problems: Sentences about what could not be read.
    """

    anchor: str
    name: str
    config: str
    commands: str
    results: dict[str, Any] | None = None
    intervals: Markup | None = None
    curves: list[tuple[str, Markup]] = field(default_factory=list)
    reconstructions: Picture | None = None
    traversals: Picture | None = None
    vision: Markup | None = None
    domains: Picture | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    stages: list[tuple[str, str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def write_report(runs: Sequence[Path], output: Path) -> None:
    """Writes one self-contained page about one or more runs.

    Args:
        runs: Run directories, in the order of the page.
        output: The HTML file to write.

    Raises:
        MissingFileError: When a path is no run directory, or none is given.
        CorruptFileError: When the scores of a run cannot be trusted (see `benchmarks.results`).
    """
    if not runs:
        raise MissingFileError("a report needs at least one run directory")
    pages = [_page(RunDirectory.load(path), f"r{place}-") for place, path in enumerate(runs)]
    environment = Environment(
        loader=PackageLoader("benchmarks"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"estimate": format_estimate, "number": number, "grouped": grouped}
    template = environment.get_template("report.html.j2")
    write_text(output, template.render(pages=pages, groups=GROUPS))


def _page(run: RunDirectory, anchor: str) -> Page:
    page = Page(
        anchor=anchor, name=run.config.name, config=to_yaml(run.config), commands=_commands(run)
    )
    if run.scores.exists():
        page.results = summarise(read_scores(run))
        page.intervals = _intervals(page.results)
        page.problems += _unscored(run, page.results)
    page.curves = _curves(run, page)
    page.reconstructions = _picture(
        run.vision / "reconstructions.png", "Frames, and what each model reconstructs of them", page
    )
    page.traversals = _picture(
        run.vision / "traversals.png", "Decoded pictures while one latent at a time is moved", page
    )
    page.vision = _vision(run, page)
    page.domains = _picture(run.path / "domains.png", "One frame of every domain", page)
    _describe(run, page)
    return page


def _unscored(run: RunDirectory, results: Mapping[str, Any]) -> list[str]:
    """Says which cells of the configuration the table does not hold."""
    scored = {
        (row["algorithm"], row["perception"], seed)
        for row in results["rows"]
        for seed in row["seeds"]
    }
    cells = cells_of(run.config)
    left = [cell.id for cell in cells if (cell.algorithm, cell.perception, cell.seed) not in scored]
    if not left:
        return []
    return [f"{len(left)} of {len(cells)} cells are not scored yet: {', '.join(left)}."]


def _intervals(results: Mapping[str, Any]) -> Markup:
    rows = [
        figures.IntervalRow(
            key=row["perception"],
            label=_label(row, results),
            source=_interval(row["source"]),
            target=_interval(row["target"]),
        )
        for row in results["rows"]
    ]
    return Markup(figures.interval_plot(rows, "Return in source and target with 95 % intervals"))


def _curves(run: RunDirectory, page: Page) -> list[tuple[str, Markup]]:
    """One figure per algorithm from the evaluations in `agents/*/metrics.jsonl`."""
    points: dict[str, dict[str, list[list[tuple[float, float]]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for cell in cells_of(run.config):
        try:
            rows = read_jsonl(run.agent(cell.id) / "metrics.jsonl")
        except MissingFileError:
            continue
        except DarlaError as error:
            page.problems.append(str(error))
            continue
        curve = [
            (float(row["frames"]), float(row["return"]))
            for row in rows
            if row.get("split") == "source" and row.get("return") is not None
        ]
        if curve:
            points[cell.algorithm][cell.perception].append(curve)
    scored = page.results["rows"] if page.results else []
    floor = next((row["source"] for row in scored if row["algorithm"] == RANDOM_POLICY), None)
    plots = []
    for algorithm, perceptions in points.items():
        curves = [
            _curve(perception, perceptions[perception], _score_of(scored, algorithm, perception))
            for perception in sorted(perceptions, key=_place)
        ]
        figure = figures.curve_plot(
            curves,
            f"Learning curves of {algorithm}",
            floor=floor["mean"] if floor else None,
        )
        plots.append((algorithm.upper(), Markup(figure)))
    return plots


def _curve(
    perception: str, seeds: Sequence[Sequence[tuple[float, float]]], score: Mapping[str, Any] | None
) -> figures.Curve:
    """Mean and range over seeds, at the frames of the shortest curve."""
    shortest = min(seeds, key=lambda seed: seed[-1][0])
    frames = [frame for frame, _ in shortest]
    curves = [np.array(seed) for seed in seeds]
    values = np.array([np.interp(frames, curve[:, 0], curve[:, 1]) for curve in curves])
    return figures.Curve(
        key=perception,
        label=LABELS.get(perception, perception),
        frames=frames,
        mean=[float(value) for value in values.mean(axis=0)],
        low=[float(value) for value in values.min(axis=0)],
        high=[float(value) for value in values.max(axis=0)],
        target=_interval(score["target"]) if score else None,
    )


def _vision(run: RunDirectory, page: Page) -> Markup | None:
    path = run.vision / "report.json"
    try:
        frames = run.status()["stages"].get("frames", {}).get("facts", {})
        return show_vision(read_json(path), frames)
    except MissingFileError:
        return None
    except DarlaError as error:
        page.problems.append(str(error))
        return None


def _describe(run: RunDirectory, page: Page) -> None:
    """Fills in versions, host, seeds and stages from `run.json`."""
    try:
        status = run.status()
    except DarlaError as error:
        page.problems.append(str(error))
        return
    git = status.get("git") or {}
    if git:
        changed = ", with changes that were not committed" if git.get("changed") else ""
        page.facts.append(("code", f"commit {git.get('commit', 'unknown')}{changed}"))
    host = status.get("host") or {}
    page.facts += [(f"host, {name}", scalar(value)) for name, value in host.items()]
    page.facts += [(name, scalar(value)) for name, value in (status.get("versions") or {}).items()]
    page.facts += [
        (f"seed, {name}", scalar(value)) for name, value in (status.get("seeds") or {}).items()
    ]
    for stage, entry in (status.get("stages") or {}).items():
        state = "finished" if entry.get("finished") else "not finished"
        page.stages.append((stage, state, _duration(float(entry.get("seconds", 0.0)))))


def _commands(run: RunDirectory) -> str:
    config = shlex.quote(str(Path(run.config.runs) / run.config.name / "config.yaml"))
    return f"darla run {config} name={run.config.name}-again"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _picture(path: Path, alt: str, page: Page) -> Picture | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        page.problems.append(f"{path} cannot be read: {error.strerror}")
        return None
    return Picture(f"data:image/png;base64,{base64.b64encode(data).decode()}", alt)


def _interval(entry: Mapping[str, Any] | None) -> figures.Interval | None:
    return figures.Interval(entry["mean"], *entry["ci95"]) if entry else None


def _score_of(
    rows: Sequence[Mapping[str, Any]], algorithm: str, perception: str
) -> Mapping[str, Any] | None:
    wanted = (algorithm, perception)
    return next((row for row in rows if (row["algorithm"], row["perception"]) == wanted), None)


def _label(row: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The perception, with the algorithm where there are several."""
    algorithms = {other["algorithm"] for other in results["rows"]} - {RANDOM_POLICY}
    if row["algorithm"] == RANDOM_POLICY or len(algorithms) == 1:
        return str(row["label"])
    return f"{row['algorithm'].upper()}, {row['label']}"


def _place(perception: str) -> int:
    known = list(LABELS)
    return known.index(perception) if perception in known else len(known)
