import pytest
import torch

from agents.algorithms import load_policy, save_policy
from agents.cells import Cell
from darla.config import Config
from darla.errors import CorruptFileError, MissingFileError
from darla.rundir import RunDirectory
from tests.agents.test_acting import new_policy
from tests.toys import toy_perception

CELL = Cell("dqn", "factors", 0)


@pytest.fixture
def run(tmp_path):
    return RunDirectory.open(Config(name="toy", runs=str(tmp_path)))


@pytest.mark.parametrize("name", ["factors", "pixels"])
def test_a_policy_comes_back_as_it_was(run, name):
    policy = new_policy(toy_perception(name))
    save_policy(run, CELL, policy, "{}")
    loaded = load_policy(run, CELL)
    assert loaded.perception_fingerprint == policy.perception_fingerprint
    assert loaded.network.shape == policy.network.shape
    assert torch.equal(loaded.network.parameters_vector, policy.network.parameters_vector)


def test_a_missing_policy_is_named(run):
    with pytest.raises(MissingFileError, match="dqn-factors-s0 is not trained yet"):
        load_policy(run, CELL)


def test_a_truncated_policy_is_named(run):
    save_policy(run, CELL, new_policy(toy_perception()), "{}")
    path = run.agent(CELL.id) / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptFileError, match=r"dqn-factors-s0/policy\.safetensors"):
        load_policy(run, CELL)
