"""One training loop for both models of stage 1: schedule, evaluation, checkpoints, resumption.

Every step draws its batch and its noise from (seed, model, step) alone, so an interrupted training
that goes on from its last checkpoint takes exactly the steps that it would have taken.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from darla.config import OptimisationConfig, VAEConfig, VisionConfig
from darla.devices import can_compile, choose_precision, usable_threads
from darla.errors import CorruptFileError, DependencyError, DivergenceError
from darla.progress import Progress
from darla.storage import append_jsonl, load_tensors, read_jsonl, save_tensors, write_jsonl
from darla.vision.evaluation import to_float
from darla.vision.losses import (
    BernoulliReconstruction,
    CapacitySchedule,
    DAEReconstruction,
    GaussianReconstruction,
    PixelReconstruction,
    Reconstruction,
    kl_divergence,
    occlusion_mask,
    sample,
    unnormalised_beta,
)
from darla.vision.networks import DAE, VAE

#: Under so many images `compile: auto` does not pay for the compiler's half minute.
COMPILE_IMAGES = 50_000
#: Pictures whose codes are computed at once.
CODE_BATCH = 256


#: What an optimiser remembers of a parameter beside the number of its steps.
MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "adagrad": ("sum",)}


class Pictures(Protocol):
    """Pictures to train on, uint8 [N, H, W, C]: a tensor, or what gives them when asked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, H, W, C."""
        ...

    @property
    def device(self) -> torch.device:
        """Where pictures are returned."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Tensor:
        """The pictures of an index, int64 [B] on the device: uint8 [B, H, W, C]."""
        ...


class Objective(Protocol):
    """A model with its loss: `draw` makes a step's noise, `loss` is a pure function of tensors."""

    name: str

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    def draw(
        self, batch: int, size: int, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, ...]:
        """Tensors of one step, each [batch, ...], after a share `progress` of all steps."""
        ...

    def code(self, pictures: Tensor) -> Tensor | None:
        """What no step changes of pictures [B, C, H, W]: [B, ...]; None if there is no such."""
        ...

    def loss(
        self, pictures: Tensor, *noise: Tensor, code: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch [B, C, H, W] and figures to log, all scalars.

        Where its `code` is known, that is not computed again.
        """
        ...


class DAEObjective:
    """L2 to the clean picture from one with a blacked-out rectangle, summed over pixels.

    Args:
        model: The autoencoder.
        share: Share of the pictures that get a rectangle.
    """

    name = "dae"

    def __init__(self, model: DAE, share: float = 1.0) -> None:
        self.model = model
        self._share = share

    def draw(
        self, batch: int, size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, ...]:
        """The rectangles."""
        return (occlusion_mask(batch, size, self._share, generator),)

    def code(self, pictures: Tensor) -> None:
        """See `Objective`: nothing."""

    def loss(
        self, pictures: Tensor, *noise: Tensor, code: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective`."""
        (hidden,) = noise
        logits = self.model.logits(pictures.masked_fill(hidden, 0.0)).float()
        loss = (logits.sigmoid() - pictures).square().sum() / len(pictures)
        return loss, {"loss": loss}


class VAEObjective:
    """Reconstruction + beta * KL, or + gamma * |KL - C|, with the reconstruction as a strategy.

    Args:
        model: The variational autoencoder.
        reconstruction: Pixel or DAE term.
        weight: Weight of the KL term: beta, or gamma where a capacity is given.
        decoder: 'sample' or 'mean': what the DAE's term reads.
        capacity: C over the training. Each part of a batch on a CPU is held to C by itself.
        name: What metrics, checkpoints and stages call it.
    """

    def __init__(
        self,
        model: VAE,
        reconstruction: Reconstruction,
        weight: float,
        decoder: str = "mean",
        capacity: CapacitySchedule | None = None,
        name: str = "vae",
    ) -> None:
        self.model, self.name = model, name
        self._reconstruction, self._weight, self._capacity = reconstruction, weight, capacity
        self._sampled = decoder == "sample" and reconstruction.samples
        self._decode = model.logits if reconstruction.reads_logits else model.decode

    def draw(
        self, batch: int, size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, ...]:
        """Noise of the latents and, if the decoder is sampled, of the picture; and C if given."""
        device = generator.device
        latents = self.model.posterior.out_features // 2
        noise = [torch.randn(batch, latents, generator=generator, device=device)]
        if self._sampled:
            picture = torch.randn(batch, size, size, 3, generator=generator, device=device)
            noise.append(picture.permute(0, 3, 1, 2))
        if self._capacity is not None:
            noise.append(torch.full((batch,), self._capacity.at(progress), device=device))
        return tuple(noise)

    def code(self, pictures: Tensor) -> Tensor | None:
        """See `Objective`: the bottleneck of the guiding autoencoder, if there is one."""
        return self._reconstruction.code(pictures)

    def loss(
        self, pictures: Tensor, *noise: Tensor, code: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective`."""
        mean, log_variance = (t.float() for t in self.model.encode(pictures))
        picture, picture_log_variance = self._decode(sample(mean, log_variance, noise[0]))
        reconstruction = self._reconstruction(
            pictures,
            picture.float(),
            picture_log_variance.float(),
            noise[1] if self._sampled else None,
            code,
        )
        kl = kl_divergence(mean, log_variance).sum() / len(pictures)
        figures = {"reconstruction": reconstruction, "kl": kl}
        if self._capacity is not None:
            figures["capacity"] = noise[-1].mean()
            kl = (kl - figures["capacity"]).abs()
        loss = reconstruction + self._weight * kl
        return loss, {"loss": loss, **figures}


def make_reconstruction(config: VAEConfig, dae: DAE | None) -> Reconstruction:
    """The strategy that a configuration names; the `dae` strategy needs the trained autoencoder."""
    if config.reconstruction == "pixel":
        return PixelReconstruction()
    if config.reconstruction == "gaussian":
        return GaussianReconstruction()
    if config.reconstruction == "bernoulli":
        return BernoulliReconstruction()
    if dae is None:
        raise ValueError("the 'dae' reconstruction needs a trained denoising autoencoder")
    return DAEReconstruction(dae, config.layer, config.pixel_weight)


def make_objective(
    config: VAEConfig, vae: VAE, dae: DAE | None, values: int, name: str = "vae"
) -> VAEObjective:
    """The objective of a beta-VAE.

    Args:
        config: Names reconstruction, objective and weights.
        vae: What is trained.
        dae: The trained autoencoder; None where the reconstruction needs none.
        values: Number of values of a picture.
        name: What metrics, checkpoints and stages call it.
    """
    weight, capacity = config.beta, None
    if config.objective == "normalised":
        weight = unnormalised_beta(config.beta, config.latents, values)
    elif config.objective == "capacity":
        weight, capacity = config.gamma, CapacitySchedule(**dict(config.capacity))
    reconstruction = make_reconstruction(config, dae)
    return VAEObjective(vae, reconstruction, weight, config.decoder, capacity, name)


def learning_rate(step: int, steps: int, config: OptimisationConfig) -> float:
    """Step size at `step` of `steps`: linear warm-up, then a cosine down to `final` of the peak."""
    rise = min(1.0, (step + 1) / max(1.0, config.warmup * steps))
    fall = config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * step / steps))
    return config.learning_rate * rise * fall


def make_optimiser(model: nn.Module, config: OptimisationConfig) -> torch.optim.Optimizer:
    """Adam with the paper's epsilon of 1e-8, in one fused kernel, or Adagrad."""
    if config.optimiser == "adagrad":
        return torch.optim.Adagrad(model.parameters(), config.learning_rate)
    return torch.optim.Adam(model.parameters(), config.learning_rate, eps=1e-8, fused=True)


class Trainer:
    """Trains one objective on pictures.

    Args:
        objective: Model and loss.
        pictures: uint8 [N, H, W, C], on the device of the model.
        optimisation: Images, batch and step size.
        config: Device, precision, compilation, parts of a batch and seed.
        rank: Number of this process among those that share every batch.
        processes: How many these are; they are a `torch.distributed` group.

    On a CPU every part of a batch is computed by a thread of its own with single-threaded
    operations, which wait for each other once in a step; threads inside of an operation would wait
    in each. The parts, and so the results, do not depend on the number of cores.
    """

    def __init__(
        self,
        objective: Objective,
        pictures: Pictures,
        optimisation: OptimisationConfig,
        config: VisionConfig,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.objective, self.optimisation = objective, optimisation
        self.rank, self._processes = rank, processes
        self._pictures = pictures
        self._device = pictures.device
        objective.model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = make_optimiser(objective.model, optimisation)
        self._precision = choose_precision(config.precision, self._device)
        self._generator = torch.Generator(self._device)
        self._seed = config.seed
        self.steps = math.ceil(optimisation.images / optimisation.batch)
        self.step_number = 0
        if config.compile == "on" and not can_compile(self._device):
            raise DependencyError(
                "vision.compile is on and there is no C++ compiler; install one (apt-get install "
                "g++) or give vision.compile=auto"
            )
        wanted = config.compile == "on" or (
            config.compile == "auto"
            and optimisation.images >= COMPILE_IMAGES
            and can_compile(self._device)
        )
        self._loss: Callable[..., tuple[Tensor, dict[str, Tensor]]] = (
            torch.compile(self._forward) if wanted else self._forward
        )
        self._parameters = [p for p in objective.model.parameters() if p.requires_grad]
        self._parts = 1 if self._device.type == "cuda" else config.parts
        threads = usable_threads(self._parts)
        self._threads = ThreadPoolExecutor(threads) if threads > 1 else None
        self._compiled = False  # the first step compiles, one part after the other

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._device.type, self._precision, enabled=self._precision != torch.float32
        )

    @functools.cached_property
    def _codes(self) -> Tensor | None:
        """What the objective need not compute again of each picture, [N, ...].

        It is computed once, unless most pictures are not learned from again.
        """
        count = len(self._pictures)
        if self.optimisation.images < 2 * count:
            return None
        parts = torch.arange(count).split(CODE_BATCH)
        first = self._code(parts[0])
        if first is None:
            return None
        others = (self._threads.map if self._threads else map)(self._code, parts[1:])
        return torch.cat([first, *(code for code in others if code is not None)])

    def _code(self, index: Tensor) -> Tensor | None:
        with torch.no_grad(), self._autocast():
            return self.objective.code(to_float(self._pictures[index.to(self._device)]))

    def _forward(
        self, pictures: Tensor, *noise: Tensor, code: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            return self.objective.loss(pictures, *noise, code=code)

    def _gradients(
        self, share: float, pictures: Tensor, code: Tensor | None, *noise: Tensor
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Gradients and figures of a part of a batch, weighted by its share of the pictures."""
        # Converted out here: with pictures of one channel, compiled code for bfloat16 reads the
        # decoder's picture through a transposition that torch 2.13 gets wrong, and the loss is nan.
        loss, figures = self._loss(to_float(pictures), *noise, code=code)
        gradients = torch.autograd.grad(share * loss, self._parameters)
        return gradients, {name: share * value.detach() for name, value in figures.items()}

    def step(self) -> dict[str, Tensor]:
        """Takes one step; returns the figures of its batch, scalars on the device."""
        number, batch = self.step_number, self.optimisation.batch
        stream = 0 if self.objective.name == "dae" else 1
        self._generator.manual_seed((self._seed * 2 + stream) * 1_000_000_007 + number)
        index = torch.randint(
            len(self._pictures), (batch,), generator=self._generator, device=self._device
        )
        noise = self.objective.draw(
            batch, self._pictures.shape[1], self._generator, number / self.steps
        )
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(number, self.steps, self.optimisation)
        first = self.rank * self._parts
        chunks = [
            t.chunk(self._processes * self._parts)[first : first + self._parts]
            for t in (index, *noise)
        ]
        shares = [len(part) / batch for part in chunks[0]]
        known = [None if self._codes is None else self._codes[part] for part in chunks[0]]
        parts: list[Any] = [[self._pictures[part] for part in chunks[0]], known, *chunks[1:]]
        if self._threads is not None and self._compiled:
            results = self._threads.map(self._gradients, shares, *parts)
        else:
            results = map(self._gradients, shares, *parts)
        gradients, figures = zip(*results, strict=True)
        self._compiled = True
        totals = [functools.reduce(torch.add, own) for own in zip(*gradients, strict=True)]
        sums = {name: sum(part[name] for part in figures) for name in figures[0]}
        if self._processes > 1:
            _add_over_processes([*totals, *sums.values()])
        for parameter, total in zip(self._parameters, totals, strict=True):
            parameter.grad = total
        if self.optimisation.gradient_norm is not None:
            nn.utils.clip_grad_norm_(
                self.objective.model.parameters(), self.optimisation.gradient_norm
            )
        self.optimiser.step()
        self.step_number += 1
        return sums

    def save(self, path: Path) -> None:
        """Writes model, optimiser and step."""
        model = self.objective.model
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        for name, parameter in model.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"{key}.{name}"] = value
        save_tensors(
            path,
            tensors,
            {"kind": f"{self.objective.name}-checkpoint", "step": str(self.step_number)},
        )

    def load(self, path: Path) -> None:
        """Continues from what `save` wrote.

        Raises:
            CorruptFileError: It is not a checkpoint of this model.
        """
        try:
            tensors, metadata = load_tensors(path)
        except CorruptFileError as error:
            raise CorruptFileError(f"{error}; delete it to start over") from error
        if metadata.get("kind") != f"{self.objective.name}-checkpoint":
            raise CorruptFileError(
                f"{path} is not a checkpoint of the {self.objective.name}; delete it to start over"
            )
        model = self.objective.model
        restore(model, {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, path)
        for name, parameter in model.named_parameters():
            moments = {
                key: torch.empty_like(parameter).copy_(tensors[f"{key}.{name}"])  # same strides
                for key in MOMENTS[self.optimisation.optimiser]
            }
            step = tensors[f"step.{name}"].to(self._device)
            self.optimiser.state[parameter] = {"step": step, **moments}
        self.step_number = int(metadata["step"])


def _add_over_processes(tensors: list[Tensor]) -> None:
    """Replaces tensors by their sums over the processes, in one message."""
    flat = torch.cat([tensor.float().flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def restore(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Loads weights, or says that the file does not fit the model.

    Raises:
        CorruptFileError: Names or shapes differ.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CorruptFileError(f"{path} does not fit the configured network ({reason})") from error


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    model.eval()
    try:
        yield
    finally:
        model.train()


def checkpoint_path(folder: Path, name: str) -> Path:
    """Where a model's training keeps its place until it is finished."""
    return folder / f"{name}.checkpoint.safetensors"


def fit(
    trainer: Trainer,
    evaluate: Callable[[], dict[str, Any]],
    config: VisionConfig,
    folder: Path,
    *,
    quiet: bool = False,
    checkpointed: Callable[[], None] = lambda: None,
) -> None:
    """Runs a training to its end, from the last checkpoint where there is one.

    Where processes share the training, the first of them evaluates and writes.

    Args:
        trainer: What to train.
        evaluate: Figures on the validation split, called at evaluations with the model in
            evaluation mode.
        config: Periods of evaluation and checkpoints.
        folder: Holds `<name>.checkpoint.safetensors` meanwhile, and `metrics.jsonl`.
        quiet: No progress.
        checkpointed: Called after every checkpoint.

    Raises:
        DivergenceError: The loss is no number any more; checkpoints from before are kept.
    """
    name, batch = trainer.objective.name, trainer.optimisation.batch
    checkpoint, metrics = checkpoint_path(folder, name), folder / "metrics.jsonl"
    first = trainer.rank == 0
    if checkpoint.exists():
        trainer.load(checkpoint)
    if first:
        _forget_after(metrics, name, trainer.step_number * batch)
    evaluation_steps = max(1, config.evaluate_every // batch)
    checkpoint_steps = max(1, config.checkpoint_every // batch)
    log_steps = max(1, min(evaluation_steps, checkpoint_steps, trainer.steps // 100))
    quiet = quiet or not first
    with Progress(f"train {name}", trainer.steps * batch, "images", quiet=quiet) as progress:
        progress.update(trainer.step_number * batch)
        while trainer.step_number < trainer.steps:
            figures = trainer.step()
            number = trainer.step_number
            if not first or (number % log_steps and number < trainer.steps):
                continue
            plain = {key: round(value.item(), 4) for key, value in figures.items()}
            if not math.isfinite(plain["loss"]):
                settings = f"vision.{'dae' if name == 'dae' else 'vae'}.optimisation"
                raise DivergenceError(
                    f"the loss of the {name} is {plain['loss']} after {number * batch:,} images: "
                    f"its training has diverged; give a smaller {settings}.learning_rate (here "
                    f"{trainer.optimisation.learning_rate:g}) or {settings}.gradient_norm=1, "
                    "with another name=..."
                )
            progress.update(number * batch, loss=plain["loss"])
            row = {"model": name, "images": number * batch, **plain}
            if number % evaluation_steps < log_steps or number == trainer.steps:
                with _evaluating(trainer.objective.model):
                    row |= evaluate()
            append_jsonl(metrics, [row])
            if number % checkpoint_steps < log_steps and number < trainer.steps:
                trainer.save(checkpoint)
                checkpointed()
    trainer.objective.model.eval()


def _forget_after(metrics: Path, name: str, images: int) -> None:
    """Drops rows that were logged after the checkpoint which the training goes on from."""
    if metrics.exists():
        rows = read_jsonl(metrics, repair=True)
        kept = [row for row in rows if row["model"] != name or row["images"] <= images]
        write_jsonl(metrics, kept)
