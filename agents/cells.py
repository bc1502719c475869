"""Cells: what one training run of stage 2 is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from darla.config import Config
from darla.perception import Perception, load_perception
from darla.rundir import RunDirectory
from envs.suites import get_suite


@dataclass(frozen=True, order=True)
class Cell:
    """One algorithm on one perception with one seed.

    Attributes:
        algorithm: name of the algorithm, such as `dqn`.
        perception: name of the perception, such as `darla`.
        seed: seed of initial weights, exploration, batches and layouts.
    """

    algorithm: str
    perception: str
    seed: int

    @property
    def id(self) -> str:
        """Name of the cell's folder in a run directory, such as `dqn-darla-s0`."""
        return f"{self.algorithm}-{self.perception}-s{self.seed}"

    def __str__(self) -> str:
        """Returns the id."""
        return self.id


def cells_of(config: Config) -> list[Cell]:
    """Returns every cell of the configuration, seeds innermost."""
    agents = config.agents
    return [Cell(*names) for names in product(agents.algorithms, agents.perceptions, agents.seeds)]


def perception_of(run: RunDirectory, cell: Cell) -> Perception:
    """Returns what a cell's policy sees through; errors as in `darla.perception`."""
    world = get_suite(run.config.suite).world
    return load_perception(cell.perception, run, cell.seed, world.state_size)
