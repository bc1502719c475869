"""Policies: what acts in training, evaluation, scoring and replays alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete

from darla.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from darla.perception import Perception


@dataclass(frozen=True)
class Actions:
    """What can be done in one decision: one choice, or several at once.

    Attributes:
        choices: number of options of every choice, such as (8,), or (5,) * 9 for nine joints.
        vector: whether an action is a vector int64 [len(choices)]; else it is a number.
    """

    choices: tuple[int, ...]
    vector: bool = False

    @classmethod
    def of(cls, space: gymnasium.Space) -> Self:
        """Describes the action space of one environment.

        Raises:
            ConfigError: it is neither Discrete nor MultiDiscrete, counted from 0.
        """
        if isinstance(space, Discrete) and space.start == 0:
            return cls((int(space.n),))
        if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
            return cls(tuple(int(n) for n in space.nvec), vector=True)
        raise ConfigError(
            f"the environment's actions are {space}; the algorithms here take Discrete and "
            "MultiDiscrete, counted from 0"
        )

    def count(self, algorithm: str) -> int:
        """Returns the number of actions, for an algorithm that makes one choice only.

        Raises:
            ConfigError: there are several choices.
        """
        if self.vector:
            asked = f"{len(self.choices)} choices at once"
            if len(self.choices) == 1:
                asked = f"a vector of one; let it take Discrete({self.choices[0]}), or"
            raise ConfigError(
                f"{algorithm} makes one choice among discrete actions, the environment asks for "
                f"{asked}; type agents.algorithms=[a3c]"
            )
        return self.choices[0]

    def sample(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """Draws uniformly: int64 [batch], or [batch, len(choices)] where actions are vectors."""
        if not self.vector:
            return rng.integers(self.choices[0], size=batch)
        return rng.integers(self.choices, size=(batch, len(self.choices)))


class Policy(ABC):
    """Maps observations to actions, with a share of random ones.

    A recurrent policy has a memory, which the caller keeps, and sets to zero where an episode ends.

    Args:
        actions: what can be done.
        perception_fingerprint: fingerprint of the perception that it is trained on.

    Attributes:
        algorithm: its name.
        preference: what `preferences` returns, 'action value' or 'probability'.
        stochastic: whether `choose` draws numbers.
        memory_size: numbers that it remembers from one decision to the next; 0 for most policies.
    """

    algorithm: ClassVar[str]
    preference: ClassVar[str]
    stochastic: ClassVar[bool] = False
    memory_size: int = 0

    def __init__(self, actions: Actions, perception_fingerprint: str) -> None:
        self.actions = actions
        self.perception_fingerprint = perception_fingerprint

    def start(self, batch: int) -> np.ndarray:
        """Returns the memory at the start of an episode, float32 [batch, memory_size] of zeros."""
        return np.zeros((batch, self.memory_size), np.float32)

    def act(
        self,
        observations: np.ndarray,
        memory: np.ndarray,
        *,
        epsilon: float,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Chooses one action per row.

        The generator advances equally whatever epsilon is, so that paired comparisons stay paired.

        Args:
            observations: float32 [B, D], or uint8 [B, H, W, C] for a policy on frames.
            memory: float32 [B, memory_size], from `start` or from the decision before.
            epsilon: share of uniformly random actions, in [0, 1].
            rng: source of the exploration.

        Returns:
            Actions, int64 [B] or [B, J], and the memory after this decision.
        """
        explore = rng.random(len(observations)) < epsilon
        random = self.actions.sample(rng, len(observations))
        if explore.all() and not self.memory_size and not self.stochastic:
            return random, memory
        chosen, memory = self.choose(observations, memory, rng)
        return np.where(
            explore[:, None] if self.actions.vector else explore, random, chosen
        ), memory

    @abstractmethod
    def choose(
        self, observations: np.ndarray, memory: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Chooses without epsilon; arguments and result as in `act`."""

    @abstractmethod
    def preferences(self, observations: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """Returns what it chooses by: action values or probabilities, float32 [B, options]."""

    @abstractmethod
    def update(self, message: Any) -> None:
        """Takes over what a learner has learned; a message that came before changes nothing."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Returns what `restore` needs beside the tensors, as JSON values."""

    @abstractmethod
    def tensors(self) -> Mapping[str, torch.Tensor | np.ndarray]:
        """Returns everything that was learned."""

    @classmethod
    @abstractmethod
    def restore(
        cls,
        actions: Actions,
        perception_fingerprint: str,
        settings: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
    ) -> Self:
        """Makes an equal policy from what `settings` and `tensors` returned.

        Raises:
            KeyError, ValueError: they are of no policy of this class.
        """

    def check(self, perception: Perception) -> None:
        """Refuses a perception that the policy was not trained on.

        Raises:
            FingerprintError: the fingerprints differ.
        """
        perception.check(self.perception_fingerprint, "policy")
