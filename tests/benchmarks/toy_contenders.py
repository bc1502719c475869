"""Contenders that take no time to prepare; their processes import nothing else."""

import functools
import os
import time

from benchmarks.contenders import Measure


def waited(value: float, seconds: float) -> float:
    time.sleep(seconds)
    return value


def constant(value: float) -> Measure:
    print("noise on standard output")
    return functools.partial(waited, value)


def threads() -> Measure:
    return functools.partial(waited, float(os.environ["OMP_NUM_THREADS"]))


def broken() -> Measure:
    raise RuntimeError("no such thing")


def dead() -> Measure:
    os._exit(3)
