import ctypes

import numpy as np
import pytest
import torch

from darla import devices
from darla.devices import (
    choose_device,
    choose_precision,
    release_memory,
    torch_threads,
    usable_threads,
)
from darla.errors import DependencyError

CPU = torch.device("cpu")


def test_the_device_is_what_is_there(monkeypatch):
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(("name", "told"), [("gpu", "allowed is auto, cpu"), ("cuda:0", "no GPU")])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DependencyError, match=told):
        choose_device(name)


@pytest.mark.parametrize(("native", "precision"), [(True, torch.bfloat16), (False, torch.float32)])
def test_half_of_the_bits_only_where_the_processor_computes_with_them(
    monkeypatch, native, precision
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert choose_precision("auto", CPU) == precision
    assert choose_precision("float32", CPU) == torch.float32
    assert choose_precision("bfloat16", CPU) == torch.bfloat16


def test_threads_are_limited_and_then_as_before(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 8)
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("asked", "cpus", "count", "usable"),
    [
        ("", 4, 2, 2),
        ("", 4, 8, 4),
        ("3", 4, 8, 3),
        ("0", 4, 8, 1),
        ("x", 4, 8, 4),
        ("", None, 8, 1),
    ],
)
def test_no_more_threads_than_cores_or_than_the_environment_says(
    monkeypatch, asked, cpus, count, usable
):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(devices.os, "cpu_count", lambda: cpus)
    assert usable_threads(count) == usable


def in_use() -> float:
    """Memory of this process that is not of files, MB."""
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


def test_memory_that_is_free_is_given_back():
    blocks = [np.ones(100_000 // 8) for _ in range(2_000)]
    kept = [block[:10].copy() for block in blocks]
    del blocks[:-1]  # the last one holds the heap's end where it is
    before = in_use()
    release_memory()
    assert before - in_use() > 100
    assert len(kept) == 2_000


def test_a_c_library_that_cannot_give_back_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    release_memory()
