"""Cells: what one training run of stage 2 is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from darla.config import Config
from darla.errors import ConfigError
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
        if self.algorithm == "unreal" and self.perception != "pixels":
            raise ConfigError(
                f"unreal learns from frames, not on perception '{self.perception}'; give it a run "
                "of its own with agents.algorithms=[unreal] agents.perceptions=[pixels]"
            )
        if self.algorithm == "ec" and self.perception in ("fine-tuned", "pixels+augmentation"):
            raise ConfigError(
                f"ec has no gradients, which perception '{self.perception}' is about; give it a "
                "run of its own with agents.algorithms=[ec] and other agents.perceptions"
            )

    @property
    def id(self) -> str:
        """Name of the cell's folder in a run directory, such as `dqn-darla-s0`."""
        return f"{self.algorithm}-{self.perception}-s{self.seed}"

    def __str__(self) -> str:
        """Returns the id."""
        return self.id


def cells_of(config: Config) -> list[Cell]:
    """Returns every cell of the configuration, seeds innermost; errors as in `Cell`."""
    agents = config.agents
    return [Cell(*names) for names in product(agents.algorithms, agents.perceptions, agents.seeds)]


def training_domains(cell: Cell, suite: Suite) -> tuple[Domain, ...]:
    """Returns the domains that a cell learns in: D_S, with domain randomisation all of D_U."""
    return suite.d_u if cell.perception == "domain-randomisation" else suite.d_s


def perception_of(run: RunDirectory, name: str, seed: int) -> Perception:
    """Returns what policies of a run see through; arguments and errors as in `load_perception`."""
    return load_perception(name, run, seed, suite_of(run.config).world.state_size)
