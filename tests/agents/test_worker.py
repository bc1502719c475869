import os

import numpy as np
import pytest
import torch

from agents.acting import Policy
from agents.networks import QNetwork
from agents.worker import Worker, WorkerPool
from darla.config import RayConfig
from darla.errors import DarlaError, DependencyError
from tests.toys import ROWS, Catch, NoState, toy_perception

DOMAINS = ("first", "second")
NAMES = ("observations", "actions", "rewards", "terminated", "truncated", "finals")


def limited(domains, num_envs, *, seed, render):
    return Catch(domains, num_envs, seed=seed, render=render, limit=3)


def without_graphics(domains, num_envs, *, seed, render):
    raise DependencyError("no OpenGL here")


def deadly(domains, num_envs, *, seed, render):
    os._exit(1)


def begun(factory=Catch, name="factors", num_envs=4):
    worker, perception = Worker(factory), toy_perception(name)
    assert worker.begin(perception, DOMAINS, num_envs, seed=3) == 3
    network = QNetwork(perception.shape, 3, (8,), torch.Generator().manual_seed(0))
    return worker, Policy(network, perception.fingerprint)


def assert_same(steps, other):
    for name in NAMES:
        assert np.array_equal(getattr(steps, name), getattr(other, name)), name


@pytest.mark.parametrize("name", ["factors", "pixels"])
def test_a_chunk_holds_what_the_environment_did(name):
    worker, policy = begun(name=name)
    steps, returns = worker.sample(policy, np.full(23, 0.5))
    assert steps.observations.shape == (23, 4, *policy.network.shape)
    assert steps.observations.dtype == toy_perception(name).dtype
    assert steps.actions.dtype == np.int64 and steps.rewards.dtype == np.float32
    ends = np.arange(23) % (ROWS - 1) == ROWS - 2
    assert np.array_equal(steps.terminated, np.repeat(ends[:, None], 4, axis=1))
    assert not steps.truncated.any() and len(steps.finals) == 0
    assert returns == steps.rewards[steps.terminated].tolist()
    if name == "factors":
        rows = np.round(steps.observations[:, :, 1] * ROWS)
        assert np.array_equal(rows, np.repeat((np.arange(23) % (ROWS - 1))[:, None], 4, axis=1))


def test_the_last_observation_of_a_truncated_episode_is_sent_beside_the_steps():
    worker, policy = begun(limited)
    steps, returns = worker.sample(policy, np.ones(7))
    assert steps.truncated[[2, 5]].all() and steps.truncated.sum() == 8
    assert not steps.terminated.any() and returns == [0.0] * 8
    assert np.allclose(steps.finals[:, 1], 3 / ROWS)
    ball = steps.observations[2, :, 0]
    assert np.array_equal(steps.finals[:4, 0], ball), "the final ball is the ended episode's"
    assert np.allclose(steps.observations[3, :, 1], 0.0), "what follows is a first observation"


def test_chunks_continue_where_the_last_one_ended():
    worker, policy = begun()
    other, _ = begun()
    whole = worker.sample(policy, np.full(12, 0.3)).steps
    for start in (0, 4, 8):
        part = other.sample(policy, np.full(4, 0.3)).steps
        assert np.array_equal(part.observations, whole.observations[start : start + 4])
        assert np.array_equal(part.actions, whole.actions[start : start + 4])


def test_a_restored_worker_goes_on_with_the_same_bits():
    worker, policy = begun()
    restored, _ = begun()
    worker.sample(policy, np.full(8, 0.5))
    restored.load(*worker.state())
    worker.evaluate(policy, toy_perception(), DOMAINS, [1, 1], epsilon=0.5, seed=0)
    chunk, other = worker.sample(policy, np.full(8, 0.5)), restored.sample(policy, np.full(8, 0.5))
    assert_same(chunk.steps, other.steps)
    assert chunk.returns == other.returns and len(chunk.returns) > 0


def test_environments_without_a_state_start_new_episodes():
    worker, policy = begun(NoState)
    restored, _ = begun(NoState)
    worker.sample(policy, np.full(8, 0.5))
    restored.load(*worker.state())
    steps, other = (
        worker.sample(policy, np.ones(2)).steps,
        restored.sample(policy, np.ones(2)).steps,
    )
    assert np.array_equal(steps.actions, other.actions)
    assert (other.observations[0, :, 1] == 0).all() and (steps.observations[0, :, 1] > 0).all()


def test_rendering_is_asked_for_only_where_frames_are_seen():
    asked = []

    def factory(domains, num_envs, *, seed, render):
        asked.append(render)
        return Catch(domains, num_envs, seed=seed, render=render)

    for name, expected in (("factors", [False, False]), ("pixels", [True, True])):
        asked.clear()
        worker, policy = begun(factory, name)
        worker.evaluate(policy, toy_perception(name), DOMAINS, [1], epsilon=0.0, seed=0)
        worker.evaluate(policy, toy_perception(name), DOMAINS, [1], epsilon=0.0, seed=1)
        assert asked == expected
    worker.evaluate(None, None, DOMAINS, [1, 1], epsilon=0.0, seed=0)
    assert asked[-1] is False


@pytest.mark.parametrize(
    ("factory", "message"),
    [(without_graphics, "^no OpenGL here$"), (deadly, "repeat the command to continue")],
)
def test_a_workers_error_arrives_as_one_line(cluster, factory, message):
    with (
        WorkerPool(RayConfig(workers=1), factory) as pool,
        pytest.raises(DarlaError, match=message),
    ):
        pool.begin(toy_perception(), DOMAINS, seed=0)
