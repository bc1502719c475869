"""Tiers of the benchmark: what is trained and scored, from a minute to a cluster.

| tier | what it is for |
| --- | --- |
| `smoke` | that everything works: a minute; its scores mean nothing |
| `dev` | a result on one machine: five seeds, about two hours on two cores |
| `full` | the paper's scale: a cluster |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from agents.cells import Cell
from darla.config import Config, config_identity, load_config
from darla.errors import ConfigError, did_you_mean
from darla.progress import duration
from darla.rundir import RunDirectory


@dataclass(frozen=True)
class Tier:
    """A row of the table.

    Attributes:
        world: World of the domains.
        name: `smoke`, `dev` or `full`.
        configs: Configurations, each a run directory: algorithms, perceptions, seeds, decisions.
        protocols: Suites that every cell is scored on, the configurations' own first.
    """

    world: str
    name: str
    configs: tuple[str, ...]
    protocols: tuple[str, ...]


_LAB = ("lab", "lab-single", "lab-pairs")
"""The paper's conjunction, one factor, two factors."""
_JACO = ("jaco", "jaco-looks", "jaco-real")
"""The conjunction, looks one at a time, the stand-in for a real arm."""
TIERS = (
    # world, tier, configurations, protocols
    Tier("lab", "smoke", ("benchmark-smoke",), _LAB[:2]),
    Tier("lab", "dev", ("benchmark-dev",), _LAB[:2]),
    Tier("lab", "full", ("benchmark-full",), _LAB),
    Tier("jaco", "dev", ("benchmark-jaco",), _JACO),
    Tier("jaco", "full", ("jaco",), _JACO),
)


def get_tier(name: str, world: str) -> Tier:
    """Returns a row of the table.

    Raises:
        ConfigError: There is none; the message lists those that are.
    """
    worlds = list(dict.fromkeys(tier.world for tier in TIERS))
    if world not in worlds:
        raise ConfigError(
            f"no benchmark on world '{world}'{did_you_mean(world, worlds)}; there are "
            f"{', '.join(worlds)}"
        )
    own = {tier.name: tier for tier in TIERS if tier.world == world}
    if name not in own:
        raise ConfigError(
            f"no tier '{name}' on world '{world}'{did_you_mean(name, own)}; there are "
            f"{', '.join(own)}"
        )
    return own[name]


def tier_of(config: Config) -> Tier | None:
    """Returns the tier that a configuration is of, whatever its name; None where it is of none."""
    for tier in TIERS:
        for name in tier.configs:
            try:
                own = load_config(name)
            except ConfigError:  # the project's configurations are not at hand
                continue
            if config_identity(own.model_copy(update={"name": config.name})) == config_identity(
                config
            ):
                return tier
    return None


def what_is_left(run: RunDirectory, cells: Sequence[Cell]) -> str:
    """Says how many cells are not trained, and for how long one process would train them.

    A cell is expected to last as long as the finished ones of its algorithm and perception, or
    where there are none, of its algorithm, or of all.
    """
    stages = run.status()["stages"]
    seconds = {
        cell: float(stages[f"train/{cell.id}"]["seconds"])
        for cell in cells
        if stages.get(f"train/{cell.id}", {}).get("finished")
    }
    left = [cell for cell in cells if cell not in seconds]
    text = f"{len(left)} of {len(cells)} cells left to train"
    if not left:
        return f"all {len(cells)} cells are trained"
    if not seconds:
        return f"{text}; how long that takes is known when the first is finished"
    return f"{text}; {duration(sum(_expected(cell, seconds) for cell in left))} one after another"


def _expected(cell: Cell, seconds: dict[Cell, float]) -> float:
    alike = [
        [
            s
            for c, s in seconds.items()
            if c.algorithm == cell.algorithm and c.perception == cell.perception
        ],
        [s for c, s in seconds.items() if c.algorithm == cell.algorithm],
        list(seconds.values()),
    ]
    return fmean(next(found for found in alike if found))
