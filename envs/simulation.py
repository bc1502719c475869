"""What the simulated worlds share: a state of `n` sub-environments, and its two Gymnasium forms.

A `Simulation` holds state and rules; `SimulationEnv` shows one sub-environment of it, and
`SimulationVectorEnv` all of them in one process. The vector keeps the contract of
`envs.make_vector`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.domains import Domain, World, check_domains


class Simulation(ABC):
    """The state and the rules of `n` sub-environments at once, without pictures.

    Arrays are indexed by sub-environment first. Nothing of an episode depends on earlier actions:
    its domain and layout follow from (seed, stream, episode number) alone, where the stream is the
    index of the sub-environment.

    Args:
        world: The world that all domains must be of.
        domains: Domains of which each episode draws one uniformly.
        n: Number of sub-environments.
        frame_skip: Simulation frames per decision.
        streams: Stream numbers of the sub-environments; None: 0 to n - 1.

    Attributes:
        seed: First part of what every episode follows from.
        episode: Number of the present episode, int64 [n]; -1 before the first.
        domain: Index into `domains` of the present episode, int64 [n].

    Raises:
        DomainError: There are no domains, or one is of another world.
    """

    #: Arrays that change, by attribute; what `state_dict` saves.
    arrays: ClassVar[tuple[str, ...]]
    #: How an episode of the task itself starts.
    start: ClassVar[str]
    #: Simulation frames per second.
    fps: ClassVar[float]

    def __init__(
        self,
        world: World,
        domains: Sequence[Domain],
        n: int,
        frame_skip: int,
        streams: Sequence[int] | None = None,
    ) -> None:
        self.domains = check_domains(world, domains)
        self.n = n
        self.frame_skip = frame_skip
        self.streams = np.arange(n) if streams is None else np.asarray(streams)
        self.seed = 0
        self.episode = np.full(n, -1)
        self.domain = np.zeros(n, np.int64)

    def next_episode(self, i: int) -> np.random.Generator:
        """Counts an episode of sub-environment `i`, and draws its domain.

        Returns:
            The source of all else that the episode draws.
        """
        self.episode[i] += 1
        rng = np.random.default_rng([self.seed, int(self.streams[i]), int(self.episode[i])])
        self.domain[i] = rng.integers(len(self.domains))
        return rng

    def start_of(self, options: Mapping[str, Any]) -> str:
        """How the episodes start that `options` of a reset ask for; raises ValueError."""
        start = options.get("start", self.start)
        if start not in (self.start, "anywhere"):
            raise ValueError(
                f"options['start'] is {start!r}, allowed is '{self.start}' or 'anywhere'"
            )
        return start

    @abstractmethod
    def begin(self, i: int, start: str) -> None:
        """Starts the next episode of sub-environment `i`.

        Args:
            i: Index of the sub-environment.
            start: `Simulation.start`, the task's own; or `anywhere`, for exploration.
        """

    @abstractmethod
    def advance(self, i: int, action: Any) -> tuple[float, bool, bool]:
        """Lets sub-environment `i` live through one decision.

        Returns:
            Reward, terminated, truncated.
        """

    @abstractmethod
    def info(self) -> dict[str, np.ndarray]:
        """What the environments tell beside the picture, arrays [n, ...]; `domain` and `state`."""

    @abstractmethod
    def draw(self, i: int, renderer: Any, out: np.ndarray) -> None:
        """Draws what is seen in sub-environment `i` into `out`, uint8 [size, size, 3]."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Where every episode stands, as arrays."""
        return {
            **{name: getattr(self, name).copy() for name in ("episode", "domain", *self.arrays)},
            "seed": np.array(self.seed),
        }

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        """Restores what `state_dict` gave."""
        self.seed = int(arrays["seed"])
        for name in ("episode", "domain", *self.arrays):
            getattr(self, name)[...] = arrays[name]


def observation_space(size: int) -> gymnasium.spaces.Box:
    """Pictures uint8 [size, size, 3]."""
    return gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)


def check_seeded(seed: int | None, chosen: np.ndarray) -> None:
    """Raises ValueError where a new seed is given for some sub-environments only."""
    if seed is not None and not np.all(chosen):
        raise ValueError(
            "a seed is that of all sub-environments; reset some of them (reset_mask) without one"
        )


def check_begun(episode: np.ndarray, stepped: np.ndarray) -> None:
    """Raises ResetNeeded where a sub-environment is to be stepped that no reset has begun.

    Args:
        episode: Number of the present episode, int64 [n]; -1 before the first.
        stepped: Which are to be stepped, bool [n].
    """
    waiting = np.flatnonzero(stepped & (episode < 0)).tolist()
    if waiting:
        raise ResetNeeded(
            f"no episode has begun in the sub-environments {waiting}; call reset() before step()"
        )


def decisions_per_second(frames_per_second: float, frame_skip: int) -> float:
    """What `metadata["render_fps"]` says where a decision lasts some frames; an int if whole."""
    rate = frames_per_second / frame_skip
    return int(rate) if rate.is_integer() else rate


class SimulationEnv(gymnasium.Env[np.ndarray, Any]):
    """One sub-environment of a simulation.

    `info` holds what `Simulation.info` tells of it, and `factors`, the values of its domain.
    `metadata["render_fps"]` is decisions per second.

    Args:
        simulation: With n = 1.
        action_space: What it takes.
        renderer: Draws it.
        size: Height and width of an observation in pixels.
        render_mode: None or 'rgb_array'.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        simulation: Simulation,
        action_space: gymnasium.Space,
        renderer: Any,
        size: int,
        render_mode: str | None,
    ) -> None:
        rate = decisions_per_second(simulation.fps, simulation.frame_skip)
        self.metadata = {**self.metadata, "render_fps": rate}
        self.render_mode = render_mode
        self.observation_space = observation_space(size)
        self.action_space = action_space
        self.simulation = simulation
        self._renderer = renderer

    def _frame(self) -> np.ndarray:
        out = np.empty(self.observation_space.shape or (), np.uint8)
        self.simulation.draw(0, self._renderer, out)
        return out

    def _info(self) -> dict[str, Any]:
        simulation = self.simulation
        factors = simulation.domains[simulation.domain[0]].factors
        return {**{key: each[0] for key, each in simulation.info().items()}, "factors": factors}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Starts a new sequence of episodes; without it the next of the sequence begins.
            options: `start`: the task's own (default) or 'anywhere'; `stream`: number of the
                sequence under the same seed, equal to that sub-environment of the vector form, to
                be given with a seed only.

        Returns:
            Observation and info.
        """
        options, simulation = options or {}, self.simulation
        start = simulation.start_of(options)
        if "stream" in options and seed is None:
            raise ValueError(
                f"options['stream'] is {options['stream']!r} without a seed, of which it is one of "
                "the sequences; give both: reset(seed=..., options={'stream': ...})"
            )
        fresh = simulation.episode[0] < 0 and seed is None
        super().reset(seed=seed)
        if seed is not None or fresh:
            simulation.seed = int(self.np_random.integers(2**31)) if seed is None else seed
            simulation.episode[0] = -1
            simulation.streams[0] = options.get("stream", 0)
        simulation.begin(0, start)
        return self._frame(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One decision; see the class.

        Raises:
            ResetNeeded: `reset` was never called.
        """
        check_begun(self.simulation.episode, np.ones(1, bool))
        reward, terminated, truncated = self.simulation.advance(0, action)
        return self._frame(), reward, terminated, truncated, self._info()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The current picture in render mode 'rgb_array'."""
        return self._frame() if self.render_mode == "rgb_array" else None


class SimulationVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """All sub-environments of a simulation in one process; they share one GL context.

    Autoreset mode is SAME_STEP: the observation of a step that ends an episode is the first of the
    next one, and the ended episode's last is in `info["final_obs"]` where `info["_final_obs"]`.
    Every transition is a true one.

    `info` holds the arrays of `Simulation.info`; after an end also `final_obs` uint8 [n, size,
    size, 3] and `final_info`, the same arrays as they were at the end. `metadata["render_fps"]` is
    decisions per second.

    Args:
        simulation: State and rules.
        action_space: What one sub-environment takes.
        renderer: Draws; None leaves observations black and needs no OpenGL.
        size: Height and width of an observation in pixels.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}

    def __init__(
        self, simulation: Simulation, action_space: gymnasium.Space, renderer: Any, size: int
    ) -> None:
        rate = decisions_per_second(simulation.fps, simulation.frame_skip)
        self.metadata = {**self.metadata, "render_fps": rate}
        self.num_envs = simulation.n
        self.single_observation_space = observation_space(size)
        self.single_action_space = action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self.simulation = simulation
        self._start = simulation.start
        self._renderer = renderer
        self._shape = (self.num_envs, size, size, 3)
        self._retired = np.zeros(self.num_envs, bool)

    def _frames(self) -> np.ndarray:
        if self._renderer is None:
            return np.broadcast_to(np.zeros((), np.uint8), self._shape)
        out = np.zeros(self._shape, np.uint8)
        for i in np.flatnonzero(~self._retired).tolist():
            self.simulation.draw(i, self._renderer, out[i])
        return out

    def retire(self, which: np.ndarray) -> None:
        """Lets sub-environments stand still until they are reset.

        They are not stepped or drawn: rewards are 0, pictures black, and no episode ends.

        Args:
            which: bool [n].
        """
        self._retired |= which

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in every sub-environment, or in those of `options["reset_mask"]`.

        Args:
            seed: One seed for all (each is a stream of its own), not to be given with a mask.
            options: `start`: the task's own (default) or 'anywhere', kept for automatic resets;
                `reset_mask`: bool [n].

        Returns:
            Observations and info.
        """
        options = options or {}
        if isinstance(seed, list):
            raise ValueError(
                f"{type(self).__name__} takes one seed, an int; its sub-environments are streams"
                " of that seed"
            )
        start = self.simulation.start_of(options)
        chosen = options.get("reset_mask", np.ones(self.num_envs, bool))
        check_seeded(seed, chosen)
        if seed is not None:
            self.simulation.seed = seed
            self.simulation.episode[:] = -1
        self._start = start
        self._retired &= ~chosen
        for index in np.flatnonzero(chosen):
            self.simulation.begin(int(index), self._start)
        return self._frames(), self.simulation.info()

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One decision in every sub-environment; see the class.

        Raises:
            ResetNeeded: One that is not retired was never reset.
        """
        n, simulation = self.num_envs, self.simulation
        check_begun(simulation.episode, ~self._retired)
        rewards = np.zeros(n)
        terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
        actions = np.asarray(actions)
        for i in np.flatnonzero(~self._retired).tolist():
            rewards[i], terminated[i], truncated[i] = simulation.advance(i, actions[i])
        ended = terminated | truncated
        final: dict[str, Any] = {}
        if ended.any():
            frames = np.zeros(self._shape, np.uint8)
            if self._renderer is not None:
                for index in np.flatnonzero(ended):
                    simulation.draw(int(index), self._renderer, frames[index])
            final = {
                "final_obs": frames,
                "_final_obs": ended,
                "final_info": simulation.info(),
                "_final_info": ended,
            }
            for index in np.flatnonzero(ended):
                simulation.begin(int(index), self._start)
        return self._frames(), rewards, terminated, truncated, {**simulation.info(), **final}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that changes, as arrays, for exact continuation.

        `Simulation.state_dict`; `anywhere`, bool [], whether automatic resets start anywhere; and
        `retired`, bool [n].
        """
        return {
            **self.simulation.state_dict(),
            "anywhere": np.array(self._start == "anywhere"),
            "retired": self._retired.copy(),
        }

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        """Restores what `state_dict` gave; the next `step` goes on from there.

        States of an earlier version lack `anywhere` and `retired`, which then stay as they are.
        """
        self.simulation.load_state_dict(arrays)
        if "anywhere" in arrays:
            self._start = "anywhere" if arrays["anywhere"] else self.simulation.start
        if "retired" in arrays:
            self._retired[:] = arrays["retired"]
