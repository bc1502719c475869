"""What a domain looks like, as one number: to see that two machines render and simulate alike."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv

from darla.config import EnvironmentConfig
from envs import make_vector
from envs.domains import Domain


def frame_digest(
    environment: EnvironmentConfig, domain: Domain, seed: int = 0, decisions: int = 20
) -> str:
    """Digest of the frames of a fixed sequence of actions.

    Args:
        environment: Simulator, resolution and frame skip.
        domain: What to play.
        seed: Seed of the episodes and of the actions, which are drawn uniformly.
        decisions: Number of actions.

    Returns:
        SHA-256, in hexadecimal, of the `decisions` + 1 frames, uint8 [size, size, 3] each.

    Raises:
        ConfigError: Unknown environment id.
        DependencyError: This machine cannot draw it.
    """
    vector = make_vector(environment, (domain,), 1, seed=seed)
    rng = np.random.default_rng(seed)
    frames, _ = vector.reset(seed=seed)
    digest = hashlib.sha256(frames.tobytes())
    for _ in range(decisions):
        frames, *_ = vector.step(draw_actions(vector, rng))
        digest.update(frames.tobytes())
    vector.close()
    return digest.hexdigest()


def draw_actions(vector: VectorEnv, rng: np.random.Generator) -> np.ndarray:
    """Draws uniform actions: int64 [n], or [n, choices] where several choices are made at once."""
    space: Any = vector.single_action_space
    options: Any = space.n if isinstance(space, Discrete) else space.nvec
    return rng.integers(options, size=(vector.num_envs, *space.shape))
