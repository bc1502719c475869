"""Stable-Baselines3 gets true transitions, in latents."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from darla.errors import ConfigError
from tests.toys import ROWS, Catch, toy_perception

pytest.importorskip("stable_baselines3")

from agents.sb3 import LatentVecEnv  # noqa: E402


def test_an_episode_ends_with_its_last_latents() -> None:
    vec_env = LatentVecEnv(Catch(("first", "second"), 3, seed=1), toy_perception())
    before = vec_env.reset()
    assert before.shape == (3, Catch.state_size)
    for _ in range(ROWS - 1):
        latents, rewards, ended, infos = vec_env.step(np.ones(3, np.int64))
    assert ended.all() and set(rewards.tolist()) <= {-1.0, 1.0}
    for row in range(3):
        assert not infos[row]["TimeLimit.truncated"]
        last = infos[row]["terminal_observation"]
        assert last[0] == before[row, 0], "the ball fell straight"
        assert last[1] == pytest.approx((ROWS - 1) / ROWS)
        assert latents[row, 1] == 0, "the next episode has begun"


def test_a_cut_episode_says_so() -> None:
    vec_env = LatentVecEnv(Catch(("one",), 2, seed=1, limit=2), toy_perception())
    vec_env.reset()
    infos = [vec_env.step(np.ones(2, np.int64))[3] for _ in range(2)]
    assert infos[0] == [{}, {}]
    assert all(info["TimeLimit.truncated"] for info in infos[1])


def test_a_seed_gives_the_same_episodes() -> None:
    vec_env = LatentVecEnv(Catch(("one",), 8, seed=1), toy_perception())
    vec_env.seed(5)
    first, second = vec_env.reset(), vec_env.reset()
    assert (first != second).any(), "the seed is for one reset"
    vec_env.seed(5)
    assert (vec_env.reset() == first).all()


def test_it_has_no_attributes_but_its_own() -> None:
    vec_env = LatentVecEnv(Catch(("one",), 2, seed=1), toy_perception())
    assert not vec_env.has_attr("action_masks")
    assert vec_env.get_attr("num_envs", 0) == [2] and vec_env.env_is_wrapped(object, [1]) == [False]
    assert vec_env.get_attr("num_envs") == [2, 2] and vec_env.get_attr("render_mode") == [
        None,
        None,
    ]


def test_a_vector_whose_resets_take_a_step_is_refused() -> None:
    vector = Catch(("one",), 2, seed=1)
    vector.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    with pytest.raises(ConfigError, match="autoreset mode NEXT_STEP, needed is SAME_STEP"):
        LatentVecEnv(vector, toy_perception())
