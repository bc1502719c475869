"""Our vector environments as Stable-Baselines3 wants them, encoded in batches."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from agents.acting import observe, observe_final
from darla.perception import Perception


class LatentVecEnv(VecEnv):
    """Latents instead of frames; both libraries give the next episode's first observation.

    Args:
        vector: Environments in autoreset mode SAME_STEP.
        perception: Encodes the frames of all of them at once.
    """

    def __init__(self, vector: VectorEnv, perception: Perception) -> None:
        """Describes the latents to Stable-Baselines3."""
        space = gymnasium.spaces.Box(-np.inf, np.inf, perception.shape, np.float32)
        super().__init__(vector.num_envs, space, vector.single_action_space)
        self._vector, self._perception = vector, perception
        self._actions = np.zeros(vector.num_envs, np.int64)

    def reset(self) -> np.ndarray:
        """Starts an episode everywhere; returns float32 [B, D]."""
        return observe(self._perception, *self._vector.reset())

    def step_async(self, actions: np.ndarray) -> None:
        """Takes the actions of the next step, int64 [B]."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Latents, rewards, ends and, where an episode ended, its last latents."""
        frames, rewards, terminated, truncated, info = self._vector.step(self._actions)
        ended = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ended.any():
            last = observe_final(self._perception, info, ended)
            for row, index in enumerate(np.flatnonzero(ended)):
                cut = bool(truncated[index] and not terminated[index])
                infos[index] = {"terminal_observation": last[row], "TimeLimit.truncated": cut}
        latents = observe(self._perception, frames, info)
        return latents, rewards.astype(np.float32), ended, infos

    def close(self) -> None:
        """Closes the environments."""
        self._vector.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the whole vector, once per environment."""
        return [getattr(self._vector, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Environments of one vector have no attributes of their own."""
        raise NotImplementedError("environments of one vector have no attributes of their own")

    def env_method(self, method_name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Environments of one vector have no methods of their own."""
        raise NotImplementedError("environments of one vector have no methods of their own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No environment is wrapped."""
        return [False] * self.num_envs
