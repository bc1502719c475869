import numpy as np
import pytest
import torch

from agents.dqn import QPolicy
from agents.networks import QNetwork
from agents.policy import Actions
from agents.worker import NotBegunError, Rollout, Worker
from tests.toys import ROWS, Catch, NoState, toy_perception

DOMAINS = ("first", "second")
NAMES = ("observations", "actions", "rewards", "terminated", "truncated", "finals")


def limited(domains, num_envs, *, seed, render):
    return Catch(domains, num_envs, seed=seed, render=render, limit=3)


class Counting:
    """A digest that counts its rollouts."""

    def __init__(self):
        self.seen = np.zeros(1)

    def __call__(self, policy, rollout, rng):
        assert isinstance(rollout, Rollout)
        self.seen += 1
        return rollout.steps.rewards.sum(), rollout.observations, rng.random()

    def state(self):
        return {"seen": self.seen}

    def load(self, arrays):
        self.seen = arrays["seen"].copy()


def begun(factory=Catch, name="factors", num_envs=4, digest=None):
    worker, perception = Worker(factory), toy_perception(name)
    assert worker.begin(perception, DOMAINS, num_envs, seed=3) == Actions((3,))
    network = QNetwork(perception.shape, 3, (8,), torch.Generator().manual_seed(0))
    policy = QPolicy(network, perception.fingerprint)
    worker.adopt(policy, digest)
    return worker, policy


def sample(worker, policy, epsilons):
    return worker.sample(policy.network.weights(), epsilons)


def assert_same(steps, other):
    for name in NAMES:
        assert np.array_equal(getattr(steps, name), getattr(other, name)), name


def test_memory_is_given_back_every_few_thousand_decisions(monkeypatch):
    given_back = []
    monkeypatch.setattr("agents.worker.release_memory", lambda: given_back.append(True))
    monkeypatch.setattr("agents.worker.RELEASE_EVERY", 100)
    worker, policy = begun()
    counts = []
    for _ in range(6):
        sample(worker, policy, np.full(10, 0.5))  # of 4 environments
        counts.append(len(given_back))
    assert counts == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("name", ["factors", "pixels"])
def test_a_chunk_holds_what_the_environment_did(name):
    worker, policy = begun(name=name)
    chunk = sample(worker, policy, np.full(23, 0.5))
    steps, returns = chunk.content, chunk.returns
    assert chunk.decisions == 23 * 4
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
    chunk = sample(worker, policy, np.ones(7))
    steps, returns = chunk.content, chunk.returns
    assert steps.truncated[[2, 5]].all() and steps.truncated.sum() == 8
    assert not steps.terminated.any() and returns == [0.0] * 8
    assert np.allclose(steps.finals[:, 1], 3 / ROWS)
    ball = steps.observations[2, :, 0]
    assert np.array_equal(steps.finals[:4, 0], ball), "the final ball is the ended episode's"
    assert np.allclose(steps.observations[3, :, 1], 0.0), "what follows is a first observation"


def test_chunks_continue_where_the_last_one_ended():
    worker, policy = begun()
    other, _ = begun()
    whole = sample(worker, policy, np.full(12, 0.3)).content
    for start in (0, 4, 8):
        part = sample(other, policy, np.full(4, 0.3)).content
        assert np.array_equal(part.observations, whole.observations[start : start + 4])
        assert np.array_equal(part.actions, whole.actions[start : start + 4])


def test_a_restored_worker_goes_on_with_the_same_bits():
    worker, policy = begun()
    restored, _ = begun()
    sample(worker, policy, np.full(8, 0.5))
    restored.load(worker.state())
    worker.evaluate(policy, toy_perception(), [(DOMAINS, [1, 1], 0)], epsilon=0.5)
    chunk, other = (
        sample(worker, policy, np.full(8, 0.5)),
        sample(restored, policy, np.full(8, 0.5)),
    )
    assert_same(chunk.content, other.content)
    assert chunk.returns == other.returns and len(chunk.returns) > 0


def test_environments_without_a_state_start_new_episodes():
    worker, policy = begun(NoState)
    restored, _ = begun(NoState)
    sample(worker, policy, np.full(8, 0.5))
    restored.load(worker.state())
    steps, other = (
        sample(worker, policy, np.ones(2)).content,
        sample(restored, policy, np.ones(2)).content,
    )
    assert (other.observations[0, :, 1] == 0).all() and (steps.observations[0, :, 1] > 0).all()


def test_new_episodes_are_others_than_those_before_and_follow_from_the_state():
    worker, policy = begun(NoState, num_envs=12)
    first = sample(worker, policy, np.full(1, 0.5)).content.observations[0]
    early = worker.state()
    sample(worker, policy, np.full(4, 0.5))
    late = worker.state()

    def starts(state):
        restored, _ = begun(NoState, num_envs=12)
        restored.load(state)
        return sample(restored, policy, np.full(1, 0.5)).content.observations[0]

    assert np.array_equal(starts(early), starts(early))
    for one, other in ((first, starts(early)), (starts(early), starts(late))):
        assert not np.array_equal(one, other)


def test_new_episodes_are_announced_once_and_the_digest_forgets_the_old():
    worker, policy = begun(NoState, digest=Counting())
    assert not sample(worker, policy, np.ones(2)).parted
    worker.load(worker.state(), worker.digest_state())
    assert sample(worker, policy, np.ones(2)).parted
    assert not sample(worker, policy, np.ones(2)).parted
    other, _ = begun(NoState, digest=Counting())
    other.load(worker.state(), worker.digest_state())
    assert other.digest_state()["seen"] == 0
    kept, _ = begun(digest=Counting())
    kept.load(begun()[0].state(), {"seen": np.full(1, 5.0)})
    assert kept.digest_state()["seen"] == 5 and not sample(kept, policy, np.ones(2)).parted


@pytest.mark.parametrize("method", ["adopt", "sample", "state", "digest_state", "load"])
def test_a_worker_that_was_started_again_knows_of_no_training(method):
    worker, policy = begun()
    arguments = {
        "adopt": (policy,),
        "sample": (policy.network.weights(), np.ones(2)),
        "load": (worker.state(),),
    }
    with pytest.raises(NotBegunError):
        getattr(Worker(Catch), method)(*arguments.get(method, ()))


def test_rendering_is_asked_for_only_where_frames_are_seen():
    asked = []

    def factory(domains, num_envs, *, seed, render):
        asked.append(render)
        return Catch(domains, num_envs, seed=seed, render=render)

    for name, expected in (("factors", [False, False]), ("pixels", [True, True])):
        asked.clear()
        worker, policy = begun(factory, name)
        worker.evaluate(policy, toy_perception(name), [(DOMAINS, [1], 0)], epsilon=0.0)
        worker.evaluate(policy, toy_perception(name), [(DOMAINS, [1], 1)], epsilon=0.0)
        assert asked == expected
    worker.evaluate(None, None, [(DOMAINS, [1, 1], 0)], epsilon=0.0)
    assert asked[-1] is False


def test_a_digest_makes_of_rollouts_what_is_sent():
    worker, policy = begun(digest=Counting())
    plain, _ = begun()
    chunk, steps = sample(worker, policy, np.full(6, 0.5)), sample(plain, policy, np.full(6, 0.5))
    total, observations, _ = chunk.content
    assert total == steps.content.rewards.sum() and chunk.decisions == 24
    assert np.array_equal(observations, steps.state.arrays["observations"])
    assert worker.digest_state()["seen"] == 1 and plain.digest_state() == {}
    restored, _ = begun(digest=Counting())
    restored.load(worker.state(), worker.digest_state())
    again, other = sample(worker, policy, np.ones(3)), sample(restored, policy, np.ones(3))
    assert again.content[2] == other.content[2] and restored.digest_state()["seen"] == 2


class Forgetful(QPolicy):
    """Remembers how many decisions its episode has lasted."""

    memory_size = 1

    def choose(self, observations, memory, rng):
        actions, _ = super().choose(observations, memory, rng)
        return actions, memory + 1


def test_a_memory_ends_with_its_episode():
    worker, policy = begun()
    policy = Forgetful(policy.network, policy.perception_fingerprint)
    worker.adopt(policy, None)
    for steps in (3, 4):
        state = sample(worker, policy, np.ones(steps)).state
    assert (state.arrays["memory"] == 7 % (ROWS - 1)).all()
    restored, _ = begun()
    restored.adopt(policy, None)
    restored.load(state)
    assert (sample(restored, policy, np.ones(1)).state.arrays["memory"] == 3).all()
