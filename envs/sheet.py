"""`darla domains`: one labelled contact sheet of every domain of a suite."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from darla.config import Config
from darla.storage import write_bytes
from envs import make_vector
from envs.domains import Domain
from envs.registry import suite_of

VIEWS = 6
SCALE = 2
GAP, LABEL, TITLE = 6, 34, 30
INK, FAINT, PAPER = (25, 25, 25), (110, 110, 110), (255, 255, 255)


def views_of(config: Config, domain: Domain, count: int = VIEWS) -> np.ndarray:
    """Pictures of a domain, the same each time: those of many starts with most objects in view.

    Of a world without a ground truth, which says where to look, those of most varied colour.

    Returns:
        uint8 [count, H, W, 3].
    """
    if not suite_of(config).world.state_size:
        vector = make_vector(config.environment, (domain,), 1, seed=1)
        frames = np.concatenate([vector.reset()[0] for _ in range(4 * count)])
        vector.close()
        colour = np.ptp(frames, axis=-1).std(axis=(1, 2))
        return frames[np.argsort(-colour, kind="stable")[:count]]
    vector = make_vector(config.environment, (domain,), 8 * count, seed=1)
    frames, info = vector.reset(seed=1)
    order = np.argsort(-np.abs(info["state"]).sum(1), kind="stable")
    return frames[order[:count]]


def draw_sheet(config: Config, path: Path) -> dict[str, list[str]]:
    """Writes the contact sheet of the configured suite.

    Args:
        config: `suite` and `environment` are read.
        path: PNG file.

    Returns:
        The tags of each domain by its id.

    Raises:
        DomainError: Unknown suite.
        DependencyError: No off-screen OpenGL.
    """
    suite = suite_of(config)
    tile = config.environment.size * SCALE
    font, title = ImageFont.load_default(14), ImageFont.load_default(18)
    height = TITLE + len(suite.domains) * (tile + LABEL)
    sheet = Image.new("RGB", (GAP + VIEWS * (tile + GAP), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 5), f"Suite {suite.name}", fill=INK, font=title)
    for row, domain in enumerate(suite.domains):
        top = TITLE + row * (tile + LABEL)
        draw.text((GAP, top + 8), domain.id, fill=INK, font=font)
        tags = ", ".join(suite.tags(domain))
        width = draw.textlength(domain.id, font=font)
        draw.text((GAP + width + 14, top + 8), tags, fill=FAINT, font=font)
        for column, frame in enumerate(views_of(config, domain)):
            picture = Image.fromarray(frame).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(picture, (GAP + column * (tile + GAP), top + LABEL - 4))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())
    return {domain.id: list(suite.tags(domain)) for domain in suite.domains}
