import numpy as np
import pytest

from agents.knn import GROUP, nearest


def table(count, dim=5, seed=0):
    """Keys and norms with free columns up to whole groups, and one group more."""
    columns = (-(-count // GROUP) + 1) * GROUP
    keys = np.zeros((dim, columns), np.float32)
    norms = np.full(columns, np.inf, np.float32)
    keys[:, :count] = np.random.default_rng(seed).standard_normal((dim, count))
    norms[:count] = (keys[:, :count] ** 2).sum(0)
    return keys, norms


def brute_force(keys, queries, k):
    distances = ((queries[:, :, None].astype(np.float64) - keys[None]) ** 2).sum(1)
    return np.sort(distances.argsort(1)[:, :k], axis=1)


@pytest.mark.parametrize("k", [1, 11])
@pytest.mark.parametrize("count", [11, 60, 700, 9000])
def test_the_nearest_are_those_of_brute_force(count, k):
    keys, norms = table(count)
    for batch in (1, 8):
        queries = np.random.default_rng(1).standard_normal((batch, 5)).astype(np.float32)
        found = nearest(keys, norms, count, queries, k)
        assert np.array_equal(np.sort(found, axis=1), brute_force(keys[:, :count], queries, k))


def test_neighbours_may_all_lie_in_one_group():
    count, queries = 400 * GROUP, np.zeros((1, 5), np.float32)
    keys, norms = table(count)
    keys[:, 3 * GROUP : 4 * GROUP] *= 0.001
    norms[:count] = (keys[:, :count] ** 2).sum(0)
    found = nearest(keys, norms, count, queries, 30)
    assert set((found // GROUP).ravel()) == {3}
    assert np.array_equal(np.sort(found, axis=1), brute_force(keys[:, :count], queries, 30))


def test_the_nearest_are_those_of_faiss():
    faiss = pytest.importorskip("faiss")
    keys, norms = table(9000, dim=32)
    queries = np.random.default_rng(1).standard_normal((16, 32)).astype(np.float32)
    expected = faiss.knn(queries, np.ascontiguousarray(keys[:, :9000].T), 11)[1]
    found = nearest(keys, norms, 9000, queries, 11)
    assert np.array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))
