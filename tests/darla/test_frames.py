"""Frames on the disk: mapped or in memory they are the same, and what is damaged is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from darla import frames
from darla.errors import CorruptFileError, MissingFileError
from darla.frames import (
    MappedPictures,
    count_pictures,
    load_frames,
    load_pictures,
    picture_shards,
    save_shard,
    shard_path,
    write_index,
)

CPU = torch.device("cpu")
COUNTS = (5, 3, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards, whose pictures are all different."""
    rng = np.random.default_rng(0)
    for number, count in enumerate(COUNTS):
        pictures = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
        save_shard(
            shard_path(tmp_path, "train", number), pictures, {"domain": np.zeros(count, np.int64)}
        )
    names = [shard_path(tmp_path, "train", number).name for number in range(len(COUNTS))]
    known = {"domains": ["d"], "factors": [{}], "kinds": []}
    write_index(tmp_path, {"train": names, "validation": []}, known)
    return tmp_path


def test_mapped_pictures_are_those_in_memory(folder: Path) -> None:
    mapped, whole = MappedPictures(folder, "train", CPU), load_frames(folder, "train").pictures
    assert mapped.shape == tuple(whole.shape) == (sum(COUNTS), 8, 8, 3)
    assert len(mapped) == sum(COUNTS)
    index = torch.tensor([11, 0, 4, 5, 7, 8, 4])
    assert mapped[index].dtype == torch.uint8
    assert (mapped[index] == whole[index]).all()


def test_shards_come_one_after_the_other(folder: Path) -> None:
    parts = list(picture_shards(folder, "train"))
    assert [len(part) for part in parts] == list(COUNTS)
    assert (torch.cat(parts) == load_frames(folder, "train").pictures).all()


@pytest.mark.parametrize(
    ("where", "free", "mapped"),
    [
        ("memory", 0, False),
        ("disk", 10**9, True),
        ("auto", 10**9, False),
        ("auto", 100, True),
        ("auto", None, False),
    ],
)
def test_more_pictures_than_memory_stay_on_the_disk(
    folder: Path, monkeypatch, where: str, free: int | None, mapped: bool
) -> None:
    monkeypatch.setattr(frames, "_free_bytes", lambda device: free)
    found = load_pictures(folder, "train", CPU, where)
    assert isinstance(found, MappedPictures) == mapped
    assert len(found) == sum(COUNTS)


def test_the_system_tells_its_free_memory() -> None:
    free = frames._free_bytes(CPU)
    assert free is None or 2**20 < free < 2**50


@pytest.mark.parametrize("where", ["memory", "disk", "auto"])
def test_a_damaged_shard_is_named(folder: Path, where: str) -> None:
    path = shard_path(folder, "train", 1)
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=path.name):
        load_pictures(folder, "train", CPU, where)
    path.write_bytes(data[:-50])
    with pytest.raises(CorruptFileError, match=path.name):
        load_pictures(folder, "train", CPU, where)
    path.unlink()
    with pytest.raises(CorruptFileError, match=f"lost its shard {path.name}"):
        load_pictures(folder, "train", CPU, where)


def test_a_whole_shard_that_is_another_one_is_refused(folder: Path) -> None:
    first, second = (shard_path(folder, "train", number) for number in (0, 1))
    second.write_bytes(first.read_bytes())
    with pytest.raises(CorruptFileError, match="is not the shard that was collected; delete it"):
        load_frames(folder, "train")


def test_what_is_lost_says_how_it_comes_again(folder: Path) -> None:
    shard_path(folder, "train", 2).unlink()
    for read in (load_frames, count_pictures):
        with pytest.raises(CorruptFileError, match=r"delete '.*index.json' and repeat"):
            read(folder, "train")


@pytest.mark.parametrize("text", ["", '{"shards": {', "{}", "[]"])
def test_a_damaged_index_is_named_with_its_remedy(folder: Path, text: str) -> None:
    (folder / "index.json").write_text(text)
    with pytest.raises(CorruptFileError, match=r"delete '.*index.json' and repeat the command, wh"):
        load_frames(folder, "train")


def test_frames_that_were_not_collected_are_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="darla pretrain"):
        load_pictures(tmp_path, "train", CPU, "auto")
