import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from agents.algorithms import load_policy
from agents.cells import Cell
from agents.dqn import DQNTrainer
from agents.pool import WorkerPool
from agents.training import checkpoints_of, load_unfinished, train_on
from darla.config import DQNConfig, RayConfig
from darla.errors import (
    ConfigError,
    CorruptFileError,
    DivergenceError,
    FingerprintError,
    MissingFileError,
)
from darla.rundir import RunDirectory
from darla.storage import load_tensors
from tests.agents.toy_training import (
    CELL,
    DOMAINS,
    Slow,
    toy_config,
    train_toy,
    train_toy_alone,
)
from tests.toys import Catch, NoState, toy_perception

pytestmark = pytest.mark.timeout(300)  # the first test waits for Ray and two workers to start


def weights(config, cell=CELL):
    policy = RunDirectory.open(config).agent(cell.id) / "policy.safetensors"
    return load_tensors(policy)[0]["weights"].numpy().tobytes()


def metrics(config, cell=CELL):
    """The rows, without the one figure that time may change."""
    table = RunDirectory.open(config).agent(cell.id) / "metrics.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    seconds = [row.pop("seconds") for row in rows]
    assert seconds == sorted(seconds)
    return rows


@pytest.fixture(scope="module")
def reference(toy_pool, tmp_path_factory):
    """A training that nothing disturbed."""
    config = toy_config(tmp_path_factory.mktemp("reference"))
    return config, train_toy(config, toy_pool)


def damage(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


class Stop(Exception):
    """Stands for whatever may interrupt a training."""


def interrupt(monkeypatch, rounds):
    """Lets the training stop in the middle of a round."""
    learn, left = DQNTrainer.learn, iter(range(rounds))

    def learn_or_stop(trainer):
        if next(left, None) is None:
            raise Stop
        learn(trainer)

    monkeypatch.setattr(DQNTrainer, "learn", learn_or_stop)


@pytest.mark.parametrize(("name", "least"), [("factors", 0.85), ("pixels", 0.6)])
def test_dqn_masters_the_toy_game(toy_pool, tmp_path, name, least):
    cell = Cell("dqn", name, 0)
    config = toy_config(tmp_path, 3500, evaluation_episodes=60, checkpoint_every=10_000)
    facts = train_toy(config, toy_pool, perception=toy_perception(name), cell=cell)
    assert facts["source_return"] > least
    assert metrics(config, cell)[0]["return"] < 0.0, "it began at the level of chance"


def test_what_a_training_leaves_behind(reference):
    config, facts = reference
    decisions = facts["decisions"]
    assert config.agents.decisions <= decisions < config.agents.decisions + 8
    assert facts["frames"] == decisions * 12
    assert facts["updates"] == (decisions - 200) // 2
    assert facts["episodes"] == decisions // 40 * 8
    run = RunDirectory.open(config)
    names = sorted(path.name for path in run.agent(CELL.id).iterdir())
    assert names == ["metrics.jsonl", "policy.safetensors"]
    assert load_policy(run, CELL).network.hidden == (64, 64) and facts["restarts"] == 0
    rows = metrics(config)
    source = [row for row in rows if row["split"] == "source"]
    assert [row["decisions"] // 400 for row in source] == [1, 2, 3, 3]
    assert source[-1]["decisions"] == decisions and source[-1]["return"] == facts["source_return"]
    assert all(row["episodes"] == 10 and row["frames"] == row["decisions"] * 12 for row in source)
    train = [row for row in rows if row["split"] == "train"]
    assert sum(row["episodes"] for row in train) == facts["episodes"]
    assert "loss" not in train[0] and train[0]["epsilon"] == 1.0
    assert train[-1]["loss"] > 0 and train[-1]["epsilon"] == pytest.approx(0.05)


def test_results_do_not_depend_on_timing(reference, tmp_path):
    slow = toy_config(tmp_path)
    train_toy_alone(slow, factory=Slow)
    assert weights(slow) == weights(reference[0])
    assert metrics(slow) == metrics(reference[0])


def test_evaluations_may_be_on_other_domains(toy_pool, tmp_path, monkeypatch):
    evaluated = []
    evaluate = toy_pool.launch_evaluation

    def launch_evaluation(policy, perception, exams, **kwargs):
        evaluated.extend(domains for domains, _ in exams)
        return evaluate(policy, perception, exams, **kwargs)

    monkeypatch.setattr(toy_pool, "launch_evaluation", launch_evaluation)
    config = toy_config(tmp_path, 400)
    run, options = RunDirectory.open(config), {"domains": DOMAINS, "quiet": True}
    perception = toy_perception()
    train_on(
        toy_pool, config, run, CELL, perception=perception, evaluation_domains=("first",), **options
    )
    assert set(evaluated) == {("first",)}


def test_another_seed_gives_another_policy(reference, toy_pool, tmp_path):
    config, cell = toy_config(tmp_path), Cell("dqn", "factors", 1)
    train_toy(config, toy_pool, cell=cell)
    assert weights(config, cell) != weights(reference[0])


def test_kill_9_and_the_same_command_again_give_the_same_bits(reference, toy_pool, tmp_path):
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "tests.agents.toy_training", str(tmp_path), address, "20"]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    config = toy_config(tmp_path)
    folder = RunDirectory.open(config).agent(CELL.id)
    assert not (folder / "policy.safetensors").exists()
    assert len(list((folder / "checkpoints").iterdir())) == 2
    facts = train_toy(config, toy_pool)
    assert weights(config) == weights(reference[0])
    assert metrics(config) == metrics(reference[0])
    timed = {"seconds", "decisions_per_second"}
    assert {k: v for k, v in facts.items() if k not in timed} == {
        k: v for k, v in reference[1].items() if k not in timed
    }


def test_every_checkpoint_is_a_good_place_to_continue(reference, toy_pool, tmp_path, monkeypatch):
    config = toy_config(tmp_path)
    for rounds in (3, 7, 9):
        with monkeypatch.context() as patch:
            interrupt(patch, rounds)
            with pytest.raises(Stop):
                train_toy(config, toy_pool)
    train_toy(config, toy_pool)
    assert weights(config) == weights(reference[0])
    assert metrics(config) == metrics(reference[0])


def test_a_finished_cell_is_not_trained_again(reference):
    config, facts = reference

    def refuse(*args, **kwargs):
        raise AssertionError("an environment was made")

    assert train_toy_alone(config, factory=refuse) == facts


def test_environments_without_a_state_never_join_two_episodes(cluster, tmp_path, monkeypatch):
    config, heads, cut = toy_config(tmp_path), [], []
    load = DQNTrainer.load_learner

    def load_and_look(trainer, *args):
        load(trainer, *args)
        cut.extend(trainer.replay.ended_before(head).all() for head in heads)
        heads.append(trainer.replay.head)

    monkeypatch.setattr(DQNTrainer, "load_learner", load_and_look)
    with WorkerPool(config.ray, NoState) as pool:
        for rounds in (8, 8):
            with monkeypatch.context() as patch, pytest.raises(Stop):
                interrupt(patch, rounds)
                train_toy(config, pool)
        train_toy(config, pool)
    first, second = heads
    assert 0 < first < second
    assert cut == [True], "where the first restart cut, the second one finds it"


class TestBrokenCheckpoints:
    @pytest.fixture
    def stopped(self, toy_pool, tmp_path, monkeypatch):
        """A configuration whose training stopped after its first checkpoint, and its folder."""
        config = toy_config(tmp_path)
        with monkeypatch.context() as patch:
            interrupt(patch, 8)
            with pytest.raises(Stop):
                train_toy(config, toy_pool)
        return config, RunDirectory.open(config).agent(CELL.id)

    def test_a_changed_vision_and_damaged_files_are_refused(self, stopped, toy_pool):
        config, folder = stopped
        with pytest.raises(FingerprintError, match=f"delete '{folder}' to train it anew"):
            train_toy(config, toy_pool, perception=toy_perception(version=1))
        (checkpoint,) = (folder / "checkpoints").iterdir()
        shards = sorted((folder / "replay").iterdir())
        for path in (shards[0], checkpoint):
            damage(path)
            with pytest.raises(CorruptFileError, match=f"{path.name}.*; delete '{folder}' to"):
                train_toy(config, toy_pool)

    def test_the_checkpoint_before_a_damaged_one_is_a_place_to_continue(
        self, reference, toy_pool, tmp_path, monkeypatch
    ):
        config = toy_config(tmp_path)
        with monkeypatch.context() as patch, pytest.raises(Stop):
            interrupt(patch, 20)
            train_toy(config, toy_pool)
        older, newest = checkpoints_of(RunDirectory.open(config), CELL)
        damage(newest)
        with pytest.raises(CorruptFileError, match=f"delete '{newest}' to go on from"):
            train_toy(config, toy_pool)
        newest.unlink()
        train_toy(config, toy_pool)
        assert weights(config) == weights(reference[0])
        assert metrics(config) == metrics(reference[0])


class OneAfterTheOther(Catch):
    """The first of all workers to step goes on at once, the others wait."""

    def __init__(self, mark, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mark, self.waited = mark, False

    def step(self, actions):
        if not self.waited:
            self.waited = True
            try:
                os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                time.sleep(1.0)
        return super().step(actions)


def test_a_training_that_ends_while_a_checkpoint_waits_for_gradients_needs_none(cluster, tmp_path):
    config = toy_config(tmp_path, 40, chunk=1, checkpoint_every=10, evaluate_every=1000)
    ray_config = RayConfig(workers=3, envs_per_worker=4, cpus_per_worker=0.0)
    config = config.model_copy(update={"ray": ray_config})
    factory = functools.partial(OneAfterTheOther, str(tmp_path / "first"))
    with WorkerPool(config.ray, factory) as pool:
        facts = train_toy(config, pool, cell=Cell("a3c", "factors", 0))
    assert facts["decisions"] == 40, "and the third worker was never sent work"


@pytest.mark.parametrize("algorithm", ["dqn", "a3c"])
def test_a_training_that_diverges_says_so(toy_pool, tmp_path, algorithm):
    settings = getattr(toy_config(tmp_path).agents, algorithm)
    steep = settings.model_copy(update={"learning_rate": 1e30, "gradient_norm": None})
    cell, config = Cell(algorithm, "factors", 0), toy_config(tmp_path, **{algorithm: steep})
    with pytest.raises(DivergenceError, match=rf"agents\.{algorithm}\.learning_rate"):
        train_toy(config, toy_pool, cell=cell)
    assert not (RunDirectory.open(config).agent(cell.id) / "policy.safetensors").exists()


def test_a_replay_smaller_than_a_chunk_is_refused(toy_pool, tmp_path):
    config = toy_config(tmp_path, dqn=DQNConfig(replay=50))
    with pytest.raises(ConfigError, match="agents.dqn.replay is 50, but the workers send 56"):
        train_toy(config, toy_pool)


def test_a_training_that_ends_before_it_learns_is_refused(toy_pool, tmp_path):
    config = toy_config(tmp_path, decisions=200, dqn=DQNConfig(warmup=193))
    with pytest.raises(ConfigError, match="agents.dqn.warmup is 193, of 200 agents.decisions"):
        train_toy(config, toy_pool)
    DQNTrainer.check(toy_config(tmp_path, decisions=200, dqn=DQNConfig(warmup=192)))


def test_an_unfinished_cell_acts_as_its_last_checkpoint(toy_pool, tmp_path, monkeypatch):
    config = toy_config(tmp_path)
    run, perception = RunDirectory.open(config), toy_perception()
    with pytest.raises(MissingFileError, match="dqn-factors-s0 has no checkpoint"):
        load_unfinished(toy_pool, config, run, CELL, perception)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        interrupt(patch, 20)
        train_toy(config, toy_pool)
    newest = checkpoints_of(run, CELL)[-1]
    policy, decisions = load_unfinished(toy_pool, config, run, CELL, perception)
    assert decisions == int(newest.stem) < config.agents.decisions
    saved = load_tensors(newest)[0]["learner.online"]
    assert policy.network.weights().tobytes() == saved.numpy().tobytes()
    ((episode,),) = toy_pool.evaluate(policy, perception, [(DOMAINS, 1)], epsilon=0.0, seed=1)
    assert episode.return_ in (-1.0, 1.0)
