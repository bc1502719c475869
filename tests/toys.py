"""A game that every algorithm must master in seconds, with the contract of `envs.make_vector`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from darla.perception import Perception

COLUMNS = 5
ROWS = 6
PIXELS = 16
BALL = ((255, 255, 0), (0, 255, 255))


class Catch(VectorEnv):
    """A ball falls; the paddle below must be in its column when it lands (+1), or misses it (-1).

    State: ball column, ball row, paddle column, each in [-1, 1], and the domain. With `limit`, an
    episode is truncated after so many decisions. Its start follows from (seed, i, episode) alone.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    state_size = 4

    def __init__(
        self,
        domains: Sequence[Hashable],
        num_envs: int,
        *,
        seed: int,
        render: bool = True,
        limit: int | None = None,
    ) -> None:
        self.domains, self.num_envs, self.limit, self._render = domains, num_envs, limit, render
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (PIXELS, PIXELS, 3), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seed = seed
        self._episode = np.full(num_envs, -1)
        self._domain, self._ball, self._row, self._paddle = np.zeros((4, num_envs), np.int64)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        if seed is not None:
            self._seed = seed
            self._episode[:] = -1
        for i in range(self.num_envs):
            self._begin(i)
        return self._frames(), self._info()

    def step(self, actions: np.ndarray) -> tuple:
        self._paddle = np.clip(self._paddle + np.asarray(actions) - 1, 0, COLUMNS - 1)
        self._row += 1
        terminated = self._row == ROWS - 1
        truncated = ~terminated & (self._row == self.limit)
        rewards = np.where(terminated, np.where(self._ball == self._paddle, 1.0, -1.0), 0.0)
        ended = terminated | truncated
        final: dict[str, Any] = {}
        if ended.any():
            last = {"state": self._state(), "domain": self._domain.copy()}
            final = {"final_obs": self._frames(), "_final_obs": ended, "final_info": last}
            for i in np.flatnonzero(ended):
                self._begin(int(i))
        return self._frames(), rewards, terminated, truncated, {**self._info(), **final}

    def state_dict(self) -> dict[str, np.ndarray]:
        names = ("_episode", "_domain", "_ball", "_row", "_paddle")
        return {"seed": np.array(self._seed), **{n: getattr(self, n).copy() for n in names}}

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        arrays = dict(arrays)
        self._seed = int(arrays.pop("seed"))
        for name, array in arrays.items():
            setattr(self, name, array.copy())

    def _begin(self, i: int) -> None:
        self._episode[i] += 1
        rng = np.random.default_rng([self._seed, i, int(self._episode[i])])
        self._domain[i] = rng.integers(len(self.domains))
        self._ball[i], self._paddle[i] = rng.integers(COLUMNS, size=2)
        self._row[i] = 0

    def _state(self) -> np.ndarray:
        half = (COLUMNS - 1) / 2
        parts = self._ball / half - 1, self._row / ROWS, self._paddle / half - 1, self._domain
        return np.stack(parts, axis=1).astype(np.float32)

    def _info(self) -> dict[str, Any]:
        return {"domain": self._domain.copy(), "state": self._state()}

    def _frames(self) -> np.ndarray:
        frames = np.zeros((self.num_envs, PIXELS, PIXELS, 3), np.uint8)
        if self._render:
            for i in range(self.num_envs):
                row, ball, paddle = (int(v[i]) for v in (self._row, self._ball, self._paddle))
                frames[i, row * 2 : row * 2 + 3, ball * 3 : ball * 3 + 3] = BALL[
                    self._domain[i] % 2
                ]
                frames[i, -3:, paddle * 3 : paddle * 3 + 3] = 255
        return frames


class NoState(VectorEnv):
    """The same game by an author who did not think of checkpoints."""

    def __init__(self, domains: Sequence[Hashable], num_envs: int, **options: Any) -> None:
        self._inner = Catch(domains, num_envs, **options)
        self.num_envs = num_envs
        self.single_action_space = self._inner.single_action_space
        self.reset, self.step = self._inner.reset, self._inner.step


def toy_perception(name: str = "factors", version: int = 0) -> Perception:
    """`pixels` or `factors` on the toy game; versions differ in their fingerprints only."""
    mark = f"{name}-{version}".ljust(64, "0")
    if name == "pixels":
        return Perception(name, (PIXELS, PIXELS, 3), mark, dtype=np.uint8, frozen=False)
    return Perception(name, (Catch.state_size,), mark, needs="state")
