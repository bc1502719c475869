import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from agents.algorithms import load_policy, save_policy
from agents.cells import Cell
from agents.episodic_control import (
    Entries,
    EpisodicPolicy,
    EpisodicTrainer,
    OpenEpisodes,
    Table,
    fingerprints,
)
from agents.policy import Actions
from agents.pool import WorkerPool
from agents.replay import Steps
from agents.training import train
from darla.config import Config, EpisodicControlConfig
from darla.errors import ConfigError, CorruptFileError
from darla.rundir import RunDirectory
from darla.storage import load_tensors
from tests.agents.toy_training import DOMAINS, toy_config, train_toy
from tests.toys import ROWS, Catch, NoState, toy_perception

CELL = Cell("ec", "factors", 0)
SETTINGS = {"neighbours": 2, "capacity": 100, "projection": 8, "seed": 0}


def new_policy(shape=(1,), actions=2, **settings):
    return EpisodicPolicy(Actions((actions,)), "0" * 64, shape=shape, **SETTINGS | settings)


def entries(number, rows):
    """A message of (key, action, return)."""
    keys, actions, returns = zip(*rows, strict=True)
    return Entries(
        number,
        np.array(keys, np.float32)[:, None],
        np.array(actions),
        np.array(returns, np.float32),
    )


def write(table, keys, returns):
    keys = np.array(keys, np.float32)[:, None]
    table.write(keys, fingerprints(keys), np.array(returns, np.float32))


def look_up(table, keys, neighbours):
    keys = np.array(keys, np.float32)[:, None]
    return table.look_up(keys, fingerprints(keys), neighbours).tolist()


class TestTable:
    def test_a_new_key_is_worth_the_mean_of_its_neighbours(self):
        table = Table(1, 100)
        write(table, [0.0, 1.0, 3.0, 7.0], [1.0, 2.0, 6.0, 20.0])
        assert look_up(table, [0.4, 2.1, 100.0], 2) == [1.5, 4.0, 13.0]
        assert look_up(table, [0.4], 1) == [1.0]
        assert look_up(table, [0.4], 11) == [7.25], "all entries, where there are fewer"

    def test_a_known_key_is_worth_what_was_written(self):
        table = Table(1, 100)
        write(table, [0.0, 1.0], [1.0, 5.0])
        assert look_up(table, [1.0, 0.0], 2) == [5.0, 1.0]

    def test_an_empty_table_is_worth_more_than_any_return(self):
        assert look_up(Table(1, 100), [0.0], 2) == [np.inf]

    def test_the_greatest_return_stays(self):
        table = Table(1, 100)
        write(table, [1.0, 1.0, 1.0], [2.0, 5.0, 3.0])
        assert table.count == 1 and look_up(table, [1.0], 2) == [5.0]

    def test_the_entry_written_least_recently_gives_way(self):
        table = Table(1, 3)
        write(table, [0.0, 1.0, 2.0], [10.0, 11.0, 12.0])
        look_up(table, [1.0], 1)  # reading is no writing
        write(table, [0.0], [-1.0])  # is written again, though its value stays
        write(table, [3.0], [13.0])
        assert sorted(table.arrays()["keys"].ravel()) == [0.0, 2.0, 3.0]
        assert look_up(table, [1.0], 3) == pytest.approx([35 / 3])
        write(table, [4.0, 5.0], [14.0, 15.0])
        assert sorted(table.arrays()["keys"].ravel()) == [3.0, 4.0, 5.0]
        assert look_up(table, [5.0], 1) == [15.0] and table.count == 3

    def test_it_grows_and_shrinks_never(self):
        rng, table = np.random.default_rng(0), Table(1, 500)
        keys, returns = rng.standard_normal(1000).astype(np.float32), rng.standard_normal(1000)
        write(table, keys, returns)
        assert table.count == 500
        assert look_up(table, keys[500:], 1) == returns[500:].astype(np.float32).tolist()

    def test_a_copy_goes_on_as_the_original(self):
        rng, table = np.random.default_rng(0), Table(1, 200)
        write(table, rng.standard_normal(300), rng.standard_normal(300))
        arrays = table.arrays()
        for array in arrays.values():
            array.flags.writeable = False  # as Ray's arrays are
        copy = pickle.loads(pickle.dumps(Table.restore(1, 200, arrays)))
        more = rng.standard_normal((2, 150))
        write(copy, *more)
        assert not np.array_equal(copy.arrays()["keys"], table.arrays()["keys"])
        write(table, *more)
        for name, array in table.arrays().items():
            assert array.tobytes() == copy.arrays()[name].tobytes(), name

    def test_arrays_of_another_table_are_refused(self):
        table = Table(2, 10)
        table.write(np.ones((1, 2), np.float32), [0], np.ones(1, np.float32))
        with pytest.raises(ValueError, match=r"keys of shape \(2, 1\), not \(3, 1\)"):
            Table.restore(3, 10, table.arrays())


class TestPolicy:
    def choose(self, policy, keys):
        keys = np.array(keys, np.float32)[:, None]
        return policy.choose(keys, policy.start(len(keys)), np.random.default_rng(0))[0]

    def test_the_action_of_the_highest_value_is_taken(self):
        policy = new_policy()
        policy.update(entries(0, [(0.0, 0, 1.0), (5.0, 0, 3.0), (0.0, 1, 2.0), (5.0, 1, 2.0)]))
        assert self.choose(policy, [0.0, 5.0, -1.0]).tolist() == [1, 0, 0], "2 and 2; the nearest"
        observations = np.array([[0.0], [4.0]], np.float32)
        values = policy.preferences(observations, policy.start(2))
        assert values.tolist() == [[1.0, 2.0], [2.0, 2.0]] and values.dtype == np.float32

    def test_an_action_never_tried_is_tried_and_ties_are_spread(self):
        keys = np.arange(300.0)
        policy = new_policy(actions=3)
        assert set(self.choose(policy, keys)) == {0, 1, 2}
        policy.update(entries(0, [(0.0, 1, 100.0)]))
        assert set(self.choose(policy, keys)) == {0, 2}
        policy.update(entries(1, [(0.0, 0, 50.0), (0.0, 2, 100.0)]))
        chosen = self.choose(policy, keys)
        assert set(chosen) == {1, 2} and np.array_equal(chosen, self.choose(policy, keys))

    def test_copies_stay_equal_through_messages(self):
        rng, policy = np.random.default_rng(0), new_policy(capacity=70)
        copies = [pickle.loads(pickle.dumps(policy)) for _ in range(2)]
        for number in range(6):
            rows = zip(
                rng.integers(99, size=40),
                rng.integers(2, size=40),
                rng.standard_normal(40),
                strict=True,
            )
            message = entries(number, list(rows))
            for each in (policy, *copies):
                each.update(message)
            if number == 3:
                copies[1] = pickle.loads(pickle.dumps(policy))
                copies[1].update(message)  # came before
        for copy in copies:
            assert copy.messages == 6
            for name, array in policy.tensors().items():
                assert array.tobytes() == copy.tensors()[name].tobytes(), name

    def test_a_missing_message_is_an_error(self):
        policy = new_policy()
        policy.update(entries(0, [(0.0, 0, 1.0)]))
        with pytest.raises(ValueError, match="message 2 came, 1 is missing"):
            policy.update(entries(2, [(0.0, 0, 1.0)]))

    def test_equal_frames_have_equal_keys_in_any_batch(self):
        frames = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
        policy = new_policy(shape=(16, 16, 3), projection=64)
        keys = policy.keys(frames)
        assert keys.shape == (9, 64) and keys.dtype == np.float32
        for batch in (1, 4):
            assert policy.keys(frames[:batch]).tobytes() == keys[:batch].tobytes()
        other = new_policy(shape=(16, 16, 3), projection=64, seed=1)
        assert not np.allclose(other.keys(frames), keys)

    def test_the_projection_keeps_distances(self):
        frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
        a, b = new_policy(shape=(16, 16, 3), projection=2000).keys(frames)
        pixels = (frames[0].astype(float) - frames[1]) / 255
        assert np.linalg.norm(a - b) == pytest.approx(np.linalg.norm(pixels), rel=0.1)

    def test_several_choices_are_refused(self):
        with pytest.raises(ConfigError, match="ec makes one choice"):
            EpisodicPolicy(Actions((2, 2), vector=True), "0" * 64, shape=(1,), **SETTINGS)


class TestOpenEpisodes:
    def steps(self, rewards, terminated, truncated):
        rewards = np.array(rewards, np.float32)
        actions = np.arange(rewards.size).reshape(rewards.shape)
        flags = np.array(terminated, bool), np.array(truncated, bool)
        observations = actions[:, :, None].astype(np.float32)
        return Steps(observations, actions, rewards, *flags, observations[0, :0])

    def test_returns_of_several_episodes_in_one_chunk(self):
        opened = OpenEpisodes(2, 1, 0.5)
        steps = self.steps(
            [[0, 4], [8, 0], [1, 0], [0, 2]],
            [[0, 0], [1, 0], [1, 0], [0, 0]],
            [[0, 0], [0, 1], [0, 0], [0, 0]],
        )
        keys, actions, returns = opened.insert(steps.observations, steps)
        assert actions.tolist() == [2, 0, 3, 1, 4]
        assert keys.ravel().tolist() == actions.tolist()
        assert returns.tolist() == [8.0, 4.0, 0.0, 4.0, 1.0], "the truncated one counts to its end"
        assert returns.dtype == np.float32

    def test_an_episode_goes_on_in_the_next_chunk(self):
        opened = OpenEpisodes(2, 1, 0.5)
        nothing = np.zeros((2, 2))
        first = self.steps([[1, 0], [2, 0]], nothing, nothing)
        assert [len(part) for part in opened.insert(first.observations, first)] == [0, 0, 0]
        copy = OpenEpisodes(2, 1, 0.5)
        copy.load(opened.arrays())
        second = self.steps([[4, 0], [0, 0]], [[1, 0], [0, 0]], nothing)
        for each in (opened, copy):
            _, actions, returns = each.insert(second.observations, second)
            assert actions.tolist() == [0, 2, 0] and returns.tolist() == [4.0, 4.0, 3.0]
        assert opened.starts.tolist() == [3, 0] and len(opened.actions) == 4
        third = self.steps([[0, 0]], [[0, 1]], [[0, 0]])
        assert len(opened.insert(third.observations, third)[0]) == 5
        assert opened.starts.tolist() == [0, 2] and len(opened.actions) == 2

    def test_a_dropped_episode_is_never_written(self):
        opened = OpenEpisodes(2, 1, 0.5)
        nothing = np.zeros((2, 2))
        first = self.steps([[1, 1], [2, 2]], nothing, nothing)
        opened.insert(first.observations, first)
        opened.drop(np.array([True, False]))
        last = self.steps([[4, 4]], [[1, 1]], [[0, 0]])
        _, actions, returns = opened.insert(last.observations, last)
        assert actions.tolist() == [0, 1, 3, 1] and returns.tolist() == [4.0, 4.0, 4.0, 3.0]
        assert len(opened.actions) == 0

    def test_those_of_other_environments_are_refused(self):
        with pytest.raises(ValueError, match="other environments"):
            OpenEpisodes(2, 1, 0.5).load(OpenEpisodes(3, 1, 0.5).arrays())


def ec_config(runs, decisions=1500, **agents):
    ec = EpisodicControlConfig(discount=0.97, capacity=150, epsilon_end=0.05)
    return toy_config(runs, decisions, **{"ec": ec, **agents})


def tables(config, cell=CELL):
    tensors, _ = load_tensors(RunDirectory.open(config).agent(cell.id) / "policy.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def metrics(config, cell=CELL):
    """The rows, without the one figure that time may change."""
    table = RunDirectory.open(config).agent(cell.id) / "metrics.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def kill_after(rounds):
    """Lets this process die in the middle of a round, with workers at work."""
    learn, count = EpisodicTrainer.learn, iter(range(rounds))

    def learn_or_die(trainer):
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        learn(trainer)

    EpisodicTrainer.learn = learn_or_die


@pytest.fixture(scope="module")
def reference(toy_pool, tmp_path_factory):
    """A training that nothing disturbed; old entries give way."""
    config = ec_config(tmp_path_factory.mktemp("reference"))
    return config, train_toy(config, toy_pool, cell=CELL)


@pytest.mark.timeout(300)  # the first waits for Ray and two workers to start
class TestTraining:
    @pytest.mark.parametrize("name", ["factors", "pixels"])
    def test_it_masters_the_toy_game(self, toy_pool, tmp_path, name):
        cell = Cell("ec", name, 0)
        ec = EpisodicControlConfig(discount=0.97)
        config = ec_config(tmp_path, 6000, evaluation_episodes=60, checkpoint_every=10_000, ec=ec)
        facts = train_toy(config, toy_pool, perception=toy_perception(name), cell=cell)
        assert facts["source_return"] > 0.8
        assert metrics(config, cell)[0]["return"] < 0.0, "it began at the level of chance"

    def test_what_a_training_leaves_behind(self, reference):
        config, facts = reference
        assert facts["updates"] == facts["episodes"] == facts["decisions"] // 40 * 8
        folder = RunDirectory.open(config).agent(CELL.id)
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["metrics.jsonl", "policy.safetensors"]
        rows = [row for row in metrics(config) if row["split"] == "train"]
        assert rows[0]["epsilon"] > 0.8 and rows[-1]["epsilon"] == pytest.approx(0.05)
        assert rows[0]["value"] < rows[-1]["value"] <= 1.0
        policy = load_policy(RunDirectory.open(config), CELL)
        assert max(table.count for table in policy.tables) == 150, "a table was full"

    def test_a_policy_comes_back_as_it_was(self, reference, tmp_path):
        policy = load_policy(RunDirectory.open(reference[0]), CELL)
        run = RunDirectory.open(Config(name="copy", runs=str(tmp_path)))
        save_policy(run, CELL, policy, "{}")
        copy = load_policy(run, CELL)
        observations = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
        assert np.array_equal(
            policy.preferences(observations, policy.start(50)),
            copy.preferences(observations, copy.start(50)),
        )
        path = run.agent(CELL.id) / "policy.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(CorruptFileError, match=r"ec-factors-s0/policy\.safetensors"):
            load_policy(run, CELL)

    def test_kill_9_and_the_same_command_again_give_the_same_bits(
        self, reference, toy_pool, tmp_path
    ):
        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-m", "tests.agents.test_episodic_control", str(tmp_path)]
        killed = subprocess.run(
            [*command, address, "20"], cwd=Path(__file__).parents[2], capture_output=True
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        config = ec_config(tmp_path)
        folder = RunDirectory.open(config).agent(CELL.id)
        assert len(list((folder / "checkpoints").iterdir())) == 2
        train_toy(config, toy_pool, cell=CELL)
        assert tables(config) == tables(reference[0])
        assert metrics(config) == metrics(reference[0])

    def test_a_worker_that_dies_changes_nothing(self, reference, toy_pool, tmp_path, monkeypatch):
        config, sample = ec_config(tmp_path), EpisodicTrainer.sample
        left = iter(range(12))

        def sample_and_kill(trainer):
            sample(trainer)
            if next(left, None) == 7:
                ray.kill(toy_pool._manager.actors()[0], no_restart=False)

        monkeypatch.setattr(EpisodicTrainer, "sample", sample_and_kill)
        restarts = toy_pool.restarts
        train_toy(config, toy_pool, cell=CELL)
        assert toy_pool.restarts == restarts + 1
        assert tables(config) == tables(reference[0])

    def test_environments_without_a_state_never_join_two_episodes(
        self, cluster, tmp_path, monkeypatch
    ):
        config, written = ec_config(tmp_path), []
        with WorkerPool(config.ray, NoState) as pool:
            insert, take = OpenEpisodes.insert, EpisodicTrainer.take
            left = iter(range(12))

            def insert_and_note(opened, keys, steps):
                entries = insert(opened, keys, steps)
                written.append((len(entries[1]), int(steps.terminated.sum())))
                return entries

            def take_or_stop(trainer):
                if next(left, None) is None:
                    raise KeyboardInterrupt
                take(trainer)

            monkeypatch.setattr(OpenEpisodes, "insert", insert_and_note)
            monkeypatch.setattr(EpisodicTrainer, "take", take_or_stop)
            with pytest.raises(KeyboardInterrupt):
                train_toy(config, pool, cell=CELL)
            monkeypatch.setattr(EpisodicTrainer, "take", take)
            train_toy(config, pool, cell=CELL)
        assert all(rows == episodes * (ROWS - 1) for rows, episodes in written)

    def test_a_damaged_checkpoint_is_named(self, toy_pool, tmp_path, monkeypatch):
        config, left = ec_config(tmp_path), iter(range(8))

        def learn_or_stop(trainer):
            if next(left, None) is None:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(EpisodicTrainer, "learn", learn_or_stop)
            with pytest.raises(KeyboardInterrupt):
                train_toy(config, toy_pool, cell=CELL)
        folder = RunDirectory.open(config).agent(CELL.id)
        (path,) = (folder / "checkpoints").iterdir()
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(CorruptFileError, match=path.name):
            train_toy(config, toy_pool, cell=CELL)


if __name__ == "__main__":
    config = ec_config(sys.argv[1])
    ray_config = config.ray.model_copy(update={"address": sys.argv[2]})
    config = config.model_copy(update={"ray": ray_config})
    kill_after(int(sys.argv[3]))
    train(
        config,
        RunDirectory.open(config),
        CELL,
        perception=toy_perception(),
        factory=Catch,
        domains=DOMAINS,
        quiet=True,
    )
