"""Vectors of single Gymnasium environments: how a world that was not written for DARLA comes in.

    register(Simulator("my/World-v0", vector_of(make, WORLD), suites))

where `make` gives the environment of a domain; docs/your_own_domain.md has a whole example.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from darla.errors import ConfigError
from envs.domains import Domain, World, check_domains
from envs.registry import VectorMaker
from envs.simulation import check_begun, check_seeded

#: Exclusive upper bound of the seeds that environments are reset with: what fits a C int.
SEEDS = 2**31


class EnvMaker(Protocol):
    """Makes the environment of a domain; a class that takes these arguments is one."""

    def __call__(self, domain: Domain, *, size: int, frame_skip: int) -> gymnasium.Env:
        """Returns an environment with observations uint8 [size, size, 3] of this domain.

        Its actions are Discrete or MultiDiscrete, counted from 0, and last `frame_skip` frames.
        """
        ...


def vector_of(make: EnvMaker, world: World) -> VectorMaker:
    """Returns what `envs.registry.Simulator` asks for: a maker of `SingleVectorEnv`."""
    return functools.partial(SingleVectorEnv, make, world)


def draw_episode(seed: int, i: int, episode: int, domains: int) -> tuple[int, int]:
    """What an episode of a `SingleVectorEnv` follows from.

    Args:
        seed: Seed of the vector, from 0.
        i: Index of the sub-environment.
        episode: Number of its episode, from 0.
        domains: Number of domains.

    Returns:
        The number of the domain, drawn uniformly, and the seed that its environment is reset with,
        in [0, SEEDS).
    """
    rng = np.random.default_rng([seed, i, episode])
    return int(rng.integers(domains)), int(rng.integers(SEEDS))


class SingleVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Single environments stepped one after the other, with the contract of `envs.make_vector`.

    A sub-environment keeps one environment per domain, made when it is first drawn. An environment
    that has a method `set_domain(domain)` is kept alone and told the domain before each reset: for
    environments that are dear to keep.

    Autoreset mode is SAME_STEP. `info` holds `domain`, int64 [n]; `state`, float32 [n, state_size],
    where the world has a ground truth; and whatever numbers and numeric arrays of one shape the
    environments put into theirs. After an end it also holds `final_obs`, uint8 [n, size, size, 3],
    and `final_info` with the same keys. `metadata["render_fps"]`, decisions per second, is that of
    the first environment, where it has one.

    Args:
        make: Makes an environment.
        world: The world of the domains.
        num_envs: Number of sub-environments.
        domains: Domains of which each episode draws one uniformly.
        size: Height and width of an observation in pixels.
        frame_skip: Frames that one decision lasts; `make` gets it.
        seed: Seed until `reset(seed=...)` gives another.
        render: Changes nothing: a single environment draws when it steps.

    Raises:
        DomainError: There is no domain, or one is of another world.
        ConfigError: Observations, actions or the ground truth are not as they must be.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}

    def __init__(
        self,
        make: EnvMaker,
        world: World,
        num_envs: int,
        domains: Sequence[Domain],
        *,
        size: int = 64,
        frame_skip: int = 1,
        seed: int = 0,
        render: bool = True,
    ) -> None:
        self._made: list[dict[int, gymnasium.Env]] = [{} for _ in range(num_envs)]
        self.num_envs, self.world = num_envs, world
        self.domains = check_domains(world, domains)
        self._make, self._size, self._frame_skip = make, size, frame_skip
        self._running: list[gymnasium.Env] = []
        self._running = [self._environment(0, 0)] * num_envs
        fps = self._running[0].metadata.get("render_fps")
        self.metadata = {**self.metadata, **({} if fps is None else {"render_fps": fps})}
        self.single_observation_space = self._running[0].observation_space
        self.single_action_space = self._running[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seed = seed
        self._options: dict[str, Any] = {}
        self._begun_with: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        self._episode = np.full(num_envs, -1)
        self._domain = np.zeros(num_envs, np.int64)
        self._actions: list[list[np.ndarray]] = [[] for _ in range(num_envs)]
        self._frames = np.zeros((num_envs, size, size, 3), np.uint8)
        self._infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        self._retired = np.zeros(num_envs, bool)

    def retire(self, which: np.ndarray) -> None:
        """Lets sub-environments stand still until they are reset.

        They are not stepped: rewards are 0, pictures black, and no episode ends.

        Args:
            which: bool [n].
        """
        self._retired |= which
        self._frames[which] = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in every sub-environment, or in those of `options["reset_mask"]`.

        Args:
            seed: One seed for all, not to be given with a mask; without it the next episodes of the
                sequence begin.
            options: `reset_mask`: bool [n]; the rest goes to the environments, in automatic resets
                too.

        Returns:
            Observations and info.
        """
        if isinstance(seed, list):
            raise ValueError("SingleVectorEnv takes one seed, an int, for all its environments")
        options = dict(options or {})
        chosen = options.pop("reset_mask", np.ones(self.num_envs, bool))
        check_seeded(seed, chosen)
        if seed is not None:
            self._seed = seed
            self._episode[:] = -1
        self._options = options
        self._retired &= ~chosen
        for i in np.flatnonzero(chosen):
            self._begin(int(i), options)
        return self._frames.copy(), self._info()

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One decision in every sub-environment; see the class.

        Raises:
            ResetNeeded: One that is not retired was never reset.
        """
        check_begun(self._episode, ~self._retired)
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        actions = np.asarray(actions)
        for i in np.flatnonzero(~self._retired).tolist():
            rewards[i], terminated[i], truncated[i] = self._advance(i, actions[i])
        ended = terminated | truncated
        final: dict[str, Any] = {}
        if ended.any():
            final = {
                "final_obs": self._frames.copy(),
                "_final_obs": ended,
                "final_info": self._info(),
                "_final_info": ended,
            }
            for index in np.flatnonzero(ended):
                self._begin(int(index), self._options)
        return self._frames.copy(), rewards, terminated, truncated, {**self._info(), **final}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Where each episode stands, as arrays, for continuation.

        Returns:
            `seed`, int64 []; `episode`, int64 [n], its number, -1 before the first; `steps`, int64
            [n], and `actions`, int64 [n, most steps, ...], since it began; `retired`, bool [n]; and
            `options`, uint8 [k], the options of the last reset and those that each episode began
            with, as JSON.

        Raises:
            ValueError: JSON cannot hold the options.
        """
        steps = np.array([len(own) for own in self._actions])
        shape = self.single_action_space.shape or ()
        actions = np.zeros((self.num_envs, steps.max(), *shape), np.int64)
        for i, own in enumerate(self._actions):
            actions[i, : len(own)] = np.reshape(own, (len(own), *shape))
        return {
            "seed": np.array(self._seed),
            "episode": self._episode.copy(),
            "steps": steps,
            "actions": actions,
            "retired": self._retired.copy(),
            "options": _written([self._options, *self._begun_with]),
        }

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        """Goes to where `state_dict` was: resets the same episodes and repeats their actions.

        Exact for environments whose episodes follow from seed, options and actions alone. States
        of an earlier version lack `options` and `retired`, which then stay as they are.
        """
        self._seed = int(arrays["seed"])
        begun_with = [self._options] * self.num_envs
        if "options" in arrays:
            self._options, *begun_with = json.loads(arrays["options"].tobytes())
        for i, episode in enumerate(arrays["episode"].tolist()):
            self._episode[i], self._actions[i] = max(episode - 1, -1), []
            if episode < 0:
                continue
            self._begin(i, begun_with[i])
            for action in arrays["actions"][i, : arrays["steps"][i]]:
                _, terminated, truncated = self._advance(i, action)
                if terminated or truncated:
                    self._begin(i, self._options)
                    break
        if "retired" in arrays:
            self._retired[:] = arrays["retired"]
            self._frames[self._retired] = 0

    def close_extras(self, **kwargs: Any) -> None:
        """Closes all environments."""
        for own in self._made:
            for environment in own.values():
                environment.close()

    def _environment(self, i: int, number: int) -> gymnasium.Env:
        """The environment of a sub-environment in a domain, made where it is not there yet."""
        own = self._made[i]
        for environment in own.values():
            if hasattr(environment.unwrapped, "set_domain"):
                environment.unwrapped.set_domain(self.domains[number])
                return environment
        if number not in own:
            domain = self.domains[number]
            own[number] = self._make(domain, size=self._size, frame_skip=self._frame_skip)
            _check_spaces(own[number], domain, self._size)
            actions = own[number].action_space
            if self._running and actions != self.single_action_space:
                raise ConfigError(
                    f"the environment of domain '{domain}' takes actions {actions}, that of "
                    f"'{self.domains[0]}' {self.single_action_space}; a policy needs the same in "
                    "every domain"
                )
        return own[number]

    def _begin(self, i: int, options: dict[str, Any]) -> None:
        self._episode[i] += 1
        self._begun_with[i] = options
        number, seed = draw_episode(self._seed, i, int(self._episode[i]), len(self.domains))
        self._domain[i] = number
        self._running[i] = self._environment(i, number)
        self._actions[i] = []
        frame, info = self._running[i].reset(seed=seed, options=dict(options))
        self._frames[i], self._infos[i] = frame, info
        if self.world.state_size:
            self._check_state(i)

    def _advance(self, i: int, action: np.ndarray) -> tuple[float, bool, bool]:
        frame, reward, terminated, truncated, info = self._running[i].step(action)
        self._actions[i].append(action)
        self._frames[i], self._infos[i] = frame, info
        if self.world.state_size:
            self._check_state(i)
        return float(reward), bool(terminated), bool(truncated)

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"domain": self._domain.copy()}
        for key in set().union(*self._infos) - info.keys():
            values = [_array(own.get(key)) for own in self._infos]
            told = [value for value in values if value is not None]
            if len({value.shape for value in told}) == 1 and all(
                value.dtype.kind in "biuf" for value in told
            ):
                nothing = np.zeros_like(told[0])
                info[key] = np.stack([nothing if v is None else v for v in values])
        if self.world.state_size:
            info["state"] = info["state"].astype(np.float32)
        return info

    def _check_state(self, i: int) -> None:
        """Raises ConfigError where `info["state"]` is not what the world promises."""
        shape = np.asarray(self._infos[i].get("state")).shape
        if shape != (self.world.state_size,):
            raise ConfigError(
                f"domain '{self.domains[self._domain[i]]}': info['state'] has the shape "
                f"{list(shape)}, world '{self.world.name}' promises [{self.world.state_size}]; "
                "give it in `reset` and `step`, or leave state_size out of the world"
            )


def _written(options: list[dict[str, Any]]) -> np.ndarray:
    """Options as JSON, uint8 [k]; raises ValueError where they would not come back the same."""
    try:
        text = json.dumps(options)
        same = json.loads(text) == options
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"the options of a reset are {options}; a state can keep only what JSON gives back: "
            "text, numbers, true and false, None, and lists and dicts (by text) of these"
        )
    return np.frombuffer(text.encode(), np.uint8).copy()


def _array(value: Any) -> np.ndarray | None:
    """What an environment tells as an array; None where it tells nothing, or a ragged list."""
    if value is None:
        return None
    try:
        return np.asarray(value)
    except ValueError:
        return None


def _check_spaces(environment: gymnasium.Env, domain: Domain, size: int) -> None:
    """Raises ConfigError where observations or actions are not what the three stages read."""
    frames: Any = environment.observation_space
    actions: Any = environment.action_space
    pictures = isinstance(frames, Box) and frames.dtype == np.uint8
    if not pictures or frames.shape != (size, size, 3):
        raise ConfigError(
            f"the environment of domain '{domain}' observes {frames}; allowed is a Box of uint8 "
            f"[{size}, {size}, 3], as environment.size={size} asks: let `make` draw or resize to it"
        )
    one = isinstance(actions, Discrete) and actions.start == 0
    several = isinstance(actions, MultiDiscrete) and actions.nvec.ndim == 1
    if not one and not (several and not np.any(actions.start)):
        raise ConfigError(
            f"the environment of domain '{domain}' takes actions {actions}; allowed are Discrete "
            "and MultiDiscrete, counted from 0: let `make` wrap it"
        )
