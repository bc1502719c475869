"""Cells: what one training run of stage 2 is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from darla.config import Config
from darla.errors import ConfigError, did_you_mean
from darla.perception import Perception, load_perception
from darla.rundir import RunDirectory
from envs.domains import Domain, Suite
from envs.registry import suite_of


@dataclass(frozen=True, order=True)
class Cell:
    """One algorithm on one perception with one seed.

    Attributes:
        algorithm: name of the algorithm, such as `dqn`.
        perception: name of the perception, such as `darla`.
        seed: seed of initial weights, exploration, batches and layouts.

    Raises:
        ConfigError: the algorithm cannot learn on this perception.
    """

    algorithm: str
    perception: str
    seed: int

    def __post_init__(self) -> None:
        """Refuses what could never be trained, before anything is."""
        refused = _refusal(self.algorithm, self.perception)
        if refused:
            raise ConfigError(refused)

    @property
    def id(self) -> str:
        """Name of the cell's folder in a run directory, such as `dqn-darla-s0`."""
        return f"{self.algorithm}-{self.perception}-s{self.seed}"

    def __str__(self) -> str:
        """Returns the id."""
        return self.id


def cells_of(config: Config) -> list[Cell]:
    """Returns every cell of the configuration, seeds innermost.

    A perception that an algorithm cannot learn on is left out for it, where the algorithm learns on
    another one and another algorithm on the perception.

    Raises:
        ConfigError: nothing can be trained of an algorithm or a perception.
    """
    agents = config.agents
    pairs = list(product(agents.algorithms, agents.perceptions))
    possible = [pair for pair in pairs if not _refusal(*pair)]
    algorithms, perceptions = ({pair[place] for pair in possible} for place in (0, 1))
    for algorithm, perception in pairs:
        if algorithm not in algorithms or perception not in perceptions:
            raise ConfigError(_refusal(algorithm, perception))
    return [Cell(*pair, seed) for pair, seed in product(possible, agents.seeds)]


def cell_named(config: Config, cell_id: str) -> Cell:
    """Returns the cell with this id.

    Raises:
        ConfigError: the configuration has no such cell; the message lists those that it has.
    """
    cells = {cell.id: cell for cell in cells_of(config)}
    if cell_id not in cells:
        raise ConfigError(
            f"run '{config.name}' has no cell '{cell_id}'{did_you_mean(cell_id, cells)}; it has "
            f"{', '.join(cells)}"
        )
    return cells[cell_id]


def _refusal(algorithm: str, perception: str) -> str | None:
    """Returns why an algorithm cannot learn on a perception, or None."""
    if algorithm == "unreal" and perception != "pixels":
        return (
            f"unreal learns from frames, not on perception '{perception}'; it needs pixels among "
            "agents.perceptions"
        )
    if algorithm == "ec" and perception in ("fine-tuned", "pixels+augmentation"):
        return (
            f"ec has no gradients, which perception '{perception}' is about; it needs dqn or a3c "
            "among agents.algorithms"
        )
    return None


def training_domains(cell: Cell, suite: Suite) -> tuple[Domain, ...]:
    """Returns the domains that a cell learns in: D_S, with domain randomisation all of D_U."""
    return suite.d_u if cell.perception == "domain-randomisation" else suite.d_s


def perception_of(run: RunDirectory, name: str, seed: int) -> Perception:
    """Returns what policies of a run see through; arguments and errors as in `load_perception`."""
    return load_perception(name, run, seed, suite_of(run.config).world.state_size)
