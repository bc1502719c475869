"""Our frozen vision for RLlib: a connector between its environments and its modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2

from agents.wrappers import check_state, latent_space, perception_from_run


class FrozenVision(ConnectorV2):
    """Writes latents in the place of frames, for all environments of a runner as one batch.

    It goes into an env-to-module pipeline of RLlib's new API stack:

        config.env_runners(
            env_to_module_connector=lambda env, spaces, device: FrozenVision("runs/lab-quick")
        )

    The latents replace the frames in the episodes, the last observation of each included, so that
    no learner and no replay buffer ever sees a frame. A checkpoint holds the fingerprint of the
    vision and is refused by another one.

    Args:
        run: Run directory with a trained vision, on storage that every node sees.
        perception: Row of the benchmark; `factors` reads `info["state"]`.
        seed: Seed of the untrained encoder of `random`.
        input_observation_space: Space of the environment's observations; RLlib gives it.
        input_action_space: Space of the environment's actions; RLlib gives it.

    Raises:
        ConfigError: There is no such perception, or it cannot read the observations.
        MissingFileError: There is no run directory, or its vision is not trained yet.
    """

    def __init__(
        self,
        run: str | Path,
        perception: str = "darla",
        seed: int = 0,
        input_observation_space: gymnasium.Space | None = None,
        input_action_space: gymnasium.Space | None = None,
    ) -> None:
        self.perception = perception_from_run(run, perception, seed)
        super().__init__(input_observation_space, input_action_space)

    def recompute_output_observation_space(
        self, input_observation_space: gymnasium.Space, input_action_space: gymnasium.Space
    ) -> gymnasium.Space:
        """Returns the space of the latents."""
        return latent_space(self.perception, input_observation_space)

    def __call__(
        self, *, batch: dict[str, Any], episodes: list[Any], **kwargs: Any
    ) -> dict[str, Any]:
        """Encodes the last observation of every episode; returns the batch as it is."""
        running = list(self.single_agent_episode_iterator(episodes))
        if self.perception.needs == "state":
            infos = [episode.get_infos(-1) for episode in running]
            for info in infos:
                check_state(self.perception, info, ())
            latents = self.perception.encode(None, np.stack([info["state"] for info in infos]))
        else:
            frames = np.stack([episode.get_observations(-1) for episode in running])
            latents = self.perception.encode(frames, None)
        for episode, row in zip(running, latents, strict=True):
            episode.set_observations(at_indices=-1, new_data=row)
            episode.observation_space = self.observation_space
        return batch

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the fingerprint of the vision."""
        return {"fingerprint": self.perception.fingerprint}

    def set_state(self, state: dict[str, Any]) -> None:
        """Refuses a state that is of another vision.

        Raises:
            FingerprintError: The fingerprints differ.
        """
        self.perception.check(state["fingerprint"], "checkpoint")

    def merge_states(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the one state that all runners have."""
        return states[0]
