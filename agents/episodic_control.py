"""Model-free episodic control (Blundell et al. 2016): remember what was best, act by likeness.

The learner writes every finished episode to its tables and sends the same entries to the workers,
whose copies therefore stay equal to its own, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from scipy.signal import lfilter

from agents.knn import GROUP, nearest
from agents.policy import Actions, Policy
from agents.replay import Steps
from agents.seeding import derive, numpy_generator
from agents.trainer import LockstepTrainer, linear_epsilon

_PROJECTION_BITS = 20


def fingerprints(keys: np.ndarray) -> list[int]:
    """Returns a number of 64 bits for every row, equal for equal bytes.

    Two of 10^6 different keys share one with a probability of 3e-8; they are taken for equal.

    Args:
        keys: float32 [B, D].
    """
    return [
        int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little", signed=True)
        for row in np.ascontiguousarray(keys)
    ]


class Table:
    """What one action was worth at best, by key. Memory grows with the entries.

    Args:
        dim: numbers D in a key.
        capacity: entries at most; beyond it a new one takes the place of that which was written
            least recently.

    Attributes:
        count: number of entries.
    """

    _COLUMNS = ("keys", "norms", "values", "marks", "written")

    def __init__(self, dim: int, capacity: int) -> None:
        self.dim, self.capacity, self.count = dim, capacity, 0
        self._clock = 0
        self._places: dict[int, int] = {}  # by fingerprint
        self._allocate(0)

    def __reduce__(self) -> tuple:
        """Pickles the entries as arrays."""
        return Table.restore, (self.dim, self.capacity, self.arrays())

    def write(self, keys: np.ndarray, marks: Sequence[int], returns: np.ndarray) -> None:
        """Writes entries one after the other; a key that is there keeps its greatest return.

        Args:
            keys: float32 [N, D].
            marks: their `fingerprints`.
            returns: float32 [N].
        """
        norms = np.einsum("nd,nd->n", keys, keys)
        for key, mark, norm, value in zip(keys, marks, norms, returns, strict=True):
            place = self._places.get(mark)
            if place is None:
                place = self._places[mark] = self._free_place()
                self._keys[:, place], self._norms[place] = key, norm
                self._values[place], self._marks[place] = value, mark
            elif value > self._values[place]:
                self._values[place] = value
            self._written[place] = self._clock
            self._clock += 1

    def look_up(self, keys: np.ndarray, marks: Sequence[int], neighbours: int) -> np.ndarray:
        """Returns the value of every key: its own, or else the mean over the nearest entries.

        Args:
            keys: float32 [B, D].
            marks: their `fingerprints`.
            neighbours: entries in a mean; all where there are fewer.

        Returns:
            float32 [B]; infinite where the table is empty.
        """
        if not self.count:
            return np.full(len(keys), np.inf, np.float32)
        k = min(neighbours, self.count)
        columns = nearest(self._keys, self._norms, self.count, keys, k)
        means = self._values[columns].mean(1)
        for index, mark in enumerate(marks):
            place = self._places.get(mark)
            if place is not None:
                means[index] = self._values[place]
        return means

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns views of all entries: keys [D, N], norms, values, fingerprints, order [N]."""
        return {name: getattr(self, f"_{name}")[..., : self.count] for name in self._COLUMNS}

    @classmethod
    def restore(cls, dim: int, capacity: int, arrays: Mapping[str, np.ndarray]) -> Self:
        """Makes a table with copies of what `arrays` returned.

        Raises:
            KeyError, ValueError: they are of no such table.
        """
        table = cls(dim, capacity)
        count = len(arrays["marks"])
        table._allocate(count)
        for name in cls._COLUMNS:
            column = getattr(table, f"_{name}")[..., :count]
            if arrays[name].shape != column.shape:
                raise ValueError(f"{name} of shape {arrays[name].shape}, not {column.shape}")
            column[:] = arrays[name]
        table.count = count
        table._places = dict(zip(table._marks[:count].tolist(), range(count), strict=True))
        table._clock = int(table._written[:count].max(initial=-1)) + 1
        return table

    def _free_place(self) -> int:
        """Returns the next place, or that of the entry written least recently."""
        if self.count == self.capacity:
            place = int(self._written[: self.count].argmin())
            del self._places[int(self._marks[place])]
            return place
        if self.count == len(self._norms):
            self._allocate(min(self.capacity, 2 * self.count + 1))
        self.count += 1
        return self.count - 1

    def _allocate(self, entries: int) -> None:
        """Makes room for so many entries, in whole groups, and keeps those that there are."""
        places = -(-entries // GROUP) * GROUP
        kept = self.arrays() if self.count else {}
        self._keys = np.zeros((self.dim, places), np.float32)
        self._norms = np.full(places, np.inf, np.float32)
        self._values = np.zeros(places, np.float32)
        self._marks = np.zeros(places, np.int64)
        self._written = np.zeros(places, np.int64)
        for name, column in kept.items():
            getattr(self, f"_{name}")[..., : self.count] = column


class Entries(NamedTuple):
    """What the learner sends: the decisions of the episodes that ended, in the order of writing.

    Attributes:
        number: number of messages before this one.
        keys: float32 [N, D].
        actions: int64 [N].
        returns: float32 [N].
    """

    number: int
    keys: np.ndarray
    actions: np.ndarray
    returns: np.ndarray


class EpisodicPolicy(Policy):
    """Takes the action whose value is highest, by the tables.

    An action whose table is empty is worth more than any other, so that all are tried. Among equal
    values, the key's fingerprint decides. Frames are replaced by a random Gaussian projection of
    their bytes, all three colours; its numbers are multiples of 2^-20, so that the sums are exact,
    and equal frames have equal keys in any batch and on any processor.

    Args:
        actions: what can be done; one choice.
        perception_fingerprint: fingerprint of the perception that it is trained on.
        shape: shape of one observation: a vector, or a frame.
        neighbours: entries in the mean that values a new key.
        capacity: entries of one action.
        projection: numbers that replace a frame; unused for vectors.
        seed: seed of the projection.

    Attributes:
        tables: one for each action.
        messages: number of messages that they contain.
    """

    algorithm = "ec"
    preference = "action value"

    def __init__(
        self,
        actions: Actions,
        perception_fingerprint: str,
        *,
        shape: Sequence[int],
        neighbours: int,
        capacity: int,
        projection: int,
        seed: int,
    ) -> None:
        super().__init__(actions, perception_fingerprint)
        self.shape, self.neighbours, self.capacity = tuple(shape), neighbours, capacity
        self.projection, self.seed = projection, seed
        self.messages = 0
        size = int(np.prod(self.shape))
        self._matrix = None
        if len(self.shape) == 3:
            rng = numpy_generator(seed, "projection")
            self._matrix = np.rint(rng.standard_normal((size, projection)) * 2.0**_PROJECTION_BITS)
        self.dim = size if self._matrix is None else projection
        self.tables = [Table(self.dim, capacity) for _ in range(actions.count("ec"))]

    def keys(self, observations: np.ndarray) -> np.ndarray:
        """Returns what the tables are read by, float32 [B, D].

        Args:
            observations: float32 [B, D], or uint8 [B, H, W, C].
        """
        if self._matrix is None:
            return observations
        sums = observations.reshape(len(observations), -1).astype(np.float64) @ self._matrix
        scale = 2.0**_PROJECTION_BITS * 255.0 * np.sqrt(self.projection)
        return (sums / scale).astype(np.float32)

    def choose(
        self, observations: np.ndarray, memory: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Policy`; nothing is drawn."""
        values, marks = self._values(observations)
        count = values.shape[1]
        order = (np.arange(count) + np.array(marks)[:, None]) % count
        best = np.take_along_axis(values == values.max(1, keepdims=True), order, 1).argmax(1)
        return order[np.arange(len(order)), best], memory

    def preferences(self, observations: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """Returns action values, float32 [B, actions]; infinite where an action was never tried."""
        return self._values(observations)[0]

    def update(self, message: Entries) -> None:
        """Writes the entries of a message, unless the tables contain it.

        Raises:
            ValueError: a message before it is missing.
        """
        if message.number > self.messages:
            raise ValueError(f"message {message.number} came, {self.messages} is missing")
        if message.number < self.messages:
            return
        self.messages += 1
        marks = np.array(fingerprints(message.keys), np.int64)
        for action, table in enumerate(self.tables):
            own = message.actions == action
            table.write(message.keys[own], marks[own].tolist(), message.returns[own])

    def settings(self) -> dict[str, Any]:
        """See `Policy`."""
        return {
            "shape": self.shape,
            "neighbours": self.neighbours,
            "capacity": self.capacity,
            "projection": self.projection,
            "seed": self.seed,
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """See `Policy`; named as in `Table.arrays`, after the number of the action."""
        return {
            f"{action}.{name}": array
            for action, table in enumerate(self.tables)
            for name, array in table.arrays().items()
        }

    @classmethod
    def restore(
        cls,
        actions: Actions,
        perception_fingerprint: str,
        settings: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
    ) -> Self:
        """See `Policy`."""
        policy = cls(actions, perception_fingerprint, **settings)
        for action in range(len(policy.tables)):
            prefix = f"{action}."
            arrays = {
                name.removeprefix(prefix): tensor.numpy()
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            policy.tables[action] = Table.restore(policy.dim, policy.capacity, arrays)
        return policy

    def _values(self, observations: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Returns action values, float32 [B, actions], and the keys' fingerprints."""
        keys = self.keys(observations)
        marks = fingerprints(keys)
        values = [table.look_up(keys, marks, self.neighbours) for table in self.tables]
        return np.stack(values, axis=1), marks


class OpenEpisodes:
    """The decisions of episodes that have not ended yet, in each of B environments.

    Args:
        streams: number of environments B.
        dim: numbers D in a key.
        discount: discount per decision.
    """

    def __init__(self, streams: int, dim: int, discount: float) -> None:
        self.discount = discount
        self.keys = np.zeros((0, streams, dim), np.float32)
        self.actions = np.zeros((0, streams), np.int64)
        self.rewards = np.zeros((0, streams), np.float32)
        self.starts = np.zeros(streams, np.int64)

    def insert(self, keys: np.ndarray, steps: Steps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Adds decisions, and takes out the episodes that end with them, truncated ones too.

        Args:
            keys: keys of the observations, float32 [T, B, D].
            steps: the decisions.

        Returns:
            Keys, actions and discounted returns, as in `Entries`: episodes in the order in which
            they ended, each from its last decision to its first.
        """
        before = len(self.actions)
        self.keys = np.concatenate([self.keys, keys])
        self.actions = np.concatenate([self.actions, steps.actions])
        self.rewards = np.concatenate([self.rewards, steps.rewards])
        parts = [(self.keys[:0, 0], self.actions[:0, 0], self.rewards[:0, 0])]
        for time, stream in zip(*np.nonzero(steps.terminated | steps.truncated), strict=True):
            end = before + int(time) + 1
            own = np.arange(self.starts[stream], end)[::-1], stream
            returns = lfilter([1.0], [1.0, -self.discount], self.rewards[own].astype(np.float64))
            parts.append((self.keys[own], self.actions[own], returns.astype(np.float32)))
            self.starts[stream] = end
        oldest = self.starts.min()
        self.starts -= oldest
        self.keys, self.actions = self.keys[oldest:], self.actions[oldest:]
        self.rewards = self.rewards[oldest:]
        written, taken, returned = zip(*parts, strict=True)
        return np.concatenate(written), np.concatenate(taken), np.concatenate(returned)

    def drop(self, streams: np.ndarray) -> None:
        """Forgets the episodes of some environments, bool [B]."""
        self.starts[streams] = len(self.actions)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all decisions, and where in them each environment's episode starts."""
        return {
            "keys": self.keys,
            "actions": self.actions,
            "rewards": self.rewards,
            "starts": self.starts,
        }

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continues from copies of what `arrays` returned.

        Raises:
            KeyError, ValueError: they are of other environments.
        """
        for name, own in self.arrays().items():
            if arrays[name].shape[1:] != own.shape[1:] or arrays[name].dtype != own.dtype:
                raise ValueError(f"open episodes of other environments: {name}")
            setattr(self, name, arrays[name].copy())


class EpisodicTrainer(LockstepTrainer):
    """Trains an `EpisodicPolicy`; see `Trainer`."""

    policy: EpisodicPolicy

    def make(self, actions: Actions) -> EpisodicPolicy:
        """See `Trainer`.

        Raises:
            ConfigError: there are several choices in one action.
        """
        ec = self.config.agents.ec
        policy = EpisodicPolicy(
            actions,
            self.perception.fingerprint,
            shape=self.perception.shape,
            neighbours=ec.neighbours,
            capacity=ec.capacity,
            projection=ec.projection,
            seed=derive(self.seed, "learner"),
        )
        self._open = OpenEpisodes(self.pool.streams, policy.dim, ec.discount)
        self._message = self._entries(policy, -1)
        return policy

    def message(self) -> Entries:
        """Returns the episodes that ended in the round before."""
        return self._message

    def epsilons(self, decisions: np.ndarray) -> np.ndarray:
        """See `LockstepTrainer`."""
        agents = self.config.agents
        return linear_epsilon(decisions, agents.decisions, agents.ec)

    def part(self, streams: np.ndarray) -> None:
        """See `LockstepTrainer`."""
        self._open.drop(streams)

    def learn(self) -> None:
        """Does nothing: an episode is written when it has been taken, in milliseconds."""

    def insert(self, steps: Steps) -> None:
        """Writes the episodes that ended to the learner's own tables."""
        keys = self.policy.keys(steps.observations.reshape(-1, *self.perception.shape))
        entries = self._open.insert(keys.reshape(*steps.actions.shape, -1), steps)
        self._message = Entries(self.policy.messages, *entries)
        self.policy.update(self._message)
        self.updates += int(np.count_nonzero(steps.terminated | steps.truncated))
        self.figures.add({"value": float(entries[2].sum())}, len(entries[2]))

    def save_learner(self, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See `Trainer`; whole tables, and nothing in `folder`."""
        arrays = {f"open.{name}": array for name, array in self._open.arrays().items()}
        tensors = {n: torch.from_numpy(a) for n, a in (self.policy.tensors() | arrays).items()}
        return tensors, {"messages": self.policy.messages}

    def load_learner(
        self, folder: Path, tensors: dict[str, torch.Tensor], values: dict[str, Any]
    ) -> None:
        """See `Trainer`."""
        old = self.policy
        self.policy = EpisodicPolicy.restore(
            old.actions, old.perception_fingerprint, old.settings(), tensors
        )
        self.policy.messages = values["messages"]
        self._open.load({n[5:]: t.numpy() for n, t in tensors.items() if n.startswith("open.")})
        # The workers will be given these tables, and then be sent what they contain.
        self._message = self._entries(self.policy, values["messages"] - 1)

    @staticmethod
    def _entries(policy: EpisodicPolicy, number: int) -> Entries:
        """Returns a message without entries."""
        nothing = np.zeros(0, np.float32)
        return Entries(number, np.zeros((0, policy.dim), np.float32), nothing, nothing)
