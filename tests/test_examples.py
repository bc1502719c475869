"""The examples of docs/ run as they are, on a run directory whose vision is untrained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agents.toy_latents import toy_run

ROOT = Path(__file__).parent.parent


def example(name: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "examples" / name, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_stable_baselines_ppo_learns_on_the_vision_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    assert "total_timesteps" in example("sb3_ppo.py", str(toy_run(tmp_path)), "1000")


def test_rllib_ppo_learns_on_the_vision_of_a_run(tmp_path: Path) -> None:
    out = example("rllib_ppo.py", str(toy_run(tmp_path)), "1")
    assert "no episode has ended yet" in out
