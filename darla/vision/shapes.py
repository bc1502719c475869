"""2D shapes by index: 737,280 binary pictures of five independent factors (1606.05579).

| factor | values |
| --- | --- |
| `shape` | square, ellipse, heart |
| `scale` | 0.5, 0.6 ... 1.0 of the largest |
| `rotation` | 40 turns of 9 degrees, counter-clockwise |
| `x`, `y` | 32 positions of the centre, one pixel apart, to the right and down |

Pictures are 64 x 64 and numbered like dSprites (Matthey et al. 2017), with `y` the fastest; nothing
is stored or downloaded, since a picture is a window on one of the 720 sprites. Unlike dSprites, the
last rotation is not the first again, and a step in position is exactly one pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darla.errors import CorruptFileError, MissingFileError

FACTORS = ("shape", "scale", "rotation", "x", "y")
SIZES = (3, 6, 40, 32, 32)
COUNT = 737_280
SHAPES = ("square", "ellipse", "heart")
SIDE = 64

_SPRITE = 33
"""Side of a sprite; its middle pixel is the centre, at pixel 16 of a picture in position 0."""

Pictures = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


def factors_of(indices: npt.ArrayLike) -> Indices:
    """Values of the factors of pictures.

    Args:
        indices: int [N] in 0 .. 737,279.

    Returns:
        int64 [N, 5]: shape, scale, rotation, x, y, each counted from 0.

    Raises:
        ValueError: An index is out of range.
    """
    return np.stack(np.unravel_index(np.asarray(indices), SIZES), axis=-1).astype(np.int64)


def index_of(factors: npt.ArrayLike) -> Indices:
    """Indices int64 [N] of pictures with given factors, int [N, 5]; the inverse of `factors_of`.

    Raises:
        ValueError: A value is out of range.
    """
    return np.ravel_multi_index(tuple(np.asarray(factors).T), SIZES).astype(np.int64)


def images(indices: npt.ArrayLike) -> Pictures:
    """The pictures of indices, int [N]: uint8 [N, 64, 64], 0 for ground and 1 for the shape.

    Raises:
        ValueError: An index is out of range.
    """
    shape, scale, rotation, x, y = factors_of(indices).T
    return _windows()[shape, scale, rotation, SIZES[4] - 1 - y, SIZES[3] - 1 - x]


@functools.cache
def _windows() -> Pictures:
    """All pictures as views of sprites, uint8 [3, 6, 40, 32, 32, 64, 64], positions falling."""
    sprites = np.stack([_sprites(inside) for inside in (_square, _ellipse, _heart)])
    ground = np.pad(sprites, ((0, 0),) * 3 + ((SIZES[3] - 1,) * 2, (SIZES[4] - 1,) * 2))
    return np.lib.stride_tricks.sliding_window_view(ground, (SIDE, SIDE), axis=(3, 4))


def _sprites(inside: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Pictures:
    """One shape at every scale and rotation, uint8 [6, 40, 33, 33].

    Args:
        inside: Whether points (right, up), in pixels at scale 1, belong to the unturned shape.
    """
    scale = np.linspace(0.5, 1.0, SIZES[1])[:, None, None, None]
    angle = 2 * np.pi * np.arange(SIZES[2])[:, None, None] / SIZES[2]
    line = np.arange(_SPRITE) - _SPRITE // 2
    right, up = line[None, :], -line[:, None]
    # Rounded, so that a turn by a symmetry of the shape gives the same pixels.
    along = np.round((right * np.cos(angle) + up * np.sin(angle)) / scale, 9)
    across = np.round((up * np.cos(angle) - right * np.sin(angle)) / scale, 9)
    return inside(along, across).astype(np.uint8)


def _square(right: np.ndarray, up: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(right), np.abs(up)) < 10.5


def _ellipse(right: np.ndarray, up: np.ndarray) -> np.ndarray:
    return (right / 14) ** 2 + (up / 7) ** 2 < 1


def _heart(right: np.ndarray, up: np.ndarray) -> np.ndarray:
    x, y = right / 11.5, (up + 1.5) / 11.5
    return (x**2 + y**2 - 1) ** 3 < x**2 * y**3


def load_dsprites(path: str | Path) -> Pictures:
    """Reads the pictures of the original dSprites file, which has the order of `factors_of`.

    Args:
        path: `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`; it takes 3 GB of memory.

    Returns:
        uint8 [737280, 64, 64], 0 or 1.

    Raises:
        MissingFileError: There is no such file.
        CorruptFileError: It is damaged or holds something else.
    """
    import zipfile
    import zlib

    try:
        with np.load(path) as file:
            pictures = file["imgs"]
    except FileNotFoundError as error:
        raise MissingFileError(
            f"no file '{path}'; give shapes.file=null to draw the shapes instead"
        ) from error
    except (
        *(ValueError, OSError, KeyError, EOFError, TypeError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        why = getattr(error, "strerror", None) or error
        raise CorruptFileError(f"'{path}' is no dSprites file ({why})") from error
    if pictures.shape != (COUNT, SIDE, SIDE) or pictures.dtype != np.uint8:
        raise CorruptFileError(
            f"'{path}' holds {pictures.dtype} {list(pictures.shape)} as 'imgs', "
            f"not uint8 [{COUNT}, {SIDE}, {SIDE}]; give the file of dSprites itself"
        )
    return pictures
