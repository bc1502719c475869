"""Faults on a cluster of three nodes: what is lost, and what comes out in the end.

`python -m tests.test_faults RUNS ADDRESS ALGORITHM` is a driver that trains the toy game.
"""

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
from ray.cluster_utils import Cluster

from agents.cells import Cell
from agents.training import train
from darla.config import A3CConfig, EpisodicControlConfig, RayConfig
from darla.rundir import RunDirectory
from darla.storage import load_tensors
from tests.agents.test_training import metrics
from tests.agents.toy_training import DOMAINS, toy_config
from tests.toys import ROWS, Catch, toy_perception

pytestmark = pytest.mark.timeout(300)

STORE = 100 * 1024 * 1024
SECONDS = 120
CHUNK, WORKERS, ENVS = 7, 2, 4
EVALUATION = 2 * (ROWS - 1)
"""Steps of a worker in one evaluation: two episodes in some of its environments."""
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 5,
}

on_request = pytest.mark.skipif(
    "DARLA_TEST_FAULTS" not in os.environ, reason="slow; DARLA_TEST_FAULTS=1 runs it"
)


def fault_config(runs):
    """The toy's configuration, with settings of seconds for every algorithm."""
    a3c = A3CConfig(hidden=(64, 64), n_step=5)
    return toy_config(runs, a3c=a3c, ec=EpisodicControlConfig(capacity=150))


class Logged(Catch):
    """Takes its time; notes each step in the file `<node>-<pid>` of the folder `marks`."""

    def __init__(self, domains, num_envs, *, marks, **options):
        super().__init__(domains, num_envs, **options)
        node = ray.get_runtime_context().get_node_id()
        self._marks = os.path.join(marks, f"{node}-{os.getpid()}")

    def step(self, actions):
        time.sleep(0.01)
        with open(self._marks, "ab") as file:
            file.write(b".")
        return super().step(actions)


class Run:
    """A training by a driver in a process of its own."""

    def __init__(self, folder, algorithm, address):
        self.folder, self.cell = folder, Cell(algorithm, "factors", 0)
        self.config = fault_config(folder)
        self.words = [str(folder), address, algorithm]
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.driver = self.start()

    def start(self):
        log = (self.folder / "log.txt").open("a")
        command = [sys.executable, "-m", "tests.test_faults", *self.words]
        root = Path(__file__).parents[1]
        self.driver = subprocess.Popen(command, cwd=root, stdout=log, stderr=log)
        return self.driver

    def checkpoints(self):
        return sorted((self.folder / "toy/agents" / self.cell.id / "checkpoints").glob("0*"))

    def until_checkpoint(self):
        """Waits until there is a checkpoint; a little later the workers are at work."""
        until = time.monotonic() + SECONDS
        while not self.checkpoints():
            assert self.driver.poll() is None and time.monotonic() < until, self.log()
            time.sleep(0.1)
        time.sleep(0.2)
        assert self.driver.poll() is None, "the training was too quick for the fault"

    def end(self):
        """Waits for the end; returns the facts of the training."""
        assert self.driver.wait(SECONDS) == 0, self.log()
        return json.loads(self.log().splitlines()[-1])

    def log(self):
        return (self.folder / "log.txt").read_text()

    def workers(self):
        """(node, pid) of every worker that ever stepped."""
        names = [path.name.split("-") for path in self.marks.iterdir()]
        return [(node, int(pid)) for node, pid in names]

    def policy(self):
        """The bytes of all that was learned."""
        path = RunDirectory.open(self.config).agent(self.cell.id) / "policy.safetensors"
        return {name: tensor.numpy().tobytes() for name, tensor in load_tensors(path)[0].items()}

    def steps(self):
        """Steps of all vector environments, repeated ones and evaluations included."""
        return sum(path.stat().st_size for path in self.marks.iterdir())


@pytest.fixture(scope="module")
def cluster():
    """Three nodes of one CPU each, so that a worker that reserves one has a place to go."""
    node = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster()
    try:
        cluster.add_node(**node, _system_config=HEALTH)
        for _ in range(2):
            cluster.add_node(**node)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    """Trainings that nothing disturbed, by algorithm."""

    @functools.cache
    def train_once(algorithm):
        run = Run(tmp_path_factory.mktemp(algorithm), algorithm, cluster.address)
        run.end()
        return run

    return train_once


def assert_same(run, reference):
    """Checks that a disturbed training ended with the bits of one that was not."""
    assert metrics(run.config, run.cell) == metrics(reference.config, run.cell)
    assert run.policy() == reference.policy()


def test_a_worker_that_is_killed_repeats_one_chunk(cluster, undisturbed, tmp_path):
    run = Run(tmp_path, "dqn", cluster.address)
    run.until_checkpoint()
    os.kill(run.workers()[0][1], signal.SIGKILL)
    assert run.end()["restarts"] == 1
    assert_same(run, undisturbed("dqn"))
    assert run.steps() - undisturbed("dqn").steps() <= CHUNK + EVALUATION


@on_request
def test_episodic_control_after_a_worker_was_killed(cluster, undisturbed, tmp_path):
    run = Run(tmp_path, "ec", cluster.address)
    run.until_checkpoint()
    os.kill(run.workers()[0][1], signal.SIGKILL)
    assert run.end()["restarts"] == 1
    assert_same(run, undisturbed("ec"))


@on_request
def test_a3c_after_a_worker_was_killed(cluster, tmp_path):
    run = Run(tmp_path, "a3c", cluster.address)
    run.until_checkpoint()
    os.kill(run.workers()[0][1], signal.SIGKILL)
    facts = run.end()
    assert facts["restarts"] == 1 and facts["decisions"] >= run.config.agents.decisions
    assert len(run.workers()) == 3
    decisions = [row["decisions"] for row in metrics(run.config, run.cell)]
    assert decisions == sorted(decisions) and decisions[-1] == facts["decisions"]


def test_a_driver_that_is_killed_repeats_one_checkpoint_interval_at_most(
    cluster, undisturbed, tmp_path
):
    run = Run(tmp_path, "dqn", cluster.address)
    run.until_checkpoint()
    run.driver.kill()
    run.driver.wait()
    assert run.checkpoints() and not list(run.checkpoints()[0].parents[1].glob("policy*"))
    run.start()
    run.end()
    assert_same(run, undisturbed("dqn"))
    interval = run.config.agents.checkpoint_every // ENVS
    repeated = run.steps() - undisturbed("dqn").steps()
    assert 0 < repeated <= interval + WORKERS * (2 * CHUNK + EVALUATION)


def test_a_node_that_is_lost_is_replaced_by_another(cluster, undisturbed, tmp_path):
    run = Run(tmp_path, "dqn", cluster.address)
    run.until_checkpoint()
    nodes = {node.node_id: node for node in cluster.worker_nodes}
    lost = next(node for node, _ in run.workers() if node in nodes)
    cluster.remove_node(nodes[lost], allow_graceful=False)
    assert run.end()["restarts"] == 1
    assert_same(run, undisturbed("dqn"))
    assert len({node for node, _ in run.workers()}) == 3


if __name__ == "__main__":
    runs, address, algorithm = sys.argv[1:]
    config = fault_config(runs)
    spread = RayConfig(workers=WORKERS, envs_per_worker=ENVS, cpus_per_worker=1.0, address=address)
    config = config.model_copy(update={"ray": spread})
    facts = train(
        config,
        RunDirectory.open(config),
        Cell(algorithm, "factors", 0),
        perception=toy_perception(),
        factory=functools.partial(Logged, marks=os.path.join(runs, "marks")),
        domains=DOMAINS,
        quiet=True,
    )
    print(json.dumps(facts))
