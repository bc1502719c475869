"""Small frames with known content: a bright square, the object, on a room of one of two colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from darla.config import Config
from darla.frames import Frames, save_shard, shard_path, write_index
from darla.rundir import RunDirectory

SIZE = 32
KNOWN = {
    "domains": ["toy/A/square", "toy/B/square"],
    "factors": [{"room": "A"}, {"room": "B"}],
    "kinds": ["square"],
}


def draw(count: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    domain, row, column = rng.integers(0, 2, count), *rng.integers(0, SIZE - 8, (2, count))
    background = np.empty((count, SIZE, SIZE, 3), np.uint8)
    background[...] = np.array([[40, 120, 60], [120, 50, 40]])[domain][:, None, None]
    kinds = np.full((count, SIZE, SIZE), -1, np.int8)
    for i in range(count):
        kinds[i, row[i] : row[i] + 8, column[i] : column[i] + 8] = 0
    pictures = np.where((kinds == 0)[..., None], np.uint8(240), background)
    labels = {
        "domain": domain,
        "kind": np.zeros(count, np.int64),
        "bearing": (SIZE / 2 - 4 - column).astype(float),
        "distance": 1 + row / 8,
        "kinds": kinds,
        "background": background,
    }
    return pictures, labels


@pytest.fixture
def frames() -> Frames:
    pictures, labels = draw(400, 0)
    known = KNOWN["domains"], KNOWN["factors"], KNOWN["kinds"]
    return Frames(torch.from_numpy(pictures), labels, *(tuple(v) for v in known))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    tree = {
        "name": "toy",
        "runs": str(tmp_path),
        "environment": {"size": SIZE},
        "vision": {
            "compile": "off",
            "precision": "float32",
            "evaluate_every": 320,
            "checkpoint_every": 160,
            "dae": {
                "bottleneck": 8,
                "optimisation": {"images": 640, "batch": 16, "learning_rate": 5e-3},
            },
            "vae": {
                "beta": 0.1,
                "latents": 4,
                "hidden": 16,
                "optimisation": {"images": 640, "batch": 16, "learning_rate": 3e-3},
            },
        },
    }
    return Config.model_validate(tree)


@pytest.fixture
def run(config: Config) -> RunDirectory:
    """A run directory whose frames are collected."""
    made = RunDirectory.open(config)
    made.frames.mkdir()
    shards = {}
    for split, count, seed in (("train", 300, 1), ("validation", 200, 2)):
        path = shard_path(made.frames, split, 0)
        save_shard(path, *draw(count, seed))
        shards[split] = [path.name]
    write_index(made.frames, shards, KNOWN)
    return made
