"""Cells side by side: all are trained, failures are told, and a lost task starts again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from agents.cells import Cell
from agents.parallel import decisions_of, train_parallel
from agents.training import train
from darla.config import Config, RayConfig
from darla.errors import ConfigError, DarlaError
from darla.rundir import RunDirectory
from darla.storage import append_jsonl, load_tensors
from tests.agents.toy_training import DOMAINS, toy_config, train_toy
from tests.toys import Catch, toy_perception

CELLS = [Cell("dqn", "factors", seed) for seed in (0, 1, 2)]


def work(config: Config, cell: Cell) -> None:
    """Trains the toy game; seed 1 loses its process once, seed 2 always fails."""
    run = RunDirectory.open(config, create=False)
    append_jsonl(run.path / f"{cell.id}.jsonl", [{"pid": os.getpid()}])
    if cell.seed == 1 and len((run.path / f"{cell.id}.jsonl").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.seed == 2:
        raise DarlaError("no room for this\nsecond line")
    options = {"domains": DOMAINS, "perception": toy_perception(), "quiet": True}
    train(config, run, cell, factory=Catch, **options)


@pytest.mark.timeout(300)
def test_cells_side_by_side_end_as_one_alone(cluster, toy_pool, tmp_path: Path, capfd) -> None:
    ray_config = RayConfig(workers=2, envs_per_worker=4, cpus_per_worker=0.1)
    config = toy_config(tmp_path / "side", 500).model_copy(update={"ray": ray_config})
    run = RunDirectory.open(config)
    assert decisions_of(run, CELLS[0]) == 0
    failed = train_parallel(config, run, CELLS, work)
    assert failed == {"dqn-factors-s2": "no room for this"}
    said = capfd.readouterr().err
    assert "dqn-factors-s1: finished" in said
    assert "dqn-factors-s2: failed, no room for this" in said
    alone = toy_config(tmp_path / "alone", 500)
    train_toy(alone, toy_pool, cell=CELLS[0])
    policies = [
        load_tensors(each.agent(CELLS[0].id) / "policy.safetensors")[0]["weights"]
        for each in (run, RunDirectory.open(alone))
    ]
    assert policies[0].equal(policies[1])
    assert decisions_of(run, CELLS[1]) >= 500


def test_a_cell_that_fits_nowhere_is_refused(cluster, tmp_path: Path) -> None:
    ray_config = RayConfig(workers=2, cpus_per_worker=500.0)
    config = toy_config(tmp_path).model_copy(update={"ray": ray_config})
    run = RunDirectory.open(config)
    with pytest.raises(ConfigError, match="a cell reserves 1000.5 CPUs and this machine has"):
        train_parallel(config, run, CELLS[:1], work, quiet=True)
