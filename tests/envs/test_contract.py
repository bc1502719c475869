"""The contract that every registered environment keeps, single and vector, on every domain."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import envs
from darla.config import EnvironmentConfig
from envs.registry import suites

IDS = ["darla/Lab-v0"]  # those of darla/Jaco-v0 are in test_jaco.py
DOMAINS = sorted(
    {d.id: d for s in suites().values() for d in s.domains if s.world.name == "lab"}.items()
)


@pytest.mark.parametrize("name", IDS)
def test_check_env_is_silent(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(name, render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize(("name", "domain"), DOMAINS)
def test_every_domain_starts_and_steps(name: str, domain: object) -> None:
    vector = envs.make_vector(EnvironmentConfig(), (domain,), 2, seed=3)
    observation, info = vector.reset(seed=3)
    assert vector.observation_space.contains(observation)
    assert observation.std() > 5, "the picture is empty"
    assert info["state"].dtype == np.float32
    assert info["state"].shape == (2, suites()["lab"].world.state_size)
    assert np.abs(info["state"]).max() <= 1.0
    observation, rewards, *_ = vector.step(np.array([0, 4]))
    assert vector.observation_space.contains(observation)
    assert rewards.shape == (2,)


@pytest.mark.parametrize("name", IDS)
def test_vector_equals_single(name: str) -> None:
    actions = np.random.default_rng(0).integers(0, 8, (40, 3))
    vector = gymnasium.make_vec(name, num_envs=3, domain=["lab/A/hat-can", "lab/B/cake-balloon"])
    assert vector.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    frames, infos = vector.reset(seed=11)
    trace = [(frames, np.zeros(3), infos["state"], infos["pose"])]
    for action in actions:
        frames, rewards, _, _, infos = vector.step(action)
        trace.append((frames, rewards, infos["state"], infos["pose"]))
    single = gymnasium.make(name, domain=["lab/A/hat-can", "lab/B/cake-balloon"]).unwrapped
    for i in range(3):
        frame, info = single.reset(seed=11, options={"stream": i})
        for t, (frames, _, state, pose) in enumerate(trace):
            assert (frame == frames[i]).all()
            assert (info["state"] == state[i]).all()
            assert (info["pose"] == pose[i]).all()
            if t < len(actions):
                frame, reward, _, _, info = single.step(actions[t, i])
                assert reward == trace[t + 1][1][i]


@pytest.mark.parametrize("name", IDS)
def test_info_holds_the_factors_of_the_domain(name: str) -> None:
    env = gymnasium.make(name, domain="lab/B/hat-can/light=0.6").unwrapped
    _, info = env.reset(seed=0)
    assert info["factors"]["room"] == "B"
    assert info["factors"]["light"] == 0.6
    assert info["pose"].shape == (3,)


DIGEST = """
import hashlib, numpy as np, gymnasium, envs
vector = gymnasium.make_vec("{name}", num_envs=2, domain=["lab/A/hat-can", "lab/B/hat-can"])
digest = hashlib.sha256()
rng = np.random.default_rng(5)
frames, info = vector.reset(seed=5)
for _ in range(30):
    digest.update(frames.tobytes() + info["state"].tobytes())
    frames, rewards, *_, info = vector.step(rng.integers(0, 8, 2))
print(digest.hexdigest())
"""


@pytest.mark.parametrize("name", IDS)
def test_same_seed_same_frames_across_processes(name: str) -> None:
    code = DIGEST.format(name=name)
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].strip()) == 64
    other = code.replace("seed=5", "seed=6")
    different = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert different.stdout != runs[0]


def test_an_unknown_environment_is_named() -> None:
    from darla.errors import ConfigError

    with pytest.raises(ConfigError, match="did you mean 'darla/Lab-v0'"):
        envs.make_vector(EnvironmentConfig(id="darla/Lab-v1"), (), 1, seed=0)


@pytest.mark.parametrize("name", IDS)
def test_closing_twice_is_harmless(name: str) -> None:
    env = gymnasium.make(name)
    env.reset(seed=0)
    env.close()
    env.close()
