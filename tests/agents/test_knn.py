import importlib.util

import numpy as np
import pytest

from agents import knn
from agents.knn import GROUP, check_backend, nearest
from darla.errors import DependencyError

BACKENDS = [
    "torch",
    pytest.param(
        "faiss",
        marks=pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="no faiss-cpu"),
    ),
]


def table(count, dim=5, seed=0):
    """Keys and norms with free rows up to whole groups, and one more."""
    rows = (-(-count // GROUP) + 1) * GROUP
    keys = np.zeros((rows, dim), np.float32)
    norms = np.full(rows, np.inf, np.float32)
    keys[:count] = np.random.default_rng(seed).standard_normal((count, dim))
    norms[:count] = (keys[:count] ** 2).sum(1)
    return keys, norms


def brute_force(keys, queries, k):
    distances = ((queries[:, None].astype(np.float64) - keys[None]) ** 2).sum(2)
    return np.sort(distances.argsort(1)[:, :k], axis=1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("count", "k"), [(1, 1), (11, 11), (60, 11), (700, 1), (5000, 11)])
def test_the_nearest_are_those_of_brute_force(backend, count, k):
    keys, norms = table(count)
    for batch in (1, 8):
        queries = table(batch, seed=1)[0][:batch]
        rows = nearest(keys, norms, count, queries, k, backend)
        assert np.array_equal(np.sort(rows, axis=1), brute_force(keys[:count], queries, k))


@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbours_may_all_lie_in_one_group(backend):
    keys, norms = table(40 * GROUP)
    keys[3 * GROUP : 4 * GROUP] *= 0.001
    norms[:] = np.where(np.isfinite(norms), (keys**2).sum(1), np.inf)
    rows = nearest(keys, norms, 40 * GROUP, np.zeros((1, 5), np.float32), 30, backend)
    assert set((rows // GROUP).ravel()) == {3}
    assert np.array_equal(
        np.sort(rows, axis=1), brute_force(keys[: 40 * GROUP], np.zeros((1, 5), np.float32), 30)
    )


def test_a_missing_backend_says_what_to_type(monkeypatch):
    monkeypatch.setattr(knn.importlib.util, "find_spec", lambda name: None)
    check_backend("torch")
    with pytest.raises(DependencyError, match="type agents.ec.backend=torch"):
        check_backend("faiss")
