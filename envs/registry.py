"""The simulators that there are, built in or a user's own, and the suites on their worlds.

A user's own simulator is a Python file or module that calls `register` when it is imported
(docs/your_own_domain.md). The configuration names it in `environment.plugin`; an installed package
may announce it as an entry point in the group `darla.simulators` instead.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from darla.doctor import require_gl
from darla.errors import ConfigError, DarlaError, DomainError, did_you_mean
from darla.plugins import blaming, import_plugin
from envs.domains import Domain, Suite

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from darla.config import Config

GROUP = "darla.simulators"


class VectorMaker(Protocol):
    """Makes vector environments in autoreset mode SAME_STEP; see `envs.make_vector`."""

    def __call__(
        self,
        num_envs: int,
        domain: Sequence[Domain],
        /,
        *,
        size: int,
        frame_skip: int,
        seed: int,
        render: bool,
    ) -> VectorEnv:
        """Returns `num_envs` sub-environments of which each episode draws a domain uniformly."""
        ...


@dataclass(frozen=True)
class Simulator:
    """What an environment id stands for.

    Attributes:
        id: Gymnasium id, the value of `environment.id`.
        make: Makes vector environments.
        suites: Suites of domains, all of one world.
        check: Raises DependencyError on a machine that cannot draw it; by default where there is no
            off-screen OpenGL.
    """

    id: str
    make: VectorMaker
    suites: tuple[Suite, ...]
    check: Callable[[], object] = require_gl

    def __post_init__(self) -> None:
        """Raises DomainError where the suites are none, or of several worlds."""
        if not self.suites:
            raise DomainError(f"simulator '{self.id}' has no suite of domains")
        worlds = sorted({suite.world.name for suite in self.suites})
        if len(worlds) > 1:
            raise DomainError(f"the suites of '{self.id}' are of several worlds: {worlds}")


_SIMULATORS: dict[str, Simulator] = {}
_BROKEN: dict[str, str] = {}
"""Why what an installed package announces could not be imported, by entry point."""


def register(simulator: Simulator) -> None:
    """Makes a simulator and its suites known by name; again under the same id, replaces it.

    Raises:
        DomainError: A suite's name is taken by another simulator.
    """
    for other in _SIMULATORS.values():
        taken = {suite.name for suite in other.suites} & {s.name for s in simulator.suites}
        if other.id != simulator.id and taken:
            raise DomainError(
                f"simulator '{simulator.id}': the suite name '{min(taken)}' is taken by "
                f"'{other.id}'; give yours another"
            )
    _SIMULATORS[simulator.id] = simulator


def register_suites(id: str, *more: Suite) -> None:
    """Adds suites to a simulator that is registered, or replaces those of the same names.

    Raises:
        ConfigError: There is no such simulator.
        DomainError: As for `register`, or a suite is of another world than the simulator's.
    """
    simulator = get_simulator(id)
    kept = [suite for suite in simulator.suites if suite.name not in {new.name for new in more}]
    register(dataclasses.replace(simulator, suites=(*kept, *more)))


def simulators(plugin: str | None = None) -> Mapping[str, Simulator]:
    """Returns every simulator by its id: those built in, those of entry points, and a plugin's.

    Args:
        plugin: A Python file (a path that ends in `.py`) or the name of a module that registers
            more; imported once in a process.

    Raises:
        ConfigError: There is no such plugin, or it fails when it is imported.
    """
    _built_in()
    if plugin is not None:
        import_plugin(plugin)
    return _SIMULATORS


def suites(plugin: str | None = None) -> dict[str, Suite]:
    """Returns every suite by its name; arguments and errors as for `simulators`."""
    return {suite.name: suite for s in simulators(plugin).values() for suite in s.suites}


def get_simulator(id: str, plugin: str | None = None) -> Simulator:
    """Returns the simulator with this id.

    Raises:
        ConfigError: There is none; the message lists those that are.
    """
    known = simulators(plugin)
    if id not in known:
        raise ConfigError(
            f"environment.id is '{id}', allowed is one of {', '.join(known)}"
            f"{did_you_mean(id, known)}{_failed_packages()}"
        )
    return known[id]


def get_suite(name: str, plugin: str | None = None) -> Suite:
    """Returns the suite with this name.

    Raises:
        DomainError: There is none; the message lists those that are.
        ConfigError: As for `simulators`.
    """
    known = suites(plugin)
    if name not in known:
        raise DomainError(
            f"unknown suite '{name}'{did_you_mean(name, known)}; there are {', '.join(known)}"
            f"{_failed_packages()}"
        )
    return known[name]


def suite_of(config: Config) -> Suite:
    """Returns the suite of a configuration.

    Raises:
        DomainError: There is no such suite, or it is of another simulator than `environment.id`.
        ConfigError: There is no such simulator or plugin.
    """
    environment = config.environment
    simulator = get_simulator(environment.id, environment.plugin)
    suite = get_suite(config.suite, environment.plugin)
    own = [each.name for each in simulator.suites]
    if suite.name not in own:
        raise DomainError(
            f"suite '{suite.name}' is not of environment.id '{simulator.id}', "
            f"which has {', '.join(own)}"
        )
    return suite


def protocol_of(config: Config, name: str) -> Suite:
    """Returns the suite with this name, for a run that was trained on its own suite.

    Raises:
        DomainError: As `suite_of`, or its D_U or D_S are not those of the run's own suite.
        ConfigError: As `suite_of`.
    """
    own = suite_of(config)
    protocol = suite_of(config.model_copy(update={"suite": name}))
    for label, ours, theirs in (
        ("D_U", own.d_u, protocol.d_u),
        ("D_S", own.d_s, protocol.d_s),
    ):
        if set(ours) != set(theirs):
            raise DomainError(
                f"suite '{name}' has another {label} than '{own.name}', on which this run is "
                f"trained; a run of its own is scored on it: suite={name} name=..."
            )
    return protocol


@functools.cache
def _built_in() -> None:
    """Registers what comes with this package, then what installed packages announce."""
    from envs.suites import SIMULATORS

    for simulator in SIMULATORS:
        register(simulator)
    for point in entry_points(group=GROUP):
        try:
            with blaming(f"'{point.value}'"):
                point.load()
        except DarlaError as error:  # told to who asks for something that is not there
            _BROKEN[point.value] = str(error)


def _failed_packages() -> str:
    """What to add to a message about something that an installed package might have brought."""
    failed = [f"entry point {point} ({why})" for point, why in _BROKEN.items()]
    return f"; of the installed packages, these failed: {', '.join(failed)}" if failed else ""
