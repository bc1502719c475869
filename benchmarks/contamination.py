"""Was a target trained on after all? By its factors, and by its frames.

- **Factors**: a target is flagged for every cell that learned in that very domain. That the vision
  saw it is DARLA's protocol for a `policy-ood` target, and is reported.
- **Frames**: the explorer of stage 1 walks through the target in layouts of its own. A frame is a
  near-duplicate when it is nearer to a training frame of the vision than `CLOSE` of that stage's
  own validation frames are, or when the same walk in another training domain shows the very same
  picture. A target is flagged when more than `MOST` of its frames are: it is a training domain
  under another name, or its frames were trained on. Blank walls, which look alike everywhere, make
  a smaller share.

Distances are root mean squared differences of grey levels (0-255), on frames shrunk to
`THUMBNAIL` x `THUMBNAIL` pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agents.cells import Cell, training_domains
from darla.config import Config
from darla.frames import frames_digest, picture_shards
from darla.perception import has_vision
from darla.rundir import RunDirectory
from darla.storage import read_json, write_json
from envs.collect import explore
from envs.domains import Domain, Suite
from envs.registry import suite_of

FRAMES = 256
"""Frames of a target that are looked at."""
THUMBNAIL = 16
CLOSE = 0.05
MOST = 0.5
_PART = 4096

FloatArray = npt.NDArray[np.float32]


def check_contamination(
    config: Config, run: RunDirectory, cells: Sequence[Cell], suites: Sequence[Suite]
) -> dict[str, Any]:
    """Checks the targets of suites, and writes `contamination.json` into the run directory.

    What was measured before is not measured again, unless the vision's frames have changed.

    Args:
        config: The experiment.
        run: Its run directory; without frames of stage 1, frames are compared between domains only.
        cells: What is scored.
        suites: The suites that it is scored on.

    Returns:
        `frames` (SHA-256 of stage 1's index, or null), `reference` (`close` and `median` distance
        of validation frames, or null) and `targets`: per suite and domain id `tags`, `trained_on`
        (cells), `seen_by_vision`, `nearest` and `median` distance (or null), `duplicates` (share
        of frames) and `flags` (sentences).

    Raises:
        DependencyError: No off-screen OpenGL.
    """
    path = run.path / "contamination.json"
    digest = frames_digest(run.frames) if (run.frames / "index.json").exists() else None
    known = read_json(path) if path.exists() else {}
    if known.get("frames", "") != digest or "reference" not in known:
        known = {"frames": digest, "reference": None, "targets": {}}
    own = suite_of(config)
    seen = own.d_u if has_vision(run) else ()
    pending = {
        domain
        for suite in suites
        for domain in suite.d_t
        if domain.id not in known["targets"].get(suite.name, {})
    }
    measured = _measure(config, run, own, pending, known)
    trained = {cell.id: training_domains(cell, own) for cell in cells}
    for suite in suites:
        before = known["targets"].get(suite.name, {})
        known["targets"][suite.name] = {
            domain.id: judge(
                domain,
                suite.tags(domain),
                trained=trained,
                vision=seen,
                measures=measured.get(domain) or before[domain.id],
            )
            for domain in suite.d_t
        }
    write_json(path, known)
    return known


def judge(
    domain: Domain,
    tags: Sequence[str],
    *,
    trained: Mapping[str, Iterable[Domain]],
    vision: Iterable[Domain],
    measures: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what is known of a target, with `flags` where it is contaminated.

    Args:
        domain: The target.
        tags: Its tags in the suite.
        trained: Domains that each cell learned in, by the cell's id.
        vision: Domains whose frames a vision saw: D_U, or none where the run has no vision.
        measures: `nearest`, `median` and `duplicates`, as `compare` returns them.
    """
    cells = [cell for cell, domains in trained.items() if domain in domains]
    flags = []
    if cells:
        flags.append(f"trained on by {', '.join(cells)}")
    if measures["duplicates"] > MOST:
        flags.append(f"{measures['duplicates']:.0%} of its frames are near-duplicates")
    return {
        "tags": list(tags),
        "trained_on": cells,
        "seen_by_vision": domain in vision,
        **{name: measures[name] for name in ("nearest", "median", "duplicates")},
        "flags": flags,
    }


def compare(
    frames: npt.NDArray[np.uint8],
    twins: Sequence[npt.NDArray[np.uint8]],
    gallery: FloatArray | None,
    close: float,
) -> dict[str, float | None]:
    """Compares frames of a target with those that were trained on.

    Args:
        frames: uint8 [N, H, W, 3].
        twins: The same walk in training domains, each uint8 [N, H, W, 3].
        gallery: Thumbnails of the vision's training frames, or None where there are none.
        close: Distance under which a frame is a near-duplicate.

    Returns:
        `nearest` and `median` of the distances to the nearest frame of the gallery (None without
        one), and `duplicates`, the share of near-duplicates.
    """
    same = np.zeros(len(frames), bool)
    for twin in twins:
        same |= (frames == twin).all(axis=(1, 2, 3))
    if gallery is None:
        return {"nearest": None, "median": None, "duplicates": float(same.mean())}
    distances = nearest(thumbnails(frames), gallery)
    return {
        "nearest": float(distances.min()),
        "median": float(np.median(distances)),
        "duplicates": float((same | (distances < close)).mean()),
    }


def thumbnails(frames: npt.NDArray[np.uint8] | torch.Tensor) -> FloatArray:
    """Shrinks uint8 [N, H, W, 3] by area to float32 [N, THUMBNAIL * THUMBNAIL * 3], 0 to 255."""
    parts = torch.as_tensor(frames).split(_PART)
    shrink = torch.nn.functional.adaptive_avg_pool2d
    small = [shrink(part.permute(0, 3, 1, 2).float(), THUMBNAIL).flatten(1) for part in parts]
    return torch.cat(small).numpy()


def nearest(queries: FloatArray, gallery: FloatArray) -> FloatArray:
    """Returns the distance of every query [N, D] to its nearest row of the gallery [M, D]."""
    squares = np.full(len(queries), np.inf, np.float32)
    for start in range(0, len(gallery), _PART):
        part = gallery[start : start + _PART]
        found = (part**2).sum(1) - 2.0 * queries @ part.T
        squares = np.minimum(squares, found.min(1))
    squares += (queries**2).sum(1)
    return np.sqrt(np.maximum(squares, 0.0) / queries.shape[1])


def verdict(found: Mapping[str, Any], suite: str) -> str:
    """One line about the targets of a suite, for a terminal."""
    targets = found["targets"][suite]
    flagged = [f"{name} ({'; '.join(t['flags'])})" for name, t in targets.items() if t["flags"]]
    line = f"contamination of {suite}: {len(flagged) or 'none'} of {len(targets)} targets flagged"
    line += f": {', '.join(flagged)}" if flagged else ""
    distances = {name: t["nearest"] for name, t in targets.items() if t["nearest"] is not None}
    if distances:
        name = min(distances, key=lambda name: distances[name])
        line += (
            f"; nearest to the vision's frames: {distances[name]:.1f} grey levels ({name}); of its "
            f"validation frames {CLOSE:.0%} are nearer than {found['reference']['close']:.1f}"
        )
    return line


def _measure(
    config: Config,
    run: RunDirectory,
    own: Suite,
    pending: Iterable[Domain],
    known: dict[str, Any],
) -> dict[Domain, dict[str, float | None]]:
    """Compares the frames of targets; puts the reference, if it is not there, into `known`."""
    if not pending:
        return {}
    gallery, close = None, 0.0
    if known["frames"] is not None:
        gallery = _gallery(run, "train")
        if known["reference"] is None:
            held_out = _gallery(run, "validation")
            own_distances = nearest(held_out, gallery)
            known["reference"] = {
                "close": float(np.quantile(own_distances, CLOSE)),
                "median": float(np.median(own_distances)),
            }
        close = known["reference"]["close"]
    training = dict.fromkeys((*own.d_s, *own.d_u))
    walks = {domain: _walk(config, domain) for domain in training}
    return {
        domain: compare(
            _walk(config, domain),
            [walk for other, walk in walks.items() if other != domain],
            gallery,
            close,
        )
        for domain in pending
    }


def _gallery(run: RunDirectory, split: str) -> FloatArray:
    """Thumbnails of the frames of stage 1, which may be more than memory."""
    return np.concatenate([thumbnails(part) for part in picture_shards(run.frames, split)])


def _walk(config: Config, domain: Domain) -> npt.NDArray[np.uint8]:
    """Frames of the explorer, in layouts that stage 1 did not have: uint8 [FRAMES, H, W, 3]."""
    seed = config.frames.model_copy(update={"seed": config.frames.seed + 1 + config.transfer.seed})
    elsewhere = config.model_copy(update={"frames": seed})
    return explore(elsewhere, (domain,), "train", 0, FRAMES)[0]
