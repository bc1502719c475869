"""Stage 1 on several processes: Ray Train starts them, with a GPU each where there are GPUs.

They share every batch: each computes its parts, and the gradients are added in one message a step.
Which pictures a batch has, and its noise, do not depend on how many they are.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from darla.cluster import RESTARTS, check_capacity, first_line, ray_session
from darla.config import Config
from darla.devices import choose_device, torch_threads
from darla.errors import ConfigError, DarlaError
from darla.frames import load_frames, load_pictures
from darla.progress import Progress
from darla.rundir import RunDirectory
from darla.storage import read_jsonl

_FOLDER = ".ray-train"
"""Where Ray Train keeps its books meanwhile."""

_FOLLOW_SECONDS = 1.0
"""Seconds between two looks at the metrics."""


def fit_together(
    config: Config,
    run: RunDirectory,
    name: str,
    device: torch.device,
    *,
    quiet: bool = False,
) -> None:
    """Trains one model on `vision.processes` processes; see `darla.vision.pretrain.fit_model`.

    A process that dies is started again with all others, from the last checkpoint, up to three
    times; an error of ours would only come again, and ends the training.

    Args:
        config: Whole configuration.
        run: Its run directory, on storage that all nodes share.
        name: Name of the model.
        device: Its type, CPU or GPU, is that of every process.
        quiet: No progress.

    Raises:
        ConfigError: As in `check_batches`, or this machine has too few CPUs or GPUs.
        DarlaError: A process failed; the message says how.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from darla.vision.pretrain import optimisation_of, stage_of

    vision, stage = config.vision, stage_of(name)
    check_batches(config)
    books = run.path.resolve() / _FOLDER
    work = {
        "config": config.model_dump(mode="json"),
        "run": str(run.path.resolve()),
        "name": name,
    }
    each = {"CPU": config.ray.cpus_per_worker} | ({"GPU": 1.0} if device.type == "cuda" else {})
    images = optimisation_of(config, name).images
    progress = Progress(f"train {stage}", images, "images", quiet=quiet)
    with (
        ray_session(config.ray),
        progress,
        _followed(run.vision / "metrics.jsonl", stage, progress),
    ):
        smaller = "vision.processes or ray.cpus_per_worker"
        check_capacity(config.ray, [each] * vision.processes, "vision.processes", smaller)
        trainer = TorchTrainer(
            _fit_on_rank,
            train_loop_config=work,
            scaling_config=ScalingConfig(
                num_workers=vision.processes,
                use_gpu=device.type == "cuda",
                resources_per_worker={"CPU": config.ray.cpus_per_worker},
            ),
            run_config=RunConfig(name=name, storage_path=str(books)),
        )
        for attempt in range(RESTARTS + 1):
            try:
                trainer.fit()
                return
            except Exception as error:  # Ray Train wraps whatever a process raised
                cause = _cause(error)
                if isinstance(cause, DarlaError) or attempt == RESTARTS:
                    raise DarlaError(
                        f"training '{name}' on {vision.processes} processes failed: "
                        f"{first_line(cause)}"
                    ) from error
            finally:
                shutil.rmtree(books, ignore_errors=True)


def check_batches(config: Config) -> None:
    """Refuses batches that cannot be cut into as many parts as the processes have.

    Raises:
        ConfigError: Those of the DAE or the beta-VAEs cannot.
        DependencyError: The configured device is not there.
    """
    vision = config.vision
    parts = 1 if choose_device(vision.device).type == "cuda" else vision.parts
    for name, optimisation in (("dae", vision.dae.optimisation), ("vae", vision.vae.optimisation)):
        needed = vision.processes * parts
        if len(torch.empty(optimisation.batch).chunk(needed)) < needed:
            raise ConfigError(
                f"vision.processes={vision.processes} of {parts} parts each cannot share batches "
                f"of {optimisation.batch}, those of '{name}', in {needed} parts; give a "
                f"vision.{name}.optimisation.batch that is a multiple of {needed}"
            )


@contextmanager
def _followed(metrics: Path, stage: str, progress: Progress) -> Iterator[None]:
    """Shows meanwhile what the first process writes into the metrics."""
    ended = threading.Event()

    def follow() -> None:
        last = False
        while not last:
            last = ended.wait(_FOLLOW_SECONDS)
            try:
                rows = [row for row in read_jsonl(metrics) if row["model"] == stage]
            except DarlaError:  # it is not there yet, or a line is being written
                continue
            if rows:
                progress.update(rows[-1]["images"], loss=rows[-1]["loss"])

    thread = threading.Thread(target=follow, name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _cause(error: Exception) -> Exception:
    """Returns what a process raised, or else the error of Ray Train itself."""
    failures = getattr(error, "worker_failures", None) or {}
    cause = next(iter(failures.values()), getattr(error, "controller_failure", error))
    return getattr(cause, "cause", None) or cause


def _fit_on_rank(work: dict[str, Any]) -> None:
    """What each process does."""
    from ray import train
    from ray.train.torch import get_device

    from darla.vision.pretrain import fit_model

    config = Config.model_validate(work["config"])
    run, rank = RunDirectory(Path(work["run"]), config), train.get_context().get_world_rank()
    pictures = load_pictures(run.frames, "train", get_device(), config.vision.pictures)
    validation = load_frames(run.frames, "validation")
    with torch_threads(1):
        fit_model(config, run, work["name"], pictures, validation, quiet=True, rank=rank)
