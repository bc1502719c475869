"""The tiers: the table can be run, and the smallest is run here from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agents.cells import cells_of
from benchmarks.scores import read_scores
from benchmarks.tiers import TIERS, get_tier, what_is_left
from darla.config import load_config
from darla.errors import ConfigError
from darla.rundir import RunDirectory
from darla.storage import read_json
from envs.registry import get_suite, protocol_of


@pytest.mark.parametrize("tier", TIERS, ids=lambda tier: f"{tier.world}-{tier.name}")
def test_every_row_names_configurations_and_protocols_that_fit(tier) -> None:
    for name in tier.configs:
        config = load_config(name)
        assert config.name == name and config.suite == tier.protocols[0]
        assert cells_of(config)
        for protocol in tier.protocols:
            assert protocol_of(config, protocol).world.name == tier.world
    if tier.name != "smoke":
        assert len(config.agents.seeds) >= 5
        expected = {"lab": {"dqn", "ec"}, "jaco": {"a3c"}}
        assert expected[tier.world] <= {*config.agents.algorithms}


def test_a_tier_that_is_not_there_is_refused() -> None:
    assert get_tier("dev", "lab").configs == ("benchmark-dev",)
    with pytest.raises(ConfigError, match="no tier 'smok' on world 'lab' .did you mean 'smoke'"):
        get_tier("smok", "lab")
    with pytest.raises(ConfigError, match="no tier 'smoke' on world 'jaco'; there are dev, full"):
        get_tier("smoke", "jaco")
    with pytest.raises(ConfigError, match="no benchmark on world 'moon'; there are lab, jaco"):
        get_tier("dev", "moon")


def test_what_is_left_is_estimated_from_cells_alike(tmp_path: Path, monkeypatch) -> None:
    words = ["agents.algorithms=[dqn,ec]", "agents.perceptions=[darla,pixels,factors,random]"]
    config = load_config("benchmark-dev", [f"runs={tmp_path}", "agents.seeds=[0,1]", *words])
    run, cells = RunDirectory.open(config), cells_of(config)
    assert what_is_left(run, cells) == (
        "16 of 16 cells left to train; how long that takes is known when the first is finished"
    )
    took = {"dqn-darla-s0": 100.0, "dqn-pixels-s0": 300.0}
    stages = {f"train/{name}": {"finished": "now", "seconds": s} for name, s in took.items()}
    stages["train/ec-darla-s0"] = {"finished": None, "seconds": 7.0}
    monkeypatch.setattr(run, "status", lambda: {"stages": stages})
    # DQN: 100 s on darla, 300 s on pixels, 200 s for each of the 4 others; EC: 200 s for each of 8.
    assert what_is_left(run, cells) == (
        f"14 of 16 cells left to train; {(100 + 300 + 12 * 200) // 60} min 40 s one after another"
    )
    stages |= {f"train/{cell.id}": {"finished": "now", "seconds": 1.0} for cell in cells}
    assert what_is_left(run, cells) == "all 16 cells are trained"


@pytest.mark.timeout(300)
def test_the_smallest_tier_from_end_to_end(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "darla.cli",
        "benchmark",
        "--tier",
        "smoke",
        f"runs={tmp_path}",
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = RunDirectory.load(tmp_path / "benchmark-smoke")
    protocols = get_tier("smoke", "lab").protocols
    targets = {domain.id for name in protocols for domain in get_suite(name).d_t}
    scored = read_scores(run)
    assert {item.domain for item in scored if item.split == "target"} == targets
    cells = {(cell.algorithm, cell.perception, cell.seed) for cell in cells_of(run.config)}
    assert cells < {(item.algorithm, item.perception, item.seed) for item in scored}
    assert list(read_json(run.path / "contamination.json")["targets"]) == list(protocols)
    results = json.loads(done.stdout)
    assert results["suite"] == "lab" and list(results["protocols"]) == list(protocols[1:])
    assert run.report.exists() and "2 of 2 cells left to train" in done.stderr
