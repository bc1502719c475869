"""Trains the toy game in a process of its own, which kills itself, as `kill -9` would.

`python -m tests.agents.toy_training RUNS ADDRESS ROUNDS` joins the Ray cluster at ADDRESS and dies
after so many rounds.
"""

import os
import signal
import sys
import time

from agents.cells import Cell
from agents.dqn import DQNTrainer
from agents.training import train, train_on
from darla.config import AgentsConfig, Config, DQNConfig, RayConfig
from darla.rundir import RunDirectory
from tests.toys import Catch, toy_perception

CELL = Cell("dqn", "factors", 0)
DOMAINS = ("first", "second")


def toy_config(runs, decisions=1500, **agents):
    """A configuration of seconds; the replay wraps, and a chunk is no divisor of anything."""
    dqn = DQNConfig(
        hidden=(64, 64),
        warmup=200,
        learning_rate=0.002,
        target_period=50,
        replay=600,
        decisions_per_update=2,
        discount=0.97,
        n_step=3,
        weight_decay=0.0,
    )
    settings = {
        "decisions": decisions,
        "chunk": 7,
        "evaluate_every": 400,
        "evaluation_episodes": 10,
        "checkpoint_every": 300,
        "dqn": dqn,
    }
    return Config(
        name="toy",
        runs=str(runs),
        ray=RayConfig(workers=2, envs_per_worker=4),
        agents=AgentsConfig(**{**settings, **agents}),
    )


class Slow(Catch):
    """Takes its time, differently in every step."""

    def step(self, actions):
        time.sleep(time.monotonic_ns() % 3_000_000 / 1e9)
        return super().step(actions)


def train_toy(config, pool, *, perception=None, cell=CELL):
    """Trains a cell of `toy_config` with given workers."""
    run, perception = RunDirectory.open(config), perception or toy_perception()
    return train_on(pool, config, run, cell, perception=perception, domains=DOMAINS, quiet=True)


def train_toy_alone(config, factory=Catch):
    """Trains a cell of `toy_config` with workers of its own."""
    run, options = RunDirectory.open(config), {"domains": DOMAINS, "quiet": True}
    return train(config, run, CELL, perception=toy_perception(), factory=factory, **options)


def kill_after(rounds):
    """Lets this process die in the middle of a round, with workers at work."""
    learn, count = DQNTrainer.learn, iter(range(rounds))

    def learn_or_die(trainer):
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        learn(trainer)

    DQNTrainer.learn = learn_or_die


if __name__ == "__main__":
    config = toy_config(sys.argv[1])
    ray = config.ray.model_copy(update={"address": sys.argv[2]})
    kill_after(int(sys.argv[3]))
    train_toy_alone(config.model_copy(update={"ray": ray}))
