"""RLlib gets episodes of latents, their last observations included; another vision is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from agents.rllib import FrozenVision
from agents.wrappers import perception_from_run
from darla.config import Config
from darla.errors import ConfigError, FingerprintError
from envs.registry import get_suite
from tests.agents.toy_latents import Counting, counted, toy_run

FRAMES = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
ACTIONS = gymnasium.spaces.Discrete(2)
LIMIT = 3


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy_run(tmp_path)


def counting_ppo(run: Path) -> PPOConfig:
    tune.register_env("counting", lambda context: Counting(LIMIT))
    return (
        PPOConfig()
        .environment("counting")
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=2,
            env_to_module_connector=lambda env, spaces, device: FrozenVision(run),
        )
        .training(train_batch_size_per_learner=32, minibatch_size=16, num_epochs=1)
    )


def test_episodes_hold_latents_and_no_frames(run: Path) -> None:
    runner = SingleAgentEnvRunner(config=counting_ppo(run))
    assert runner.module.observation_space.shape == (32,)
    expected = perception_from_run(run).encode(
        np.stack([counted(t) for t in range(LIMIT + 1)]), None
    )
    ended = 0
    for _ in range(3):  # cuts episodes into chunks
        for episode in runner.sample(num_timesteps=10):
            seen = episode.get_observations()
            truth = expected[episode.t_started : episode.t + 1]
            assert seen.dtype == np.float32
            np.testing.assert_allclose(seen, truth, rtol=1e-4, atol=1e-6)
            assert episode.observation_space.shape == (32,)
            assert episode.is_truncated == (episode.t == LIMIT)
            ended += episode.is_done
    assert ended >= 8
    runner.stop()


def test_all_environments_are_one_batch(run: Path) -> None:
    connector = FrozenVision(run, input_observation_space=FRAMES, input_action_space=ACTIONS)
    sizes = []
    encode = connector.perception.encode

    def spy(frames, state):
        sizes.append(len(frames))
        return encode(frames, state)

    connector.perception.encode = spy  # type: ignore[method-assign]
    episodes = [SingleAgentEpisode(observation_space=FRAMES) for _ in range(5)]
    for number, episode in enumerate(episodes):
        episode.add_env_reset(observation=counted(number % 4))
    connector(rl_module=None, batch={}, episodes=episodes)
    assert sizes == [5]
    assert (episodes[0].get_observations(-1) == episodes[4].get_observations(-1)).all()


def test_true_factors_come_from_the_info(run: Path) -> None:
    connector = FrozenVision(run, "factors", 0, FRAMES, ACTIONS)
    size = get_suite(Config(name="toy").suite).world.state_size
    assert connector.observation_space.shape == (size,)
    state = np.linspace(-1, 1, size, dtype=np.float32)
    episode = SingleAgentEpisode(observation_space=FRAMES)
    episode.add_env_reset(observation=counted(0), infos={"state": state})
    connector(rl_module=None, batch={}, episodes=[episode])
    assert (episode.get_observations(-1) == state).all()
    episode = SingleAgentEpisode(observation_space=FRAMES)
    episode.add_env_reset(observation=counted(0), infos={})
    with pytest.raises(ConfigError, match=r"info\['state'\]"):
        connector(rl_module=None, batch={}, episodes=[episode])


def test_frames_of_another_size_are_refused(run: Path) -> None:
    small = gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    with pytest.raises(ConfigError, match="size=64"):
        FrozenVision(run, input_observation_space=small, input_action_space=ACTIONS)


def test_it_crosses_processes(run: Path) -> None:
    connector = FrozenVision(run, input_observation_space=FRAMES, input_action_space=ACTIONS)
    copy = pickle.loads(pickle.dumps(connector))
    assert copy.get_state() == connector.get_state()
    assert copy.observation_space == connector.observation_space
    args, kwargs = connector.get_ctor_args_and_kwargs()
    assert FrozenVision(*args, **kwargs).get_state() == connector.get_state()


def test_a_checkpoint_refuses_another_vision(run: Path, tmp_path: Path, cluster: None) -> None:
    algorithm = counting_ppo(run).build_algo()
    algorithm.train()
    checkpoint = algorithm.save_to_path(tmp_path / "checkpoint")
    algorithm.restore_from_path(checkpoint)
    algorithm.stop()
    toy_run(tmp_path)
    other = counting_ppo(run).build_algo()
    with pytest.raises(FingerprintError, match="the vision has changed since"):
        other.restore_from_path(checkpoint)
    other.stop()
