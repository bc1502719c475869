"""Named seeds: every stream of random numbers has a name, and none is shared."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """Returns the seed, in [0, 2**32), of the stream that `names` describe under `seed`."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Returns a NumPy generator for the named stream."""
    return np.random.default_rng(derive(seed, *names))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Returns a CPU torch generator for the named stream."""
    return torch.Generator().manual_seed(derive(seed, *names))
