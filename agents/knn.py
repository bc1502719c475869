"""Exact nearest neighbours, the hot path of episodic control: on torch, or on FAISS."""

from __future__ import annotations

import importlib.util
from typing import Literal

import numpy as np
import torch

from darla.errors import DependencyError

Backend = Literal["torch", "faiss"]

GROUP = 64
"""Rows of a table come in groups of so many; see `nearest`."""


def nearest(
    keys: np.ndarray,
    norms: np.ndarray,
    count: int,
    queries: np.ndarray,
    k: int,
    backend: Backend,
) -> np.ndarray:
    """Finds the k rows of the smallest Euclidean distance to every query, in any order.

    On torch, one matrix product gives all squared distances up to a constant. Sorting out the
    smallest of them would take longer than the product; but these lie in the k groups of rows
    whose own minima are smallest, and finding a minimum is cheap.

    Args:
        keys: float32 [N, D], N a multiple of `GROUP`; only the first `count` rows are in use.
        norms: squared norms of the keys, float32 [N]; infinite where a row is free.
        count: number of rows in use, at least 1.
        queries: float32 [B, D].
        k: number of neighbours, at most `count`.
        backend: 'torch' or 'faiss'.

    Returns:
        Rows, int64 [B, k].
    """
    if backend == "faiss":
        import faiss

        return faiss.knn(queries, keys[:count], k)[1]
    used = -(-count // GROUP) * GROUP
    distances = torch.addmm(
        torch.from_numpy(norms[:used]),
        torch.from_numpy(queries),
        torch.from_numpy(keys[:used]).T,
        alpha=-2.0,
    )
    groups = distances.unflatten(1, (-1, GROUP))
    if groups.shape[1] <= k:
        return _smallest(distances, k).numpy()
    found = _smallest(groups.amin(2), k)
    candidates = groups.gather(1, found[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    places = _smallest(candidates, k)
    return (found.gather(1, places // GROUP) * GROUP + places % GROUP).numpy()


def check_backend(backend: Backend) -> None:
    """Refuses a backend that is not installed.

    Raises:
        DependencyError: it is FAISS, which is missing.
    """
    if backend == "faiss" and importlib.util.find_spec("faiss") is None:
        raise DependencyError(
            "agents.ec.backend is 'faiss', which is not installed: pip install faiss-cpu, or type "
            "agents.ec.backend=torch"
        )


def _smallest(values: torch.Tensor, k: int) -> torch.Tensor:
    return values.topk(k, largest=False, sorted=False).indices
