"""Frames of D_U on disk and in memory: uint8 shards with labels, read whole or refused.

A folder holds `train-00000.safetensors` ..., `validation-00000.safetensors` ... and, once complete,
`index.json` with the domains, the counts and the sha256 of every shard. Labels serve evaluation
only; training reads pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from darla.errors import CorruptFileError, MissingFileError
from darla.storage import load_tensors, read_json, save_tensors, sha256_file, write_json

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
    if not (folder / "index.json").exists():
        raise MissingFileError(f"no frames in {folder}; collect them with 'darla pretrain CONFIG'")
    index = read_json(folder / "index.json")
    parts = []
    for name in index["shards"][split]:
        path = folder / name
        try:
            tensors, _ = load_tensors(path)
        except MissingFileError as error:
            raise CorruptFileError(
                f"{folder} has lost its shard {name}; delete {folder}/index.json "
                "and repeat the command"
            ) from error
        parts.append(tensors)
    pictures = torch.cat([part.pop("pictures") for part in parts])
    labels = {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}
    return Frames(pictures, labels, *(tuple(index[key]) for key in ("domains", "factors", "kinds")))


def frames_digest(folder: Path) -> str:
    """A digest of the shards that the index names, for lineage."""
    return sha256_file(folder / "index.json")
