"""Latents in front of any environment: equal to encoding by hand; what does not fit is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from agents.wrappers import LatentObservation, VectorLatentObservation, perception_from_run
from darla.config import EnvironmentConfig
from darla.errors import ConfigError, MissingFileError
from darla.perception import Perception
from envs.registry import get_suite
from tests.agents.toy_latents import Counting, counted, toy_run
from tests.toys import Catch, toy_perception

MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]


def counting(count: int, mode: AutoresetMode) -> SyncVectorEnv:
    return SyncVectorEnv([lambda i=i: Counting(3 + i) for i in range(count)], autoreset_mode=mode)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy_run(tmp_path)


@pytest.fixture
def perception(run: Path) -> Perception:
    return perception_from_run(run)


def test_single_latents_are_the_encoded_frames(perception: Perception) -> None:
    env = LatentObservation(Counting(3), perception)
    assert env.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (32,), np.float32)
    observation, _ = env.reset(seed=0)
    seen = [observation]
    for _ in range(3):
        observation, *_, truncated, _ = env.step(0)
        seen.append(observation)
    assert truncated
    assert all(env.observation_space.contains(latents) for latents in seen)
    expected = perception.encode(np.stack([counted(t) for t in range(4)]), None)
    np.testing.assert_allclose(np.stack(seen), expected, rtol=1e-4, atol=1e-6)
    assert np.abs(expected[0] - expected[3]).max() > 1e-3, "the frames must differ in latents"


def test_check_env_finds_no_fault(perception: Perception) -> None:
    env = LatentObservation(gymnasium.make("darla/Lab-v0", render_mode="rgb_array"), perception)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for hint in ("different from the unwrapped version", "infinity. This is probably too"):
            warnings.filterwarnings("ignore", f".*{hint}")
        check_env(env)


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_is_encoded_with_the_ends_of_its_episodes(
    perception: Perception, mode: AutoresetMode
) -> None:
    env = VectorLatentObservation(counting(2, mode), perception)
    plain = counting(2, mode)
    assert env.single_observation_space.shape == (32,)
    assert env.observation_space.shape == (2, 32)
    latents, _ = env.reset(seed=0)
    frames, _ = plain.reset(seed=0)
    ends = 0
    for _ in range(9):
        np.testing.assert_allclose(latents, perception.encode(frames, None), rtol=1e-4, atol=1e-6)
        assert env.observation_space.contains(latents)
        latents, *_, info = env.step(np.zeros(2, np.int64))
        frames, *_, truth = plain.step(np.zeros(2, np.int64))
        assert ("final_obs" in info) == ("final_obs" in truth)
        for i in np.flatnonzero(info.get("_final_obs", ())):
            last = perception.encode(counted(3 + i)[None], None)[0]
            np.testing.assert_allclose(info["final_obs"][i], last, rtol=1e-4, atol=1e-6)
            ends += 1
    assert ends == (5 if mode == AutoresetMode.SAME_STEP else 0)


def test_true_factors_of_single_and_vector_lab() -> None:
    size = get_suite("lab").world.state_size
    factors = Perception("factors", (size,), "factors", needs="state")
    single = LatentObservation(gymnasium.make("darla/Lab-v0"), factors)
    observation, info = single.reset(seed=4)
    assert (observation == info["state"]).all() and single.observation_space.contains(observation)
    observation, *_, info = single.step(0)
    assert (observation == info["state"]).all()
    vector = VectorLatentObservation(
        envs.make_vector(EnvironmentConfig(), get_suite("lab").d_s, 2, seed=0, render=False),
        factors,
    )
    observations, info = vector.reset(seed=4)
    assert (observations == info["state"]).all()
    final = None
    while final is None:
        observations, *_, info = vector.step(np.zeros(2, np.int64))
        final = info.get("final_obs")
    assert (observations == info["state"]).all()
    ended = info["_final_obs"]
    assert (final[ended] == info["final_info"]["state"][ended]).all()


def test_pixels_pass_as_they_are() -> None:
    env = VectorLatentObservation(Catch(("one",), 3, seed=0), toy_perception("pixels"))
    frames, _ = Catch(("one",), 3, seed=0).reset()
    observations, _ = env.reset()
    assert (observations == frames).all() and observations.dtype == np.uint8
    assert env.observation_space.contains(observations)


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8),
        gymnasium.spaces.Box(0, 255, (64, 64, 1), np.uint8),
        gymnasium.spaces.Box(0, 1, (64, 64, 3), np.float32),
        gymnasium.spaces.Dict(frame=gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)),
    ],
)
def test_frames_that_do_not_fit_are_refused(
    perception: Perception, space: gymnasium.Space[Any]
) -> None:
    env = Counting(3)
    env.observation_space = space
    with pytest.raises(ConfigError, match=r"reads uint8 frames \[64, 64, 3\].*size=64"):
        LatentObservation(env, perception)
    with pytest.raises(ConfigError, match=r"reads uint8 frames \[64, 64, 3\].*size=64"):
        VectorLatentObservation(SyncVectorEnv([lambda: env]), perception)


def test_a_missing_or_other_ground_truth_is_refused() -> None:
    other = Perception("factors", (7,), "factors-7", needs="state")
    with pytest.raises(ConfigError, match=r"info\['state'\] of shape \(7,\).*gives none"):
        LatentObservation(Counting(3), other).reset()
    with pytest.raises(ConfigError, match=r"of shape \(2, 7\).*gives \(2, 4\)"):
        VectorLatentObservation(Catch(("one",), 2, seed=0), other).reset()


def test_what_a_run_cannot_give_is_refused(run: Path, tmp_path: Path) -> None:
    assert perception_from_run(run, "random", 3).fingerprint != (
        perception_from_run(run, "random", 4).fingerprint
    )
    with pytest.raises(ConfigError, match=r"'darls' \(did you mean 'darla'\?\); there are darla"):
        perception_from_run(run, "darls")
    with pytest.raises(MissingFileError, match="is no run directory"):
        perception_from_run(tmp_path)
