"""Cells trained side by side: each a task on Ray, with workers of its own.

A task reserves the CPUs of its learner and its workers together, so that none waits for the other.
What a lost task had saved is where the next attempt continues.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from agents.cells import Cell
from darla.cluster import RESTARTS, check_capacity, first_line, ray_session, reservation
from darla.config import Config
from darla.errors import DarlaError
from darla.progress import Progress
from darla.rundir import RunDirectory
from darla.storage import read_jsonl

LEARNER_CPUS = 0.5
_POLL_SECONDS = 2.0

Work = Callable[[Config, Cell], object]
"""Trains one cell of a run that exists; importable on every node."""


def train_parallel(
    config: Config, run: RunDirectory, cells: Sequence[Cell], work: Work, *, quiet: bool = False
) -> dict[str, str]:
    """Trains cells, as many at a time as the cluster has CPUs for.

    Args:
        config: the experiment; a cell reserves `LEARNER_CPUS`, and `ray.cpus_per_worker` for each
            of `ray.workers`.
        run: its run directory, on storage that all nodes share.
        cells: what to train; the vision that they need is there.
        work: trains one of them.
        quiet: show no progress.

    Returns:
        The first line of what went wrong, by the id of each cell that failed.

    Raises:
        ConfigError: this machine has too few CPUs for a single cell.
        DependencyError: as in `ray_session`.
    """
    # Paths of a task are absolute, and it joins the session that is there.
    shared = config.model_copy(
        update={
            "runs": str(Path(config.runs).resolve()),
            "ray": config.ray.model_copy(update={"address": "auto"}),
        }
    )
    failed: dict[str, str] = {}
    total = len(cells) * config.agents.decisions
    with ray_session(config.ray), Progress("training", total, "decisions", quiet=quiet) as progress:
        slots = slots_of(config)
        waiting = list(cells)
        groups: dict[ray.ObjectRef, tuple[Cell, PlacementGroup]] = {}
        while waiting or groups:
            while waiting and len(groups) < slots:
                cell = waiting.pop(0)
                reference, group = _start(shared, cell, work)
                groups[reference] = cell, group
            ended, _ = ray.wait(list(groups), timeout=_POLL_SECONDS)
            for reference in ended:
                cell, group = groups.pop(reference)
                remove_placement_group(group)
                try:
                    ray.get(reference)
                    _say(quiet, f"{cell}: finished")
                except ray.exceptions.RayError as error:
                    failed[cell.id] = first_line(error)
                    _say(quiet, f"{cell}: failed, {failed[cell.id]}")
            progress.update(sum(decisions_of(run, cell) for cell in cells))
    return failed


def decisions_of(run: RunDirectory, cell: Cell) -> int:
    """Returns how far the training of a cell is, by its metrics."""
    path = run.agent(cell.id) / "metrics.jsonl"
    try:
        rows = read_jsonl(path) if path.exists() else []
    except DarlaError:  # a line is being written
        return 0
    return int(rows[-1]["decisions"]) if rows else 0


def slots_of(config: Config) -> int:
    """Returns how many cells the cluster has CPUs for at once; to be called in a Ray session.

    Raises:
        ConfigError: this machine has too few for a single one.
    """
    bundles = reservation(config.ray, LEARNER_CPUS)
    smaller = "ray.cpus_per_worker, or with another name=... a smaller ray.workers"
    check_capacity(config.ray, bundles, "a cell", smaller)
    needed = sum(bundle["CPU"] for bundle in bundles)
    return max(1, int(ray.cluster_resources().get("CPU", 0.0) / needed))


def _start(config: Config, cell: Cell, work: Work) -> tuple[ray.ObjectRef, PlacementGroup]:
    group = placement_group(reservation(config.ray, LEARNER_CPUS))
    task = ray.remote(num_cpus=LEARNER_CPUS, max_retries=RESTARTS)(work).options(
        name=cell.id,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=group,
            placement_group_bundle_index=0,
            placement_group_capture_child_tasks=True,
        ),
    )
    return task.remote(config, cell), group


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr, flush=True)
