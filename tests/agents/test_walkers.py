"""Policies that collect frames: they act as they were trained, or are refused in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from agents.algorithms import save_policy
from agents.cells import Cell, perception_of
from agents.dqn import QPolicy
from agents.networks import QNetwork
from agents.seeding import torch_generator
from agents.walkers import PolicyWalker, walker_of
from darla.config import Config
from darla.errors import ConfigError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import read_json
from envs import make_vector
from envs.collect import collect_frames, explore, make_explorer, make_random
from envs.registry import get_suite, suite_of

CELL = Cell("dqn", "factors", 0)
DOMAINS = get_suite("lab").d_u
COUNT = 16 * 10


def tree(folder: Path, name: str, **frames) -> Config:
    return Config.model_validate(
        {
            "name": name,
            "runs": str(folder),
            "environment": {"size": 32, "frame_skip": 60},
            "frames": {"count": 200, "validation": 0.2, "shard": 160, **frames},
            "agents": {"perceptions": ["factors"], "seeds": [0]},
            "ray": {"workers": 1},
        }
    )


@pytest.fixture
def first(tmp_path: Path) -> RunDirectory:
    """A run with a policy, which only its weights know."""
    run = RunDirectory.open(tree(tmp_path, "first"))
    perception = perception_of(run, CELL.perception, CELL.seed)
    network = QNetwork(perception.shape, 8, (16,), torch_generator(3, "weights"))
    save_policy(run, CELL, QPolicy(network, perception.fingerprint), "{}")
    return run


def walk(folder: Path, first: RunDirectory, **frames) -> np.ndarray:
    config = tree(folder, "second", policy=f"{first.path}/{CELL.id}", **frames)
    make, files = walker_of(config)
    assert [file.parent.name for file in files] == [CELL.id]
    return explore(config, DOMAINS, "train", 0, COUNT, pickle.loads(pickle.dumps(make)))[0]


def test_names_are_those_of_the_untrained_walkers(tmp_path: Path) -> None:
    assert walker_of(tree(tmp_path, "a")) == (make_explorer, [])
    assert walker_of(tree(tmp_path, "b", policy="random")) == (make_random, [])


def test_a_trained_policy_collects_what_it_sees(tmp_path: Path, first: RunDirectory) -> None:
    greedy = walk(tmp_path, first, epsilon=0.0)
    assert greedy.shape == (COUNT, 32, 32, 3)
    assert (greedy == walk(tmp_path, first, epsilon=0.0)).all()
    assert (greedy != walk(tmp_path, first, epsilon=1.0)).any()


def test_the_first_frames_are_those_of_the_policys_own_actions(
    tmp_path: Path, first: RunDirectory
) -> None:
    config = tree(tmp_path, "second", policy=f"{first.path}/{CELL.id}", epsilon=0.0)
    make, _ = walker_of(config)
    vector = make_vector(config.environment, DOMAINS, 4, seed=5)
    walker = make(vector, np.random.default_rng(0))
    frames, info = vector.reset()
    actions = walker.act(frames, info, np.ones(4, bool))
    policy = walker._policy  # type: ignore[attr-defined]
    values = policy.preferences(info["state"], policy.start(4))
    assert actions.tolist() == values.argmax(1).tolist()


def test_memory_ends_with_its_episode() -> None:
    class Remembering:
        """Its memory counts the decisions of an episode, and so do its actions."""

        def start(self, batch):
            return np.zeros((batch, 1), np.float32)

        def act(self, observations, memory, *, epsilon, rng):
            return memory[:, 0].astype(np.int64), memory + 1

    class Blind:
        needs = "frames"

        def encode(self, frames, state):
            return np.zeros((len(frames), 1), np.float32)

    walker = PolicyWalker(Remembering(), Blind(), 0.0, 2, np.random.default_rng(0))  # type: ignore[arg-type]
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    ends = [(True, True), (False, False), (False, True), (False, False)]
    acted = [walker.act(frames, {}, np.array(ended)).tolist() for ended in ends]
    assert acted == [[0, 0], [1, 1], [2, 0], [3, 1]]


def test_frames_of_a_policy_are_collected_by_workers(tmp_path: Path, first: RunDirectory) -> None:
    config = tree(tmp_path, "second", policy=f"{first.path}/{CELL.id}")
    run = RunDirectory.open(config)
    make, _ = walker_of(config)
    facts = collect_frames(config, run, make_walker=make, quiet=True)
    assert (facts["train"], facts["validation"]) == (160, 40)
    assert read_json(run.frames / "index.json")["domains"] == [d.id for d in suite_of(config).d_u]


@pytest.mark.parametrize(
    ("policy", "error", "words"),
    [
        ("explore", ConfigError, "'explore'; allowed are 'explorer', 'random', or RUN/CELL"),
        ("{first}/dqn-factors-s1", ConfigError, "has no cell 'dqn-factors-s1'.*dqn-factors-s0"),
        ("{first}-gone/dqn-factors-s0", MissingFileError, "is no run directory"),
        ("{other}/dqn-factors-s0", ConfigError, "environment.size=64, this configuration 32"),
        ("{untrained}/dqn-factors-s0", MissingFileError, "dqn-factors-s0 is not trained yet"),
    ],
)
def test_what_cannot_collect_is_refused(
    tmp_path: Path, first: RunDirectory, policy: str, error: type, words: str
) -> None:
    other = tree(tmp_path, "other")
    bigger = other.environment.model_copy(update={"size": 64})
    RunDirectory.open(other.model_copy(update={"environment": bigger}))
    RunDirectory.open(tree(tmp_path, "untrained"))
    places = {name: tmp_path / name for name in ("first", "other", "untrained")}
    with pytest.raises(error, match=words):
        walker_of(tree(tmp_path, "second", policy=policy.format(**places)))
