"""The 2D shapes: their number, order and geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from darla.errors import CorruptFileError, MissingFileError
from darla.vision import shapes
from darla.vision.shapes import COUNT, SHAPES, SIZES, factors_of, images, index_of, load_dsprites


def pictures(**fixed: int | np.ndarray) -> np.ndarray:
    """Pictures in the middle, unturned and large but for what is given."""
    values = {"shape": 2, "scale": 5, "rotation": 0, "x": 16, "y": 16} | fixed
    return images(index_of(np.stack(np.broadcast_arrays(*map(np.atleast_1d, values.values())), -1)))


def centroid(pictures: np.ndarray) -> np.ndarray:
    """Row and column, float [N, 2]."""
    mass = pictures.sum((1, 2))
    rows = pictures.sum(2) @ np.arange(64) / mass
    return np.stack([rows, pictures.sum(1) @ np.arange(64) / mass], 1)


def test_indices_and_factors_map_one_to_one() -> None:
    assert np.prod(SIZES) == COUNT == 737_280
    everything = np.arange(COUNT)
    factors = factors_of(everything)
    assert factors.max(0).tolist() == [2, 5, 39, 31, 31] and not factors.min()
    assert np.array_equal(index_of(factors), everything)
    assert factors[1].tolist() == [0, 0, 0, 0, 1], "y is not the fastest, as in dSprites"


def test_pictures_are_binary_and_differ_but_for_symmetries() -> None:
    drawn = images(np.arange(0, COUNT, 1024))
    assert drawn.shape == (720, 64, 64) and drawn.dtype == np.uint8
    assert set(np.unique(drawn)) == {0, 1}
    distinct = {picture.tobytes() for picture in drawn}
    assert len(distinct) == 6 * (10 + 20 + 40), "period of square, ellipse, heart in turns"


@pytest.mark.parametrize(("shape", "period"), [(0, 10), (1, 20), (2, 40)], ids=SHAPES)
def test_rotation_has_the_period_of_the_shape(shape: int, period: int) -> None:
    turned = pictures(shape=shape, rotation=np.arange(40))
    assert np.array_equal(turned, np.roll(turned, period, axis=0))
    around = turned[:, 16:49, 16:49]
    assert np.array_equal(around[10], np.rot90(around[0])), "not counter-clockwise"


def test_a_step_in_position_is_a_pixel() -> None:
    steps = np.arange(32)
    for axis, moved in ((0, pictures(y=steps)), (1, pictures(x=steps))):
        places = centroid(moved)
        assert places[:, axis] == pytest.approx(places[0, axis] + steps)
        assert places[:, 1 - axis] == pytest.approx(places[0, 1 - axis])
    square = centroid(pictures(shape=0, x=0, y=31))
    assert square[0].tolist() == [47, 16]


def test_scales_grow_in_proportion() -> None:
    for shape in range(3):
        area = pictures(shape=shape, scale=np.arange(6)).sum((1, 2))
        assert (np.diff(area) > 0).all()
        assert area[0] / area[5] == pytest.approx(0.25, abs=0.03)


def test_no_shape_is_cut_off() -> None:
    corners = [(x, y) for x in (0, 31) for y in (0, 31)]
    for x, y in corners:
        turned = pictures(rotation=np.arange(40), x=x, y=y)
        middle = pictures(rotation=np.arange(40))
        assert np.array_equal(turned.sum((1, 2)), middle.sum((1, 2)))
    sprites = shapes._windows()[..., 15, 15, :, :]
    edge = sprites.any((0, 1, 2))
    assert not edge[:17].any() and not edge[:, :17].any() and not edge[48:].any()


@pytest.mark.parametrize("index", [-1, COUNT])
def test_an_index_that_is_none_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        images([index])


def test_a_file_of_dsprites_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "COUNT", 8)
    stored = images(np.arange(8))
    np.savez_compressed(tmp_path / "some.npz", imgs=stored, latents_classes=np.zeros((8, 6)))
    assert np.array_equal(load_dsprites(tmp_path / "some.npz"), stored)


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="give shapes.file=null"):
        load_dsprites(tmp_path / "none.npz")
    few = tmp_path / "few.npz"
    np.savez(few, imgs=np.zeros((2, 64, 64), np.uint8))
    with pytest.raises(CorruptFileError, match=r"uint8 \[2, 64, 64\] as 'imgs', not uint8 \[7372"):
        load_dsprites(few)
    few.write_bytes(few.read_bytes()[:-200])
    with pytest.raises(CorruptFileError, match="is no dSprites file"):
        load_dsprites(few)
    np.save(tmp_path / "one.npy", np.zeros(3))
    for path in (tmp_path / "one.npy", tmp_path):
        with pytest.raises(CorruptFileError, match="is no dSprites file"):
            load_dsprites(path)
    np.savez(few, pictures=np.zeros(1))
    with pytest.raises(CorruptFileError, match="imgs is not a file"):
        load_dsprites(few)
