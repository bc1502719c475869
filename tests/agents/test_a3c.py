import functools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.a3c import (
    A3CPolicy,
    A3CTrainer,
    Gradient,
    GradientDigest,
    Weights,
    look,
    n_step_returns,
    noised,
)
from agents.actor_critic import ActorCritic
from agents.algorithms import load_policy, save_policy
from agents.cells import Cell
from agents.policy import Actions
from agents.pool import WorkerPool
from agents.replay import Steps
from agents.worker import Chunk, Rollout, Worker
from darla.config import A3CConfig, Config, RayConfig
from darla.errors import CorruptFileError
from darla.rundir import RunDirectory
from tests.agents.test_fine_tuning import Pool
from tests.agents.test_pool import Mortal
from tests.agents.test_training import Stop, metrics, weights
from tests.agents.toy_training import toy_config, train_toy
from tests.toys import Catch, toy_perception

pytestmark = pytest.mark.timeout(300)

DOMAINS = ("first", "second")
CELL = Cell("a3c", "factors", 0)
JOINT = Actions((2, 4), vector=True)


def network(choices=(3,), lstm=0, shape=(4,), seed=0):
    return ActorCritic(shape, choices, (16,), lstm, torch.Generator().manual_seed(seed))


SINGLE = Actions((3,))


def policy(actions=SINGLE, lstm=0, shape=(4,), seed=0):
    return A3CPolicy(actions, network(actions.choices, lstm, shape, seed), "factors")


def latents(*size, seed=0):
    return np.random.default_rng(seed).standard_normal((*size, 4)).astype(np.float32)


# -- returns ---------------------------------------------------------------------------------------


def test_returns_end_with_episodes_and_go_on_where_these_were_cut_off():
    returns = n_step_returns(
        rewards=np.array([[1, 0], [2, 8], [4, 0], [8, 4]], np.float32),
        terminated=np.array([[0, 0], [1, 0], [0, 0], [0, 0]], bool),
        truncated=np.array([[0, 0], [0, 1], [0, 0], [0, 1]], bool),
        finals=np.array([16, 32], np.float32),
        bootstrap=np.array([2, 100], np.float32),
        discount=0.5,
    )
    # The first ends at step 1 and bootstraps at the end; the second is cut off twice.
    assert returns.T.tolist() == [[2.0, 2.0, 8.5, 9.0], [8.0, 16.0, 10.0, 20.0]]
    assert returns.dtype == np.float32


def test_returns_of_pictures_are_those_of_their_pixels():
    rng = np.random.default_rng(0)
    ends = np.zeros((5, 2), bool)
    truncated = ends.copy()
    ends[1, 0] = truncated[3, 1] = True
    rewards, finals, bootstrap = (
        rng.random(size, np.float32) for size in ((5, 2, 3, 4), (1, 3, 4), (2, 3, 4))
    )
    whole = n_step_returns(rewards, ends, truncated, finals, bootstrap, 0.9)
    pixel = n_step_returns(
        rewards[..., 1, 2], ends, truncated, finals[..., 1, 2], bootstrap[..., 1, 2], 0.9
    )
    assert np.array_equal(whole[..., 1, 2], pixel)


# -- the gradient ----------------------------------------------------------------------------------


def short_episodes(domains, num_envs, *, seed, render):
    return Catch(domains, num_envs, seed=seed, render=render, limit=3)


class Remember(GradientDigest):
    """Keeps the last rollout."""

    def __call__(self, policy, rollout, rng):
        self.rollout = rollout
        return super().__call__(policy, rollout, rng)


def sampled(config, lstm=0, factory=short_episodes, steps=7):
    """A worker's second rollout, whose episodes are cut off inside, and its gradient."""
    worker = Worker(factory)
    actions = worker.begin(toy_perception(), DOMAINS, 4, seed=0)
    ours, digest = policy(actions, lstm), Remember(config)
    worker.adopt(ours, digest)
    message = Weights(5, ours.network.weights())
    for _ in range(2):
        chunk = worker.sample(message, np.zeros(steps))
    return ours.network, digest.rollout, chunk.content


def textbook_gradient(network, rollout, config):
    """The gradient of A3C's loss, one environment and one decision at a time."""
    steps, total, finals = rollout.steps, 0.0, iter(rollout.steps.finals)
    last = {place: next(finals) for place in zip(*np.nonzero(steps.truncated), strict=True)}

    def judge(observation, memory):
        features, after = network.step(torch.from_numpy(observation)[None], memory)
        (log_probabilities,), value = network.judge(features)
        return torch.distributions.Categorical(logits=log_probabilities[0]), value[0], after

    length, streams = steps.rewards.shape
    for b in range(streams):
        memory = torch.from_numpy(rollout.memory[b : b + 1])
        said = []
        for t in range(length):
            *heads, memory = judge(steps.observations[t, b], memory)
            value = torch.zeros(())
            if steps.truncated[t, b]:
                value = judge(last[t, b], memory)[1]
            elif t == length - 1 and not steps.terminated[t, b]:
                value = judge(rollout.observations[b], memory)[1]
            said.append((heads, value.item()))
            if steps.terminated[t, b] or steps.truncated[t, b]:
                memory = torch.zeros_like(memory)
        goal = 0.0
        for t in reversed(range(length)):
            (distribution, value), after = said[t]
            ended = steps.terminated[t, b] or steps.truncated[t, b] or t == length - 1
            goal = steps.rewards[t, b] + config.discount * (after if ended else goal)
            action = torch.tensor(steps.actions[t, b])
            advantage = goal - value.item()
            total = total - distribution.log_prob(action) * advantage
            total = total + config.value_weight * 0.5 * (goal - value) ** 2
            total = total - config.entropy * distribution.entropy()
    network.gradient_vector.zero_()
    (total / steps.rewards.size).backward()
    return network.gradient_vector.clone()


@pytest.mark.parametrize("lstm", [0, 8])
@pytest.mark.parametrize("factory", [short_episodes, Catch])
def test_the_gradient_is_that_of_a_textbook(factory, lstm):
    config = A3CConfig(gradient_norm=None, entropy=0.05, discount=0.9)
    net, rollout, gradient = sampled(config, lstm, factory)
    assert rollout.steps.truncated.any() != rollout.steps.terminated.any()
    assert gradient.version == 5 and gradient.vector.dtype == np.float32
    expected = textbook_gradient(net, rollout, config)
    assert np.allclose(gradient.vector, expected, atol=1e-6)
    assert gradient.figures["gradient_norm"] == pytest.approx(expected.norm().item(), rel=1e-4)


def test_a_long_gradient_is_cut_to_its_norm():
    _, _, whole = sampled(A3CConfig(gradient_norm=None))
    norm = whole.figures["gradient_norm"]
    _, _, cut = sampled(A3CConfig(gradient_norm=norm / 4))
    assert np.allclose(cut.vector, whole.vector / 4, atol=1e-6)
    _, _, untouched = sampled(A3CConfig(gradient_norm=norm * 4))
    assert np.array_equal(untouched.vector, whole.vector)


def policy_gradient(rewards: np.ndarray, **settings: bool) -> np.ndarray:
    """Of one-step episodes, float32 [T, B], on values that are 0."""
    net, rng = network(SINGLE.choices), np.random.default_rng(0)
    net.head.weight.data[-1].zero_(), net.head.bias.data[-1:].zero_()
    shape = rewards.shape
    steps = Steps(
        rng.standard_normal((*shape, 4), np.float32),
        rng.integers(SINGLE.choices[0], size=shape),
        rewards,
        np.ones(shape, bool),
        np.zeros(shape, bool),
        latents(0),
    )
    nothing = np.zeros((shape[1], 0), np.float32)
    rollout = Rollout(steps, nothing, latents(shape[1]))
    config = A3CConfig(entropy=0.0, value_weight=0.0, gradient_norm=None, **settings)
    return GradientDigest(config)(A3CPolicy(SINGLE, net, "x"), rollout, rng).vector


def test_normalised_advantages_do_not_depend_on_the_level_and_scale_of_rewards():
    rewards = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    plain = policy_gradient(rewards)
    assert not np.allclose(policy_gradient(5 * rewards + 7), plain, atol=0.1)
    usual = policy_gradient(rewards, normalise=True)
    assert np.abs(usual).max() > 0.01
    assert np.allclose(policy_gradient(5 * rewards + 7, normalise=True), usual, atol=1e-5)
    centred = (rewards - rewards.mean()) / rewards.std()
    assert np.allclose(policy_gradient(centred), usual, atol=1e-5)
    assert not policy_gradient(rewards[:1, :1], normalise=True).any()  # one decision: no comparison


def test_values_start_where_they_are_told():
    net = network()
    untouched = net.weights()
    net.start_value(0.0)
    assert np.array_equal(net.weights(), untouched)
    before = net.judge(net.step(torch.from_numpy(latents(50)), torch.zeros(50, 0))[0])
    net.start_value(3.5)
    after = net.judge(net.step(torch.from_numpy(latents(50)), torch.zeros(50, 0))[0])
    assert after[1].mean().item() == pytest.approx(3.5, abs=0.5)
    assert after[1].std().item() == pytest.approx(before[1].std().item(), rel=1e-4)
    assert torch.equal(after[0][0], before[0][0])


def test_noise_is_on_the_observations_that_are_learned_on_only():
    _, rollout, plain = sampled(A3CConfig())
    noisy = noised(rollout, 0.5, np.random.default_rng(0))
    for before, after in (
        (rollout.steps.observations, noisy.steps.observations),
        (rollout.steps.finals, noisy.steps.finals),
        (rollout.observations, noisy.observations),
    ):
        assert after.dtype == np.float32
        assert (after - before).std() == pytest.approx(0.5, rel=0.25)
    assert np.array_equal(noisy.steps.actions, rollout.steps.actions)


# -- several choices -------------------------------------------------------------------------------


def test_entropy_and_probability_of_several_choices_are_sums_and_products():
    net = network(JOINT.choices)
    net.parameters_vector.zero_()
    bias = net.head.bias
    bias.data[:2] = torch.log(torch.tensor([0.25, 0.75]))
    steps = Steps(
        latents(1, 1),
        np.array([[[1, 2]]]),
        np.ones((1, 1), np.float32),
        np.ones((1, 1), bool),
        np.zeros((1, 1), bool),
        latents(0),
    )
    nothing = np.zeros((1, 0), np.float32)
    loss, figures = GradientDigest(A3CConfig(entropy=0.0, value_weight=0.0)).loss(
        net, Rollout(steps, nothing, latents(1)), np.random.default_rng(0)
    )
    first = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    assert figures["entropy"] == pytest.approx(first + np.log(4), rel=1e-5)
    # The value is 0 and the return 1: the loss is -log(3/4 * 1/4).
    assert loss.item() == pytest.approx(-np.log(0.75 * 0.25), rel=1e-5)


def test_actions_are_drawn_as_often_as_the_probabilities_say():
    ours = policy(JOINT)
    observations = np.repeat(latents(1), 20_000, axis=0)
    memory = ours.start(len(observations))
    actions, _ = ours.act(observations, memory, epsilon=0.0, rng=np.random.default_rng(0))
    assert actions.shape == (20_000, 2) and actions.dtype == np.int64
    probabilities = ours.preferences(observations[:1], memory[:1])[0]
    assert probabilities.dtype == np.float32
    assert probabilities[:2].sum() == pytest.approx(1) and probabilities[2:].sum() == pytest.approx(
        1
    )
    for choice, part in enumerate(np.split(probabilities, [2])):
        counts = np.bincount(actions[:, choice], minlength=len(part)) / len(actions)
        assert np.allclose(counts, part, atol=0.015)


# -- memory ----------------------------------------------------------------------------------------


def test_an_episodes_end_inside_a_rollout_is_as_two_rollouts():
    net = network(lstm=8)
    observations, memory = torch.from_numpy(latents(7, 2)), torch.randn(2, 16)
    ended = torch.zeros(7, 2, dtype=torch.bool)
    ended[3] = True
    whole, memories = net.unroll(observations, memory, ended)
    first, _ = net.unroll(observations[:4], memory, ended[:4])
    second, after = net.unroll(observations[4:], torch.zeros(2, 16), ended[4:])
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(memories[4:], after)
    assert not torch.equal(net.unroll(observations, memory, ended & False)[0][4:], second)


def test_a_last_observation_is_judged_with_its_own_episodes_memory():
    net = network(lstm=8)
    observations, memory = latents(4, 1), latents(4).reshape(1, 16)
    ends = np.zeros((3, 1), bool)
    cut = np.array([[False], [False], [True]])
    steps = Steps(
        observations[:3], np.zeros((3, 1), int), np.zeros((3, 1)), ends, cut, observations[3]
    )
    seen = look(net, steps, latents(1, seed=1), memory)
    uncut, _ = net.unroll(
        torch.from_numpy(observations),
        torch.from_numpy(memory),
        torch.zeros(4, 1, dtype=torch.bool),
    )
    assert torch.allclose(seen.finals[0], uncut[3, 0], atol=1e-6)
    fresh, _ = net.step(torch.from_numpy(latents(1, seed=1)), torch.zeros(1, 16))
    assert torch.allclose(seen.last, fresh, atol=1e-6)


def test_a_policy_acts_as_its_network_unrolls():
    ours = policy(lstm=8)
    observations, memory = latents(5, 2), ours.start(2)
    rng = np.random.default_rng(0)
    for step in observations:
        _, memory = ours.act(step, memory, epsilon=1.0, rng=rng)
    ends = torch.zeros(5, 2, dtype=torch.bool)
    _, memories = ours.network.unroll(torch.from_numpy(observations), torch.zeros(2, 16), ends)
    assert np.allclose(memory, memories[-1].detach(), atol=1e-6)


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "lstm", "shape"),
    [(SINGLE, 0, (4,)), (JOINT, 8, (4,)), (Actions((3,)), 0, (16, 16, 3))],
)
def test_a_policy_comes_back_as_it_was(tmp_path, actions, lstm, shape):
    run, ours = (
        RunDirectory.open(Config(name="x", runs=str(tmp_path))),
        policy(actions, lstm, shape),
    )
    save_policy(run, CELL, ours, "{}")
    loaded = load_policy(run, CELL)
    rng = np.random.default_rng(0)
    observations = latents(6) if shape == (4,) else rng.integers(256, size=(6, *shape)).astype("u1")
    memory = rng.random((6, 2 * lstm), np.float32)
    acted = [
        each.act(observations, memory, epsilon=0.1, rng=np.random.default_rng(1))
        for each in (ours, loaded)
    ]
    assert np.array_equal(acted[0][0], acted[1][0]) and np.array_equal(acted[0][1], acted[1][1])
    assert loaded.actions == actions and loaded.perception_fingerprint == "factors"


def test_a_file_of_another_network_is_named(tmp_path):
    run, ours = RunDirectory.open(Config(name="x", runs=str(tmp_path))), policy()
    ours.settings = lambda: {"shape": (4,), "hidden": (8,), "lstm": 0}
    save_policy(run, CELL, ours, "{}")
    with pytest.raises(CorruptFileError, match=r"a3c-factors-s0/policy.*parameters"):
        load_policy(run, CELL)
    path = run.agent(CELL.id) / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptFileError, match=r"a3c-factors-s0/policy\.safetensors"):
        load_policy(run, CELL)


# -- training --------------------------------------------------------------------------------------


def a3c_config(runs, decisions=1500, *, evaluation_episodes=10, **settings):
    base = {"hidden": (64, 64), "learning_rate": 0.01, "n_step": 5, "discount": 0.97}
    a3c = A3CConfig(**{**base, **settings})
    return toy_config(runs, decisions, a3c=a3c, evaluation_episodes=evaluation_episodes)


@pytest.fixture(scope="module")
def lone_pool(cluster):
    """One worker that plays the toy game."""
    with WorkerPool(RayConfig(workers=1, envs_per_worker=8, cpus_per_worker=0.1), Catch) as pool:
        yield pool


@pytest.fixture(scope="module")
def reference(lone_pool, tmp_path_factory):
    """A training that nothing disturbed."""
    config = a3c_config(tmp_path_factory.mktemp("reference"))
    return config, train_toy(config, lone_pool, cell=CELL)


def mean_of(config, name, cell=CELL):
    return np.mean([row[name] for row in metrics(config, cell) if row["split"] == "train"])


@pytest.mark.parametrize("pool", ["lone_pool", "toy_pool"])
def test_a3c_masters_the_toy_game(pool, request, tmp_path):
    workers = request.getfixturevalue(pool)
    config = a3c_config(tmp_path, 16_000, evaluation_episodes=60)
    facts = train_toy(config, workers, cell=CELL)
    assert facts["source_return"] > 0.6
    assert facts["decisions"] == 16_000 and facts["updates"] == 16_000 / 40 * workers.size
    rows = [row for row in metrics(config, CELL) if row["split"] == "train"]
    assert rows[0]["return"] < 0.0 and rows[0]["epsilon"] == 0.0
    assert 0.8 * np.log(3) < rows[0]["entropy"] <= np.log(3)
    stale = mean_of(config, "staleness"), max(row["stalest"] for row in rows)
    if workers.size == 1:
        assert stale == (0.0, 0)
    else:
        assert 0.2 < stale[0] <= stale[1] < 100


def test_rmsprop_learns_too(lone_pool, tmp_path):
    settings = {"optimiser": "rmsprop", "learning_rate": 0.003}
    config = a3c_config(tmp_path, 16_000, evaluation_episodes=60, **settings)
    assert train_toy(config, lone_pool, cell=CELL)["source_return"] > 0.0
    assert metrics(config, CELL)[0]["return"] < -0.3, "it began at the level of chance"


def test_one_worker_and_one_seed_give_the_same_bits(reference, lone_pool, tmp_path):
    config = a3c_config(tmp_path)
    train_toy(config, lone_pool, cell=CELL)
    assert weights(config, CELL) == weights(reference[0], CELL)
    assert metrics(config, CELL) == metrics(reference[0], CELL)
    other = Cell("a3c", "factors", 1)
    train_toy(config, lone_pool, cell=other)
    assert weights(config, other) != weights(config, CELL)


def test_every_checkpoint_is_a_good_place_to_continue(reference, lone_pool, tmp_path, monkeypatch):
    config = a3c_config(tmp_path)
    continue_after(config, lone_pool, CELL, monkeypatch)
    assert weights(config, CELL) == weights(reference[0], CELL)
    assert metrics(config, CELL) == metrics(reference[0], CELL)


def continue_after(config, pool, cell, monkeypatch, **options):
    """Trains with interruptions in the middle of rounds."""
    learn = A3CTrainer.learn
    for rounds in (3, 6, 5):
        left = iter(range(rounds))

        def learn_or_stop(trainer, left=left):
            if next(left, None) is None:
                raise Stop
            learn(trainer)

        with monkeypatch.context() as patch:
            patch.setattr(A3CTrainer, "learn", learn_or_stop)
            with pytest.raises(Stop):
                train_toy(config, pool, cell=cell, **options)
    train_toy(config, pool, cell=cell, **options)


def test_a_worker_that_is_killed_costs_nothing(reference, cluster, tmp_path):
    config = a3c_config(tmp_path)
    factory = functools.partial(Mortal, marks=str(tmp_path / "marks"))
    with WorkerPool(RayConfig(workers=1, envs_per_worker=8, cpus_per_worker=0.1), factory) as pool:
        assert train_toy(config, pool, cell=CELL)["restarts"] == 1
    assert weights(config, CELL) == weights(reference[0], CELL)


def test_another_networks_checkpoint_is_refused(lone_pool, tmp_path, monkeypatch):
    config = a3c_config(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(A3CTrainer, "save_learner", lambda *_: ({"weights": torch.zeros(3)}, {}))
        patch.setattr(A3CTrainer, "rest", stop_after(A3CTrainer.rest, 4))
        with pytest.raises(Stop):
            train_toy(config, lone_pool, cell=CELL)
    with pytest.raises(CorruptFileError, match=r"safetensors.*\(3,\) parameters"):
        train_toy(config, lone_pool, cell=CELL)


def stop_after(method, calls):
    """Lets a method work so often, and then interrupt."""
    left = iter(range(calls))

    def work_or_stop(trainer):
        if next(left, None) is None:
            raise Stop
        method(trainer)

    return work_or_stop


class Quiz(VectorEnv):
    """Episodes of three decisions; a subclass says what is shown and what is right."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    length = 3

    def __init__(self, domains, num_envs, *, seed, render):
        self.num_envs, self._seed = num_envs, seed

    def reset(self, *, seed=None, options=None):
        self._rng = np.random.default_rng(self._seed if seed is None else seed)
        self._begin()
        return self.frames(), self._info()

    def frames(self):
        """Nothing, since perception `factors` reads the state."""

    def step(self, actions):
        rewards = self.judge(actions)
        self._time += 1
        over = np.full(self.num_envs, self._time == self.length)
        final = {"final_info": self._info(), "_final_obs": over}
        if over.all():
            self._begin()
        return self.frames(), rewards, over, ~over & False, {**self._info(), **final}

    def _begin(self):
        self._time = 0
        self._cue = self._rng.integers(2, size=self.num_envs)

    def _info(self):
        state = np.zeros((self.num_envs, 4), np.float32)
        state[:, 0] = self.shown()
        state[:, 1] = self._time
        return {"state": state, "domain": np.zeros(self.num_envs, int)}


class Recall(Quiz):
    """What was shown at first must be said at last."""

    single_action_space = gymnasium.spaces.Discrete(2)

    def shown(self):
        return (2 * self._cue - 1) * (self._time == 0)

    def judge(self, actions):
        return np.where(self._time == self.length - 1, 2.0 * (actions == self._cue) - 1.0, 0.0)


class Both(Quiz):
    """Two choices at once, of which the second must be the opposite of what is shown."""

    single_action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def shown(self):
        return 2 * self._cue - 1

    def judge(self, actions):
        return 0.5 * (actions[:, 0] == self._cue) + 0.5 * (actions[:, 1] == 2 - self._cue)


def quiz(factory, cluster, tmp_path, decisions, **settings):
    """Mean return of a policy that was trained on a quiz."""
    config = a3c_config(tmp_path, decisions, evaluation_episodes=60, n_step=6, **settings)
    with WorkerPool(RayConfig(workers=1, envs_per_worker=8, cpus_per_worker=0.1), factory) as pool:
        return train_toy(config, pool, cell=CELL)["source_return"]


@pytest.mark.parametrize(("lstm", "low", "high"), [(0, -0.5, 0.5), (16, 0.8, 1.0)])
def test_a_memory_solves_what_needs_one(cluster, tmp_path, lstm, low, high):
    assert low <= quiz(Recall, cluster, tmp_path, 9600, lstm=lstm) <= high


def test_several_choices_are_learned_at_once(cluster, tmp_path):
    assert quiz(Both, cluster, tmp_path, 9600) > 0.9 * 3


def test_the_step_size_falls_where_it_is_annealed(tmp_path):
    rates = []
    for anneal in (True, False):
        a3c = A3CConfig(hidden=(8,), learning_rate=0.1, anneal=anneal)
        trainer = A3CTrainer(
            toy_config(tmp_path / str(anneal), 100, a3c=a3c),
            Cell("a3c", "factors", 0),
            Pool(),
            toy_perception(),
            ("first",),
        )
        trainer.decisions = 75
        nothing = Gradient(
            0, np.zeros(len(trainer.policy.network.parameters_vector), np.float32), {}
        )
        trainer._apply(Chunk(nothing, 1, [], None))
        rates.append(trainer._optimiser.param_groups[0]["lr"])
    assert rates == [pytest.approx(0.025), 0.1]


def test_noise_changes_the_gradient():
    net, rollout, plain = sampled(A3CConfig())
    ours = policy(SINGLE)
    vectors = [
        GradientDigest(A3CConfig(), noise)(ours, rollout, np.random.default_rng(0)).vector
        for noise in (0.0, 0.5)
    ]
    assert not np.allclose(*vectors, atol=1e-4)
