"""The pictures by which a person judges the vision: reconstructions and latent traversals."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from darla.frames import Frames
from darla.storage import write_bytes
from darla.vision.evaluation import device_of, to_float
from darla.vision.networks import DAE, VAE

if TYPE_CHECKING:
    from darla.rundir import RunDirectory

COLUMNS = 12
TRAVERSED = 16
SPAN = 2.5
STEPS = 9
SCALE = 2
BATCH = 100
INK, PAPER = (30, 30, 30), (255, 255, 255)
TEXT = 22
"""Height of letters; pages show a sheet at about half of its size."""
LABEL_WIDTH, TITLE_HEIGHT = 170, 36


def _to_bytes(pictures: Tensor) -> np.ndarray:
    """Float [B, 3, H, W], or [B, 1, H, W] for greys, in [0, 1] -> uint8 [B, H, W, 3]."""
    scaled = (pictures.float().clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


def load_decoder(perception: str, run: RunDirectory) -> Callable[[np.ndarray], np.ndarray] | None:
    """What the latents of a perception stand for, as pictures.

    Args:
        perception: Name of the perception.
        run: Holds its trained vision.

    Returns:
        A function of latents, float32 [B, D], that paints uint8 [B, H, W, 3]: with the decoder, and
        where a DAE guided it with what that reads in the decoder's output (the space of the loss).
        None for a perception that has no trained decoder.

    Raises:
        MissingFileError: The vision is not trained yet.
        CorruptFileError: A file of it is damaged.
    """
    from darla.vision.pretrain import load_model, make_dae, make_vae, weights_file

    if perception not in ("darla", "entangled", "beta-vae", "dae"):
        return None
    dae = make_dae(run.config)
    vae = make_vae(run.config, "darla" if perception == "dae" else perception)
    if perception != "beta-vae":
        load_model(dae, weights_file(run, "dae"))
    if perception != "dae":
        load_model(vae, weights_file(run, perception))

    def paint(latents: Tensor) -> Tensor:
        if perception == "dae":
            return dae.painter(latents).sigmoid()
        pictures = vae.decode(latents)[0]
        return pictures if perception == "beta-vae" else dae(pictures)

    @torch.inference_mode()
    def decode(latents: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(latents).split(BATCH)
        return np.concatenate([_to_bytes(paint(part)) for part in parts])

    return decode


def grid(rows: list[np.ndarray], labels: list[str], path: Path, title: str) -> None:
    """Writes rows of pictures with a label before each.

    Args:
        rows: uint8 [columns, H, W, 3] per row.
        labels: One per row.
        path: PNG file.
        title: One line above.
    """
    size, gap = rows[0].shape[1] * SCALE, 4
    width = LABEL_WIDTH + max(len(row) for row in rows) * (size + gap)
    sheet = Image.new("RGB", (width, TITLE_HEIGHT + len(rows) * (size + gap)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    draw.text((4, 4), title, fill=INK, font=font)
    for r, (row, label) in enumerate(zip(rows, labels, strict=True)):
        top = TITLE_HEIGHT + r * (size + gap)
        draw.text((4, top + size // 2), label, fill=INK, font=font, anchor="lm")
        for c, picture in enumerate(row):
            tile = Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST)
            sheet.paste(tile, (LABEL_WIDTH + c * (size + gap), top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def choose_examples(frames: Frames, count: int = COLUMNS) -> np.ndarray:
    """Indices of frames to show: objects in view, spread over the domains, the same every time.

    Returns:
        int64 [count].
    """
    shows = np.ones(len(frames), bool)
    if "kinds" in frames.labels:
        shows = (frames.labels["kinds"] >= 0).reshape(len(frames), -1).sum(1) >= 20
    per_domain = [
        np.flatnonzero(shows & (frames.labels["domain"] == d)) for d in range(len(frames.domains))
    ]
    share = -(-count // len(per_domain))
    chosen = [
        own[np.linspace(0, len(own) - 1, share).astype(int)] for own in per_domain if len(own)
    ]
    return np.concatenate(chosen)[:count] if chosen else np.arange(min(count, len(frames)))


@torch.no_grad()
def draw_reconstructions(
    dae: DAE | None,
    vae: VAE | None,
    frames: Frames,
    path: Path,
    title: str = "Reconstructions of frames in layouts never trained on",
) -> None:
    """Writes input, DAE and VAE one above the other, and what the DAE reads in the VAE's picture.

    Args:
        dae: Trained autoencoder, or None.
        vae: Trained beta-VAE, or None before it is trained.
        frames: Validation split, in layouts that training never saw.
        path: PNG file.
        title: One line above.
    """
    model = vae if vae is not None else dae
    assert model is not None, "nothing to draw"
    target = to_float(frames.pictures[choose_examples(frames)].to(device_of(model)))
    rows, labels = [_to_bytes(target)], ["input"]
    if dae is not None:
        rows.append(_to_bytes(dae(target)))
        labels.append("DAE(x)")
    if vae is not None:
        rows.append(_to_bytes(vae(target)))
        labels.append("VAE x_hat")
        if dae is not None:
            rows.append(_to_bytes(dae(vae(target))))
            labels.append("DAE(x_hat)")
    grid(rows, labels, path, title)


@torch.no_grad()
def draw_traversals(
    dae: DAE | None, vae: VAE, frames: Frames, divergences: np.ndarray, path: Path
) -> None:
    """Writes one row per latent, most informative first: the latent moves, the others stay.

    Args:
        dae: If given, pictures are what it reads in the decoder's output (the space of the loss).
        vae: Trained beta-VAE.
        frames: Validation split; one of its frames is the starting point.
        divergences: KL per frame and latent, float [N, latents], for the order.
        path: PNG file.
    """
    start = frames.pictures[choose_examples(frames)[:3][-1:]].to(device_of(vae))
    mean, _ = vae.encode(to_float(start))
    order = divergences.mean(0).argsort()[::-1][:TRAVERSED]
    values = torch.linspace(-SPAN, SPAN, STEPS, device=mean.device)
    rows, labels = [], []
    for latent in order.tolist():
        moved = mean.repeat(STEPS, 1)
        moved[:, latent] = values
        pictures = vae.decode(moved)[0]
        rows.append(_to_bytes(pictures if dae is None else dae(pictures)))
        labels.append(f"z{latent}: {divergences[:, latent].mean():.2f} nats")
    grid(rows, labels, path, f"Each row moves one latent from -{SPAN} to {SPAN}")
