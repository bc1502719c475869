"""What the vision learned to see, in numbers: errors on objects, active latents, linear probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darla.frames import VISIBLE_PIXELS, Frames
from darla.vision.losses import kl_divergence
from darla.vision.metrics import disentanglement
from darla.vision.networks import VAE

#: A latent is active when its KL, averaged over frames, is above this many nats.
ACTIVE_NATS = 0.05
#: An object must cover this many pixels, and be nearer than this many metres, for its bearing to be
#: probed.
PROBE_METRES = 6.0
#: Bearing and distance are cut into so many classes of equal size where disentanglement is scored.
CLASSES = 5
#: Disentanglement is not scored on fewer frames.
FEWEST_SCORED = 100
BATCH = 256


def to_float(pictures: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """Converts uint8 [B, H, W, 3] to floats [B, 3, H, W] in [0, 1], channels-last in memory.

    Bytes are exact in bfloat16, so that quotients are rounded once, as by a detour over float32.
    """
    return pictures.permute(0, 3, 1, 2).to(precision) / 255.0


def device_of(model: torch.nn.Module) -> torch.device:
    """The device of a model's parameters."""
    return next(model.parameters()).device


@torch.no_grad()
def reconstruction_errors(
    reconstruct: Callable[[Tensor], Tensor], frames: Frames, device: torch.device
) -> dict[str, float]:
    """Squared errors of a reconstruction, on all pixels and on object pixels alone.

    The error on object pixels is relative to painting the objects away: 1 means that a
    reconstruction is as far from the objects as the empty room is, 0 that it is perfect.

    Args:
        reconstruct: float [B, 3, H, W] in [0, 1] -> the same shape.
        frames: Evaluation split; object errors need its `kinds` and `background`.
        device: Where to compute.

    Returns:
        `pixels`: mean squared error per pixel and channel; and where the labels allow it `objects`
            and one
        `objects/<kind>` per kind.
    """
    total, wrong, gone = 0.0, np.zeros(0), np.zeros(0)
    kinds, background = frames.labels.get("kinds"), frames.labels.get("background")
    if kinds is not None:
        wrong = np.zeros(int(kinds.max(initial=-1)) + 1)
        gone = np.zeros_like(wrong)
    for start in range(0, len(frames), BATCH):
        stop = start + BATCH
        target = to_float(frames.pictures[start:stop].to(device))
        error = (reconstruct(target).float() - target).square().sum(1)
        total += error.sum().item()
        if kinds is not None and background is not None:
            empty = to_float(torch.from_numpy(background[start:stop]).to(device))
            absent = (empty - target).square().sum(1)
            owner = torch.from_numpy(kinds[start:stop]).to(device)
            for kind in range(len(wrong)):
                wrong[kind] += error[owner == kind].sum().item()
                gone[kind] += absent[owner == kind].sum().item()
    result = {"pixels": total / frames.pictures.numel()}
    if gone.sum() > 0:
        result["objects"] = float(wrong.sum() / gone.sum())
        names = frames.kinds or tuple(str(kind) for kind in range(len(gone)))
        result |= {f"objects/{names[k]}": float(wrong[k] / gone[k]) for k in np.flatnonzero(gone)}
    return result


@torch.no_grad()
def posterior(vae: VAE, pictures: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean of q(z|x) and KL per latent, float32 [N, latents] each, of uint8 [N, H, W, 3]."""
    device, means, divergences = device_of(vae), [], []
    for start in range(0, len(pictures), BATCH):
        mean, log_variance = vae.encode(to_float(pictures[start : start + BATCH].to(device)))
        means.append(mean.float().cpu())
        divergences.append(kl_divergence(mean.float(), log_variance.float()).cpu())
    return torch.cat(means).numpy(), torch.cat(divergences).numpy()


def probe(latents: np.ndarray, frames: Frames, *, seed: int = 0) -> dict[str, float]:
    """How well a linear read-out of the latents tells what is in the picture.

    Half of the frames fit the probe, the other half (later shards, so other layouts) is read.

    Args:
        latents: float [N, D], of the frames in order.
        frames: Their labels; without labels of objects only the factors of the domains are probed.
        seed: Seed of the classifier's solver.

    Returns:
        Accuracy (0-1) per factor of D_U that varies (`room`; `pair/visible` counts frames with an
        object in view), of the nearest object's `kind`, and median absolute error of its `bearing`
        (degrees) and `distance` (metres), and of whatever else the world labels with one number per
        frame, in the label's unit. Chance is beside each accuracy as `<name>/chance`.
    """
    labels, n = frames.labels, len(frames)
    fit = np.arange(n) < n // 2
    visible = _object_in_view(frames)
    result: dict[str, float] = {}
    for name in frames.factors[0] if frames.factors else ():
        values = np.array([str(factors[name]) for factors in frames.factors])[labels["domain"]]
        result |= _accuracy(name, latents, values, fit, np.ones(n, bool), seed)
        if "kinds" in labels:
            result |= _accuracy(f"{name}/visible", latents, values, fit, visible, seed)
    if "kind" in labels:
        known = visible & (labels["kind"] >= 0)
        result |= _accuracy("kind", latents, labels["kind"], fit, known, seed)
    for name, values in labels.items():
        if values.ndim == 1 and np.issubdtype(values.dtype, np.floating):
            known = np.isfinite(values)
            if name in ("bearing", "distance"):
                known &= visible & (labels["distance"] < PROBE_METRES)
            result |= _median_error(name, latents, values, fit, known)
    return result


def factor_scores(latents: np.ndarray, frames: Frames, *, seed: int = 0) -> dict[str, Any]:
    """Disentanglement of the latents with respect to the labels, by `darla.vision.metrics`.

    Factors are those of D_U's domains and, where the world labels objects, the nearest object's
    kind, and its bearing and distance in five classes of equal size; then only frames count that
    show an object within `PROBE_METRES`. A factor that follows from another one is left out, as the
    Lab's pair follows from the kind.

    Args:
        latents: float [N, D], of the frames in order.
        frames: Their labels.
        seed: Seed of every draw.

    Returns:
        The scores, `factors` (their names) and `frames` (how many were scored); empty where fewer
        than two factors vary, or there are fewer than `FEWEST_SCORED` frames.
    """
    labels, n = frames.labels, len(frames)
    where = np.ones(n, bool)
    columns: dict[str, np.ndarray] = {}
    for name in frames.factors[0] if frames.factors else ():
        values = np.array([str(factors[name]) for factors in frames.factors])
        columns[name] = np.unique(values[labels["domain"]], return_inverse=True)[1]
    if "kind" in labels:
        where = (labels["kind"] >= 0) & (labels["distance"] < PROBE_METRES)
        where &= _object_in_view(frames)
        columns["kind"] = labels["kind"]
    nominal = set(columns)
    if where.sum() < FEWEST_SCORED:
        return {}
    columns = {name: values[where] for name, values in columns.items()}
    if "kind" in labels:
        for name in ("bearing", "distance"):
            values = labels[name][where]
            edges = np.quantile(values, np.linspace(0, 1, CLASSES + 1)[1:-1])
            columns[name] = np.digitize(values, edges)
    names = [name for name, values in columns.items() if len(np.unique(values)) > 1]
    names = [name for name in names if not _follows(columns, name, names)]
    if len(names) < 2:
        return {}
    scores = disentanglement(
        latents[where],
        np.stack([columns[name] for name in names], axis=1),
        np.random.default_rng(seed),
        nominal=[place for place, name in enumerate(names) if name in nominal],
        walks=True,
    )
    return {**scores, "factors": names, "frames": int(where.sum())}


def _object_in_view(frames: Frames) -> np.ndarray:
    """Which frames show an object, bool [N]; all, where the world does not tell."""
    if "kinds" not in frames.labels:
        return np.ones(len(frames), bool)
    return (frames.labels["kinds"] >= 0).reshape(len(frames), -1).sum(1) >= VISIBLE_PIXELS


def _follows(columns: dict[str, np.ndarray], name: str, names: list[str]) -> bool:
    """Whether a factor is a function of another, or the same under an earlier name."""
    values = {other: len(np.unique(columns[other])) for other in names}
    return any(
        len(np.unique(np.stack([columns[name], columns[other]]), axis=1).T) == values[other]
        and (values[name], names.index(other)) < (values[other], names.index(name))
        for other in names
        if other != name
    )


def _accuracy(
    name: str,
    latents: np.ndarray,
    values: np.ndarray,
    fit: np.ndarray,
    where: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Accuracy of a classifier, and chance; nothing where there are not two classes to learn."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = fit & where, ~fit & where
    if len(np.unique(values[train])) < 2 or not test.any():
        return {}
    classifier = LogisticRegression(max_iter=1000, random_state=seed)
    model = make_pipeline(StandardScaler(), classifier).fit(latents[train], values[train])
    most = np.unique(values[test], return_counts=True)[1].max()
    return {
        name: float(model.score(latents[test], values[test])),
        f"{name}/chance": float(most / test.sum()),
    }


def _median_error(
    name: str, latents: np.ndarray, values: np.ndarray, fit: np.ndarray, where: np.ndarray
) -> dict[str, float]:
    """Median absolute error of a linear regression; nothing where nothing is known."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = fit & where, ~fit & where
    if train.sum() < 2 or not test.any():
        return {}
    model = make_pipeline(StandardScaler(), Ridge(1.0)).fit(latents[train], values[train])
    return {name: float(np.median(np.abs(model.predict(latents[test]) - values[test])))}


def describe_latents(divergences: np.ndarray) -> dict[str, Any]:
    """Total KL, KL per latent and active units, from KL per frame, float [N, latents]."""
    per_latent = divergences.mean(0)
    return {
        "kl": float(per_latent.sum()),
        "kl_per_latent": [round(float(value), 4) for value in per_latent],
        "active_units": int((per_latent > ACTIVE_NATS).sum()),
    }
