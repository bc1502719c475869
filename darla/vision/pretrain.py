"""Stage 1, the models: a denoising autoencoder, a gate, and the beta-VAEs that it guides."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from darla.config import OWN, Config, OptimisationConfig, VAEConfig
from darla.devices import choose_device, torch_threads
from darla.errors import DarlaError, MissingFileError
from darla.frames import (
    Frames,
    count_pictures,
    frames_digest,
    load_frames,
    load_pictures,
)
from darla.storage import load_tensors, save_tensors, write_json
from darla.vision.evaluation import (
    BATCH,
    describe_latents,
    factor_scores,
    posterior,
    probe,
    reconstruction_errors,
)
from darla.vision.networks import DAE, VAE
from darla.vision.own import OwnEncoder, make_own, train_own
from darla.vision.pictures import draw_reconstructions, draw_traversals
from darla.vision.together import fit_together
from darla.vision.training import (
    DAEObjective,
    Objective,
    Pictures,
    Trainer,
    checkpoint_path,
    fit,
    make_objective,
    restore,
)

if TYPE_CHECKING:
    from darla.rundir import RunDirectory


VAES = {"darla": "vae", "entangled": "entangled", "beta-vae": "beta-vae"}
"""What metrics, checkpoints and stages call a beta-VAE, by the perception that it is for."""


class GateError(DarlaError):
    """The denoising autoencoder lost the objects; a beta-VAE that it guides cannot learn them."""


def make_dae(config: Config) -> DAE:
    """An untrained autoencoder of the configured size."""
    return DAE(config.environment.size, config.vision.dae.bottleneck)


def make_vae(config: Config, perception: str = "darla", channels: int = 3) -> VAE:
    """An untrained beta-VAE of the configured size, as a perception's settings want it."""
    vae = vae_settings(config, perception)
    return VAE(
        config.environment.size,
        vae.latents,
        vae.hidden,
        network=vae.network,
        channels=channels,
        variance=vae.reconstruction != "bernoulli",
    )


def vae_settings(config: Config, perception: str) -> VAEConfig:
    """The settings of a perception's beta-VAE: those of `vision.vae`, but for what it is about."""
    vision = config.vision
    changes: dict[str, dict[str, Any]] = {
        "darla": {},
        "entangled": {"objective": "beta", "beta": vision.entangled.beta},
        "beta-vae": {"objective": "beta", **dict(vision.beta_vae)},
    }
    return vision.vae.model_copy(update=changes[perception])


def models_of(config: Config) -> list[str]:
    """The models that a run trains, in their order: what its perceptions ask for.

    Returns:
        `dae`, the perceptions of beta-VAEs, and visions of the user's own. Where no perception asks
        for any, the vision of `darla`.
    """
    named = config.agents.perceptions
    asked: set[str] = {"darla" if name == "fine-tuned" else name for name in named}
    vaes = [name for name in VAES if name in asked]
    own = [name for name in named if name.startswith(OWN)]
    if not vaes and not own and "dae" not in asked:
        vaes = ["darla"]
    settings = [vae_settings(config, name) for name in vaes]
    if any(each.reconstruction == "dae" or each.warm_start for each in settings):
        asked.add("dae")
    return [*(["dae"] if "dae" in asked else []), *vaes, *own]


def weights_file(run: RunDirectory, model: str) -> Path:
    """Where the weights of a finished model lie; names as in `models_of`."""
    return run.vision / f"{'vision' if model == 'darla' else model}.safetensors"


def load_model(model: torch.nn.Module, path: Path) -> str:
    """Reads the weights of a finished model and freezes it.

    Returns:
        The file's fingerprint: the sha256 of its tensors' names, shapes and values.

    Raises:
        MissingFileError: It was not trained yet.
        CorruptFileError: The file is damaged or of another network.
    """
    if not path.exists():
        raise MissingFileError(
            f"{path} is not there; train the vision with 'darla pretrain CONFIG'"
        )
    tensors, metadata = load_tensors(path)
    restore(model, tensors, path)
    model.requires_grad_(False).eval()
    return metadata["fingerprint"]


def load_own(config: Config, run: RunDirectory, name: str) -> tuple[OwnEncoder, str]:
    """Reads a trained vision of the user's own; returns it with the fingerprint of its file.

    Raises:
        MissingFileError, CorruptFileError: As in `load_model`.
        ConfigError: As in `OwnEncoder` and `make_own`.
    """
    module = make_own(name, config)
    mark = load_model(module, weights_file(run, name))
    return OwnEncoder(name, config, module), mark


def save_model(model: torch.nn.Module, path: Path, **facts: str) -> None:
    """Writes the weights of a finished model with its fingerprint."""
    state = model.state_dict()
    save_tensors(path, state, {"fingerprint": fingerprint(model), **facts})


def fingerprint(model: torch.nn.Module) -> str:
    """A digest of a model's weights, 16 hexadecimal digits."""
    import hashlib

    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def seed_weights(model: torch.nn.Module, seed: int, stream: int, *, he: bool = False) -> None:
    """Draws initial weights from (seed, stream) alone; the global generator stays as it was.

    Args:
        model: Gets the weights, torch's default ones.
        seed: Seed of the vision.
        stream: Which model it is.
        he: Draw the weights as He et al. (2015, 1502.01852), without biases: the outputs of a
            model that is not trained then vary as the pictures do, instead of fading from layer to
            layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 2 + stream)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if not callable(reset):
                continue
            reset()
            if he:
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # type: ignore[arg-type]
                torch.nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def train_vision(config: Config, run: RunDirectory, *, quiet: bool = False) -> dict[str, Any]:
    """Trains what is not trained yet; writes weights, metrics, pictures and `vision/report.json`.

    Args:
        config: Whole configuration.
        run: Has the frames; gets `vision/`.
        quiet: No progress.

    Returns:
        The report.

    Raises:
        MissingFileError: No frames.
        GateError: The autoencoder loses the objects and `vision.gate.action` is `stop`.
        DependencyError: The configured device is not there.
    """
    device = choose_device(config.vision.device)
    # Cores are kept busy by the parts of a batch, each of which computes in one thread.
    with torch_threads(1):
        return _train_vision(config, run, device, quiet)


def _train_vision(
    config: Config, run: RunDirectory, device: torch.device, quiet: bool
) -> dict[str, Any]:
    validation = load_frames(run.frames, "validation")
    folder = run.vision
    folder.mkdir(parents=True, exist_ok=True)
    frames = {"train": count_pictures(run.frames, "train"), "validation": len(validation)}
    report: dict[str, Any] = {"frames": frames}
    left = [name for name in models_of(config) if not weights_file(run, name).exists()]
    pictures = None
    if left and config.vision.processes == 1:
        pictures = load_pictures(run.frames, "train", device, config.vision.pictures)

    dae = None
    for name in models_of(config):
        if name in left:
            run.start(stage_of(name))
            if name.startswith(OWN):
                facts = _train_own(config, run, name, pictures, device, quiet)
            else:
                facts = _train_model(config, run, name, pictures, validation, device, quiet)
            run.finish(stage_of(name), **facts)
        if name.startswith(OWN):
            report.setdefault("own", {})[name] = _describe_own(config, run, name, validation)
        elif name == "dae":
            dae = make_dae(config).to(device)
            load_model(dae, weights_file(run, name))
            draw_reconstructions(dae, None, validation, folder / "reconstructions.png")
            report["dae"] = reconstruction_errors(dae, validation, device)
            _gate(config, report["dae"], folder)
        else:
            facts = _describe_vae(config, run, name, dae, validation, device)
            report |= facts if name == "darla" else {name: facts}
    write_json(folder / "report.json", report)
    return report


def _train_model(
    config: Config,
    run: RunDirectory,
    name: str,
    pictures: Pictures | None,
    validation: Frames,
    device: torch.device,
    quiet: bool,
) -> dict[str, Any]:
    """Trains a model, in several processes where there are no `pictures`; returns facts of it."""
    optimisation = optimisation_of(config, name)
    if pictures is None:
        fit_together(config, run, name, device, quiet=quiet)
    else:
        fit_model(config, run, name, pictures, validation, quiet=quiet)
    steps = math.ceil(optimisation.images / optimisation.batch)
    return {"images": steps * optimisation.batch}


def _train_own(
    config: Config,
    run: RunDirectory,
    name: str,
    pictures: Pictures | None,
    device: torch.device,
    quiet: bool,
) -> dict[str, Any]:
    """Trains a vision of the user's own, always in this process; returns facts of it."""
    if pictures is None:
        pictures = load_pictures(run.frames, "train", device, config.vision.pictures)
    module = train_own(name, config, pictures, quiet=quiet)
    save_model(module, weights_file(run, name), frames=frames_digest(run.frames))
    return {"plugin": config.environment.plugin}


def fit_model(
    config: Config,
    run: RunDirectory,
    name: str,
    pictures: Pictures,
    validation: Frames,
    *,
    quiet: bool = False,
    rank: int = 0,
) -> None:
    """Trains one model to its end, or from its last checkpoint, and writes its weights.

    All beta-VAEs of a run take the same initial weights, batches and noise.

    Args:
        config: Whole configuration.
        run: Has the frames, and the DAE where the model needs one; gets metrics and weights.
        name: As in `models_of`.
        pictures: What it is trained on, on the device.
        validation: What it is evaluated on.
        quiet: No progress.
        rank: Number of this process among `vision.processes`; the first writes.
    """
    vision, device, path = config.vision, pictures.device, weights_file(run, name)
    model: DAE | VAE
    objective: Objective
    if name == "dae":
        model = make_dae(config).to(device)
        seed_weights(model, vision.seed, 0)
        objective = DAEObjective(model, vision.dae.occlusion)
    else:
        settings = vae_settings(config, name)
        model = make_vae(config, name).to(device)
        seed_weights(model, vision.seed, 1)
        dae = None
        if weights_file(run, "dae").exists():
            dae = make_dae(config).to(device)
            load_model(dae, weights_file(run, "dae"))
        if settings.warm_start and dae is not None:
            model.start_from(dae)
        reader = dae if settings.reconstruction == "dae" else None
        values = math.prod(pictures.shape[1:])
        objective = make_objective(settings, model, reader, values, VAES[name])
    trainer = Trainer(
        objective, pictures, optimisation_of(config, name), vision, rank, vision.processes
    )

    def evaluate() -> dict[str, Any]:
        errors: dict[str, Any] = dict(reconstruction_errors(model, validation, device))
        if isinstance(model, VAE):
            latents = describe_latents(posterior(model, validation.pictures)[1])
            errors |= {"validation_kl": latents["kl"], "active_units": latents["active_units"]}
        return errors

    stage = stage_of(name)

    def checkpointed() -> None:
        if vision.processes == 1:  # otherwise the process that waits for these keeps the time
            run.note(stage)

    fit(trainer, evaluate, vision, run.vision, quiet=quiet, checkpointed=checkpointed)
    if rank == 0:
        save_model(model, path, frames=frames_digest(run.frames))
        checkpoint_path(run.vision, stage).unlink(missing_ok=True)


def stage_of(name: str) -> str:
    """What metrics, checkpoints and stages call a model of `models_of`."""
    return VAES.get(name, name)


def optimisation_of(config: Config, name: str) -> OptimisationConfig:
    """How a model of `models_of` is trained."""
    vision = config.vision
    return (vision.dae if name == "dae" else vision.vae).optimisation


def _describe_vae(
    config: Config,
    run: RunDirectory,
    perception: str,
    dae: DAE | None,
    validation: Frames,
    device: torch.device,
) -> dict[str, Any]:
    """Draws what the beta-VAE of a perception sees.

    Returns:
        `vae`, `latents`, `probe`, `disentanglement` and `fingerprint`.
    """
    settings, seed = vae_settings(config, perception), config.vision.seed
    vae = make_vae(config, perception).to(device)
    reader = dae if settings.reconstruction == "dae" else None
    load_model(vae, weights_file(run, perception))
    means, divergences = posterior(vae, validation.pictures)
    ending = "" if perception == "darla" else f"-{perception}"
    draw_reconstructions(reader, vae, validation, run.vision / f"reconstructions{ending}.png")
    draw_traversals(reader, vae, validation, divergences, run.vision / f"traversals{ending}.png")
    return {
        "vae": _evaluate_vae(vae, reader, validation, device),
        "latents": describe_latents(divergences),
        "probe": probe(means, validation, seed=seed),
        "disentanglement": factor_scores(means, validation, seed=seed),
        "fingerprint": fingerprint(vae),
    }


def _describe_own(
    config: Config, run: RunDirectory, name: str, validation: Frames
) -> dict[str, Any]:
    """Returns the `width`, `probe` and `fingerprint` of a vision of the user's own."""
    encoder, mark = load_own(config, run, name)
    encoded = torch.cat([encoder(part) for part in validation.pictures.split(BATCH)]).numpy()
    found = probe(encoded, validation, seed=config.vision.seed)
    return {"width": encoder.width, "probe": found, "fingerprint": mark}


def _gate(config: Config, errors: dict[str, float], folder: Path) -> None:
    gate = config.vision.gate
    error = errors.get("objects")
    if error is None or error <= gate.object_error:
        return
    text = (
        f"the denoising autoencoder loses the objects: its error on their pixels is {error:.2f} of "
        f"painting them away, vision.gate.object_error allows {gate.object_error:g}; look at "
        f"{folder / 'reconstructions.png'} and raise vision.dae.optimisation.images in a run of "
        "another name"
    )
    if gate.action == "stop":
        raise GateError(f"{text}; or go on with this one: vision.gate.action=warn")
    print(f"warning: {text}", file=sys.stderr)


def _evaluate_vae(
    vae: VAE, dae: DAE | None, validation: Frames, device: torch.device
) -> dict[str, Any]:
    errors: dict[str, Any] = dict(reconstruction_errors(vae, validation, device))
    if dae is not None:
        through = reconstruction_errors(lambda pictures: dae(vae(pictures)), validation, device)
        errors |= {f"through_dae/{key}": value for key, value in through.items()}
    return errors
