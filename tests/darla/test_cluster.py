import logging

import pytest
import ray

from darla.cluster import ray_session
from darla.config import RayConfig
from darla.errors import DependencyError


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


def test_a_running_cluster_is_joined(calls):
    with ray_session(RayConfig(address="host:6379")):
        pass
    assert calls[0]["address"] == "host:6379" and "num_cpus" not in calls[0]


def test_an_address_without_a_cluster_is_one_line(calls, monkeypatch):
    def refuse(**options):
        raise ConnectionError("nobody is there\nlong trace")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(DependencyError) as caught, ray_session(RayConfig(address="host:1")):
        pass
    assert str(caught.value) == "no Ray answers at ray.address=host:1: nobody is there"


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
