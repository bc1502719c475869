"""The experiments on 2D shapes: train a beta-VAE by index, score it, see what enters it when.

From 1606.05579 the disentanglement score and the inference of factors in combinations that were
kept from training; from 1804.03599 traversals along the training and the capacity at which each
factor enters the latents.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from darla.config import Config, ShapesConfig
from darla.devices import choose_device, torch_threads
from darla.errors import ConfigError, MissingFileError
from darla.frames import Frames
from darla.storage import read_jsonl, write_json
from darla.vision import shapes
from darla.vision.evaluation import describe_latents, posterior, reconstruction_errors
from darla.vision.metrics import beta_vae_score, disentanglement, mutual_information
from darla.vision.networks import VAE
from darla.vision.pictures import draw_reconstructions, draw_traversals
from darla.vision.pretrain import fingerprint, load_model, make_vae, save_model, seed_weights
from darla.vision.training import Trainer, checkpoint_path, fit, make_objective

if TYPE_CHECKING:
    from rich.table import Table

    from darla.rundir import RunDirectory

WATCHED = 8_000
"""Pictures on which latents are followed during the training; of fewer, noise tells something."""
NOMINAL = (0,)
"""The factor without an order: shape."""
TOLD = 0.1
"""A latent tells of a factor when it tells this share of its entropy."""


class ShapePictures:
    """The 2D shapes as training pictures, drawn when they are asked for.

    Attributes:
        indices: int64 [N], indices of the pictures in `darla.vision.shapes`.
        device: Where pictures are returned.
    """

    def __init__(self, config: ShapesConfig, indices: np.ndarray, device: torch.device) -> None:
        """Reads the file of dSprites where one is configured; errors as in `load_dsprites`."""
        self._stored = None if config.file is None else shapes.load_dsprites(config.file)
        self.indices, self.device = indices, device

    @property
    def shape(self) -> tuple[int, ...]:
        """N, 64, 64, 1."""
        return len(self), shapes.SIDE, shapes.SIDE, 1

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Pictures uint8 [B, 64, 64, 1] of 0 and 255, of an index into `indices`, int64 [B]."""
        return self.at(self.indices[index.cpu().numpy()])

    def at(self, indices: np.ndarray) -> Tensor:
        """Pictures uint8 [B, 64, 64, 1] of indices of `darla.vision.shapes`, int64 [B]."""
        drawn = shapes.images(indices) if self._stored is None else self._stored[indices]
        return torch.from_numpy(drawn).to(self.device)[..., None] * 255


def held_out() -> np.ndarray:
    """Whether a picture is a heart in the upper right quarter, bool [737280]."""
    shape, _, _, x, y = shapes.factors_of(np.arange(shapes.COUNT)).T
    right, upper = x >= shapes.SIZES[3] // 2, y < shapes.SIZES[4] // 2
    return (shape == shapes.SHAPES.index("heart")) & right & upper


def train_shapes(config: Config, run: RunDirectory, *, quiet: bool = False) -> dict[str, Any]:
    """Trains a beta-VAE on the 2D shapes, or goes on with it, and reports what it learned.

    Writes into `vision/`: `vision.safetensors`, `metrics.jsonl`, `report.json`, `traversals.png`,
    `reconstructions.png` and, from the training, `annealing/<images>.png`.

    Args:
        config: Its `vision` and `shapes` are used.
        run: Run directory of that configuration.
        quiet: No progress.

    Returns:
        The report: `disentanglement` (the scores of `darla.vision.metrics` over all five factors,
        and `beta_vae/continuous` over scale, rotation, x and y), `untrained` (the latter of the
        same network before its training), `latents`, `factors` (see
        `entries`), `pixels` (mean squared error), `images`, `images_per_second` and, where a
        combination is held out, `inference`.

    Raises:
        ConfigError, DependencyError, MissingFileError: As in `check_shapes`.
    """
    check_shapes(config)
    device = choose_device(config.vision.device)
    with torch_threads(1):
        return _train_shapes(config, run, device, quiet)


def check_shapes(config: Config) -> None:
    """Refuses what cannot be trained on the 2D shapes here.

    Raises:
        ConfigError: The reconstruction needs a DAE, pictures are not 64 x 64, or several processes
            are to share them.
        DependencyError: The configured device is not there.
        MissingFileError: There is no file where one is configured.
    """
    if config.vision.vae.reconstruction == "dae" or config.environment.size != shapes.SIDE:
        raise ConfigError(
            "the 2D shapes are 64 x 64 pictures without a denoising autoencoder; give "
            "environment.size=64 vision.vae.reconstruction=bernoulli"
        )
    if config.vision.processes > 1:
        raise ConfigError("the 2D shapes are trained by one process; give vision.processes=1")
    choose_device(config.vision.device)
    if config.shapes.file is not None and not Path(config.shapes.file).exists():
        raise MissingFileError(
            f"no file '{config.shapes.file}'; give shapes.file=null to draw the shapes instead"
        )


def _train_shapes(
    config: Config, run: RunDirectory, device: torch.device, quiet: bool
) -> dict[str, Any]:
    vision, folder = config.vision, run.vision
    aside = held_out() & config.shapes.held_out
    pictures = ShapePictures(config.shapes, np.flatnonzero(~aside), device)
    rng = np.random.default_rng(vision.seed)
    vae = make_vae(config, channels=1).to(device)
    path = folder / "vision.safetensors"
    run.start("shapes")
    if not path.exists():
        seed_weights(vae, vision.seed, 1)
        _fit(config, run, vae, pictures, quiet)
        save_model(vae, path)
        checkpoint_path(folder, "vae").unlink(missing_ok=True)
    chosen = rng.choice(pictures.indices, config.shapes.sample)
    frames, factors = _frames(pictures, chosen), shapes.factors_of(chosen)
    seed_weights(vae, vision.seed, 1)
    latents, _ = posterior(vae, frames.pictures)
    untrained = beta_vae_score(latents, factors[:, 1:], rng)
    load_model(vae, path)
    latents, divergences = posterior(vae, frames.pictures)
    scores = disentanglement(latents, factors, rng, nominal=NOMINAL)
    continuous = beta_vae_score(latents, factors[:, 1:], rng)
    report: dict[str, Any] = {
        "disentanglement": {"beta_vae/continuous": continuous, **scores},
        "untrained": untrained,
        "latents": describe_latents(divergences),
        "factors": entries(read_jsonl(folder / "metrics.jsonl"), _told(latents, factors)),
        "pixels": _error(vae, pictures, chosen),
        "fingerprint": fingerprint(vae),
    }
    if config.shapes.held_out:
        unseen = rng.choice(np.flatnonzero(aside), config.shapes.sample // 4)
        report["inference"] = _inference(vae, pictures, chosen, unseen)
    draw_reconstructions(None, vae, frames, folder / "reconstructions.png", "Reconstructions")
    draw_traversals(None, vae, frames, divergences, folder / "traversals.png")
    trained = run.status()["stages"]["vae"]
    report["images"] = trained["facts"]["images"]
    report["images_per_second"] = round(report["images"] / max(trained["seconds"], 1e-3), 1)
    write_json(folder / "report.json", report)
    run.finish("shapes", **report)
    return report


def _fit(config: Config, run: RunDirectory, vae: VAE, pictures: ShapePictures, quiet: bool) -> None:
    vision = config.vision
    watched = np.random.default_rng([vision.seed, 1]).choice(pictures.indices, WATCHED)
    frames, factors = _frames(pictures, watched), shapes.factors_of(watched)
    objective = make_objective(vision.vae, vae, None, shapes.SIDE**2)
    trainer = Trainer(objective, pictures, vision.vae.optimisation, vision)

    def evaluate() -> dict[str, Any]:
        latents, divergences = posterior(vae, frames.pictures)
        images = trainer.step_number * trainer.optimisation.batch
        picture = run.vision / "annealing" / f"{images:09}.png"
        draw_traversals(None, vae, frames, divergences, picture)
        described = describe_latents(divergences)
        return {
            "validation_kl": described["kl"],
            "kl_per_latent": described["kl_per_latent"],
            "told": np.round(_told(latents, factors), 4).tolist(),
        }

    run.start("vae")
    fit(
        trainer,
        evaluate,
        vision,
        run.vision,
        quiet=quiet,
        checkpointed=lambda: run.note("vae"),
    )
    run.finish("vae", images=trainer.steps * trainer.optimisation.batch)


def _frames(pictures: ShapePictures, indices: np.ndarray) -> Frames:
    labels = {"domain": np.zeros(len(indices), np.int64)}
    return Frames(pictures.at(indices), labels, ("shapes",))


def _told(latents: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """I(z_j; v_k) as a share of the entropy of v_k, float [D, 5]."""
    return mutual_information(latents, factors) / np.log(shapes.SIZES)


def entries(rows: Sequence[Mapping[str, Any]], told: np.ndarray) -> dict[str, dict[str, Any]]:
    """When each factor entered the latents.

    A factor has entered at the first evaluation from which on some latent tells at least half as
    much of it as the best latent does at the end.

    Args:
        rows: Lines of `metrics.jsonl`; evaluations have `told` [D][5] and `validation_kl`.
        told: The shares at the end, float [D, 5].

    Returns:
        Per factor its best `latent`, the share of its entropy that this one `told`, and
        the `images` and the KL, in `nats`, at which it entered; all but `told` null where no latent
        tells `TOLD` of it.
    """
    seen = [row for row in rows if "told" in row]
    factors: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(shapes.FACTORS):
        share = float(told[:, number].max())
        entry: dict[str, Any] = {"latent": None, "told": share, "images": None, "nats": None}
        if share >= TOLD:
            entry["latent"] = int(told[:, number].argmax())
            best = [max(latent[number] for latent in row["told"]) for row in seen]
            below = [place for place, value in enumerate(best) if value < share / 2]
            first = below[-1] + 1 if below else 0
            if first < len(seen):
                entry["images"] = seen[first]["images"]
                entry["nats"] = seen[first]["validation_kl"]
        factors[name] = entry
    return factors


def _error(vae: VAE, pictures: ShapePictures, indices: np.ndarray) -> float:
    frames = _frames(pictures, indices[:WATCHED])
    return reconstruction_errors(vae, frames, pictures.device)["pixels"]


def _inference(
    vae: VAE, pictures: ShapePictures, seen: np.ndarray, unseen: np.ndarray
) -> dict[str, dict[str, float]]:
    """Factors read linearly from latents, in seen and in held-out combinations (1606.05579).

    The read-outs are fitted to half of `seen`; the other half and `unseen` are read.

    Returns:
        `seen` and `held_out`, each with the accuracy of `shape`, the median absolute errors of
        `scale`, `x` and `y` in steps, and `pixels`, the mean squared error of the reconstruction.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    half = len(seen) // 2
    groups = {"fit": seen[:half], "seen": seen[half:], "held_out": unseen}
    latents = {name: posterior(vae, pictures.at(indices))[0] for name, indices in groups.items()}
    factors = {name: shapes.factors_of(indices) for name, indices in groups.items()}
    result: dict[str, dict[str, float]] = {"seen": {}, "held_out": {}}
    for number, name in enumerate(shapes.FACTORS):
        if name == "rotation":
            continue
        reader = LogisticRegression(max_iter=1000) if number in NOMINAL else Ridge(1.0)
        model = make_pipeline(StandardScaler(), reader)
        model.fit(latents["fit"], factors["fit"][:, number])
        for group, scores in result.items():
            truth = factors[group][:, number]
            guess = model.predict(latents[group])
            right = (guess == truth).mean() if number in NOMINAL else None
            scores[name] = float(np.median(np.abs(guess - truth)) if right is None else right)
    for group, scores in result.items():
        scores["pixels"] = _error(vae, pictures, groups[group])
    return result


def summary_table(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """The scores of runs as a table for a terminal, with mean and standard deviation over them.

    What the names of all runs begin with is its title.
    """
    from rich.table import Table

    several = len(reports) > 1
    shared = os.path.commonprefix(list(reports)).rpartition("-")[0] if several else ""
    names = [name.removeprefix(shared).removeprefix("-") for name in reports]
    table = Table(title=shared or None, title_justify="left")
    table.add_column("score", no_wrap=True)
    for name in (*names, *(["mean", "sd"] if several else [])):
        table.add_column(name, justify="right")
    for name, values in scores_of(reports).items():
        figures = [*values, *([np.mean(values), np.std(values, ddof=1)] if several else [])]
        table.add_row(name, *(f"{value:.3f}" for value in figures))
    return table


def scores_of(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """What reports have in common, a list over the reports each: scores, KL, errors, shares told.

    Args:
        reports: Reports of `train_shapes` by the name of the run.
    """
    rows = []
    for report in reports.values():
        inference = report.get("inference", {})
        rows.append(
            {"untrained: beta_vae/continuous": report["untrained"]}
            | report["disentanglement"]
            | {"kl": report["latents"]["kl"], "pixels": report["pixels"]}
            | {f"told of {name}": entry["told"] for name, entry in report["factors"].items()}
            | {f"{g}/{key}": value for g, part in inference.items() for key, value in part.items()}
        )
    return {name: [row[name] for row in rows] for name in rows[0]}
