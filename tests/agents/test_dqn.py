import copy
import json

import numpy as np
import pytest
import torch

from agents.dqn import Learner, epsilon_at
from agents.replay import Batch, Replay, Steps
from darla.config import DQNConfig
from darla.errors import CorruptFileError

SHAPE, ACTIONS = (4,), 3


def filled_replay(shape=SHAPE, dtype=np.float32):
    rng = np.random.default_rng(0)
    replay = Replay(400, 4, shape, dtype, n_step=2, discount=0.9)
    observations = (rng.standard_normal((80, 4, *shape)) * 50).astype(dtype)
    terminated = rng.random((80, 4)) < 0.2
    rewards = (rng.standard_normal((80, 4)) * 3).astype(np.float32)
    actions = rng.integers(ACTIONS, size=(80, 4))
    nothing = np.zeros_like(terminated)
    replay.insert(Steps(observations, actions, rewards, terminated, nothing, observations[0, :0]))
    return replay


def learner(config, shape=SHAPE, seed=0):
    return Learner(shape, ACTIONS, config, seed)


def batches(replay: Replay, rng: np.random.Generator, config: DQNConfig, counts: list[int]):
    """One batch after the other, of which so many are drawn at once."""
    for count in counts:
        drawn = replay.sample(count * config.batch, rng)
        for fields in zip(*(field.split(config.batch) for field in drawn), strict=True):
            yield Batch(*fields)


def textbook_dqn(start: Learner, replay: Replay, config: DQNConfig, counts: list[int]):
    """DQN written as in a textbook, from the same start and with the same batches."""
    online, target = copy.deepcopy(start.online), copy.deepcopy(start.online)
    rng = copy.deepcopy(start._rng)
    adam = torch.optim.AdamW(
        online.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    losses = []
    for update, batch in enumerate(batches(replay, rng, config, counts)):
        with torch.no_grad():
            values = target(batch.s_t)
            best = (online(batch.s_t) if config.double else values).argmax(1)
            goal = batch.r_t + batch.discount_t * values[torch.arange(config.batch), best]
        taken = online(batch.s_tm1)[torch.arange(config.batch), batch.a_tm1]
        loss = torch.nn.functional.huber_loss(taken, goal)
        adam.zero_grad()
        loss.backward()
        if config.gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(online.parameters(), config.gradient_norm)
        adam.step()
        losses.append(loss.item())
        if (update + 1) % config.target_period == 0:
            target.load_state_dict(online.state_dict())
    return torch.nn.utils.parameters_to_vector(online.parameters()), float(np.mean(losses))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"double": False},
        {"gradient_norm": None},
        {"gradient_norm": 0.1},
        {"weight_decay": 0.1},
        {"target_period": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_updates_are_those_of_a_textbook(change, at_once, monkeypatch):
    monkeypatch.setattr("agents.dqn._BLOCK_BYTES", at_once * 16 * 4 * 4)
    config = DQNConfig(hidden=(32,), batch=16, learning_rate=0.003, target_period=5)
    config = config.model_copy(update=change)
    replay, ours = filled_replay(), learner(config)
    counts, left = [], 12
    while left:
        to_copy = config.target_period - (12 - left) % config.target_period
        counts.append(min(left, at_once, to_copy))
        left -= counts[-1]
    expected, loss = textbook_dqn(ours, replay, config, counts)
    sums = ours.train(replay, 12)
    assert ours.updates == 12
    assert sums["loss"] / 12 == pytest.approx(loss, rel=1e-4)
    assert torch.allclose(ours.online.parameters_vector, expected, atol=2e-5)


def test_the_target_network_is_copied_every_period():
    config = DQNConfig(hidden=(8,), batch=4, target_period=10)
    ours, replay = learner(config), filled_replay()
    first = ours.target.parameters_vector.clone()
    ours.train(replay, 9)
    assert torch.equal(ours.target.parameters_vector, first)
    ours.train(replay, 1)
    assert torch.equal(ours.target.parameters_vector, ours.online.parameters_vector)
    ours.train(replay, 15)
    assert not torch.equal(ours.target.parameters_vector, ours.online.parameters_vector)


@pytest.mark.parametrize(("shape", "dtype"), [((4,), np.float32), ((16, 16, 3), np.uint8)])
def test_a_restored_learner_goes_on_with_the_same_bits(shape, dtype):
    config = DQNConfig(hidden=(16,), batch=8, target_period=4)
    replay = filled_replay(shape, dtype)
    ours, restored = learner(config, shape), learner(config, shape, seed=1)
    ours.train(replay, 6)
    state = {name: tensor.clone() for name, tensor in ours.state().items()}
    restored.load(state, json.loads(json.dumps(ours.counters())))
    assert ours.train(replay, 6) == restored.train(replay, 6)
    for name, tensor in ours.state().items():
        assert torch.equal(tensor, restored.state()[name]), name


def test_a_learner_without_updates_can_be_restored():
    config = DQNConfig(hidden=(16,), batch=8)
    ours, restored, replay = learner(config), learner(config, seed=1), filled_replay()
    restored.load({n: t.clone() for n, t in ours.state().items()}, ours.counters())
    ours.train(replay, 3)
    restored.train(replay, 3)
    assert torch.equal(ours.online.parameters_vector, restored.online.parameters_vector)


def test_the_state_of_another_network_is_refused():
    small, large = learner(DQNConfig(hidden=(8,))), learner(DQNConfig(hidden=(16,)))
    with pytest.raises(CorruptFileError, match="parameters"):
        small.load(large.state(), large.counters())
    with pytest.raises(CorruptFileError, match="target"):
        small.load({"online": small.online.parameters_vector}, small.counters())


def test_epsilon_is_1_in_the_warmup_then_falls_linearly_and_stays():
    config = DQNConfig(warmup=10, epsilon_start=0.9, epsilon_end=0.1, epsilon_fraction=0.4)
    assert epsilon_at(np.array([0, 9]), 100, config).tolist() == [1.0, 1.0]
    values = epsilon_at(np.array([10, 20, 40, 99]), 100, config)
    assert values.tolist() == pytest.approx([0.7, 0.5, 0.1, 0.1])
    always = DQNConfig(warmup=0, epsilon_fraction=0.0)
    assert epsilon_at(0, 100, always) == pytest.approx(1.0)
    assert epsilon_at(1, 100, always) == pytest.approx(0.05)


def test_the_target_is_copied_in_the_middle_of_a_training_too():
    ours, replay = learner(DQNConfig(hidden=(8,), batch=4, target_period=5)), filled_replay()
    first = ours.target.parameters_vector.clone()
    ours.train(replay, 3)
    ours.train(replay, 3)
    assert not torch.equal(ours.target.parameters_vector, first), "copied after 5"


def test_noise_is_on_both_observations_and_changes_what_is_learned():
    config, replay = DQNConfig(hidden=(8,), batch=64), filled_replay()
    noisy = Learner(SHAPE, ACTIONS, config, 0, noise=0.5)
    clean = replay.sample(64, np.random.default_rng(0))
    noised = noisy._noised(clean)
    for before, after in ((clean.s_tm1, noised.s_tm1), (clean.s_t, noised.s_t)):
        assert (after - before).std().item() == pytest.approx(0.5, rel=0.15)
    plain, noisy = learner(config), Learner(SHAPE, ACTIONS, config, 0, noise=0.5)
    assert plain.train(replay, 1) != noisy.train(replay, 1)
