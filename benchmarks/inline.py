"""Pictures inside of a page that opens offline."""

from __future__ import annotations

import base64
import io

from PIL import Image

QUALITY = 90
"""Of WebP, 0 to 100, where a picture without loss would need more than twice the room."""


def data_uri(image: Image.Image) -> str:
    """A picture as WebP in a data URI."""
    exact, lossy = io.BytesIO(), io.BytesIO()
    image.save(exact, "WEBP", lossless=True)
    image.save(lossy, "WEBP", quality=QUALITY)
    smaller = exact if exact.tell() <= 2 * lossy.tell() else lossy
    return f"data:image/webp;base64,{base64.b64encode(smaller.getvalue()).decode()}"
