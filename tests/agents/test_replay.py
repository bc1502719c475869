import numpy as np
import pytest
import torch

from agents.replay import Replay, ReplayStore, Steps, merge
from darla.errors import CorruptFileError

STREAMS = 3


class Everything:
    """Stands in for a generator: 'draws' every transition once, in order."""

    def integers(self, high, *, size):
        assert size == high
        return np.arange(high)


def random_steps(rng, slots, streams=STREAMS, first=0, offset=0):
    """Steps whose observations name their slot and stream, and whose finals are their negative."""
    time = np.arange(first, first + slots)[:, None] + np.zeros((1, streams))
    names = np.stack([time, np.zeros((slots, 1)) + np.arange(streams) + offset], axis=2)
    terminated = rng.random((slots, streams)) < 0.15
    truncated = (rng.random((slots, streams)) < 0.15) & ~terminated
    return Steps(
        observations=names.astype(np.float32),
        actions=rng.integers(8, size=(slots, streams)),
        rewards=rng.standard_normal((slots, streams)).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        finals=-1 - names[truncated].astype(np.float32),
    )


def expected_transition(history, slot, stream, n_step, discount):
    """The definition, one decision at a time."""
    total, weight, at = 0.0, 1.0, slot
    while True:
        total += weight * history.rewards[at, stream]
        weight *= discount
        if history.terminated[at, stream]:
            return total, 0.0, None
        if history.truncated[at, stream]:
            return total, weight, (-1.0 - at, -1.0 - stream)
        at += 1
        if at == slot + n_step:
            return total, weight, (float(at), float(stream))


def joined(parts):
    names = ("observations", "actions", "rewards", "terminated", "truncated", "finals")
    return Steps(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


def everything(replay):
    return replay.sample(len(replay), Everything())


def new_replay(capacity=30, n_step=3, discount=0.9):
    return Replay(capacity, STREAMS, (2,), np.float32, n_step=n_step, discount=discount)


def assert_same(batch, other):
    for name, left, right in zip(batch._fields, batch, other, strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize("capacity", [30, 1000])
def test_every_transition_is_exact_before_and_after_the_ring_wraps(n_step, capacity):
    rng = np.random.default_rng(0)
    replay = new_replay(capacity, n_step, 0.9)
    parts, head = [], 0
    for slots in (1, 7, 2, 10, 5, 9, 10, 3, 10, 10):
        parts.append(random_steps(rng, slots, first=head))
        replay.insert(parts[-1])
        head += slots
        history = joined(parts)
        oldest = max(0, head - replay.slots)
        assert len(replay) == max(0, head - n_step - oldest) * STREAMS
        if not len(replay):
            continue
        batch = everything(replay)
        for row, (slot, stream) in enumerate(np.ndindex(head - n_step - oldest, STREAMS)):
            slot += oldest
            total, weight, s_t = expected_transition(history, slot, stream, n_step, 0.9)
            assert batch.s_tm1[row].tolist() == [slot, stream]
            assert batch.a_tm1[row] == history.actions[slot, stream]
            assert batch.r_t[row].item() == pytest.approx(total, abs=1e-5)
            assert batch.discount_t[row].item() == pytest.approx(weight, abs=1e-6)
            if s_t is not None:
                assert tuple(batch.s_t[row].tolist()) == s_t
    assert oldest > 0 or capacity == 1000, "the ring never wrapped"


def test_the_replay_holds_at_least_its_capacity():
    replay = new_replay(capacity=31)
    for head in range(0, 40, 10):
        replay.insert(random_steps(np.random.default_rng(head), 10, first=head))
    assert 31 <= len(replay) < 31 + STREAMS


def test_sampling_is_uniform_and_follows_its_generator():
    replay = new_replay()
    replay.insert(random_steps(np.random.default_rng(0), 10))
    drawn = replay.sample(21_000, np.random.default_rng(1)).s_tm1
    _, counts = drawn.unique(dim=0, return_counts=True)
    assert len(counts) == len(replay) == 21
    assert counts.min() > 850 and counts.max() < 1150
    assert torch.equal(drawn, replay.sample(21_000, np.random.default_rng(1)).s_tm1)


def test_after_a_cut_no_transition_reaches_over_it():
    rng = np.random.default_rng(0)
    first, second = random_steps(rng, 8), random_steps(rng, 8, first=8)
    last = first.terminated[-1] | first.truncated[-1]
    chosen = np.arange(STREAMS) != 0
    replay, history = new_replay(), joined([first, second])
    replay.cut(chosen)  # of an empty replay: nothing
    replay.insert(first)
    replay.cut(chosen)
    replay.insert(second)
    history.truncated[7] |= chosen & ~last
    assert (chosen & ~last).any(), "or nothing was cut"
    batch = everything(replay)
    for row, (slot, stream) in enumerate(batch.s_tm1.int().tolist()):
        total, weight, following = expected_transition(history, slot, stream, 3, 0.9)
        if following == (-8.0, -1.0 - stream) and not first.truncated[7, stream]:
            following = (7.0, float(stream))  # the last observation that is known
        assert batch.r_t[row].item() == pytest.approx(total, abs=1e-5)
        assert batch.discount_t[row].item() == pytest.approx(weight)
        if following is not None:
            assert batch.s_t[row].tolist() == list(following)


def test_an_empty_replay_cannot_be_sampled():
    replay = new_replay()
    replay.insert(random_steps(np.random.default_rng(0), replay.n_step))
    with pytest.raises(ValueError, match="empty"):
        replay.sample(1, np.random.default_rng(0))


def test_steps_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="do not fit"):
        new_replay().insert(random_steps(rng, 11))
    with pytest.raises(ValueError, match="do not fit"):
        new_replay().insert(random_steps(rng, 2, streams=2))


def test_the_queue_of_final_observations_grows():
    rng = np.random.default_rng(0)
    replay = new_replay(capacity=600, n_step=1)
    steps = random_steps(rng, 150)
    cut = np.ones_like(steps.truncated)
    replay.insert(
        Steps(
            steps.observations,
            steps.actions,
            steps.rewards,
            ~cut,
            cut,
            -1 - steps.observations.reshape(-1, 2),
        )
    )
    batch = everything(replay)
    assert torch.equal(batch.s_t, -1 - batch.s_tm1)


def test_merge_puts_workers_side_by_side_with_finals_in_order():
    rng = np.random.default_rng(0)
    parts = [random_steps(rng, 20, streams=2), random_steps(rng, 20, streams=3, offset=2)]
    steps = merge(parts)
    assert np.array_equal(steps.observations[:, :, 1], np.zeros((20, 1)) + np.arange(5))
    assert len(steps.finals) > 5
    assert np.array_equal(steps.finals, -1 - steps.observations[steps.truncated])


class TestStore:
    def fill(self, folder, replay, until, every=7):
        """Inserts slots of a fixed history and writes a shard every few of them."""
        store, saved = ReplayStore(folder), replay.head
        for head in range(replay.head, until, every):
            replay.insert(random_steps(np.random.default_rng(head), every, first=head))
            store.save(replay, since=saved)
            saved = replay.head
        return store

    @pytest.mark.parametrize("until", [7, 14, 70])
    def test_a_restored_replay_is_identical_and_goes_on_identically(self, tmp_path, until):
        replay, restored = new_replay(), new_replay()
        store = self.fill(tmp_path, replay, until)
        store.load(restored, head=until)
        assert (restored.head, restored.tail) == (replay.head, replay.tail)
        for further in range(4):
            assert_same(everything(restored), everything(replay))
            for each in (replay, restored):
                rng = np.random.default_rng(1000 + further)
                each.insert(random_steps(rng, 9, first=each.head))

    def test_a_cut_after_a_shard_was_written_outlives_further_restarts(self, tmp_path):
        replay, store, chosen = new_replay(60), ReplayStore(tmp_path), np.arange(STREAMS) != 0
        for head in range(0, 40, 10):
            replay.insert(random_steps(np.random.default_rng(head), 10, first=head))
            store.save(replay, since=head)
            replay.cut(chosen)
        open_before = everything(replay)
        restored = new_replay(60)
        store.load(restored, head=40)
        restored.cut(chosen)
        assert_same(everything(restored), open_before)
        never_cut = new_replay(60)
        for head in range(0, 40, 10):
            never_cut.insert(random_steps(np.random.default_rng(head), 10, first=head))
        assert not torch.equal(everything(never_cut).s_t, open_before.s_t), "or nothing was cut"

    def test_shards_hold_only_what_is_new_and_leave_with_the_ring(self, tmp_path):
        replay = new_replay()
        store = self.fill(tmp_path, replay, 70)
        assert len(list(tmp_path.iterdir())) == 10
        store.prune(63 - replay.slots)
        assert sorted(path.stem for path in tmp_path.iterdir())[0] == "0000000049-0000000056"
        for head in (63, 70):
            store.load(new_replay(), head=head)

    def test_one_shard_larger_than_the_ring(self, tmp_path):
        replay, restored = new_replay(), new_replay()
        store = ReplayStore(tmp_path)
        for head in range(0, 40, 10):
            replay.insert(random_steps(np.random.default_rng(head), 10, first=head))
        store.save(replay, since=0)
        store.load(restored, head=40)
        assert_same(everything(restored), everything(replay))

    def test_missing_and_truncated_shards_are_named(self, tmp_path):
        store = self.fill(tmp_path, new_replay(60), 70)
        shards = sorted(tmp_path.iterdir())
        data = shards[-2].read_bytes()
        shards[-2].write_bytes(data[:-20])
        with pytest.raises(CorruptFileError, match=shards[-2].name):
            store.load(new_replay(60), head=70)
        shards[-2].unlink()
        with pytest.raises(CorruptFileError, match="no shard holds steps 56 to 63"):
            store.load(new_replay(60), head=70)
        shards[-1].unlink()
        with pytest.raises(CorruptFileError, match="holds steps 42 to 56, not 47 to 70"):
            store.load(new_replay(60), head=70)


def test_a_million_latents_need_less_than_0_3_gb():
    replay = Replay(10**6, 16, (32,), np.float32, n_step=5, discount=0.9)
    size = sum(getattr(value, "nbytes", 0) for value in vars(replay).values())
    assert 4 * 32 * 10**6 < size < 0.3e9


def test_final_observations_leave_with_their_steps():
    replay = new_replay()
    for head in range(0, 1000, 10):
        replay.insert(random_steps(np.random.default_rng(head), 10, first=head))
    assert len(replay._finals) == 64
