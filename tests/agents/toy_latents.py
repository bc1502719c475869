"""What tests of other libraries share: a run with an untrained vision, and a game that counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from darla.config import Config
from darla.rundir import RunDirectory
from darla.vision.pretrain import make_vae, save_model


def toy_run(folder: Path) -> Path:
    """Makes a run directory in `folder` whose vision is saved but untrained."""
    run = RunDirectory.open(Config(name="toy", runs=str(folder)))
    run.vision.mkdir(exist_ok=True)
    save_model(make_vae(run.config), run.vision / "vision.safetensors")
    return run.path


class Counting(gymnasium.Env[np.ndarray, np.int64]):
    """Every pixel is 60 times the number of the decision; truncated after `limit` of at most 4."""

    def __init__(self, limit: int = 3) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(2)
        self._limit = limit

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple:
        super().reset(seed=seed)
        self._count = 0
        return counted(0), {}

    def step(self, action: np.int64) -> tuple:
        self._count += 1
        return counted(self._count), 1.0, False, self._count == self._limit, {}


def counted(number: int) -> np.ndarray:
    """The frame of a decision, uint8 [64, 64, 3]."""
    return np.full((64, 64, 3), 60 * number, np.uint8)
