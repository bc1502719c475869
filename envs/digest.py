"""What a domain looks like, as one number: to see that two machines render and simulate alike."""

from __future__ import annotations

import hashlib

import numpy as np

from darla.config import EnvironmentConfig
from envs import draw_actions, make_vector
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
        frames, *_ = vector.step(draw_actions(vector.single_action_space, 1, rng))
        digest.update(frames.tobytes())
    vector.close()
    return digest.hexdigest()
