"""What the trainings of all algorithms share: rounds, evaluation, metrics, checkpoints."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from torch import Tensor

from agents.cells import Cell
from agents.policy import Actions, Policy
from agents.pool import WorkerPool
from agents.replay import Steps, merge
from agents.seeding import derive
from agents.worker import Chunk, Digest, WorkerState
from darla.config import Config, DQNConfig, EpisodicControlConfig
from darla.errors import CorruptFileError, DivergenceError, FingerprintError
from darla.perception import Perception
from darla.storage import load_tensors, save_tensors
from envs.domains import Domain

TRAIN_ROWS = 100


@dataclass
class Figures:
    """Sums of what is measured while learning, since they were last read.

    Attributes:
        sums: sum by name, such as `loss`.
        count: number of measurements summed.
        peaks: largest value by name.
    """

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    peaks: dict[str, float] = field(default_factory=dict)

    def add(self, sums: Mapping[str, float], count: int) -> None:
        """Adds the sums of `count` further measurements."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += count

    def peak(self, name: str, value: float) -> None:
        """Keeps the largest value of a name."""
        self.peaks[name] = max(value, self.peaks.get(name, value))

    def means(self) -> dict[str, float]:
        """Returns means and peaks, of nothing before the first measurement."""
        means = {name: value / self.count for name, value in self.sums.items() if self.count}
        return means | self.peaks


class Trainer(ABC):
    """A training between two rounds: workers, learner and counters.

    A round is `launch` (the workers start), `learn` (meanwhile) and `receive`. A subclass is an
    algorithm: it makes the policy, lets the workers sample, and learns.

    Args:
        config: the experiment; `agents`, `environment.frame_skip` and `transfer` are read.
        cell: gives the seed.
        pool: the workers; their training environments are started.
        perception: what the policy sees through.
        domains: each episode draws one uniformly.
        evaluation_domains: those of the evaluations; None: the same.

    Attributes:
        seed: seed of everything that the learner draws.
        policy: what is learned; workers act with copies.
        updates: changes of the policy so far: gradient steps, or episodes written to a table.
        decisions: decisions received, over all environments.
        episodes: training episodes that ended in them.
        rows: rows of metrics that are due to be written.
        returns: the newest mean returns, by split.
        seconds: time spent, earlier processes included.
    """

    def __init__(
        self,
        config: Config,
        cell: Cell,
        pool: WorkerPool,
        perception: Perception,
        domains: Sequence[Domain],
        evaluation_domains: Sequence[Domain] | None = None,
    ) -> None:
        self.check(config)
        self.config, self.cell, self.pool = config, cell, pool
        self.perception = perception
        self.evaluation_domains = evaluation_domains or domains
        self.updates = self.decisions = self.episodes = 0
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []
        self.returns: dict[str, float] = {}
        self.figures = Figures()
        self._clock = time.monotonic()
        self._restarts = pool.restarts
        self._ended: list[float] = []
        self._rows_due = self._evaluations_due = self._evaluated_at = 0
        self.seed = derive(cell.seed, cell.algorithm)
        self.policy = self.make(pool.begin(perception, domains, self.seed))
        pool.adopt(self.policy, self.digest())

    @classmethod  # noqa: B027 - most take whatever is given
    def check(cls, config: Config) -> None:
        """Refuses settings that nothing could be learned with; to be called before other work.

        Raises:
            ConfigError: it says what does not go together.
        """

    # -- what an algorithm is ----------------------------------------------------------------------

    @abstractmethod
    def make(self, actions: Actions) -> Policy:
        """Makes the learner from `seed`, and returns its policy; called once.

        Raises:
            ConfigError: the algorithm cannot learn such actions, perceptions or settings.
        """

    def digest(self) -> Digest | None:
        """Returns what workers make of their rollouts before they send them; None: nothing."""
        return None

    @abstractmethod
    def sample(self) -> None:
        """Lets the workers sample, if `decisions` are not all sent out."""

    @abstractmethod
    def learn(self) -> None:
        """Learns, while the workers sample; adds to `updates` and `figures`."""

    @abstractmethod
    def take(self) -> None:
        """Takes what the workers send, with `count`."""

    @abstractmethod
    def rest(self) -> None:
        """Waits until no worker samples, and takes everything: what is saved must be complete."""

    @abstractmethod
    def epsilon(self, decisions: int) -> float:
        """Returns the share of random actions after so many decisions."""

    @abstractmethod
    def save_learner(self, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the learner's state as tensors and JSON values.

        What grows without change goes to files in `folder`, a part each time.
        """

    @abstractmethod
    def load_learner(
        self, folder: Path, tensors: dict[str, Tensor], values: dict[str, Any]
    ) -> None:
        """Continues from what `save_learner` returned, and from its files.

        Raises:
            CorruptFileError, KeyError, TypeError, ValueError: it is of no such learner.
        """

    def prune(self, folder: Path, oldest: int) -> None:  # noqa: B027 - most have no such files
        """Deletes the files in `folder` that no checkpoint from `oldest` decisions on needs."""

    # -- what all share ----------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether all decisions are taken."""
        return self.decisions >= self.config.agents.decisions

    def launch(self) -> None:
        """Lets the workers evaluate, where it is time, and then sample with the present policy."""
        agents, transfer = self.config.agents, self.config.transfer
        due = self.decisions // agents.evaluate_every
        if due > self._evaluations_due or self.done:
            self._evaluations_due = due
            self._evaluated_at = self.decisions
            self.pool.launch_evaluation(
                self.policy,
                self.perception,
                [(self.evaluation_domains, agents.evaluation_episodes)],
                epsilon=transfer.epsilon,
                seed=derive(transfer.seed, "evaluation"),
            )
        if not self.done:
            self.sample()

    def receive(self) -> None:
        """Takes what the workers send, and writes rows of metrics where they are due.

        Raises:
            DivergenceError: what is measured while learning is no number any more.
        """
        played = self.pool.collect("evaluation")
        episodes = [episode for part in played for exam in part for episode in exam]
        if episodes:
            mean = float(np.mean([episode.return_ for episode in episodes]))
            self._add_row("source", self._evaluated_at, mean, len(episodes), {})
        self.take()
        self._check_figures()
        due = self.decisions * TRAIN_ROWS // self.config.agents.decisions
        if due > self._rows_due and self._ended:
            self._rows_due = due
            mean, count = float(np.mean(self._ended)), len(self._ended)
            self._add_row("train", self.decisions, mean, count, self.figures.means())
            self._ended, self.figures = [], Figures()

    def count(self, chunk: Chunk) -> None:
        """Counts the decisions and episodes of a chunk that was taken."""
        self.decisions += chunk.decisions
        self.episodes += len(chunk.returns)
        self._ended += chunk.returns

    def facts(self) -> dict[str, Any]:
        """Returns what `agents.training.train_on` returns, after the last evaluation."""
        self._tick()
        return {
            "source_return": self.returns["source"],
            "decisions": self.decisions,
            "frames": self.decisions * self.config.environment.frame_skip,
            "updates": self.updates,
            "episodes": self.episodes,
            "seconds": round(self.seconds, 1),
            "decisions_per_second": round(self.decisions / self.seconds, 1),
            "restarts": self.pool.restarts - self._restarts,
        }

    def save(self, path: Path, folder: Path, *, rows: int) -> None:
        """Writes a checkpoint; to be called after `rest`.

        Args:
            path: the file.
            folder: for what grows without change.
            rows: rows of metrics written so far.
        """
        self._tick()
        learner, values = self.save_learner(folder)
        tensors: dict[str, Any] = {f"learner.{name}": tensor for name, tensor in learner.items()}
        generators = []
        for index, (worker, digest) in enumerate(self.pool.states()):
            for kind, arrays in (("worker", worker.arrays), ("digest", digest)):
                tensors |= {f"{kind}{index}.{name}": a.copy() for name, a in arrays.items()}
            generators.append(worker.rng)
        state = {
            "fingerprint": self.perception.fingerprint,
            "updates": self.updates,
            "decisions": self.decisions,
            "episodes": self.episodes,
            "seconds": self.seconds,
            "learner": values,
            "workers": generators,
            "figures": vars(self.figures),
            "ended": self._ended,
            "rows": rows,
            "rows_due": self._rows_due,
            "evaluations_due": self._evaluations_due,
        }
        save_tensors(path, tensors, {"state": json.dumps(state)})

    def load(self, path: Path, folder: Path) -> int:
        """Continues from a checkpoint; returns the rows of metrics that had been written.

        Raises:
            CorruptFileError: the checkpoint, or a file that belongs to it, is damaged.
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
            self.updates, self.seconds = state["updates"], state["seconds"]
            self.decisions, self.episodes = state["decisions"], state["episodes"]
            self.figures, self._ended = Figures(**state["figures"]), state["ended"]
            self._rows_due, self._evaluations_due = state["rows_due"], state["evaluations_due"]
            self.load_learner(folder, _below("learner.", tensors), state["learner"])
            states = [
                (
                    WorkerState(_arrays(_below(f"worker{index}.", tensors)), generator),
                    _arrays(_below(f"digest{index}.", tensors)),
                )
                for index, generator in enumerate(state["workers"])
            ]
            if len(states) != self.pool.size:
                raise ValueError(f"it has {len(states)} workers")
            self.pool.adopt(self.policy, self.digest())
            self.pool.load(states)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFileError(f"'{path}' is not a checkpoint of this cell: {error}") from error
        self._clock = time.monotonic()
        return state["rows"]

    def _check_figures(self) -> None:
        for name, total in self.figures.sums.items():
            if not math.isfinite(total):
                section = getattr(self.config.agents, self.cell.algorithm)
                advice = (
                    f"the training has diverged (give a smaller agents.{self.cell.algorithm}."
                    f"learning_rate than {section.learning_rate:g}, with another name=...), or "
                    if hasattr(section, "learning_rate")
                    else ""
                )
                raise DivergenceError(
                    f"{self.cell}: {name} is {total} after {self.decisions:,} decisions: "
                    f"{advice}a reward was no number"
                )

    def _add_row(
        self, split: str, decisions: int, mean: float, episodes: int, figures: dict[str, float]
    ) -> None:
        self._tick()
        self.returns[split] = mean
        source = split == "source"
        self.rows.append(
            {
                "decisions": decisions,
                "frames": decisions * self.config.environment.frame_skip,
                "split": split,
                "return": mean,
                "episodes": episodes,
                **figures,
                "epsilon": self.config.transfer.epsilon if source else self.epsilon(decisions),
                "seconds": round(self.seconds, 3),
            }
        )

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now


class LockstepTrainer(Trainer):
    """A training in a fixed order of rounds: every worker sends one chunk in each.

    While the workers sample chunk k + 1 with what the learner knew after round k - 1, it learns
    from chunk k. Results therefore depend on the configuration and the seed, not on timing.
    """

    @abstractmethod
    def message(self) -> Any:
        """Returns what the workers' policies are updated with before they sample."""

    @abstractmethod
    def insert(self, steps: Steps) -> None:
        """Takes the steps of all environments in a round."""

    @abstractmethod
    def part(self, streams: np.ndarray) -> None:
        """Forgets the open episodes of some environments, bool [B]: they go on with new ones."""

    @abstractmethod
    def epsilons(self, decisions: np.ndarray) -> np.ndarray:
        """Returns the share of random actions after so many decisions, float64 of their shape."""

    def sample(self) -> None:
        """See `Trainer`."""
        agents, streams = self.config.agents, self.pool.streams
        left = -(-(agents.decisions - self.decisions) // streams)
        steps = np.arange(min(agents.chunk, left)) * streams + self.decisions
        message, epsilons = ray.put(self.message()), self.epsilons(steps)
        for index in range(self.pool.size):
            self.pool.sample(index, message, epsilons)

    def take(self) -> None:
        """See `Trainer`."""
        chunks = self.pool.collect("sample")
        if chunks:
            parted = np.array([chunk.parted for chunk in chunks])
            if parted.any():
                self.part(parted.repeat(self.pool.config.envs_per_worker))
            self.insert(merge([chunk.content for chunk in chunks]))
        for chunk in chunks:
            self.count(chunk)

    def rest(self) -> None:
        """Does nothing: between two rounds no worker samples."""

    def epsilon(self, decisions: int) -> float:
        """See `Trainer`."""
        return float(self.epsilons(np.array(decisions)))


def linear_epsilon(
    decision: int | np.ndarray, decisions: int, config: DQNConfig | EpisodicControlConfig
) -> np.ndarray:
    """Returns the share of random actions: on a linear schedule, then constant.

    Args:
        decision: decisions taken before, over all environments.
        decisions: decisions of the whole training.
        config: `epsilon_start`, `epsilon_end`, and `epsilon_fraction` of the decisions between.
    """
    progress = np.minimum(1.0, np.asarray(decision) / max(1.0, config.epsilon_fraction * decisions))
    return config.epsilon_start + progress * (config.epsilon_end - config.epsilon_start)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
