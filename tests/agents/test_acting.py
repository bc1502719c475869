import numpy as np
import pytest
import torch

from agents.a3c import A3CPolicy
from agents.acting import observe, observe_final, play_episodes
from agents.actor_critic import ActorCritic
from agents.dqn import QPolicy
from agents.networks import QNetwork
from agents.policy import Actions
from agents.worker import Worker
from darla.errors import ConfigError, DarlaError, FingerprintError
from tests.toys import COLUMNS, PIXELS, ROWS, Catch, toy_perception

DOMAINS = ("first", "second")


def new_policy(perception, seed=0):
    network = QNetwork(perception.shape, 3, (16,), torch.Generator().manual_seed(seed))
    return QPolicy(network, perception.fingerprint)


class Perfect:
    """Walks below the ball; knows the toy game's state."""

    actions = Actions((3,))

    def check(self, perception):
        pass

    def start(self, batch):
        return np.zeros((batch, 0), np.float32)

    def act(self, latents, memory, *, epsilon, rng):
        return 1 + np.sign(np.round((latents[:, 0] - latents[:, 2]) * 4)).astype(np.int64), memory


class Endless(Catch):
    """Forgets that an episode has ended."""

    def step(self, actions):
        frames, rewards, *_ = super().step(actions)
        never = np.zeros(self.num_envs, bool)
        return frames, rewards, never, never, self._info()


class Ragged(Catch):
    """Ends an episode early, and truncated, where ball and paddle are in the same column."""

    def step(self, actions):
        self.limit = np.where(self._ball == self._paddle, 1, ROWS)
        return super().step(actions)


def test_a_greedy_policy_takes_the_best_action_and_epsilon_mixes_in_random_ones():
    perception = toy_perception()
    policy = new_policy(perception)
    latents = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    memory = policy.start(3000)
    greedy, _ = policy.act(latents, memory, epsilon=0.0, rng=np.random.default_rng(0))
    with torch.no_grad():
        assert np.array_equal(greedy, policy.network(torch.from_numpy(latents)).argmax(1))
    assert greedy.dtype == np.int64
    mixed, _ = policy.act(latents, memory, epsilon=0.6, rng=np.random.default_rng(0))
    assert (mixed != greedy).mean() == pytest.approx(0.6 * 2 / 3, abs=0.04)


def test_the_generator_advances_equally_whatever_epsilon_is():
    policy = new_policy(toy_perception())
    latents = np.zeros((5, 4), np.float32)
    generators = [np.random.default_rng(0) for _ in range(3)]
    for epsilon, rng in zip((0.0, 0.5, 1.0), generators, strict=True):
        policy.act(latents, policy.start(5), epsilon=epsilon, rng=rng)
    assert len({rng.random() for rng in generators}) == 1


def test_a_policy_that_draws_its_actions_draws_as_many_at_epsilon_1():
    actions, latents = Actions((3,)), np.zeros((5, 4), np.float32)
    network = ActorCritic((4,), (3,), (8,), 0, torch.Generator().manual_seed(0))
    policy = A3CPolicy(actions, network, "0" * 64)
    generators = [np.random.default_rng(0) for _ in range(2)]
    for epsilon, rng in zip((0.0, 1.0), generators, strict=True):
        policy.act(latents, policy.start(5), epsilon=epsilon, rng=rng)
    assert len({rng.random() for rng in generators}) == 1


@pytest.mark.parametrize("name", ["factors", "pixels"])
def test_a_perception_gets_what_it_needs(name):
    perception = toy_perception(name)
    vector = Catch(DOMAINS, 3, seed=0, limit=2)
    frames, info = vector.reset(seed=0)
    assert observe(perception, frames, info).shape == (3, *perception.shape)
    for _ in range(2):
        *_, truncated, info = vector.step(np.ones(3, int))
    ended = np.array([True, False, True])
    last = observe_final(perception, info, ended)
    assert truncated.all() and last.shape == (2, *perception.shape)
    if name == "factors":
        assert np.allclose(last[:, 1], 2 / ROWS)
    else:
        assert last.dtype == np.uint8 and last[:, 4, :PIXELS].any()


class TestPlayEpisodes:
    def play(self, policy, quota, seed=7, vector=None, perception=None):
        vector = vector or Catch(DOMAINS, 4, seed=0)
        perception = perception or toy_perception()
        return play_episodes(policy, perception, vector, quota, epsilon=0.0, seed=seed)

    def test_a_perfect_player_scores_1_in_every_episode(self):
        episodes = self.play(Perfect(), 3)
        assert [(e.env, e.episode) for e in episodes] == list(np.ndindex(4, 3))
        assert {e.length for e in episodes} == {ROWS - 1}
        assert {e.return_ for e in episodes} == {1.0}

    def test_quotas_can_differ(self):
        counts = [sum(e.env == i for e in self.play(None, [2, 0, 1, 5])) for i in range(4)]
        assert counts == [2, 0, 1, 5]

    def test_who_has_played_its_episodes_retires(self):
        class Retiring(Catch):
            """Counts the decisions that are taken in earnest."""

            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.retired, self.lived = np.zeros(self.num_envs, bool), 0

            def retire(self, which):
                self.retired |= which

            def step(self, actions):
                self.lived += int((~self.retired).sum())
                return super().step(actions)

        class Counting:
            """A perception that counts what it encodes."""

            needs, encoded = "state", 0

            def encode(self, frames, state):
                self.encoded += len(state)
                return state

        vector, perception = Retiring(DOMAINS, 4, seed=0), Counting()
        episodes = self.play(Perfect(), [2, 0, 1, 5], vector=vector, perception=perception)
        assert vector.lived == perception.encoded == sum(e.length for e in episodes)
        assert episodes == self.play(Perfect(), [2, 0, 1, 5])

    def test_the_domain_is_that_of_the_episode_that_ended(self):
        episodes = self.play(Perfect(), 5)
        for e in episodes:
            rng = np.random.default_rng([e.seed, e.env, e.episode])
            assert e.domain == rng.integers(len(DOMAINS))
        assert len({e.domain for e in episodes}) == 2

    def test_layouts_do_not_depend_on_the_policy_or_on_earlier_plays(self):
        vector = Catch(DOMAINS, 4, seed=0)
        first = self.play(None, 6, vector=vector)
        second = self.play(Perfect(), 6, vector=vector)
        assert [e.domain for e in first] == [e.domain for e in second]
        assert self.play(None, 6, vector=vector) == first
        assert self.play(None, 6, seed=8, vector=vector) != first

    def test_short_episodes_are_not_favoured(self):
        episodes = self.play(Perfect(), 4, vector=Ragged(DOMAINS, 4, seed=0))
        for e in episodes:
            rng = np.random.default_rng([e.seed, e.env, e.episode])
            rng.integers(len(DOMAINS))
            ball, paddle = rng.integers(COLUMNS, size=2)
            assert (e.length == 1) == (ball == paddle)
        assert [(e.env, e.episode) for e in episodes] == list(np.ndindex(4, 4))

    def test_success_is_reached_at_any_decision_of_an_episode(self):
        class Telling(Catch):
            """Succeeds where the paddle is below the ball, which it may leave again."""

            def _info(self):
                return {**super()._info(), "success": self._ball == self._paddle}

            def step(self, actions):
                self._paddle = np.clip(self._paddle + np.asarray(actions) - 1, 0, COLUMNS - 1)
                below = self._ball == self._paddle
                *rest, info = super().step(np.ones(self.num_envs, int))
                if "final_info" in info:
                    info["final_info"]["success"] = below
                return *rest, info

        episodes = self.play(Perfect(), 3, vector=Telling(DOMAINS, 4, seed=0))
        assert {e.success for e in episodes} == {True}
        drifting = self.play(None, 20, vector=Telling(DOMAINS, 4, seed=0))
        assert {e.success for e in drifting} == {True, False}
        assert all(e.success for e in drifting if e.return_ == 1.0)
        assert any(e.success for e in drifting if e.return_ == -1.0)
        assert {e.success for e in self.play(None, 1)} == {None}

    @pytest.mark.parametrize("one", [1, 1.0, np.int64(1)])
    def test_success_may_be_a_number_and_be_told_late(self, one):
        class Late(Catch):
            """Tells of success where there is one, and nothing when it is reset."""

            def step(self, actions):
                *rest, info = super().step(actions)
                if "final_info" in info:
                    caught = rest[1] > 0
                    info["final_info"]["success"] = caught * np.full(self.num_envs, one)
                return *rest, info

        played = self.play(None, 5, vector=Late(DOMAINS, 4, seed=0))
        assert {e.success for e in played} == {True, False}
        assert all(e.success == (e.return_ == 1.0) for e in played)

    def test_an_episode_before_the_first_success_that_is_told_had_none(self):
        class Proud(Catch):
            """Tells of success only where there is one, and of nothing else."""

            def step(self, actions):
                *rest, info = super().step(actions)
                if (rest[1] > 0).any() and "final_info" in info:
                    info["final_info"]["success"] = rest[1] > 0
                return *rest, info

        for seed in range(8):
            played = self.play(None, 12, vector=Proud(DOMAINS, 4, seed=seed), seed=seed)
            told = any(e.return_ == 1.0 for e in played)
            assert [e.success for e in played] == [
                e.return_ == 1.0 if told else None for e in played
            ]

    def test_a_policy_of_other_actions_is_refused(self):
        perception = toy_perception()
        network = QNetwork(perception.shape, 5, (16,), torch.Generator())
        with pytest.raises(ConfigError, match=r"the policy has Actions\(choices=\(5,\)"):
            self.play(QPolicy(network, perception.fingerprint), 1)

    def test_an_episode_that_never_ends_is_named(self, monkeypatch):
        monkeypatch.setattr("agents.acting.LONGEST", 50)
        with pytest.raises(DarlaError, match="has lasted 50 decisions and does not end"):
            self.play(None, 1, vector=Endless(DOMAINS, 4, seed=0))

    def test_a_policy_refuses_another_perception(self):
        policy = new_policy(toy_perception(version=1))
        with pytest.raises(FingerprintError, match="factors-1.*not on 'factors' factors-0"):
            self.play(policy, 1)

    def test_a_policy_needs_a_perception(self):
        with pytest.raises(ValueError, match="needs the perception"):
            play_episodes(Perfect(), None, Catch(DOMAINS, 1, seed=0), 1, epsilon=0.0, seed=0)


def test_workers_play_what_one_process_plays_exactly_so_often(toy_pool):
    policy, perception = new_policy(toy_perception()), toy_perception()
    options = {"epsilon": 0.1, "seed": 5}
    (episodes,) = toy_pool.evaluate(policy, perception, [(DOMAINS, 10)], **options)
    assert len(episodes) == 10
    # Beside others, on the same domains among them, an exam is what it is alone.
    exams = [(DOMAINS, 1), (DOMAINS, 10), (DOMAINS[:1], 3), (DOMAINS, 10)]
    one, again, three, last = toy_pool.evaluate(policy, perception, exams, **options)
    assert again == last == episodes
    assert (len(one), len(three)) == (1, 3)
    assert toy_pool.evaluate(policy, perception, [(DOMAINS[:1], 3)], **options) == [three]
    (floor,) = toy_pool.evaluate(None, None, [(DOMAINS, 10)], **options)
    assert [e.domain for e in floor] == [e.domain for e in episodes]
    seeds = list(dict.fromkeys(e.seed for e in episodes))
    quotas = ([2, 1, 1, 1], [2, 1, 1, 1])
    alone = [
        Worker(Catch).evaluate(policy, perception, [(DOMAINS, quota, seed)], epsilon=0.1)[0]
        for quota, seed in zip(quotas, seeds, strict=True)
    ]
    assert episodes == alone[0] + alone[1]


def test_a_memory_ends_with_its_episode():
    class Counting(Perfect):
        """Remembers how often it acted."""

        def start(self, batch):
            return np.zeros((batch, 1), np.float32)

        def act(self, latents, memory, *, epsilon, rng):
            return np.ones(len(latents), int), memory + 1

    told = []
    play_episodes(
        Counting(),
        toy_perception(),
        Catch(("a", "b"), 2, seed=0),
        3,
        epsilon=0.0,
        seed=7,
        watch=lambda d: told.append(d.memory[:, 0].copy()),
    )
    assert np.array_equal(np.array(told)[:, 0], np.tile(np.arange(ROWS - 1), 3))
