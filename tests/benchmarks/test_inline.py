import base64
import io

import numpy as np
from PIL import Image

from benchmarks.inline import data_uri


def read(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_flat_pictures_lose_nothing() -> None:
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[10:30, 20:50] = (200, 30, 40)
    assert (read(data_uri(Image.fromarray(pixels))) == pixels).all()


def test_noise_is_told_in_less_room() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    uri = data_uri(Image.fromarray(pixels))
    assert read(uri).shape == pixels.shape and len(uri) < pixels.size / 2
