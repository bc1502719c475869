"""Domains and environments: what the agents see and do.

Importing this package registers the Gymnasium ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from darla.config import EnvironmentConfig
    from envs.domains import Domain

gymnasium.register(
    "darla/Lab-v0", entry_point="envs.lab:LabEnv", vector_entry_point="envs:make_lab_vector"
)
gymnasium.register(
    "darla/DeepMindLab-v0",
    entry_point="envs.deepmind_lab:DeepMindLabEnv",
    vector_entry_point="envs.deepmind_lab:make_dmlab_vector",
)
gymnasium.register(
    "darla/Jaco-v0", entry_point="envs.jaco:JacoEnv", vector_entry_point="envs:make_jaco_vector"
)


def make_lab_vector(
    num_envs: int = 1, domain: Any = "lab/A/hat-can", seed: int | None = None, **kwargs: Any
) -> VectorEnv:
    """Entry point of `gymnasium.make_vec("darla/Lab-v0", num_envs, domain=...)`."""
    from envs.domains import parse_domains
    from envs.lab import LAB, LabVectorEnv

    return LabVectorEnv(parse_domains(LAB, domain), num_envs, seed=given_or_random(seed), **kwargs)


def make_jaco_vector(
    num_envs: int = 1, domain: Any = "jaco/A/ball", seed: int | None = None, **kwargs: Any
) -> VectorEnv:
    """Entry point of `gymnasium.make_vec("darla/Jaco-v0", num_envs, domain=...)`."""
    from envs.domains import parse_domains
    from envs.jaco import JACO, JacoVectorEnv

    return JacoVectorEnv(
        parse_domains(JACO, domain), num_envs, seed=given_or_random(seed), **kwargs
    )


def given_or_random(seed: int | None) -> int:
    """The seed, or where none is given one that no other vector has, as Gymnasium does it."""
    return int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed


def make_vector(
    environment: EnvironmentConfig,
    domains: Sequence[Domain],
    num_envs: int,
    *,
    seed: int,
    render: bool = True,
) -> VectorEnv:
    """The vector environment of a configuration over some domains.

    Beyond Gymnasium's interface a vector may have, and the three stages then use: `turns`, the
    actions that turn in place; `labels()` and `object_maps()`, what an evaluation of the vision
    needs to know (see `envs.lab.LabVectorEnv`); `state_dict()` and `load_state_dict()`, everything
    that changes, as arrays, without which a training that is continued begins new episodes, on
    another seed;
    `retire(which)`, to let sub-environments stand still until they are reset, so that none is
    played in vain; `info["clearance"]`, metres to what is ahead; `info["success"]`, bool [n],
    whether the goal is reached now, also in `final_info`; and `options={"start": "anywhere"}` of
    `reset`, starts that show more of the world than the task's own. A replay shows `action_names`,
    one for every option of every choice, and plays as fast as `metadata["render_fps"]`, decisions a
    second.

    Args:
        environment: Simulator, resolution and frame skip.
        domains: Domains of which each episode draws one uniformly.
        num_envs: Number of sub-environments, all in this process.
        seed: Episode k of sub-environment i follows from (seed, i, k) alone.
        render: False allows black observations, for agents that read the ground truth.

    Returns:
        A vector environment in autoreset mode SAME_STEP with observations uint8 [n, size, size, 3],
        whose `info` holds `domain`, the index into `domains` of each episode, int64 [n], and where
        the world has a ground truth `state`, float32 [n, state_size]. When an episode ends, `info`
        also holds `final_obs`, and `final_info` with `state` and `domain` of its last step.

    Raises:
        ConfigError: Unknown environment id, or a vector in another autoreset mode.
        DependencyError: No off-screen OpenGL.
    """
    from envs.registry import get_simulator

    vector = get_simulator(environment.id, environment.plugin).make(
        num_envs,
        domains,
        size=environment.size,
        frame_skip=environment.frame_skip,
        seed=seed,
        render=render,
    )
    check_autoreset(vector)
    return vector


def check_autoreset(vector: VectorEnv) -> None:
    """Refuses a vector that does not give the next episode's first observation where one ends.

    Raises:
        ConfigError: Its autoreset mode is not SAME_STEP; resets would be learned as decisions.
    """
    from gymnasium.vector import AutoresetMode

    from darla.errors import ConfigError

    mode = vector.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        raise ConfigError(
            f"{type(vector).__name__} has autoreset mode {getattr(mode, 'name', mode)}, needed is "
            "SAME_STEP: give autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP to "
            "SyncVectorEnv, and set metadata['autoreset_mode'] of a vector of your own"
        )


def draw_actions(space: Any, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draws uniformly from a Discrete or MultiDiscrete space: int64 [n], or [n, choices]."""
    options: Any = space.n if isinstance(space, gymnasium.spaces.Discrete) else space.nvec
    return rng.integers(options, size=(n, *space.shape))
