"""Who collects the frames of stage 1: the explorer, a random policy, or one that was trained.

A policy that acts on a first vision shows what acting needs to see. Its run's vision is what it
sees through; the frames are for a new one, from which the next policy may collect, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from agents.acting import observe
from agents.algorithms import POLICY_FILE, load_policy
from agents.cells import cell_named, perception_of
from agents.policy import Actions, Policy
from darla.config import Config
from darla.errors import ConfigError
from darla.perception import Perception
from darla.rundir import RunDirectory
from envs.collect import STRIDE, MakeWalker, Walker, make_explorer, make_random

_BY_NAME: dict[str, MakeWalker] = {"explorer": make_explorer, "random": make_random}


class PolicyWalker:
    """Acts as a policy does, with random actions among its own; see `envs.collect.Walker`.

    Args:
        policy: what acts.
        perception: what it sees through.
        epsilon: share of random actions, in [0, 1].
        n: number of environments.
        rng: source of exploration.
    """

    anywhere, stride = False, STRIDE

    def __init__(
        self,
        policy: Policy,
        perception: Perception,
        epsilon: float,
        n: int,
        rng: np.random.Generator,
    ) -> None:
        self._policy, self._perception = policy, perception
        self._epsilon, self._rng = epsilon, rng
        self._memory = policy.start(n)

    def act(self, frames: np.ndarray, info: dict[str, Any], ended: np.ndarray) -> np.ndarray:
        """See `envs.collect.Walker`."""
        memory = np.where(ended[:, None], np.float32(0), self._memory)
        observations = observe(self._perception, frames, info)
        actions, self._memory = self._policy.act(
            observations, memory, epsilon=self._epsilon, rng=self._rng
        )
        return actions


@dataclass(frozen=True)
class MakePolicyWalker:
    """Makes walkers that act as a policy does; picklable, so that Ray can send it to workers."""

    policy: Policy
    perception: Perception
    epsilon: float

    def __call__(self, vector: VectorEnv, rng: np.random.Generator) -> Walker:
        """Returns the walker of a vector environment."""
        actions = Actions.of(vector.single_action_space)
        if actions != self.policy.actions:
            raise ConfigError(
                f"frames.policy acts with {self.policy.actions}, the world takes {actions}"
            )
        return PolicyWalker(self.policy, self.perception, self.epsilon, vector.num_envs, rng)


def walker_of(config: Config) -> tuple[MakeWalker, list[Path]]:
    """Returns who collects the frames of a configuration, and the files that it was read from.

    Raises:
        ConfigError: `frames.policy` is no policy, or one of another world or resolution.
        RunDirectoryError, MissingFileError: its run is not there, or it is not trained to its end.
        CorruptFileError, FingerprintError: its files are damaged, or its vision has changed since.
    """
    given = config.frames.policy
    if given in _BY_NAME:
        return _BY_NAME[given], []
    place, _, cell_id = given.rpartition("/")
    if not place:
        names = ", ".join(f"'{name}'" for name in _BY_NAME)
        raise ConfigError(
            f"frames.policy is '{given}'; allowed are {names}, or RUN/CELL, such as "
            "runs/lab-quick/dqn-darla-s0"
        )
    run = RunDirectory.load(place)
    theirs = run.config
    for name in ("id", "size", "frame_skip"):
        ours, other = getattr(config.environment, name), getattr(theirs.environment, name)
        if ours != other:
            raise ConfigError(
                f"frames.policy '{given}' has environment.{name}={other}, this configuration {ours}"
            )
    cell = cell_named(theirs, cell_id)
    policy, perception = load_policy(run, cell), perception_of(run, cell.perception, cell.seed)
    policy.check(perception)
    files = [run.agent(cell.id) / POLICY_FILE]
    return MakePolicyWalker(policy, perception, config.frames.epsilon), files
