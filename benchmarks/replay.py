"""The replay viewer: recorded episodes side by side in one HTML file that needs nothing else.

Style, script, pictures and numbers are inside of the page, whose content security policy forbids
it the network. Pictures may be lossy there; recordings (`benchmarks.episodes`) hold them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from agents.algorithms import is_trained
from agents.cells import Cell, cell_named, cells_of
from benchmarks.episodes import Recording, record, recording_path, save_recording, scores_in
from benchmarks.inline import data_uri
from benchmarks.rows import entrant
from benchmarks.scores import Score, read_scores
from benchmarks.tables import number
from darla.errors import MissingFileError
from darla.progress import Progress
from darla.rundir import RunDirectory
from darla.storage import write_text
from envs.domains import Domain, Suite

FPS = 5.0
"""Decisions per second where the world does not say."""
SMALLEST_SPREAD = 0.1
"""Of a latent, as a share of the largest spread: one that hardly varies is not said to move."""
MOVED = 3
"""Latents that are named as those which moved most."""


def choose_cell(run: RunDirectory, cell_id: str | None) -> Cell:
    """Returns the cell with this id; without one, the first that is trained, on DARLA if any is.

    Raises:
        ConfigError: The configuration has no such cell.
        MissingFileError: It is not trained to its end, or none is.
    """
    asked = None if cell_id is None else cell_named(run.config, cell_id)
    trained = [cell for cell in cells_of(run.config) if is_trained(run, cell)]
    if not trained or asked not in (None, *trained):
        names = ", ".join(cell.id for cell in trained)
        have = f"those that are: {names}" if trained else "`darla train` trains them"
        raise MissingFileError(
            f"{cell_id or 'no cell'} of '{run.path}' is "
            f"{'not trained yet' if cell_id else 'trained yet'}; {have}"
        )
    return asked or min(trained, key=lambda cell: cell.perception != "darla")


def choose_domains(suite: Suite, ids: Sequence[str]) -> list[Domain]:
    """Returns the domains with these ids; without any, the first source and the first target.

    Raises:
        DomainError: The suite has no such domain.
    """
    if not ids:
        return [suite.d_s[0], suite.d_t[0]]
    return [suite.domain(text) for text in dict.fromkeys(ids)]


def choose_episode(
    scores: Sequence[Score], suite: Suite, cell: Cell, domain: Domain, which: str
) -> int:
    """Returns the number of the scored episode of the 'best' or the 'worst' return.

    Raises:
        MissingFileError: The cell was not scored in this domain.
    """
    own = scores_in(scores, suite, cell, domain)
    if not own:
        raise MissingFileError(
            f"{cell.id} was not scored in '{domain}'; give --episode, or run `darla transfer` first"
        )
    best = max if which == "best" else min
    return best(own, key=lambda score: score.value).episode


def record_episodes(
    run: RunDirectory,
    suite: Suite,
    cell: Cell,
    domains: Sequence[Domain],
    *,
    episode: int | None = None,
    which: str | None = None,
    seed: int | None = None,
    quiet: bool = False,
) -> list[Recording]:
    """Plays one episode in every domain, and saves the recordings in `<run>/replay/<cell>/`.

    Args:
        run: The run.
        suite: What the cell is scored on.
        cell: Who plays.
        domains: Where.
        episode: Number of the episode, as in `scores.jsonl`; 0 if neither it nor `which` is given.
        which: 'best' or 'worst': of the scored ones.
        seed: Another seed than `transfer.seed`.
        quiet: Show no progress.

    Raises:
        DarlaError: See `benchmarks.episodes.record` and `choose_episode`.
    """
    scores = read_scores(run) if run.scores.exists() else []
    chosen = [
        choose_episode(scores, suite, cell, domain, which) if which else episode or 0
        for domain in domains
    ]
    recordings = []
    with Progress("replay", len(domains), "episodes", quiet=quiet) as progress:
        for domain, each in zip(domains, chosen, strict=True):
            recording = record(run, suite, cell, domain, each, scores=scores, seed=seed)
            save_recording(recording_path(run, recording.facts), recording)
            recordings.append(recording)
            progress.update(len(recordings))
    return recordings


def write_page(recordings: Sequence[Recording], output: Path) -> None:
    """Writes the viewer, with one lane per recording.

    Args:
        recordings: Of one cell. The first that is of a source domain, or else the first, is the
            reference that the others are compared with.
        output: The HTML file.
    """
    environment = Environment(
        loader=PackageLoader("benchmarks"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "short": _short}
    sources = [i for i, each in enumerate(recordings) if "source" in each.facts.tags]
    reference = sources[0] if sources else 0
    facts = recordings[reference].facts
    mean, spread = reference_latents(recordings[reference])
    data = {
        "choices": facts.choices,
        "options": facts.options,
        "preference": facts.preference,
        "fps": facts.fps or FPS,
        "mean": _rounded(mean),
        "spread": _rounded(spread),
        "lanes": [_lane(each, i == reference) for i, each in enumerate(recordings)],
    }
    template = environment.get_template("replay.html.j2")
    page = template.render(
        data=data,
        facts=facts,
        lanes=[each.facts for each in recordings],
        reference=reference,
        moved=[most_moved(each, mean, spread) for each in recordings],
        perception=entrant(facts.perception, facts.algorithm).label,
        factors=[
            (name, facts.about.get(name, ""), [each.facts.factors.get(name) for each in recordings])
            for name in facts.factors
        ],
    )
    write_text(output, page)


def reference_latents(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of every latent over an episode, by which others are measured.

    The spread is the standard deviation, but at least `SMALLEST_SPREAD` of the largest one.

    Returns:
        Two arrays [D]; empty for a policy that sees frames.
    """
    latents = recording.arrays.get("latents", np.zeros((1, 0)))
    spread = latents.std(0)
    return latents.mean(0), np.maximum(spread, max(SMALLEST_SPREAD * spread.max(initial=0), 1e-6))


def most_moved(
    recording: Recording, mean: np.ndarray, spread: np.ndarray
) -> list[tuple[int, float]]:
    """The `MOVED` latents that an episode's mean moves furthest from the reference, furthest first.

    Returns:
        Number of the latent, and how far its mean moved in units of `spread`.
    """
    if "latents" not in recording.arrays:
        return []
    shift = (recording.arrays["latents"].mean(0) - mean) / spread
    return [(int(i), float(shift[i])) for i in np.argsort(-np.abs(shift), kind="stable")[:MOVED]]


def _lane(recording: Recording, reference: bool) -> dict[str, Any]:
    facts, arrays = recording.facts, recording.arrays
    frames = arrays["frames"]
    return {
        "domain": facts.domain,
        "reference": reference,
        "columns": _columns(len(frames)),
        "height": frames.shape[1],
        "width": frames.shape[2],
        "actions": arrays["actions"].tolist(),
        "rewards": _rounded(arrays["rewards"]),
        "returns": _rounded(arrays["returns"]),
        "preferences": _rounded(arrays["preferences"]) if "preferences" in arrays else None,
        "latents": _rounded(arrays["latents"]) if "latents" in arrays else None,
        "frames": _sheet(frames),
        "reconstructions": _sheet(arrays["reconstructions"])
        if "reconstructions" in arrays
        else None,
    }


def _columns(count: int) -> int:
    """Pictures in one row of a sheet that is about as wide as high."""
    return math.ceil(math.sqrt(count))


def _sheet(pictures: np.ndarray) -> str:
    """All pictures, uint8 [T, H, W, 3], as one WebP in a data URI, row by row."""
    count, height, width, _ = pictures.shape
    columns = _columns(count)
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
    sheet[:count] = pictures
    sheet = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return data_uri(Image.fromarray(sheet.reshape(rows * height, columns * width, 3)))


def _short(value: float) -> str:
    """A number with no more digits than it needs, and a true minus sign."""
    return f"{value:g}".replace("-", "−")


def _rounded(values: np.ndarray) -> Any:
    """Nested lists of numbers with four digits; None where a number is not finite."""
    if values.ndim:
        return [_rounded(value) for value in values]
    return float(f"{values:.4g}") if np.isfinite(values) else None
