"""A policy that starts from the vision's encoder and learns it further."""

import pickle

import numpy as np
import pytest
import torch

from agents.a3c import A3CPolicy, A3CTrainer, Gradient
from agents.actor_critic import ActorCritic
from agents.algorithms import load_policy, save_policy
from agents.cells import Cell
from agents.dqn import Learner, QPolicy
from agents.networks import QNetwork
from agents.policy import Actions
from agents.worker import Chunk
from darla.config import A3CConfig, Config, DQNConfig, RayConfig
from darla.perception import load_perception
from darla.rundir import RunDirectory
from darla.vision.evaluation import posterior
from darla.vision.pretrain import load_model, make_vae, save_model, seed_weights
from tests.agents.test_augmentation import filled_replay
from tests.agents.toy_training import toy_config, train_toy
from tests.toys import PIXELS

SHAPE, ACTIONS = (PIXELS, PIXELS, 3), Actions((3,))


@pytest.fixture
def run(tmp_path):
    """A run directory with a vision of the toy game's size."""
    tree = {
        "name": "toy",
        "runs": str(tmp_path),
        "environment": {"size": PIXELS},
        "vision": {"vae": {"latents": 5, "hidden": 24}},
    }
    made = RunDirectory.open(Config.model_validate(tree))
    vae = make_vae(made.config)
    seed_weights(vae, 0, 1, he=True)
    save_model(vae, made.vision / "vision.safetensors")
    return made


@pytest.fixture
def perception(run):
    return load_perception("fine-tuned", run, 0, 0)


def generator():
    return torch.Generator().manual_seed(0)


def networks(start):
    made = (
        QNetwork(SHAPE, 3, (8,), generator(), start.widths),
        ActorCritic(SHAPE, (3,), (8,), 0, generator(), start.widths),
    )
    for network in made:
        network.start_from(start.weights)
    return made


def test_the_encoder_is_the_visions(run, perception, monkeypatch):
    monkeypatch.setattr("agents.networks.choose_precision", lambda *_: torch.float32)
    darla = load_perception("darla", run, 0, 0)
    assert perception.fingerprint == darla.fingerprint
    assert not perception.frozen and perception.shape == SHAPE and perception.dtype == np.uint8
    frames = torch.randint(256, (4, *SHAPE), dtype=torch.uint8)
    vae = make_vae(run.config)
    load_model(vae, run.vision / "vision.safetensors")
    means, _ = posterior(vae, frames)
    assert means.std() > 0.1
    for network in networks(perception.start):
        latents = network.layers[:2](frames).detach().numpy()
        np.testing.assert_allclose(latents, means, atol=1e-4)


def test_what_follows_the_encoder_is_as_without_it(perception):
    for started, fresh in zip(
        networks(perception.start),
        (QNetwork((5,), 3, (8,), generator()), ActorCritic((5,), (3,), (8,), 0, generator())),
        strict=True,
    ):
        count = len(perception.start.weights)
        assert started.parameters_vector.numel() == count + fresh.parameters_vector.numel()


def test_a_copy_is_equal(perception):
    for network in networks(perception.start):
        same = pickle.loads(pickle.dumps(network))
        assert same.encoder == network.encoder == (24, 5)
        assert torch.equal(same.parameters_vector, network.parameters_vector)


def test_policies_come_back_as_they_were(run, perception):
    q_network, actor_critic = networks(perception.start)
    for cell, policy in (
        (Cell("dqn", "fine-tuned", 0), QPolicy(q_network, perception.fingerprint)),
        (Cell("a3c", "fine-tuned", 0), A3CPolicy(ACTIONS, actor_critic, perception.fingerprint)),
    ):
        save_policy(run, cell, policy, "{}")
        loaded = load_policy(run, cell)
        assert loaded.network.encoder == (24, 5)
        assert torch.equal(loaded.network.parameters_vector, policy.network.parameters_vector)


def test_weight_decay_spares_dqns_encoder(perception):
    count, vectors = len(perception.start.weights), []
    for decay in (0.0, 10.0):
        config = DQNConfig(hidden=(8,), batch=8, learning_rate=0.01, weight_decay=decay)
        learner = Learner(SHAPE, 3, config, 0, start=perception.start)
        before = learner.online.parameters_vector.clone()
        learner.train(filled_replay(), 1)
        vectors.append(learner.online.parameters_vector)
    assert torch.equal(vectors[0][:count], vectors[1][:count])
    assert not torch.equal(vectors[0][:count], before[:count]), "it learns"
    torch.testing.assert_close(
        vectors[1][count:], vectors[0][count:] - 0.1 * before[count:], atol=1e-6, rtol=0.0
    )


def test_a_target_network_starts_as_the_online_one(perception):
    learner = Learner(SHAPE, 3, DQNConfig(hidden=(8,)), 0, start=perception.start)
    assert torch.equal(learner.target.parameters_vector, learner.online.parameters_vector)


class Pool:
    """A pool without workers."""

    config, restarts = RayConfig(workers=1, envs_per_worker=1), 0

    def begin(self, *_):
        return ACTIONS

    def adopt(self, *_):
        pass


def test_weight_decay_spares_a3cs_encoder(perception, tmp_path):
    a3c = A3CConfig(hidden=(8,), learning_rate=0.1, weight_decay=1.0, anneal=False)
    config, cell = toy_config(tmp_path, a3c=a3c), Cell("a3c", "fine-tuned", 0)
    trainer = A3CTrainer(config, cell, Pool(), perception, ("first",))
    vector = trainer.policy.network.parameters_vector
    before, count = vector.clone(), len(perception.start.weights)
    nothing = Gradient(0, np.zeros(len(vector), np.float32), {})
    trainer._apply(Chunk(nothing, 1, [], None))
    assert torch.equal(vector[:count], before[:count])
    torch.testing.assert_close(vector[count:], 0.9 * before[count:])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("algorithm", ["dqn", "a3c"])
def test_the_encoder_learns_with_the_policy(perception, toy_pool, tmp_path, algorithm):
    cell = Cell(algorithm, "fine-tuned", 0)
    config = toy_config(tmp_path / "train", 500, a3c=A3CConfig(hidden=(8,)))
    facts = train_toy(config, toy_pool, perception=perception, cell=cell)
    assert facts["updates"] > 0
    policy = load_policy(RunDirectory.open(config), cell)
    policy.check(perception)
    weights = policy.network.parameters_vector[: len(perception.start.weights)].numpy()
    assert not np.array_equal(weights, perception.start.weights)
    assert np.corrcoef(weights, perception.start.weights)[0, 1] > 0.5
