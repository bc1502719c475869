"""What `benchmarks.throughput` times: our hot paths and the same work by other libraries.

A contender is a function that prepares everything, warm-up included, and returns a `Measure`. It
runs in a process of its own; libraries are imported there and nowhere else.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

Measure = Callable[[float], float]
"""Works for about so many seconds and returns units of work per second."""
Contender = Callable[[], Measure]

SIZE = 64


def rate(work: Callable[[], int], seconds: float) -> float:
    """Repeats `work`, which returns the units it did, for `seconds`; returns units per second."""
    began = now = time.perf_counter()
    done = 0
    while now - began < seconds:
        done += work()
        now = time.perf_counter()
    return done / (now - began)


def warmed_up(work: Callable[[], int]) -> Measure:
    """Returns the rate of `work` as a measure, after half a second of it."""
    rate(work, 0.5)
    return functools.partial(rate, work)
