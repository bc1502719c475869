import gymnasium
import numpy as np
import pytest
import torch

from agents import unreal
from agents.a3c import Weights, look
from agents.cells import Cell, cells_of
from agents.policy import Actions
from agents.pool import WorkerPool
from agents.replay import Steps
from agents.unreal import (
    History,
    UnrealDigest,
    UnrealNetwork,
    UnrealPolicy,
    UnrealTrainer,
    cells,
    control_loss,
    pixel_change,
)
from agents.worker import Worker
from darla.config import AgentsConfig, Config, RayConfig, UnrealConfig
from darla.errors import ConfigError
from tests.agents.test_a3c import Quiz, continue_after
from tests.agents.test_training import metrics, weights
from tests.agents.toy_training import toy_config, train_toy
from tests.toys import Catch, toy_perception

pytestmark = pytest.mark.timeout(300)

DOMAINS = ("first", "second")
CELL = Cell("unreal", "pixels", 0)
PIXELS = toy_perception("pixels")


def network(lstm=0, shape=(16, 16, 3)):
    return UnrealNetwork(shape, (3,), (32,), lstm, torch.Generator().manual_seed(0))


def numbered(count, streams=1, first=0, rewards=None, terminated=(), truncated=()):
    """Steps whose frames show their number in every pixel, streams 100 apart."""
    numbers = first + np.arange(count)[:, None] + 100 * np.arange(streams)
    frames = np.broadcast_to(numbers[..., None, None, None], (count, streams, 16, 16, 3))
    ends = np.zeros((2, count, streams), bool)
    ends[0, list(terminated)] = True
    ends[1, list(truncated)] = True
    if rewards is None:
        rewards = np.zeros((count, streams))
    finals = np.full((int(ends[1].sum()), 16, 16, 3), 255, np.uint8)
    actions = np.zeros((count, streams), np.int64)
    return Steps(
        frames.astype(np.uint8), actions, np.asarray(rewards, np.float32), ends[0], ends[1], finals
    )


# -- pixel control ---------------------------------------------------------------------------------


def test_cells_cover_as_much_of_a_frame_as_in_the_paper():
    assert [cells(side) for side in (84, 64, 16)] == [20, 14, 4]


def test_a_change_is_the_mean_over_its_cell():
    before = np.full((2, 64, 64, 3), 100, np.uint8)
    after = before.copy()
    after[0, 4, 4] = (151, 49, 100)  # the first pixel of the first cell: (64 - 14 * 4) / 2 = 4
    after[1, 8:12, 8:12] = 0
    after[1, 3] = 0  # outside of all cells
    change = pixel_change(before, after)
    assert change.shape == (2, 14, 14) and change.dtype == np.float32
    assert change[0, 0, 0] == pytest.approx(102 / 48 / 255)
    assert change[1, 1, 1] == pytest.approx(100 / 255)
    assert np.count_nonzero(change) == 2


@pytest.mark.parametrize("side", [16, 64, 84])
def test_every_cell_and_action_has_a_value(side):
    net = network(shape=(side, side, 3))
    values = net.control(torch.zeros(2, net.width))
    assert values.shape == (2, 3, cells(side), cells(side))
    # The advantages of a dueling head have a mean of 0.
    spread = net.spread(torch.zeros(2, net.width))
    assert torch.allclose(values.mean(1), net.level(spread)[:, 0], atol=1e-6)


def test_pixel_control_learns_the_change_that_follows():
    net = network()
    net.parameters_vector.zero_()
    net.level.bias.data.fill_(0.25)  # every value is 1/4
    steps = numbered(4, terminated=[1], truncated=[2])
    steps.observations[3] = 51
    following = np.full((1, 16, 16, 3), 102, np.uint8)
    features = look(net, steps, following, np.zeros((1, 0), np.float32))
    loss = control_loss(net, features, steps, following, discount=0.5)
    last, cut, ended = 51 / 255 + 0.5 * 0.25, (255 - 2) / 255 + 0.5 * 0.25, 0.0
    goals = np.array([1 / 255 + 0.5 * ended, ended, cut, last])
    assert loss.item() == pytest.approx(np.mean(0.5 * 16 * (0.25 - goals) ** 2), rel=1e-4)


# -- the replay of a worker ------------------------------------------------------------------------


def test_a_history_keeps_the_newest_steps():
    history = History(40)
    for first in (0, 7, 14, 21, 28):
        history.append(numbered(7, 2, first, truncated=[3]))
    steps = history.steps
    assert steps.observations[:, 0, 0, 0, 0].tolist() == list(range(15, 35))
    assert len(steps.finals) == 2 * int(steps.truncated[:, 0].sum()) == 6


def test_windows_are_consecutive_and_cover_all_steps():
    history, rng, starts = History(40), np.random.default_rng(0), set()
    history.append(numbered(10, 2))
    for _ in range(100):
        steps, following = history.window(4, rng)
        first = int(steps.observations[0, 0, 0, 0, 0])
        starts.add(first)
        assert steps.observations[:, 1, 0, 0, 0].tolist() == list(range(100 + first, 104 + first))
        assert following[:, 0, 0, 0].tolist() == [first + 4, 104 + first]
    assert starts == set(range(6))


def test_half_of_the_sequences_are_followed_by_a_reward():
    rewards = np.zeros((50, 2))
    rewards[20, 0], rewards[30, 1] = 1.0, -2.0
    history = History(100)
    history.append(numbered(50, 2, rewards=rewards))
    frames, signs = history.sequences(2000, np.random.default_rng(0))
    assert frames.shape == (2000, 3, 16, 16, 3) and frames.dtype == np.uint8
    numbers = frames[:, :, 0, 0, 0].astype(int)
    assert (np.diff(numbers, axis=1) == 1).all(), "frames are consecutive"
    assert np.mean(signs != 0) == pytest.approx(0.5, abs=0.04)
    assert set(numbers[signs == 1, 2]) == {20} and set(numbers[signs == 2, 2]) == {130}
    assert len(set(numbers[signs == 0, 2])) > 80


def test_sequences_lie_inside_episodes():
    history = History(100)
    history.append(numbered(9, terminated=[3], truncated=[5]))
    frames, signs = history.sequences(200, np.random.default_rng(0))
    assert set(frames[:, 2, 0, 0, 0]) == {2, 3, 8} and not signs.any()
    short = History(100)
    short.append(numbered(6, terminated=[1, 3, 5]))
    assert len(short.sequences(5, np.random.default_rng(0))[0]) == 0


# -- the gradient ----------------------------------------------------------------------------------


def begun(lstm=0, **settings):
    worker = Worker(Catch)
    actions = worker.begin(PIXELS, DOMAINS, 4, seed=0)
    ours = UnrealPolicy(actions, network(lstm), PIXELS.fingerprint)
    worker.adopt(ours, UnrealDigest(UnrealConfig(n_step=5, lstm=lstm, **settings)))
    return worker, Weights(0, ours.network.weights())


def test_auxiliary_tasks_begin_with_the_second_rollout():
    worker, message = begun()
    names = ("value_replay_loss", "pixel_control_loss", "reward_prediction_loss")
    first, second = (worker.sample(message, np.zeros(5)).content.figures for _ in range(2))
    assert all(first[name] == 0.0 for name in names)
    assert all(second[name] > 0.0 for name in names)
    assert second["reward_prediction_loss"] == pytest.approx(np.log(3), rel=0.1)


def test_each_task_has_its_weight():
    def gradient(**settings):
        everything = {"value_replay": 0.0, "pixel_control": 0.0, "reward_prediction": 0.0}
        worker, message = begun(gradient_norm=None, **{**everything, **settings})
        return [worker.sample(message, np.zeros(5)) for _ in range(2)][1].content.vector

    nothing = gradient()
    for name in ("value_replay", "pixel_control", "reward_prediction"):
        once, twice = gradient(**{name: 1.0}) - nothing, gradient(**{name: 2.0}) - nothing
        assert np.abs(once).max() > 1e-4
        assert np.allclose(twice, 2 * once, atol=1e-5), name


@pytest.mark.parametrize("lstm", [0, 8])
def test_a_restored_worker_goes_on_with_the_same_bits(lstm):
    worker, message = begun(lstm)
    for _ in range(3):
        worker.sample(message, np.zeros(5))
    restored, _ = begun(lstm)
    restored.load(worker.state(), worker.digest_state())
    ours, other = (each.sample(message, np.zeros(5)).content for each in (worker, restored))
    assert np.array_equal(ours.vector, other.vector) and ours.figures == other.figures


# -- training --------------------------------------------------------------------------------------


def unreal_config(runs, decisions=900, *, evaluation_episodes=10, **settings):
    base = {"hidden": (64,), "learning_rate": 0.003, "n_step": 5, "discount": 0.97, "replay": 400}
    unreal = UnrealConfig(**{**base, **settings})
    return toy_config(runs, decisions, unreal=unreal, evaluation_episodes=evaluation_episodes)


def trained(config, pool):
    return train_toy(config, pool, cell=CELL, perception=PIXELS)


@pytest.fixture(scope="module")
def lone_pool(cluster):
    """One worker that plays the toy game."""
    with WorkerPool(RayConfig(workers=1, envs_per_worker=8, cpus_per_worker=0.1), Catch) as pool:
        yield pool


class Sides(Quiz):
    """One half of the frame is white: which one?"""

    single_action_space = gymnasium.spaces.Discrete(3)

    def frames(self):
        frames = np.zeros((self.num_envs, 16, 16, 3), np.uint8)
        halves = frames.reshape(self.num_envs, 16, 2, 8, 3)
        halves[np.arange(self.num_envs), :, self._cue] = 255
        return frames

    def shown(self):
        return self._cue

    def judge(self, actions):
        rewards = np.where(actions == self._cue, 1.0, -1.0)
        self._cue = self._rng.integers(2, size=self.num_envs)
        return rewards


def test_unreal_learns_from_pixels(cluster, tmp_path):
    config = unreal_config(tmp_path, 1600, evaluation_episodes=60)
    with WorkerPool(RayConfig(workers=1, envs_per_worker=8, cpus_per_worker=0.1), Sides) as pool:
        assert trained(config, pool)["source_return"] > 2.0, "chance is -1"


def test_a_continued_training_ends_with_the_same_bits(lone_pool, tmp_path, monkeypatch):
    undisturbed, config = unreal_config(tmp_path / "a"), unreal_config(tmp_path / "b")
    trained(undisturbed, lone_pool)
    continue_after(config, lone_pool, CELL, monkeypatch, perception=PIXELS)
    assert weights(config, CELL) == weights(undisturbed, CELL)
    assert metrics(config, CELL) == metrics(undisturbed, CELL)


# -- what is refused -------------------------------------------------------------------------------


def test_other_perceptions_are_refused_before_anything_is_trained():
    agents = AgentsConfig(algorithms=("unreal",), perceptions=("pixels", "darla"))
    with pytest.raises(ConfigError, match="not on perception .darla.; it needs pixels among"):
        cells_of(Config(name="x", agents=agents))


class Stub:
    """A pool whose environments are of some kind."""

    config = RayConfig(workers=1, envs_per_worker=8)
    restarts = 0

    def __init__(self, actions):
        self._actions = actions

    def begin(self, *_):
        return self._actions


@pytest.mark.parametrize(
    ("actions", "replay", "message"),
    [
        (Actions((3, 3), vector=True), 2000, "unreal makes one choice.*for 2 choices at once"),
        (Actions((3,)), 23, r"agents.unreal.replay is 23.*at least 24"),
    ],
)
def test_what_it_cannot_learn_is_refused(tmp_path, actions, replay, message):
    config = unreal_config(tmp_path, replay=replay)
    with pytest.raises(ConfigError, match=message):
        UnrealTrainer(config, CELL, Stub(actions), PIXELS, DOMAINS)


def test_pixel_control_is_of_the_action_taken_and_the_best_one_after():
    net = network()
    net.parameters_vector.zero_()
    net.level.bias.data.fill_(0.25)
    net.advantage.bias.data[:] = torch.tensor([0.3, 0.0, -0.3])
    steps = numbered(4, terminated=[1], truncated=[2])
    steps.observations[3] = 51
    steps.actions[:, 0] = [0, 1, 2, 1]
    following = np.full((1, 16, 16, 3), 102, np.uint8)
    features = look(net, steps, following, np.zeros((1, 0), np.float32))
    loss = unreal.control_loss(net, features, steps, following, discount=0.5)
    best = 0.55
    goals = np.array([1 / 255, 0.0, (255 - 2) / 255 + 0.5 * best, 51 / 255 + 0.5 * best])
    assert loss.item() == pytest.approx(
        np.mean(0.5 * 16 * (np.array([0.55, 0.25, -0.05, 0.25]) - goals) ** 2), rel=1e-4
    )


def test_pixel_control_has_a_discount_of_its_own(monkeypatch):
    seen = []

    def control_loss(*given):
        seen.append(given[-1])
        return torch.zeros(())

    monkeypatch.setattr(unreal, "control_loss", control_loss)
    worker, message = begun(discount=0.9, pixel_discount=0.5)
    for _ in range(2):
        worker.sample(message, np.zeros(5))
    assert seen == [0.5]
