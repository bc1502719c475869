"""A perception in front of any Gymnasium environment, so that every library can act on latents.

`perception_from_run` reads the frozen vision of a run directory; `LatentObservation` and
`VectorLatentObservation` put it in front of a single and of a vector environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Space
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from agents.acting import observe, observe_final
from agents.cells import perception_of
from darla.config import OWN, PERCEPTION_NAMES, PERCEPTIONS
from darla.errors import ConfigError, did_you_mean
from darla.perception import Perception
from darla.rundir import RunDirectory


def perception_from_run(path: str | Path, name: str = "darla", seed: int = 0) -> Perception:
    """Reads a perception of a run directory, by the directory's own configuration.

    Args:
        path: Run directory, such as `runs/lab-quick`.
        name: Row of the benchmark; see `darla.perception`.
        seed: Seed of the untrained encoder of `random`; the others do not depend on it.

    Raises:
        ConfigError: There is no such perception, or the run's vision is of another kind.
        MissingFileError: There is no run directory, or its vision is not trained yet.
    """
    if not PERCEPTION_NAMES.allows(name):
        raise ConfigError(
            f"unknown perception '{name}'{did_you_mean(name, PERCEPTIONS)}; there are "
            f"{', '.join(PERCEPTIONS)} and {OWN}NAME"
        )
    return perception_of(RunDirectory.load(path), name, seed)


def latent_space(perception: Perception, observations: Space) -> Box:
    """Returns the space of what a perception makes of an environment's observations.

    Args:
        perception: What encodes them.
        observations: Space of one observation of the environment.

    Returns:
        A float32 Box without bounds; for `pixels`, a uint8 Box from 0 to 255.

    Raises:
        ConfigError: The perception reads frames, and these are not uint8 [H, W, 3] of its size.
    """
    if perception.needs == "frames":
        side, shape = perception.size, observations.shape or ()
        frames = observations.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3
        if not frames or (side is not None and shape[:2] != (side, side)):
            wanted = f"[{side or 'H'}, {side or 'W'}, 3]"
            raise ConfigError(
                f"perception '{perception.name}' reads uint8 frames {wanted}, this environment "
                f"gives {observations}; make it with size={side or '...'} or resize its frames"
            )
    if perception.dtype == np.uint8:
        return Box(0, 255, perception.shape, np.uint8)
    return Box(-np.inf, np.inf, perception.shape, np.float32)


class LatentObservation(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Latents instead of the frames of one environment.

    Encodes one frame at a time; `VectorLatentObservation` encodes a batch at a time, which is
    faster.

    Observation:
        float32 [D] for frames uint8 [H, W, 3]. Perception `factors` reads `info["state"]`.

    Args:
        env: The environment.
        perception: What encodes its observations, such as `perception_from_run(path)`.

    Raises:
        ConfigError: The perception cannot read the environment's observations.
    """

    def __init__(self, env: gymnasium.Env, perception: Perception) -> None:
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, perception=perception)
        gymnasium.Wrapper.__init__(self, env)
        self.observation_space = latent_space(perception, env.observation_space)
        self.perception = perception

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; returns its first latents and info."""
        frame, info = self.env.reset(seed=seed, options=options)
        check_state(self.perception, info, ())
        return self._encode(frame, info), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Takes one action; returns latents, reward, terminated, truncated and info."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        return self._encode(frame, info), reward, terminated, truncated, info

    def _encode(self, frame: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        state = {"state": info["state"][None]} if self.perception.needs == "state" else {}
        return observe(self.perception, frame[None], state)[0]


class VectorLatentObservation(VectorWrapper):
    """Latents instead of the frames of a vector environment, encoded as one batch.

    In autoreset mode SAME_STEP the last observations of ended episodes are encoded too:
    `info["final_obs"]` is then float32 [B, D], with zeros where `info["_final_obs"]` is false.

    Observation:
        float32 [B, D] for frames uint8 [B, H, W, 3]. Perception `factors` reads `info["state"]`.

    Args:
        env: The vector environment, in any autoreset mode.
        perception: What encodes its observations, such as `perception_from_run(path)`.

    Raises:
        ConfigError: The perception cannot read the environment's observations.
    """

    def __init__(self, env: VectorEnv, perception: Perception) -> None:
        super().__init__(env)
        self.single_observation_space = latent_space(perception, env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.perception = perception

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode everywhere; returns their first latents and info."""
        frames, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        check_state(self.perception, info, (self.num_envs,))
        return observe(self.perception, frames, info), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Takes one action each; returns latents, rewards, terminated, truncated and info."""
        frames, rewards, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            ended = info["_final_obs"]
            final = np.zeros((self.num_envs, *self.perception.shape), self.perception.dtype)
            final[ended] = observe_final(self.perception, info, ended)
            info = {**info, "final_obs": final}
        return observe(self.perception, frames, info), rewards, terminated, truncated, info


def check_state(perception: Perception, info: dict[str, Any], batch: tuple[int, ...]) -> None:
    """Refuses an environment whose info lacks the ground truth that a perception reads.

    Args:
        perception: What encodes the observations.
        info: Of a reset.
        batch: () for one environment, (B,) for a vector of them.

    Raises:
        ConfigError: `info["state"]` is not there, or of another length.
    """
    if perception.needs == "state":
        wanted = (*batch, *perception.shape)
        given = np.shape(info["state"]) if "state" in info else None
        if given != wanted:
            raise ConfigError(
                f"perception '{perception.name}' reads info['state'] of shape {wanted}, this "
                f"environment gives {given or 'none'}; take a perception of frames, such as 'darla'"
            )
