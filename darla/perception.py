"""Perceptions: what stands between the pictures of an environment and an algorithm.

A perception encodes batches without gradients. It is learned before the policy, frozen, and
recognised by a fingerprint, so that a policy never acts on a vision that it was not trained on. The
rows of the benchmark are here:

| name | what a policy gets |
| --- | --- |
| `darla` | mean of the beta-VAE that a denoising autoencoder guided (1707.08475) |
| `fine-tuned` | the pictures, behind a copy of that encoder which it learns further (DARLA_FT) |
| `entangled` | mean of such a beta-VAE with a low beta (DARLA_ENC) |
| `beta-vae` | mean of a beta-VAE with a pixel loss |
| `dae` | bottleneck of the denoising autoencoder (DARLA_DAE) |
| `random` | mean of an untrained encoder of the same architecture, with He's initial weights |
| `pixels` | the pictures themselves: the algorithm learns a convolutional trunk end to end |
| `pixels+augmentation` | the same, learned on pictures of changed looks too (SVEA, DrAC) |
| `domain-randomisation` | the same, learned in all domains of D_U instead of those of D_S |
| `factors` | the ground truth: the ceiling |
| `own-NAME` | what a vision of your own makes of the pictures (`darla.vision.own`) |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from darla.config import OWN, Config
from darla.errors import ConfigError, FingerprintError

if TYPE_CHECKING:
    import torch

    from darla.rundir import RunDirectory


ON_FRAMES = ("fine-tuned", "pixels", "pixels+augmentation", "domain-randomisation")
"""Perceptions that hand on the pictures: an encoder is learned with the policy."""

BLIND = ("pixels", "pixels+augmentation", "domain-randomisation", "factors", "random")
"""Perceptions that do not wait for the vision of stage 1."""


def needs_vision(config: Config) -> bool:
    """Whether any policy of a run sees through a vision; where none does, it has no stage 1."""
    return any(name not in BLIND for name in config.agents.perceptions)


def has_vision(run: RunDirectory) -> bool:
    """Whether a run has the frames of a vision, or will have them."""
    return needs_vision(run.config) or (run.frames / "index.json").exists()


@dataclass(frozen=True)
class Start:
    """An encoder that a policy starts from and learns further.

    Attributes:
        widths: of its fully connected layer and of its latents.
        weights: its parameters in the order of its layers, float32 [P].
    """

    widths: tuple[int, int]
    weights: np.ndarray


class Perception:
    """Encodes observations for an algorithm. Picklable, so that Ray can send it to workers.

    Attributes:
        name: Row of the benchmark.
        shape: Shape of one encoded observation.
        dtype: float32 for latents, uint8 for pictures.
        frozen: True where nothing of it learns with the policy.
        needs: 'frames' or 'state': what `encode` reads.
        size: Height and width of the frames that it reads; None where it reads none, or any.
        standard: Whether the latents have a standard normal prior, so that noise has a scale.
        augmented: Whether algorithms learn on pictures of changed looks too.
        start: The encoder that algorithms start from; None: from random weights.
        fingerprint: Identifies weights and kind.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        fingerprint: str,
        *,
        dtype: type = np.float32,
        frozen: bool = True,
        needs: Literal["frames", "state"] = "frames",
        size: int | None = None,
        standard: bool = False,
        augmented: bool = False,
        start: Start | None = None,
        encoder: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Stores the attributes; without an `encoder` observations pass as they are.

        The encoder maps uint8 [B, H, W, 3] to float32 [B, D].
        """
        self.name, self.shape, self.fingerprint = name, shape, fingerprint
        self.dtype = np.dtype(dtype)
        self.frozen, self.needs, self.size, self.standard = frozen, needs, size, standard
        self.augmented, self.start = augmented, start
        self._encoder = encoder

    @property
    def dim(self) -> int:
        """Number of values of one encoded observation."""
        return int(np.prod(self.shape))

    def check(self, trained_on: str, what: str) -> None:
        """Refuses what was trained on another perception.

        Args:
            trained_on: Fingerprint of the perception that it was trained on.
            what: Its name in the message, such as 'policy'.

        Raises:
            FingerprintError: The fingerprints differ.
        """
        if trained_on != self.fingerprint:
            raise FingerprintError(
                f"this {what} was trained on perception {trained_on[:12]}, not on "
                f"'{self.name}' {self.fingerprint[:12]}: the vision has changed since; train anew"
            )

    def encode(self, frames: np.ndarray | None, state: np.ndarray | None) -> np.ndarray:
        """Encodes a batch.

        Args:
            frames: uint8 [B, H, W, 3]; may be None where `needs` is 'state'.
            state: float32 [B, S]; may be None where `needs` is 'frames'.

        Returns:
            [B, *shape] of `dtype`.

        Raises:
            ValueError: What it needs is missing.
        """
        given = state if self.needs == "state" else frames
        if given is None:
            raise ValueError(f"perception '{self.name}' needs {self.needs}")
        if self._encoder is None:
            return np.asarray(given, self.dtype)
        import torch

        with torch.inference_mode():
            return self._encoder(torch.from_numpy(given)).numpy()


class _MeanEncoder:
    """The mean of a VAE, or the bottleneck of a DAE, as a picklable function of pictures.

    It computes in bfloat16 where the processor does so natively, which takes half of the time.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        import torch

        for module in model.modules():
            if isinstance(module, torch.nn.ReLU):
                module.inplace = True  # nothing keeps what it overwrites
        self._model = model.cpu()
        self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        from darla.devices import choose_precision
        from darla.vision.evaluation import to_float

        precision = choose_precision("auto", pictures.device)
        if next(self._model.parameters()).dtype != precision:
            self._model.to(precision)  # once in a process; even without effect it takes its time
        encoded = self._model.encode(to_float(pictures, precision))  # type: ignore[operator]
        return (encoded[0] if isinstance(encoded, tuple) else encoded).float()


def check_perception(name: str, config: Config, state_size: int) -> None:
    """Refuses a perception that world or vision cannot give, before anything is trained.

    Raises:
        ConfigError: The vision of this configuration is of another kind, the world has no ground
            truth, or no plugin registers the vision.
    """
    if name == "factors" and not state_size:
        raise ConfigError(
            f"perception 'factors' reads the ground truth, which '{config.environment.id}' does "
            "not give; leave it out of agents.perceptions"
        )
    if name.startswith(OWN):
        from darla.vision.own import get_vision

        get_vision(name, config)
        return
    given = config.vision.vae.reconstruction
    if given != "dae" and name not in BLIND:
        raise ConfigError(
            f"perception '{name}' needs vision.vae.reconstruction=dae, this run has '{given}'; a "
            "beta-VAE with a pixel loss is perception 'beta-vae', of vision.beta_vae.beta"
        )
    network = config.vision.vae.network
    if name == "fine-tuned" and network != "darla":
        raise ConfigError(
            f"perception 'fine-tuned' needs vision.vae.network=darla, this run has '{network}'"
        )


def load_perception(name: str, run: RunDirectory, seed: int, state_size: int) -> Perception:
    """The perception of a benchmark row.

    Args:
        name: See the table above.
        run: Holds the configuration and, for learned perceptions, the trained vision.
        seed: Seed of the untrained encoder of `random`; the others do not depend on it.
        state_size: Length of the world's ground-truth vector, for `factors`.

    Raises:
        MissingFileError: The vision is not trained yet.
        ConfigError: The run's vision is of another kind, or there is no ground truth.
    """
    config = run.config
    check_perception(name, config, state_size)
    if name in ON_FRAMES:
        return _on_frames(name, config, run)
    if name == "factors":
        return Perception(name, (state_size,), f"factors-{state_size}", needs="state")
    return _learned(name, config, run, seed)


def _on_frames(name: str, config: Config, run: RunDirectory) -> Perception:
    size, latents = config.environment.size, config.vision.vae.latents
    start, mark = None, f"pixels-{size}"
    if name == "fine-tuned":
        import torch

        from darla.vision.pretrain import load_model, make_vae, weights_file

        vae = make_vae(config)
        mark = load_model(vae, weights_file(run, "darla"))
        means = (parameter[:latents] for parameter in vae.posterior.parameters())
        layers = (*vae.trunk.parameters(), *vae.hidden.parameters(), *means)
        weights = torch.cat([parameter.flatten() for parameter in layers]).numpy()
        start = Start((config.vision.vae.hidden, latents), weights)
    return Perception(
        name,
        (size, size, 3),
        mark,
        dtype=np.uint8,
        frozen=False,
        size=size,
        augmented=name == "pixels+augmentation",
        start=start,
    )


def _learned(name: str, config: Config, run: RunDirectory, seed: int) -> Perception:
    from darla.vision.pretrain import (
        fingerprint,
        load_model,
        load_own,
        make_dae,
        make_vae,
        seed_weights,
        weights_file,
    )

    if name == "dae":
        dae = make_dae(config)
        return Perception(
            name,
            (config.vision.dae.bottleneck,),
            load_model(dae, weights_file(run, "dae")),
            size=config.environment.size,
            encoder=_MeanEncoder(dae),
        )
    if name.startswith(OWN):
        encoder, mark = load_own(config, run, name)
        size = config.environment.size
        return Perception(name, (encoder.width,), mark, size=size, encoder=encoder)
    vae = make_vae(config, "darla" if name == "random" else name)
    if name == "random":
        seed_weights(vae, seed, 2, he=True)
        vae.requires_grad_(False).eval()
        mark = fingerprint(vae)
    else:
        mark = load_model(vae, weights_file(run, name))
    return Perception(
        name,
        (config.vision.vae.latents,),
        mark,
        size=config.environment.size,
        standard=name != "random",
        encoder=_MeanEncoder(vae),
    )
