"""Simulators and suites by name, and a user's own file among them."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from darla.config import Config, EnvironmentConfig
from darla.errors import ConfigError, DomainError
from envs import make_vector, registry
from envs.domains import Suite
from envs.lab import LAB

SUITE = """
from envs.domains import Suite, product
from envs.lab import LAB
from envs.registry import register_suites

sources = product(LAB, room=("A",), pair=("hat-can",), light=(0.8, 1.0))
targets = product(LAB, room=("A",), pair=("hat-can",), light=(0.5,))
register_suites("darla/Lab-v0", Suite("dusk", "darker", LAB, sources, sources, targets))
"""


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_SIMULATORS", dict(registry.simulators()))


def _config(plugin: Path | str, suite: str = "dusk", id: str = "darla/Lab-v0") -> Config:
    environment = EnvironmentConfig(id=id, plugin=str(plugin))
    return Config(name="own", suite=suite, environment=environment)


def test_a_file_adds_a_suite(tmp_path: Path) -> None:
    plugin = tmp_path / "my_suite.py"
    plugin.write_text(SUITE)
    config = _config(plugin)
    suite = registry.suite_of(config)
    assert [domain.id for domain in suite.d_t] == ["lab/A/hat-can/light=0.5"]
    make_vector(config.environment, suite.d_s, 1, seed=0, render=False).reset(seed=0)


def test_a_plugin_that_is_not_there_or_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file '.*nowhere\.py'"):
        registry.suite_of(_config(tmp_path / "nowhere.py"))
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module_anywhere\n")
    with pytest.raises(ConfigError, match=r"broken\.py' fails .*no_such_module_anywhere"):
        registry.suite_of(_config(broken))
    with pytest.raises(ConfigError, match="no_such_plugin"):
        registry.suite_of(_config("no_such_plugin"))


def test_a_suite_of_another_simulator_is_refused() -> None:
    lab = registry.get_simulator("darla/Lab-v0")
    other = Suite(
        "other", "", LAB, d_u=lab.suites[0].d_u, d_s=lab.suites[0].d_s, d_t=lab.suites[0].d_t
    )
    registry.register(registry.Simulator("test/Other-v0", lab.make, (other,)))
    with pytest.raises(DomainError, match="'lab' is not of environment.id 'test/Other-v0'"):
        registry.suite_of(_config("envs.lab", suite="lab", id="test/Other-v0"))


def test_a_name_is_given_once() -> None:
    lab = registry.get_simulator("darla/Lab-v0")
    with pytest.raises(DomainError, match="'lab' is taken by 'darla/Lab-v0'"):
        registry.register(registry.Simulator("test/Other-v0", lab.make, (lab.suites[0],)))
    with pytest.raises(DomainError, match="no suite"):
        registry.Simulator("test/Empty-v0", lab.make, ())
    with pytest.raises(ConfigError, match="did you mean 'darla/Lab-v0'"):
        registry.get_simulator("darla/Lab-v1")


def test_a_vector_whose_resets_take_a_step_is_refused() -> None:
    lab = registry.get_simulator("darla/Lab-v0")

    def make(num_envs: int, domains: Any, **options: Any) -> gymnasium.vector.VectorEnv:
        return gymnasium.make_vec("darla/Lab-v0", num_envs, "sync", domain=domains[0])

    suite = dataclasses.replace(lab.suites[0], name="other")
    registry.register(registry.Simulator("test/Other-v0", make, (suite,)))
    with pytest.raises(ConfigError, match="SyncVectorEnv has autoreset mode NEXT_STEP"):
        make_vector(EnvironmentConfig(id="test/Other-v0"), suite.d_s, 2, seed=0)


@pytest.mark.parametrize("world", ["Lab", "Jaco"])
def test_vectors_of_gymnasium_differ_where_no_seed_is_given(world: str) -> None:
    def start(**options: Any) -> np.ndarray:
        vector = gymnasium.make_vec(f"darla/{world}-v0", 2, vectorization_mode=None, **options)
        return vector.reset()[1]["state"]

    assert not np.array_equal(start(), start())
    assert np.array_equal(start(seed=3), start(seed=3))


def test_a_package_that_fails_is_told_to_who_asks_for_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = EntryPoint("broken", "no_such_package_anywhere", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    monkeypatch.setattr(registry, "_BROKEN", {})
    monkeypatch.setattr(registry, "_built_in", registry._built_in.__wrapped__)
    assert registry.get_suite("lab").name == "lab"
    told = "entry point no_such_package_anywhere .*ModuleNotFoundError"
    with pytest.raises(ConfigError, match=told):
        registry.get_simulator("their/World-v0")
    with pytest.raises(DomainError, match=told):
        registry.get_suite("theirs")
