"""Frames of D_U on disk and in memory: uint8 shards with labels, whole or refused.

A folder holds `train-00000.safetensors` ..., `validation-00000.safetensors` ... and, once complete,
`index.json` with the domains, the counts and the sha256 of every shard. Labels serve evaluation
only; training reads pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from darla.errors import CorruptFileError, MissingFileError
from darla.storage import (
    load_tensors,
    map_tensor,
    read_json,
    save_tensors,
    sha256_file,
    write_json,
)

SPLITS = ("train", "validation")
#: An object must cover so many pixels to count as in view.
VISIBLE_PIXELS = 4


@dataclass(frozen=True)
class Frames:
    """Pictures and what is known of them.

    Attributes:
        pictures: uint8 tensor [N, H, W, 3].
        labels: Arrays of length N: `domain` (index into `domains`) always; where the world knows
            them `kind`, `bearing`, `distance` (of the nearest object) and `pose`; for the
            validation split also `kinds`, int8 [N, H, W], the kind of object that a pixel shows or
            -1, and `background`, uint8 [N, H, W, 3], the same views with all objects gone.
        domains: Ids of the domains.
        factors: Factor values of each domain, by name.
        kinds: Names of the kinds of objects, or empty.
    """

    pictures: torch.Tensor
    labels: dict[str, np.ndarray]
    domains: tuple[str, ...]
    factors: tuple[dict[str, Any], ...] = ()
    kinds: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)


def shard_path(folder: Path, split: str, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"{split}-{number:05d}.safetensors"


def save_shard(path: Path, pictures: np.ndarray, labels: dict[str, np.ndarray]) -> None:
    """Writes one shard: uint8 [n, H, W, 3] and label arrays of length n."""
    save_tensors(path, {"pictures": pictures, **labels}, {"kind": "frames"})


def write_index(folder: Path, shards: dict[str, list[str]], facts: dict[str, Any]) -> None:
    """Marks the folder as complete.

    Args:
        folder: Where the shards lie.
        shards: Their names per split.
        facts: `domains`, `factors` and `kinds` as in `Frames`, and what else is known of the whole.
    """
    digests = {name: sha256_file(folder / name) for split in SPLITS for name in shards[split]}
    write_json(folder / "index.json", {"shards": shards, "sha256": digests, **facts})


def load_frames(folder: Path, split: str) -> Frames:
    """Reads one split whole into memory.

    Raises:
        MissingFileError: The frames were not collected yet.
        CorruptFileError: A shard is missing, truncated or not what the index says.
    """
    index = _read_index(folder)
    parts = list(_shards(folder, index, split))
    pictures = torch.cat([part.pop("pictures") for part in parts])
    labels = {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}
    return Frames(pictures, labels, *(tuple(index[key]) for key in ("domains", "factors", "kinds")))


def load_pictures(
    folder: Path, split: str, device: torch.device, where: str
) -> torch.Tensor | MappedPictures:
    """Gives the pictures of one split to train on.

    Args:
        folder: Where the shards lie.
        split: 'train' or 'validation'.
        device: Where pictures are wanted.
        where: 'memory', that of the device; 'disk', for more pictures than memory; or 'auto', the
            memory if they fill at most half of what is free.

    Raises:
        MissingFileError, CorruptFileError: As in `load_frames`.
    """
    if where == "auto":
        names = _read_index(folder)["shards"][split]
        size = sum((folder / name).stat().st_size for name in names if (folder / name).exists())
        free = _free_bytes(device)
        where = "memory" if free is None or size <= free / 2 else "disk"
    if where == "disk":
        return MappedPictures(folder, split, device)
    return load_frames(folder, split).pictures.to(device)


def picture_shards(folder: Path, split: str) -> Iterator[torch.Tensor]:
    """Yields the pictures of one split shard by shard, uint8 [n, H, W, 3]; errors as above."""
    for tensors in _shards(folder, _read_index(folder), split):
        yield tensors["pictures"]


def count_pictures(folder: Path, split: str) -> int:
    """How many pictures one split has; errors as in `load_frames`."""
    index = _read_index(folder)
    return sum(
        len(map_tensor(_shard_file(folder, name), "pictures")) for name in index["shards"][split]
    )


class MappedPictures:
    """Pictures that stay on the disk, mapped into memory, and are read when they are asked for.

    Every shard is read once at the start, to verify its checksum.

    Args:
        folder: Where the shards lie.
        split: 'train' or 'validation'.
        device: Where pictures are returned.

    Attributes:
        shape: N, H, W, 3.
        device: Where pictures are returned.

    Raises:
        MissingFileError, CorruptFileError: As in `load_frames`.
    """

    def __init__(self, folder: Path, split: str, device: torch.device) -> None:
        index = _read_index(folder)
        for _ in _shards(folder, index, split):
            pass
        self._maps = [map_tensor(folder / name, "pictures") for name in index["shards"][split]]
        self._ends = np.cumsum([len(each) for each in self._maps])
        self.shape = (int(self._ends[-1]), *self._maps[0].shape[1:])
        self.device = device

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """The pictures of an index, int64 [B], each from 0 to N - 1: uint8 [B, H, W, 3]."""
        wanted = index.cpu().numpy()
        owner = np.searchsorted(self._ends, wanted, side="right")
        pictures = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        for shard in np.unique(owner):
            own = owner == shard
            first = self._ends[shard] - len(self._maps[shard])
            pictures[own] = self._maps[shard][wanted[own] - first]
        return torch.from_numpy(pictures).to(self.device)


def frames_digest(folder: Path) -> str:
    """A digest of the shards that the index names, for lineage."""
    return sha256_file(folder / "index.json")


def _read_index(folder: Path) -> dict[str, Any]:
    if not (folder / "index.json").exists():
        raise MissingFileError(f"no frames in {folder}; collect them with 'darla pretrain CONFIG'")
    path = folder / "index.json"
    remedy = f"delete '{path}' and repeat the command, which keeps the shards"
    try:
        index = read_json(path)
    except CorruptFileError as error:
        raise CorruptFileError(f"{error}; {remedy}") from error
    needed = {"shards", "sha256", "domains", "factors", "kinds"}
    if not isinstance(index, dict) or not needed <= set(index):
        raise CorruptFileError(f"'{path}' is no index of frames; {remedy}")
    return index


def _shards(folder: Path, index: dict[str, Any], split: str) -> Iterator[dict[str, torch.Tensor]]:
    """Yields the tensors of one shard after the other."""
    for name in index["shards"][split]:
        path = _shard_file(folder, name)
        remedy = f"delete it and '{folder / 'index.json'}' and repeat the command"
        try:
            tensors = load_tensors(path)[0]
        except CorruptFileError as error:
            raise CorruptFileError(f"{error}; {remedy}") from error
        if sha256_file(path) != index["sha256"][name]:
            raise CorruptFileError(f"'{path}' is not the shard that was collected; {remedy}")
        yield tensors


def _shard_file(folder: Path, name: str) -> Path:
    """Where a shard lies that the index names; CorruptFileError where it is gone."""
    if not (folder / name).exists():
        raise CorruptFileError(
            f"'{folder}' has lost its shard {name}; delete '{folder / 'index.json'}' and repeat "
            "the command, which collects the shard again"
        )
    return folder / name


def _free_bytes(device: torch.device) -> int | None:
    """Returns the free memory of a device, or None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None
