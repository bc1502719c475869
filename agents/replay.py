"""Replay: a ring of synchronous steps, from which n-step transitions are sampled uniformly.

All environments step in lockstep, so the ring is a table of *slots* (time) by *streams*
(environments). Every observation is stored once; a transition is a pair of places in the table.
Observations that end a truncated episode have no place there, since the next slot already holds the
first observation of the next episode: they are kept in a queue of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from darla.errors import CorruptFileError
from darla.storage import load_tensors, save_tensors

_RUNNING, _TERMINATED, _TRUNCATED = 0, 1, 2


@dataclass(frozen=True)
class Steps:
    """T consecutive decisions in each of B environments.

    Attributes:
        observations: [T, B, *shape], what each decision was taken on.
        actions: int64 [T, B].
        rewards: float32 [T, B], the reward after each decision.
        terminated: bool [T, B], whether the task ended with this decision.
        truncated: bool [T, B], whether the episode was cut off after this decision (and the task
            did not end).
        finals: [M, *shape], the last observation of each of the M truncated episodes, in the order
            of `np.nonzero(truncated)`.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    finals: np.ndarray


def merge(parts: list[Steps]) -> Steps:
    """Puts the environments of several workers side by side, in the order given."""
    places, offset = [], 0
    for part in parts:
        time, stream = np.nonzero(part.truncated)
        places.append(np.stack([time, stream + offset]))
        offset += part.truncated.shape[1]
    time, stream = np.concatenate(places, axis=1)
    finals = np.concatenate([part.finals for part in parts])
    return Steps(
        observations=np.concatenate([part.observations for part in parts], axis=1),
        actions=np.concatenate([part.actions for part in parts], axis=1),
        rewards=np.concatenate([part.rewards for part in parts], axis=1),
        terminated=np.concatenate([part.terminated for part in parts], axis=1),
        truncated=np.concatenate([part.truncated for part in parts], axis=1),
        finals=finals[np.lexsort((stream, time))],
    )


def section(steps: Steps, first: int, last: int) -> Steps:
    """Returns the decisions [first, last) of `steps`."""
    start = int(np.count_nonzero(steps.truncated[:first]))
    end = start + int(np.count_nonzero(steps.truncated[first:last]))
    return Steps(
        observations=steps.observations[first:last],
        actions=steps.actions[first:last],
        rewards=steps.rewards[first:last],
        terminated=steps.terminated[first:last],
        truncated=steps.truncated[first:last],
        finals=steps.finals[start:end],
    )


class Batch(NamedTuple):
    """Transitions over up to n decisions.

    Attributes:
        s_tm1: observations [N, *shape].
        a_tm1: actions taken there, int64 [N].
        r_t: discounted sum of the rewards that followed, float32 [N].
        discount_t: what the value of `s_t` counts for, float32 [N]; 0 after a termination.
        s_t: observations [N, *shape] to bootstrap from: n decisions later, or the last one before a
            truncation.
    """

    s_tm1: torch.Tensor
    a_tm1: torch.Tensor
    r_t: torch.Tensor
    discount_t: torch.Tensor
    s_t: torch.Tensor


class Replay:
    """A ring of the newest steps of B environments.

    Args:
        capacity: transitions to hold; rounded up to whole slots.
        streams: number of environments B.
        shape: shape of one observation.
        dtype: NumPy type of observations, uint8 or float32.
        n_step: rewards summed before the bootstrap.
        discount: discount per decision, in [0, 1].
    """

    def __init__(
        self,
        capacity: int,
        streams: int,
        shape: tuple[int, ...],
        dtype: np.dtype | type,
        *,
        n_step: int,
        discount: float,
    ) -> None:
        self.slots = -(-capacity // streams) + n_step
        self.streams, self.n_step, self.discount = streams, n_step, discount
        self.head = 0  # slots written since the beginning of the run
        self.tail = 0  # the oldest of them that is still held
        size = (self.slots, streams)
        # Left uninitialised: the operating system hands out memory as slots are written.
        empty = torch.empty(0, dtype=torch.from_numpy(np.empty(0, dtype)).dtype)
        self._observations = empty.new_empty((self.slots * streams, *shape))
        self._actions = torch.zeros(self.slots * streams, dtype=torch.int64)
        self._returns = torch.zeros(self.slots * streams)
        self._discounts = torch.zeros(self.slots * streams)
        self._rewards = np.zeros(size, np.float32)
        self._ends = np.zeros(size, np.uint8)
        self._lengths = np.zeros(self.slots * streams, np.uint8 if n_step < 256 else np.int64)
        # Final observations: number k lies at k modulo the capacity; -1 where a step has none.
        self._finals = empty.new_empty((64, *shape))
        self._first_final = 0
        self._next_final = 0
        self._final_of = np.full(self.slots * streams, -1, np.int64)

    def __len__(self) -> int:
        """Number of transitions that can be sampled."""
        return max(0, self.head - self.n_step - self.tail) * self.streams

    def insert(self, steps: Steps) -> None:
        """Appends steps of all environments, over the oldest ones when the ring is full.

        Raises:
            ValueError: more slots than the ring has, or another number of environments.
        """
        count, streams = steps.actions.shape
        if streams != self.streams or count > self.slots - self.n_step:
            raise ValueError(
                f"{count} steps of {streams} environments do not fit a replay of "
                f"{self.slots - self.n_step} steps of {self.streams} environments"
            )
        rows = np.arange(self.head, self.head + count) % self.slots
        flat = self._flat(rows)
        self._drop(self.head + count - self.slots)
        target = torch.from_numpy(flat)
        self._observations[target] = torch.from_numpy(steps.observations).flatten(0, 1)
        self._actions[target] = torch.from_numpy(steps.actions).flatten()
        self._rewards[rows] = steps.rewards
        ends = np.where(steps.truncated, _TRUNCATED, _RUNNING)
        self._ends[rows] = np.where(steps.terminated, _TERMINATED, ends)
        self._insert_finals(flat[steps.truncated.ravel()], steps.finals)
        completed = max(self.tail, self.head - self.n_step), self.head + count - self.n_step
        self.head += count
        if completed[1] > completed[0]:
            self._complete(*completed)

    def cut(self, streams: np.ndarray) -> None:
        """Cuts the open episodes of some environments off after their last decision.

        What followed it is not known: the observation that it was taken on stands for that.

        Args:
            streams: which, bool [B].
        """
        if self.head == self.tail:
            return
        row = (self.head - 1) % self.slots
        open_ones = np.flatnonzero(streams & (self._ends[row] == _RUNNING))
        self._ends[row, open_ones] = _TRUNCATED
        places = row * self.streams + open_ones
        self._insert_finals(places, self._observations[torch.from_numpy(places)].numpy())

    def ended_before(self, slot: int) -> np.ndarray:
        """Returns in which environments an episode ended or was cut just before a slot, bool [B].

        False where the slot before is not held.
        """
        if not self.tail < slot <= self.head:
            return np.zeros(self.streams, bool)
        return self._ends[(slot - 1) % self.slots] != _RUNNING

    def sample(self, count: int, rng: np.random.Generator) -> Batch:
        """Draws transitions uniformly, with replacement.

        Raises:
            ValueError: the replay holds no transition yet.
        """
        if not len(self):
            raise ValueError("cannot sample from an empty replay")
        slot, stream = np.divmod(rng.integers(len(self), size=count), self.streams)
        slot += self.tail
        start = (slot % self.slots) * self.streams + stream
        end = slot + self._lengths[start]
        final = self._final_of[((end - 1) % self.slots) * self.streams + stream]
        s_t = self._observations.index_select(
            0, torch.from_numpy((end % self.slots) * self.streams + stream)
        )
        (cut,) = np.nonzero(final >= 0)
        if cut.size:
            s_t[torch.from_numpy(cut)] = self._finals[
                torch.from_numpy(final[cut] % len(self._finals))
            ]
        index = torch.from_numpy(start)
        return Batch(
            self._observations.index_select(0, index),
            self._actions.index_select(0, index),
            self._returns.index_select(0, index),
            self._discounts.index_select(0, index),
            s_t,
        )

    def read(self, first: int, last: int) -> Steps:
        """Returns the steps in slots [first, last), counted from the beginning of the run."""
        if not self.tail <= first <= last <= self.head:
            raise ValueError(
                f"slots {first}..{last} of a replay that holds {self.tail}..{self.head}"
            )
        rows = np.arange(first, last) % self.slots
        flat = self._flat(rows)
        size = (last - first, self.streams)
        final = self._final_of[flat]
        places = torch.from_numpy(final[final >= 0] % len(self._finals))
        return Steps(
            self._observations[torch.from_numpy(flat)].unflatten(0, size).numpy(),
            self._actions[torch.from_numpy(flat)].unflatten(0, size).numpy(),
            self._rewards[rows],
            self._ends[rows] == _TERMINATED,
            self._ends[rows] == _TRUNCATED,
            self._finals[places].numpy(),
        )

    def restart(self, head: int) -> None:
        """Empties the replay, so that the next step inserted is number `head`."""
        self.head = self.tail = head
        self._first_final = self._next_final = 0
        self._final_of.fill(-1)

    def _flat(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the table [T] to places in the flat tables, int64 [T * B]."""
        return (rows[:, None] * self.streams + np.arange(self.streams)).ravel()

    def _drop(self, tail: int) -> None:
        """Forgets all slots before `tail`, with their final observations."""
        if tail <= self.tail:
            return
        flat = self._flat(np.arange(self.tail, min(tail, self.head)) % self.slots)
        self._first_final += int(np.count_nonzero(self._final_of[flat] >= 0))
        self._final_of[flat] = -1
        self.tail = tail

    def _insert_finals(self, places: np.ndarray, finals: np.ndarray) -> None:
        """Queues the final observations of the steps at `places` in the flat tables."""
        if len(places) != len(finals):
            raise ValueError(f"{len(finals)} final observations for {len(places)} truncated steps")
        numbers = np.arange(self._next_final, self._next_final + len(finals))
        self._next_final += len(finals)
        held = self._next_final - self._first_final
        if held > len(self._finals):
            grown = self._finals.new_empty((2 * held, *self._finals.shape[1:]))
            old = torch.arange(self._first_final, int(self._next_final) - len(finals))
            grown[old % len(grown)] = self._finals[old % len(self._finals)]
            self._finals = grown
        if len(finals):
            self._finals[torch.from_numpy(numbers % len(self._finals))] = torch.from_numpy(finals)
            self._final_of[places] = numbers

    def _complete(self, first: int, last: int) -> None:
        """Computes the transitions from slots [first, last), whose n decisions have been seen."""
        starts = np.arange(first, last)
        size = (last - first, self.streams)
        returns, discounts = np.zeros(size, np.float32), np.ones(size, np.float32)
        lengths, alive = np.zeros(size, self._lengths.dtype), np.ones(size, bool)
        for step in range(self.n_step):
            rows = (starts + step) % self.slots
            returns += np.where(alive, discounts * self._rewards[rows], np.float32(0))
            factor = np.float32(self.discount) * (self._ends[rows] != _TERMINATED)
            discounts = np.where(alive, discounts * factor, discounts)
            lengths += alive
            alive &= self._ends[rows] == _RUNNING
        flat = self._flat(starts % self.slots)
        self._lengths[flat] = lengths.ravel()
        target = torch.from_numpy(flat)
        self._returns[target] = torch.from_numpy(returns.ravel())
        self._discounts[target] = torch.from_numpy(discounts.ravel())


class ReplayStore:
    """Shards of a replay on disk: new steps are added, shards that left the ring are deleted.

    Args:
        folder: folder of the shards, each named after the slots [first, last) that it holds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, replay: Replay, *, since: int) -> None:
        """Writes the steps that the replay holds and that came after slot `since`."""
        first = max(since, replay.tail)
        if first == replay.head:
            return
        steps = replay.read(first, replay.head)
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f.name: getattr(steps, f.name) for f in fields(Steps)}
        # The shard before may have been written when the episodes that end it were still open.
        tensors["parted"] = replay.ended_before(first)
        save_tensors(self.folder / f"{first:010d}-{replay.head:010d}.safetensors", tensors, {})

    def prune(self, oldest: int) -> None:
        """Deletes the shards that hold nothing from slot `oldest` on."""
        for _, last, path in self._shards():
            if last <= oldest:
                path.unlink()

    def load(self, replay: Replay, *, head: int) -> None:
        """Fills a replay as it was when its head stood at `head`.

        Raises:
            CorruptFileError: a shard is damaged, or one is missing.
        """
        needed = max(0, head - replay.slots)
        shards = [shard for shard in self._shards() if needed < shard[1] <= head]
        replay.restart(shards[0][0] if shards else head)
        for first, last, path in shards:
            if first != replay.head:
                raise CorruptFileError(
                    f"{self.folder}: no shard holds steps {replay.head} to {first}"
                )
            tensors, _ = load_tensors(path)
            steps = Steps(**{f.name: tensors[f.name].numpy() for f in fields(Steps)})
            if len(steps.actions) != last - first:
                raise CorruptFileError(f"{path}: {len(steps.actions)} steps, not {last - first}")
            replay.cut(tensors["parted"].numpy())
            for start in range(0, last - first, replay.slots - replay.n_step):
                replay.insert(section(steps, start, start + replay.slots - replay.n_step))
        if replay.head != head or replay.tail > needed:
            raise CorruptFileError(
                f"{self.folder}: holds steps {replay.tail} to {replay.head}, not {needed} to {head}"
            )

    def _shards(self) -> list[tuple[int, int, Path]]:
        """Returns (first slot, slot after the last, path) of every shard, oldest first."""
        shards = []
        for path in sorted(self.folder.glob("*.safetensors")):
            first, _, last = path.stem.partition("-")
            shards.append((int(first), int(last), path))
        return shards
