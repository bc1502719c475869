"""Look-ups of episodic control, beside FAISS."""

from __future__ import annotations

import numpy as np

from benchmarks.contenders import Measure, warmed_up

LATENTS, NEIGHBOURS = 32, 11


def _memories(entries: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys with their values, and queries near some of them."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((entries, LATENTS)).astype(np.float32)
    noise = 0.3 * rng.standard_normal((batch, LATENTS)).astype(np.float32)
    queries = keys[rng.integers(entries, size=batch)] + noise
    return keys, rng.standard_normal(entries).astype(np.float32), queries


def ec_lookups(entries: int, batch: int) -> Measure:
    """Values looked up in a table of episodic control.

    Args:
        entries: Entries of the table.
        batch: Keys that are looked up at once.
    """
    from agents.episodic_control import Table, fingerprints

    keys, values, queries = _memories(entries, batch)
    table = Table(LATENTS, entries)
    table.write(keys, fingerprints(keys), values)
    marks = fingerprints(queries)

    def work() -> int:
        table.look_up(queries, marks, NEIGHBOURS)
        return batch

    return warmed_up(work)


def faiss_lookups(entries: int, batch: int) -> Measure:
    """The same means by FAISS alone, with its index for exact search."""
    import faiss

    keys, values, queries = _memories(entries, batch)
    index = faiss.IndexFlatL2(LATENTS)
    index.add(keys)

    def work() -> int:
        values[index.search(queries, NEIGHBOURS)[1]].mean(1)
        return batch

    return warmed_up(work)
