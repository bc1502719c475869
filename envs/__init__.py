"""Domains and environments: what the agents see and do.

Importing this package registers the Gymnasium ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium

from darla.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from darla.config import EnvironmentConfig
    from envs.domains import Domain

gymnasium.register(
    "darla/Lab-v0", entry_point="envs.lab:LabEnv", vector_entry_point="envs:make_lab_vector"
)


def make_lab_vector(num_envs: int = 1, domain: Any = "lab/A/hat-can", **kwargs: Any) -> VectorEnv:
    """Entry point of `gymnasium.make_vec("darla/Lab-v0", num_envs, domain=...)`."""
    from envs.lab import LabVectorEnv, parse_domains

    return LabVectorEnv(parse_domains(domain), num_envs, **kwargs)


def make_vector(
    environment: EnvironmentConfig,
    domains: Sequence[Domain],
    num_envs: int,
    *,
    seed: int,
    render: bool = True,
) -> VectorEnv:
    """The vector environment of a configuration over some domains.

    Args:
        environment: World, resolution and frame skip.
        domains: Domains of which each episode draws one uniformly.
        num_envs: Number of sub-environments, all in this process.
        seed: Episode k of sub-environment i follows from (seed, i, k) alone.
        render: False leaves observations black, for agents that read the ground truth.

    Returns:
        A vector environment in autoreset mode SAME_STEP whose `info` holds `state` and `domain`.

    Raises:
        ConfigError: Unknown environment id.
        DependencyError: No off-screen OpenGL.
    """
    makers = {"darla/Lab-v0": make_lab_vector}
    if environment.id not in makers:
        raise ConfigError(
            f"environment.id is '{environment.id}', allowed is one of {', '.join(makers)}"
            f"{did_you_mean(environment.id, makers)}"
        )
    return makers[environment.id](
        num_envs,
        domains,
        size=environment.size,
        frame_skip=environment.frame_skip,
        seed=seed,
        render=render,
    )
