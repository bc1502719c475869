"""Stage 2: trains one cell, from the first decision or from its last checkpoint.

The loop is the same for every algorithm; what a round does is the algorithm's `Trainer`. A training
that was killed and continued ends as one that was not.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.algorithms import POLICY_FILE, TRAINERS, is_trained, save_policy
from agents.cells import Cell, perception_of, training_domains
from agents.policy import Policy
from agents.pool import WorkerPool
from agents.trainer import Trainer
from agents.worker import EnvironmentFactory
from darla.cluster import ray_session
from darla.config import Config
from darla.devices import torch_threads
from darla.errors import CorruptFileError, MissingFileError
from darla.perception import Perception
from darla.progress import Progress
from darla.rundir import RunDirectory
from darla.storage import append_jsonl, load_tensors, read_jsonl, write_jsonl
from envs import make_vector
from envs.domains import Domain
from envs.registry import suite_of

CHECKPOINTS_KEPT = 2
CHECKPOINTS = "checkpoints"
STORE = "replay"
"""Folder of what grows without change, beside the checkpoints."""


def train_cell(
    config: Config, run: RunDirectory, cell: Cell, *, quiet: bool = False
) -> dict[str, Any]:
    """Trains one cell, or continues where an earlier call stopped; evaluates on D_S. See `train`.

    Raises:
        MissingFileError: the vision is not trained.
    """
    suite = suite_of(config)
    return train(
        config,
        run,
        cell,
        perception=perception_of(run, cell.perception, cell.seed),
        factory=functools.partial(make_vector, config.environment),
        domains=training_domains(cell, suite),
        evaluation_domains=suite.d_s,
        quiet=quiet,
    )


def train(
    config: Config,
    run: RunDirectory,
    cell: Cell,
    *,
    perception: Perception,
    factory: EnvironmentFactory,
    domains: Sequence[Domain],
    evaluation_domains: Sequence[Domain] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains a policy on any environments, with workers of its own; see `train_on`.

    Args:
        config: the experiment.
        run: its run directory.
        cell: what to train.
        perception: what the policy sees through.
        factory: makes vector environments.
        domains: each episode draws one uniformly.
        evaluation_domains: those of the evaluations; None: the same.
        quiet: show no progress.
    """
    if is_trained(run, cell):
        return _finished(run, cell)
    with ray_session(config.ray), WorkerPool(config.ray, factory) as pool:
        return train_on(
            pool,
            config,
            run,
            cell,
            perception=perception,
            domains=domains,
            evaluation_domains=evaluation_domains,
            quiet=quiet,
        )


def train_on(
    pool: WorkerPool,
    config: Config,
    run: RunDirectory,
    cell: Cell,
    *,
    perception: Perception,
    domains: Sequence[Domain],
    evaluation_domains: Sequence[Domain] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains a policy with given workers; what is finished is not repeated.

    Writes `metrics.jsonl`, checkpoints and at last `policy.safetensors` to the cell's folder.

    Args:
        pool: the workers.
        config: the experiment.
        run: its run directory.
        cell: names the folder and gives the seed.
        perception: what the policy sees through.
        domains: each episode draws one uniformly.
        evaluation_domains: those of the evaluations; None: the same.
        quiet: show no progress.

    Returns:
        Facts: `decisions`, `frames` (simulated), `updates`, `episodes`, `source_return` (mean of
        the last evaluation), `seconds` and `decisions_per_second` (over all calls), `restarts` (of
        workers that died).

    Raises:
        ConfigError: the algorithm cannot learn with these settings.
        FingerprintError: the vision has changed since the cell's checkpoint.
        CorruptFileError: a checkpoint is damaged.
        DivergenceError: a loss is no number any more.
        DarlaError: a worker died.
    """
    if not is_trained(run, cell):
        with torch_threads(2 if len(perception.shape) == 3 else 1):
            trainer = TRAINERS[cell.algorithm](
                config, cell, pool, perception, domains, evaluation_domains
            )
            facts = _train_from_checkpoint(trainer, run, quiet)
            save_policy(run, cell, trainer.policy, json.dumps(facts))
    return _finished(run, cell)


def load_unfinished(
    pool: WorkerPool, config: Config, run: RunDirectory, cell: Cell, perception: Perception
) -> tuple[Policy, int]:
    """Returns the policy of a cell's last checkpoint, and the decisions that it was trained for.

    Raises:
        MissingFileError: the cell has no checkpoint.
        CorruptFileError, FingerprintError: as in `train_on`.
    """
    folder = run.agent(cell.id)
    found = checkpoints_of(run, cell)
    if not found:
        raise MissingFileError(f"{cell.id} has no checkpoint in '{folder}'")
    domains = training_domains(cell, suite_of(config))
    trainer = TRAINERS[cell.algorithm](config, cell, pool, perception, domains)
    trainer.load(found[-1], folder / STORE)
    return trainer.policy, trainer.decisions


def checkpoints_of(run: RunDirectory, cell: Cell) -> list[Path]:
    """Returns the complete checkpoints of a cell that is being trained, oldest first."""
    return sorted((run.agent(cell.id) / CHECKPOINTS).glob("[0-9]*.safetensors"))


def _finished(run: RunDirectory, cell: Cell) -> dict[str, Any]:
    """Deletes what a finished cell needs no more, and returns its facts."""
    folder = run.agent(cell.id)
    for leftover in (CHECKPOINTS, STORE):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    _, metadata = load_tensors(folder / POLICY_FILE)
    return json.loads(metadata["facts"])


def _train_from_checkpoint(trainer: Trainer, run: RunDirectory, quiet: bool) -> dict[str, Any]:
    """Trains to the end with metrics and checkpoints in the cell's folder; returns the facts."""
    folder = run.agent(trainer.cell.id)
    checkpoints, store = folder / CHECKPOINTS, folder / STORE
    metrics = folder / "metrics.jsonl"
    agents = trainer.config.agents
    found = checkpoints_of(run, trainer.cell)
    rows = _load(trainer, found, store)
    _keep_rows(metrics, rows)
    saved = trainer.decisions
    label = f"training {trainer.cell}"
    with Progress(label, agents.decisions, "decisions", quiet=quiet) as progress:
        progress.update(trainer.decisions)
        while not trainer.done:
            trainer.launch()
            trainer.learn()
            trainer.receive()
            rows += _write_rows(trainer, metrics)
            progress.update(trainer.decisions, **trainer.returns)
            due = trainer.decisions // agents.checkpoint_every > saved // agents.checkpoint_every
            if due:
                trainer.rest()  # which may bring the last decisions
            if due and not trainer.done:
                path = checkpoints / f"{trainer.decisions:012d}.safetensors"
                trainer.save(path, store, rows=rows)
                saved = trainer.decisions
                _prune(checkpoints_of(run, trainer.cell), store, trainer)
        trainer.rest()
        trainer.learn()
        trainer.launch()
        trainer.receive()
        _write_rows(trainer, metrics)
        progress.update(trainer.decisions, **trainer.returns)
    return trainer.facts()


def _load(trainer: Trainer, found: Sequence[Path], store: Path) -> int:
    """Continues from the newest checkpoint, if there is one; returns its rows of metrics."""
    if not found:
        return 0
    try:
        return trainer.load(found[-1], store)
    except CorruptFileError as error:
        remedy = f"delete '{found[-1].parent.parent}' to train it anew"
        if len(found) > 1:
            remedy = f"delete '{found[-1]}' to go on from the checkpoint before, or {remedy}"
        raise CorruptFileError(f"{error}; {remedy}") from error


def _prune(found: Sequence[Path], store: Path, trainer: Trainer) -> None:
    """Deletes all checkpoints but the newest, and the files that none of these needs."""
    for path in found[:-CHECKPOINTS_KEPT]:
        path.unlink()
    trainer.prune(store, int(found[-CHECKPOINTS_KEPT:][0].stem))


def _keep_rows(path: Path, count: int) -> None:
    """Cuts a table of metrics to its first rows: those after the checkpoint will come again."""
    rows = read_jsonl(path, repair=True)[:count] if path.exists() else []
    write_jsonl(path, rows)


def _write_rows(trainer: Trainer, path: Path) -> int:
    """Appends the rows that are due; returns how many."""
    count = len(trainer.rows)
    if count:
        append_jsonl(path, trainer.rows)
        trainer.rows.clear()
    return count
