"""Our vector environments for Stable-Baselines3, which comes with the extra `peers`."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from agents.wrappers import VectorLatentObservation
from darla.perception import Perception
from envs import check_autoreset


class LatentVecEnv(VecEnv):
    """Latents of a vector environment, encoded in batches, as a Stable-Baselines3 `VecEnv`.

    Both libraries give the next episode's first observation where one ends.

    Args:
        vector: Environments in autoreset mode SAME_STEP, such as `envs.make_vector` returns.
        perception: What encodes their observations, such as `perception_from_run(path)`.

    Raises:
        ConfigError: The perception cannot read the environments' observations, or the vector is in
            another autoreset mode.
    """

    def __init__(self, vector: VectorEnv, perception: Perception) -> None:
        check_autoreset(vector)
        self._vector = VectorLatentObservation(vector, perception)
        super().__init__(
            vector.num_envs, self._vector.single_observation_space, vector.single_action_space
        )
        self._actions = np.zeros(vector.num_envs, np.int64)

    def reset(self) -> np.ndarray:
        """Starts an episode everywhere, from the last `seed` if one was given.

        Returns:
            float32 [B, D].
        """
        latents, _ = self._vector.reset(seed=self._seeds[0])
        self._reset_seeds()
        return latents

    def step_async(self, actions: np.ndarray) -> None:
        """Takes the actions of the next step, int64 [B]."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Latents, rewards, ends and, where an episode ended, its last latents."""
        latents, rewards, terminated, truncated, info = self._vector.step(self._actions)
        ended = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for index in np.flatnonzero(ended):
            infos[index] = {
                "terminal_observation": info["final_obs"][index],
                "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
            }
        return latents, rewards.astype(np.float32), ended, infos

    def close(self) -> None:
        """Closes the environments."""
        self._vector.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the whole vector, once per environment that is asked for."""
        return [getattr(self._vector, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Environments of one vector have no attributes of their own."""
        raise NotImplementedError("environments of one vector have no attributes of their own")

    def env_method(self, method_name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Environments of one vector have no methods of their own."""
        raise NotImplementedError("environments of one vector have no methods of their own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No environment is wrapped."""
        return [False] * len(list(self._get_indices(indices)))
