"""Stage 2: trains one cell, from the first decision or from its last checkpoint.

Sampling and learning overlap, but in a fixed order: while the workers sample chunk k + 1 with the
weights after round k - 1, the learner trains on chunk k. Results therefore depend on the
configuration and the seed, not on timing, and a training that was killed and continued ends with
the same bits as one that was not.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from agents.acting import POLICY_FILE, Policy, save_policy
from agents.cells import Cell, perception_of
from agents.dqn import Learner, Losses, epsilon_at
from agents.replay import Replay, ReplayStore, merge
from agents.seeding import derive
from agents.worker import EnvironmentFactory, WorkerPool, collect
from darla.cluster import ray_session
from darla.config import Config
from darla.devices import torch_threads
from darla.errors import ConfigError, CorruptFileError, FingerprintError
from darla.perception import Perception
from darla.progress import Progress
from darla.rundir import RunDirectory
from darla.storage import append_jsonl, load_tensors, read_jsonl, save_tensors, write_text
from envs import make_vector
from envs.domains import Domain
from envs.suites import get_suite

CHECKPOINTS_KEPT = 2
TRAIN_ROWS = 100


def train_cell(
    config: Config, run: RunDirectory, cell: Cell, *, quiet: bool = False
) -> dict[str, Any]:
    """Trains one cell on D_S, or continues where an earlier call stopped; see `train`.

    Raises:
        MissingFileError: the vision is not trained.
    """
    return train(
        config,
        run,
        cell,
        perception=perception_of(run, cell),
        factory=functools.partial(make_vector, config.environment),
        domains=get_suite(config.suite).d_s,
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
        quiet: show no progress.
    """
    if (run.agent(cell.id) / POLICY_FILE).exists():
        return _finished(run, cell)
    with ray_session(config.ray), WorkerPool(config.ray, factory) as pool:
        return train_on(
            pool, config, run, cell, perception=perception, domains=domains, quiet=quiet
        )


def train_on(
    pool: WorkerPool,
    config: Config,
    run: RunDirectory,
    cell: Cell,
    *,
    perception: Perception,
    domains: Sequence[Domain],
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains a policy with given workers; what is finished is not repeated.

    Writes `metrics.jsonl`, checkpoints and at last `policy.safetensors` to the cell's folder.

    Args:
        pool: the workers.
        config: the experiment; `agents`, `environment.frame_skip` and `transfer` are read.
        run: its run directory.
        cell: names the folder and gives the seed.
        perception: what the policy sees through.
        domains: each episode draws one uniformly.
        quiet: show no progress.

    Returns:
        Facts: `decisions`, `frames` (simulated), `updates`, `episodes`, `source_return` (mean of
        the last evaluation), `seconds` and `decisions_per_second` (over all calls), `parameters`.

    Raises:
        ConfigError: the replay is smaller than what the workers send at once.
        FingerprintError: the vision has changed since the cell's checkpoint.
        CorruptFileError: a checkpoint is damaged.
        DarlaError: a worker died.
    """
    folder = run.agent(cell.id)
    if not (folder / POLICY_FILE).exists():
        with torch_threads(2 if len(perception.shape) == 3 else 1):
            trainer = Trainer(config, cell, pool, perception, domains)
            facts = _train_from_checkpoint(trainer, folder, quiet)
            save_policy(run, cell, trainer.policy(), json.dumps(facts))
    return _finished(run, cell)


def _finished(run: RunDirectory, cell: Cell) -> dict[str, Any]:
    """Deletes what a finished cell needs no more, and returns its facts."""
    folder = run.agent(cell.id)
    for leftover in ("checkpoints", "replay"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    _, metadata = load_tensors(folder / POLICY_FILE)
    return json.loads(metadata["facts"])


class Trainer:
    """A training between two rounds: workers, replay, learner and counters.

    A round is `launch` (the workers start to sample), `learn` (meanwhile) and `receive`.

    Args:
        config: the experiment.
        cell: gives the seed.
        pool: the workers; their training environments are started.
        perception: what the policy sees through.
        domains: each episode draws one uniformly.

    Attributes:
        decisions: decisions received, over all environments.
        episodes: training episodes that ended in them.
        rows: rows of metrics that are due to be written.
        figures: the newest mean returns, by split.
        seconds: time spent, earlier processes included.
    """

    def __init__(
        self,
        config: Config,
        cell: Cell,
        pool: WorkerPool,
        perception: Perception,
        domains: Sequence[Domain],
    ) -> None:
        agents, dqn = config.agents, config.agents.dqn
        if dqn.replay < pool.streams * agents.chunk:
            raise ConfigError(
                f"agents.dqn.replay is {dqn.replay}, but the workers send "
                f"{pool.streams * agents.chunk} transitions at once (ray.workers x "
                "ray.envs_per_worker x agents.chunk); the replay must hold at least these"
            )
        self.config, self.cell, self.pool = config, cell, pool
        self.perception, self.domains = perception, domains
        seed = derive(cell.seed, cell.algorithm)
        actions = pool.begin(perception, domains, seed)
        self.learner = Learner(perception.shape, actions, dqn, derive(seed, "learner"))
        self.replay = Replay(
            dqn.replay,
            pool.streams,
            perception.shape,
            perception.dtype,
            n_step=dqn.n_step,
            discount=dqn.discount,
        )
        self.decisions = self.episodes = 0
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []
        self.figures: dict[str, float] = {}
        self._clock = time.monotonic()
        self._window = Losses()
        self._returns: list[float] = []
        self._rows_due = self._evaluations_due = 0
        self._samples: list[ray.ObjectRef] = []
        self._evaluation: list[ray.ObjectRef] = []
        self._evaluated_at = 0

    @property
    def done(self) -> bool:
        """Whether all decisions are taken."""
        return self.decisions >= self.config.agents.decisions

    def policy(self) -> Policy:
        """Returns a policy with the learner's present weights."""
        return Policy(self.learner.online, self.perception.fingerprint)

    def launch(self) -> None:
        """Lets the workers evaluate, where it is time, and then sample with the present weights."""
        agents = self.config.agents
        due = self.decisions // agents.evaluate_every
        if due > self._evaluations_due or self.done:
            self._evaluations_due = due
            self._evaluated_at = self.decisions
            self._evaluation = self.pool.launch_evaluation(
                self.policy(),
                self.perception,
                self.domains,
                agents.evaluation_episodes,
                epsilon=self.config.transfer.epsilon,
                seed=derive(self.config.transfer.seed, "evaluation"),
            )
        if not self.done:
            left = -(-(agents.decisions - self.decisions) // self.pool.streams)
            steps = np.arange(min(agents.chunk, left)) * self.pool.streams + self.decisions
            epsilons = epsilon_at(steps, agents.decisions, agents.dqn)
            self._samples = self.pool.launch_samples(self.policy(), epsilons)

    def learn(self) -> None:
        """Trains on the replay, as many updates as the decisions received so far ask for."""
        dqn = self.config.agents.dqn
        due = max(0, self.decisions - dqn.warmup) // dqn.decisions_per_update
        if len(self.replay) and due > self.learner.updates:
            self._window.add(self.learner.train(self.replay, due - self.learner.updates))

    def receive(self) -> None:
        """Waits for the workers and takes what they send; afterwards they are idle."""
        if self._evaluation:
            episodes = [episode for part in collect(self._evaluation) for episode in part]
            self._evaluation = []
            mean = float(np.mean([episode.return_ for episode in episodes]))
            self._add_row("source", self._evaluated_at, mean, len(episodes), {})
        if self._samples:
            chunks = collect(self._samples)
            self._samples = []
            steps = merge([chunk.steps for chunk in chunks])
            self.replay.insert(steps)
            self.decisions += steps.actions.size
            ended = [value for chunk in chunks for value in chunk.returns]
            self.episodes += len(ended)
            self._returns += ended
        due = self.decisions * TRAIN_ROWS // self.config.agents.decisions
        if due > self._rows_due and self._returns:
            self._rows_due = due
            mean, count = float(np.mean(self._returns)), len(self._returns)
            self._add_row("train", self.decisions, mean, count, self._window.means())
            self._returns, self._window = [], Losses()

    def facts(self) -> dict[str, Any]:
        """Returns what `train` returns, after the last evaluation."""
        self._tick()
        return {
            "source_return": self.figures["source"],
            "decisions": self.decisions,
            "frames": self.decisions * self.config.environment.frame_skip,
            "updates": self.learner.updates,
            "episodes": self.episodes,
            "seconds": round(self.seconds, 1),
            "decisions_per_second": round(self.decisions / self.seconds, 1),
            "parameters": self.learner.online.parameters_vector.numel(),
        }

    def save(self, path: Path, store: ReplayStore, *, since: int, rows: int) -> None:
        """Writes a checkpoint; the workers must be idle.

        Args:
            path: the file.
            store: takes the replay's steps.
            since: slots of the replay that the store holds already.
            rows: rows of metrics written so far.
        """
        self._tick()
        store.save(self.replay, since=since)
        tensors: dict[str, Any] = {f"learner.{k}": v for k, v in self.learner.state().items()}
        generators = []
        states = collect([actor.state.remote() for actor in self.pool.actors])
        for index, (arrays, generator) in enumerate(states):
            tensors |= {f"worker{index}.{name}": array.copy() for name, array in arrays.items()}
            generators.append(generator)
        state = {
            "fingerprint": self.perception.fingerprint,
            "decisions": self.decisions,
            "episodes": self.episodes,
            "seconds": self.seconds,
            "head": self.replay.head,
            "learner": self.learner.counters(),
            "workers": generators,
            "window": vars(self._window),
            "returns": self._returns,
            "rows": rows,
            "rows_due": self._rows_due,
            "evaluations_due": self._evaluations_due,
        }
        save_tensors(path, tensors, {"state": json.dumps(state)})

    def load(self, path: Path, store: ReplayStore) -> int:
        """Continues from a checkpoint; returns the rows of metrics that had been written.

        Raises:
            CorruptFileError: the checkpoint or the replay is damaged.
            FingerprintError: it was made with another perception.
        """
        tensors, metadata = load_tensors(path)
        try:
            state = json.loads(metadata["state"])
            if state["fingerprint"] != self.perception.fingerprint:
                raise FingerprintError(
                    f"{self.cell} was begun with another '{self.perception.name}': the vision has "
                    f"changed since; delete '{path.parent.parent}' to train it anew"
                )
            self.decisions, self.episodes = state["decisions"], state["episodes"]
            self.seconds = state["seconds"]
            self._window, self._returns = Losses(**state["window"]), state["returns"]
            self._rows_due, self._evaluations_due = state["rows_due"], state["evaluations_due"]
            self.learner.load(_below("learner.", tensors), state["learner"])
            collect(
                [
                    actor.load.remote(_arrays(_below(f"worker{index}.", tensors)), generator)
                    for index, (actor, generator) in enumerate(
                        zip(self.pool.actors, state["workers"], strict=True)
                    )
                ]
            )
            store.load(self.replay, head=state["head"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFileError(f"'{path}' is not a checkpoint of this cell: {error}") from error
        self._clock = time.monotonic()
        return state["rows"]

    def _add_row(
        self,
        split: str,
        decisions: int,
        mean: float,
        episodes: int,
        losses: dict[str, float | None],
    ) -> None:
        agents = self.config.agents
        self._tick()
        self.figures[split] = mean
        self.rows.append(
            {
                "decisions": decisions,
                "frames": decisions * self.config.environment.frame_skip,
                "split": split,
                "return": mean,
                "episodes": episodes,
                **losses,
                "epsilon": self.config.transfer.epsilon
                if split == "source"
                else float(epsilon_at(decisions, agents.decisions, agents.dqn)),
                "seconds": round(self.seconds, 3),
            }
        )

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now


def _train_from_checkpoint(trainer: Trainer, folder: Path, quiet: bool) -> dict[str, Any]:
    """Trains to the end with metrics and checkpoints in `folder`; returns the facts."""
    checkpoints, store = folder / "checkpoints", ReplayStore(folder / "replay")
    metrics = folder / "metrics.jsonl"
    agents = trainer.config.agents
    found = _checkpoints(checkpoints)
    rows = trainer.load(found[-1], store) if found else 0
    _keep_rows(metrics, rows)
    saved, stored = trainer.decisions, trainer.replay.head
    label = f"training {trainer.cell}"
    with Progress(label, agents.decisions, "decisions", quiet=quiet) as progress:
        progress.update(trainer.decisions)
        while not trainer.done:
            trainer.launch()
            trainer.learn()
            trainer.receive()
            rows += _write_rows(trainer, metrics)
            progress.update(trainer.decisions, **trainer.figures)
            due = trainer.decisions // agents.checkpoint_every > saved // agents.checkpoint_every
            if due and not trainer.done:
                path = checkpoints / f"{trainer.decisions:012d}.safetensors"
                trainer.save(path, store, since=stored, rows=rows)
                saved, stored = trainer.decisions, trainer.replay.head
                _prune(checkpoints, store, trainer.replay)
        trainer.learn()
        trainer.launch()
        trainer.receive()
        _write_rows(trainer, metrics)
        progress.update(trainer.decisions, **trainer.figures)
    return trainer.facts()


def _checkpoints(folder: Path) -> list[Path]:
    """Returns the complete checkpoints, oldest first."""
    return sorted(folder.glob("[0-9]*.safetensors"))


def _prune(folder: Path, store: ReplayStore, replay: Replay) -> None:
    """Deletes all checkpoints but the newest, and the shards that none of these needs."""
    found = _checkpoints(folder)
    for path in found[:-CHECKPOINTS_KEPT]:
        path.unlink()
    oldest = int(found[-CHECKPOINTS_KEPT:][0].stem) // replay.streams
    store.prune(oldest - replay.slots)


def _keep_rows(path: Path, count: int) -> None:
    """Cuts a table of metrics to its first rows: those after the checkpoint will come again."""
    rows = read_jsonl(path, repair=True)[:count] if path.exists() else []
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write_rows(trainer: Trainer, path: Path) -> int:
    """Appends the rows that are due; returns how many."""
    count = len(trainer.rows)
    if count:
        append_jsonl(path, trainer.rows)
        trainer.rows.clear()
    return count


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
