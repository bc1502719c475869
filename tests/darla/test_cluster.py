import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from darla import cluster
from darla.cluster import ray_session
from darla.config import RayConfig
from darla.errors import ConfigError, DependencyError


@pytest.fixture
def calls(monkeypatch):
    """Records how Ray is started and stopped, without starting it."""
    calls = []
    state = {"up": False}

    def init(**options):
        calls.append(options)
        state["up"] = True

    def shutdown():
        calls.append("shutdown")
        state["up"] = False

    monkeypatch.setattr(ray, "is_initialized", lambda: state["up"])
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", shutdown)
    return calls


def test_a_local_cluster_is_private_quiet_and_ends_with_the_session(calls):
    with ray_session(RayConfig(workers=8, cpus_per_worker=20.0)):
        with ray_session(RayConfig()):
            pass
        assert len(calls) == 1, "a nested session starts or stops nothing"
    options, end = calls
    assert end == "shutdown"
    assert options["address"] == "local" and options["_node_ip_address"] == "127.0.0.1"
    assert options["num_cpus"] == 160
    assert options["include_dashboard"] is False and options["log_to_driver"] is False
    assert options["logging_level"] == logging.ERROR
    assert options["object_store_memory"] > 0


def test_the_session_ends_on_errors_too(calls):
    with pytest.raises(ZeroDivisionError), ray_session(RayConfig()):
        raise ZeroDivisionError
    assert calls[-1] == "shutdown"


def test_a_running_cluster_is_joined(calls, monkeypatch):
    monkeypatch.setattr(cluster, "_probe", calls.append)
    with ray_session(RayConfig(address="host:6379")):
        pass
    assert calls[0] == "host:6379"
    assert calls[1]["address"] == "host:6379" and "num_cpus" not in calls[1]


def test_an_address_without_a_cluster_is_one_line_at_once(calls):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    with (
        pytest.raises(DependencyError) as caught,
        ray_session(RayConfig(address=f"127.0.0.1:{port}")),
    ):
        pass
    message = f"no Ray answers at ray.address=127.0.0.1:{port}: [Errno 111] Connection refused"
    assert str(caught.value) == message
    assert time.monotonic() - began < 5 and calls == ["shutdown"]


def test_an_address_that_is_none_is_one_line(calls):
    with pytest.raises(DependencyError, match="^no Ray answers at ray.address=host: .*host$"):
        with ray_session(RayConfig(address="host")):
            pass


def test_a_slow_start_is_tried_again(calls, monkeypatch):
    attempts = []

    def slow(**options):
        attempts.append(options)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(DependencyError, match="no Ray starts on this machine: The current node"):
        with ray_session(RayConfig()):
            pass
    assert len(attempts) == 3


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs Python in a process of its own, which no session of the tests has changed."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


LISTENERS = """
import ray
import psutil
from darla.cluster import ray_session
from darla.config import RayConfig

@ray.remote
class Actor:
    def answer(self):
        return 42

with ray_session(RayConfig()):
    actor = Actor.remote()
    assert ray.get(actor.answer.remote()) == 42
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        for connection in process.net_connections("inet"):
            if not connection.raddr:
                print(process.name(), connection.laddr.ip)
"""


def test_what_a_cluster_has_no_room_for_is_refused_or_said(monkeypatch, capsys):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 3.0})
    here, there = RayConfig(), RayConfig(address="auto")
    cluster.check_capacity(here, [{"CPU": 1.5}] * 2, "it", "ray.workers")
    with pytest.raises(ConfigError, match="it reserves 1 GPUs and this machine has 0; give a smal"):
        cluster.check_capacity(here, [{"CPU": 1.0, "GPU": 1.0}], "it", "--gpus")
    assert capsys.readouterr().err == ""
    cluster.check_capacity(there, [{"CPU": 4.0}] * 4, "it", "ray.workers")
    said = capsys.readouterr().err
    assert "it reserves 16 CPUs and the cluster has 3: waiting for nodes" in said


def test_nothing_of_a_local_cluster_listens_beyond_this_machine():
    done = run(LISTENERS)
    listening = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    names = {name for name, _ in listening}
    assert names >= {"gcs_server", "raylet", "ray::DashboardAgent", "ray::Actor"}, done.stderr
    strangers = [
        (name, ip) for name, ip in listening if ip not in ("127.0.0.1", "::ffff:127.0.0.1", "::1")
    ]
    assert not strangers


JOIN = """
import sys
from darla.cluster import ray_session
from darla.config import RayConfig
from darla.errors import DependencyError

try:
    with ray_session(RayConfig(address="{address}")):
        print("joined")
except DependencyError as error:
    print(error)
"""


def test_a_cluster_is_joined_with_its_token_only(tmp_path):
    with ray_session(RayConfig()):
        address = ray.get_runtime_context().gcs_address
        code = JOIN.format(address=address)
        assert run(code).stdout == "joined\n"
        refused = run(code, RAY_AUTH_TOKEN="another" * 8).stdout
        assert refused == (
            f"the Ray cluster at ray.address={address} wants a token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN to that of the cluster\n"
        )
        assert run(code, RAY_AUTH_TOKEN="", HOME=str(tmp_path)).stdout == refused
