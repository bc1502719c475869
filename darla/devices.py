"""What a machine computes on: devices, number formats, compilers."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from darla.errors import DependencyError


def choose_device(name: str) -> torch.device:
    """The device of `vision.device`.

    Raises:
        DependencyError: The device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DependencyError(
            f"vision.device is '{name}', allowed is auto, cpu, cuda or cuda:N"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise DependencyError(f"vision.device is '{name}', allowed is auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DependencyError(
            f"vision.device is '{name}' but torch sees no GPU; type vision.device=auto"
        )
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of `vision.precision`; 'auto' is bfloat16 where the processor has it natively."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if native else torch.float32


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: a C++ compiler for the CPU."""
    return (
        device.type == "cuda"
        or shutil.which("g++") is not None
        or shutil.which("clang++") is not None
    )


def usable_threads(count: int) -> int:
    """Returns `count`, or what OMP_NUM_THREADS or the number of CPUs leave of it; at least 1."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    limit = int(asked) if asked.isdecimal() else count
    return max(1, min(count, limit, os.cpu_count() or 1))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Limits torch inside the context to `usable_threads(count)`.

    More threads than idle cores are worse than one: each operation waits for its slowest thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(usable_threads(count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def release_memory() -> None:
    """Gives memory that is free within this process back to the system, where the C library can.

    A process that encodes pictures for hours needs it now and then: before version 2.38, glibc
    takes new memory for most of torch's aligned blocks instead of those that were freed (its bug
    14581), 10 to 15 kB per encoded picture.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
