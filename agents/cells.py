"""Cells: what one training run of stage 2 is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from darla.config import Config


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
