"""Exact nearest neighbours, the hot path of episodic control."""

from __future__ import annotations

import numpy as np
import torch

GROUP = 64
"""Columns of a table come in groups of so many; see `nearest`."""

_FEW = 8  # groups per neighbour, below which grouping takes longer than it saves


def nearest(
    keys: np.ndarray, norms: np.ndarray, count: int, queries: np.ndarray, k: int
) -> np.ndarray:
    """Finds the k keys of the smallest Euclidean distance to every query, in any order.

    One matrix product gives all squared distances up to a constant; it reads the keys fastest as
    columns. Sorting out the smallest of them would take longer than the product; but these lie in
    the k groups of columns whose own minima are smallest, and finding a minimum is cheap.

    Args:
        keys: float32 [D, N], N a multiple of `GROUP`; only the first `count` columns are in use.
        norms: squared norms of the keys, float32 [N]; infinite where a column is free.
        count: number of columns in use, at least 1.
        queries: float32 [B, D].
        k: number of neighbours, at most `count`.

    Returns:
        Columns, int64 [B, k].
    """
    used = -(-count // GROUP) * GROUP
    products = (-2.0 * queries) @ keys[:, :used]
    products += norms[:used]
    distances = torch.from_numpy(products)
    groups = distances.unflatten(1, (-1, GROUP))
    if groups.shape[1] < _FEW * k:
        return _smallest(distances, k).numpy()
    found = _smallest(groups.amin(2), k)
    candidates = groups.gather(1, found[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    places = _smallest(candidates, k)
    return (found.gather(1, places // GROUP) * GROUP + places % GROUP).numpy()


def _smallest(values: torch.Tensor, k: int) -> torch.Tensor:
    return values.topk(k, largest=False, sorted=False).indices
