"""The report: one HTML file that a reader can open offline, print and send, and the model cards.

The page is a pure function of run directories. It makes no request to anywhere: style, figures and
pictures are inside of it, and its content security policy forbids the network and any script but
its own, which sorts the tables. What a run lacks is said in its place instead of failing, so that a
report can be written at any time while a run is under way.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from agents.algorithms import POLICY_FILE
from agents.cells import cells_of
from benchmarks import plots, provenance
from benchmarks.inline import data_uri
from benchmarks.provenance import Replay
from benchmarks.results import TARGETS, results_of
from benchmarks.rows import entrant
from benchmarks.scores import UNFINISHED, read_scores
from benchmarks.sentences import chosen
from benchmarks.sight import show_vision
from benchmarks.svg import swatch
from benchmarks.tables import format_estimate, format_share, grouped, markdown_table, number
from darla.config import OWN, Config, to_yaml
from darla.errors import DarlaError, MissingFileError
from darla.perception import has_vision
from darla.rundir import RunDirectory
from darla.storage import read_json, write_text
from envs.registry import suite_of

CARD = "MODEL_CARD.md"
GROUPS = {
    "source": "Source: the policy learned here",
    "target": "Target, policy-ood: the encoder saw the parts, the policy never this conjunction",
    "encoder_ood": "Target, encoder-ood: a factor value that the encoder never saw",
}


@dataclass(frozen=True)
class Picture:
    """A picture inside of the page.

    Attributes:
        uri: The picture as a data URI.
        alt: What a reader who cannot see it is told.
        vision: Label of the vision that it is of; empty where it is of none.
    """

    uri: str
    alt: str
    vision: str = ""


@dataclass(frozen=True)
class Part:
    """What was scored in one suite: the run's own, or a protocol beside it.

    Attributes:
        results: As `benchmarks.results.summarise` returns them.
        intervals: Interval plot of source and target.
        profiles: (group of targets, algorithm, figure).
        improvements: (group of targets, figure).
        attribution: Figure of the drops of the headline's row, or None.
    """

    results: dict[str, Any]
    intervals: Markup
    profiles: list[tuple[str, str, Markup]]
    improvements: list[tuple[str, Markup]]
    attribution: Markup | None


@dataclass
class Page:
    """What the template shows of one run; None or empty where the run does not have it.

    Attributes:
        anchor: Prefix of the run's anchors in the page.
        name: Name of the run.
        config: The configuration as YAML.
        part: What was scored in the run's own suite.
        protocols: What was scored in others.
        curves: (algorithm, figure) of learning curves.
        reconstructions: Inputs and what each model makes of them, one picture per vision.
        traversals: Latents moved one at a time, one picture per vision.
        sees: Whether there is a vision, or will be one.
        vision: Figures and tables of `vision/report.json`.
        domains: Contact sheet.
        contamination: (target, what `contamination.json` says of it).
        replays: Episodes to look at.
        commands: What to type for the same run.
        digests: (what, SHA-256).
        facts: (name, value) of versions, host, code and seeds.
        stages: (stage, state, duration) in the order of the run.
        problems: Sentences about what could not be read.
    """

    anchor: str
    name: str
    config: str
    part: Part | None = None
    protocols: list[Part] = field(default_factory=list)
    curves: list[tuple[str, Markup]] = field(default_factory=list)
    reconstructions: list[Picture] = field(default_factory=list)
    traversals: list[Picture] = field(default_factory=list)
    sees: bool = True
    vision: Markup | None = None
    domains: Picture | None = None
    contamination: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    replays: list[Replay] = field(default_factory=list)
    commands: str = ""
    digests: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    stages: list[tuple[str, str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def write_report(runs: Sequence[Path], output: Path) -> None:
    """Writes one self-contained page about one or more runs, and a model card into each run.

    Args:
        runs: Run directories, in the order of the page.
        output: The HTML file to write.

    Raises:
        MissingFileError: When a path is no run directory, or none is given.
        CorruptFileError: When the scores of a run cannot be trusted (see `benchmarks.scores`).
    """
    if not runs:
        raise MissingFileError("a report needs at least one run directory")
    opened = [RunDirectory.load(path) for path in runs]
    pages = [_page(run, f"r{place}-", output) for place, run in enumerate(opened)]
    environment = _environment()
    assert environment.loader is not None
    script, _, _ = environment.loader.get_source(environment, "report.js")
    rows = [
        row | {"run": page.name} for page in pages if page.part for row in page.part.results["rows"]
    ]
    text = environment.get_template("report.html.j2").render(
        pages=pages,
        groups=GROUPS,
        rows=rows,
        side_by_side=plots.interval_figure(rows) if len(pages) > 1 and rows else None,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(output, text)
    for run, page in zip(opened, pages, strict=True):
        write_text(run.path / CARD, _card(environment, run, page))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("benchmarks"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "estimate": format_estimate,
        "share": format_share,
        "number": number,
        "grouped": grouped,
        "swatch": lambda perception: Markup(swatch(perception)),
        "drop_keys": lambda found: dict.fromkeys((each["kind"], each["label"]) for each in found),
    }
    return environment


def _page(run: RunDirectory, anchor: str, output: Path) -> Page:
    page = Page(anchor=anchor, name=run.config.name, config=to_yaml(run.config))
    status = _status(run, page)
    if run.scored:
        results = results_of(run)
        page.part = _part(results)
        page.protocols = [_part(part) for part in results["protocols"].values()]
        page.problems += _unscored(run, results)
        row = _headlined(results)
        if row is not None:
            page.replays = provenance.replays_of(run, row, read_scores(run), output)
    page.curves, problems = plots.curve_figures(run, page.part.results if page.part else None)
    page.problems += problems
    page.reconstructions = _pictures(
        run, "reconstructions", "Frames, and what each model reconstructs of them", page
    )
    page.traversals = _pictures(
        run, "traversals", "Decoded pictures while one latent at a time is moved", page
    )
    page.sees = has_vision(run)
    page.vision = _vision(run, status, page)
    page.domains = _picture(run.path / "domains.png", "Frames of every domain, with its tags", page)
    page.contamination = _contamination(run, page)
    page.commands = provenance.commands_of(
        run, status, [part.results["suite"] for part in page.protocols]
    )
    page.digests = provenance.digests_of(run, status)
    try:
        page.digests += provenance.frame_digests_of(run)
    except DarlaError as error:
        page.problems.append(str(error))
    page.facts = provenance.facts_of(status)
    page.stages = provenance.stages_of(status)
    return page


def _part(results: dict[str, Any]) -> Part:
    row = _headlined(results)
    improvements = [(group, plots.improvement_figure(results, group)) for group in TARGETS]
    return Part(
        results=results,
        intervals=plots.interval_figure(results["rows"]),
        profiles=[
            (group, algorithm, figure)
            for group in TARGETS
            for algorithm, figure in plots.profile_figures(results, group)
        ],
        improvements=[(group, figure) for group, figure in improvements if figure],
        attribution=plots.attribution_figure(row) if row else None,
    )


def _headlined(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row that the headline is about."""
    rows = results["rows"]
    return next((row for group in TARGETS if (row := chosen(rows, group))), None)


def _status(run: RunDirectory, page: Page) -> Mapping[str, Any]:
    """What `run.json` holds; nothing, and a sentence in the page, if it cannot be read."""
    try:
        return run.status()
    except DarlaError as error:
        page.problems.append(str(error))
        return {}


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


def _vision(run: RunDirectory, status: Mapping[str, Any], page: Page) -> Markup | None:
    try:
        report = read_json(run.vision / "report.json")
    except MissingFileError:
        return None
    except DarlaError as error:
        page.problems.append(str(error))
        return None
    frames = status.get("stages", {}).get("frames", {}).get("facts", {})
    return show_vision(report, frames)


def _contamination(run: RunDirectory, page: Page) -> list[tuple[str, Mapping[str, Any]]]:
    """The targets of all suites; what is flagged of them is said at the top of the page as well."""
    try:
        suites = read_json(run.path / "contamination.json")["targets"]
    except MissingFileError:
        return []
    except (KeyError, TypeError):
        page.problems.append(f"{run.path / 'contamination.json'} is damaged: it has no targets")
        return []
    except DarlaError as error:
        page.problems.append(str(error))
        return []
    found = [each for targets in suites.values() for each in targets.items()]
    page.problems += [
        f"Target {target} may be contaminated: {'; '.join(entry['flags'])}."
        for target, entry in found
        if entry["flags"]
    ]
    return found


def _pictures(run: RunDirectory, what: str, alt: str, page: Page) -> list[Picture]:
    """Pictures of the visions of a run, that of DARLA first."""
    pictures = []
    for path in sorted(run.vision.glob(f"{what}*.png"), key=lambda path: path.stem):
        label = entrant(path.stem.removeprefix(what).removeprefix("-") or "darla").label
        picture = _picture(path, f"{alt} ({label})", page, label)
        if picture is not None:
            pictures.append(picture)
    return pictures


def _picture(path: Path, alt: str, page: Page, vision: str = "") -> Picture | None:
    """A picture of a run, or None where there is none, or where it cannot be read."""
    if not path.exists():
        return None
    try:
        with Image.open(path) as image:
            return Picture(data_uri(image), alt, vision)
    except OSError as error:  # Pillow's for a damaged file is one of these
        page.problems.append(f"{path} cannot be read: {error.strerror or 'it is damaged'}")
        return None


def _models(config: Config) -> list[str]:
    """A line for every model of stage 1."""
    from darla.vision.pretrain import models_of, optimisation_of, vae_settings

    lines = []
    for name in models_of(config):
        if name.startswith(OWN):
            lines.append(f"`{name}`: registered by {config.environment.plugin}")
            continue
        images = grouped(optimisation_of(config, name).images)
        if name == "dae":
            lines.append(f"`dae`: a denoising autoencoder, {images} images")
            continue
        vae = vae_settings(config, name)
        weight = {
            "beta": f"beta {vae.beta}",
            "normalised": f"normalised beta {vae.beta}",
            "capacity": f"gamma {vae.gamma}, capacity up to {vae.capacity.end} nats",
        }[vae.objective]
        judged = "the autoencoder's features" if vae.reconstruction == "dae" else "pixels"
        start = ", begun from the autoencoder's convolutions" if vae.warm_start else ""
        lines.append(
            f"`{name}`: a beta-VAE judged in {judged}, {images} images, {weight}, {vae.latents} "
            f"latents{start}"
        )
    return lines


def _card(environment: Environment, run: RunDirectory, page: Page) -> str:
    """The model card of a run, in Markdown."""
    try:
        suite = suite_of(run.config)
    except DarlaError:
        suite = None
    results = page.part.results if page.part else None
    rows = results["rows"] if results else []
    return environment.get_template("MODEL_CARD.md.j2").render(
        config=run.config,
        page=page,
        suite=suite,
        results=results,
        table=markdown_table(results) if results else "",
        models=_models(run.config),
        perceptions=[(name, entrant(name).label) for name in run.config.agents.perceptions],
        facts=dict(page.facts),
        trained=any((run.agent(cell.id) / POLICY_FILE).exists() for cell in cells_of(run.config)),
        unfinished=any(f"({UNFINISHED})" in row["label"] for row in rows),
    )
