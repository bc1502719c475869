import functools
import os
import signal
import time
from contextlib import suppress

import numpy as np
import pytest
import ray

from agents.pool import WorkerPool
from darla.config import RayConfig
from darla.errors import DarlaError, DependencyError
from tests.agents.test_acting import new_policy
from tests.agents.test_training import metrics, weights
from tests.agents.toy_training import toy_config, train_toy, train_toy_alone
from tests.toys import Catch, toy_perception

DOMAINS = ("first", "second")


def without_graphics(domains, num_envs, *, seed, render):
    raise DependencyError("no OpenGL here")


def deadly(domains, num_envs, *, seed, render):
    os._exit(1)


class Mortal(Catch):
    """Dies in the middle of a step, once, as of `kill -9`; the file `marks` says that it has."""

    def __init__(self, domains, num_envs, *, marks, **options):
        super().__init__(domains, num_envs, **options)
        self._marks = marks

    def step(self, actions):
        if self._episode.max() == 17:
            with suppress(FileExistsError):  # of two workers that come here, one dies
                os.close(os.open(self._marks, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(actions)


@pytest.mark.parametrize(
    ("factory", "message"),
    [(without_graphics, "^no OpenGL here$"), (deadly, "4 times in a row.*repeat the command")],
)
def test_a_workers_error_arrives_as_one_line(cluster, factory, message):
    with (
        WorkerPool(RayConfig(workers=1), factory) as pool,
        pytest.raises(DarlaError, match=message),
    ):
        pool.begin(toy_perception(), DOMAINS, seed=0)


def sampled(pool, rounds, meanwhile=lambda: None):
    """Rewards and actions of a worker, and its decisions; `meanwhile` before the last round."""
    perception = toy_perception()
    pool.begin(perception, DOMAINS, seed=0)
    policy = new_policy(perception)
    pool.adopt(policy)
    chunks = []
    for number in range(rounds):
        if number == rounds - 1:
            meanwhile()
        pool.sample(0, policy.network.weights(), np.full(7, 0.5))
        chunks += pool.collect("sample")
    return [(chunk.content.actions.tolist(), chunk.content.rewards.tolist()) for chunk in chunks]


def test_a_worker_that_dies_while_it_is_idle_costs_nothing(cluster, capfd):
    with WorkerPool(RayConfig(workers=1, envs_per_worker=4), Catch) as pool:
        undisturbed = sampled(pool, 3)

        def kill_and_wait():
            (actor,) = pool._manager.actors().values()
            ray.kill(actor, no_restart=False)
            until = time.monotonic() + 60.0
            while time.monotonic() < until:  # until Ray has started it again, by itself
                with suppress(ray.exceptions.RayError):
                    assert ray.get(actor.ping.remote(), timeout=10.0) == "pong"
                    return

        assert sampled(pool, 3, kill_and_wait) == undisturbed
        assert pool.restarts == 1 and "starting it again" in capfd.readouterr().err


def test_a_worker_that_is_killed_costs_nothing(cluster, toy_pool, tmp_path, capfd):
    undisturbed, config = toy_config(tmp_path / "a", 900), toy_config(tmp_path / "b", 900)
    train_toy(undisturbed, toy_pool)
    facts = train_toy_alone(config, functools.partial(Mortal, marks=str(tmp_path / "marks")))
    assert facts["restarts"] == 1 and "died; starting it again" in capfd.readouterr().err
    assert weights(config) == weights(undisturbed)
    assert metrics(config) == metrics(undisturbed)
