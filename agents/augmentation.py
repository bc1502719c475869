"""Other looks for frames that are learned on: random convolutions and random colours.

Both change what is irrelevant to a task, and leave shapes and places as they are. What an algorithm
makes of them is its own: see `agents.dqn` (SVEA) and `agents.a3c` (DrAC).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from darla.config import AugmentationConfig

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma Y (ITU-R BT.601)."""
_TO_YIQ = torch.tensor([GREY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


def augment(frames: Tensor, config: AugmentationConfig, rng: np.random.Generator) -> Tensor:
    """Returns frames with other looks, each drawn by itself.

    A share `config.convolution` of them passes through a random convolution, as in SVEA (Hansen et
    al. 2021, 2107.00644; after Lee et al. 2020, 1910.05396): a kernel of 3 x 3 with standard normal
    weights, then a sigmoid. The others get another brightness, contrast, saturation and hue, as in
    RAD (Laskin et al. 2020, 2004.14990).

    Args:
        frames: uint8 [B, H, W, 3].
        config: how strong the changes are.
        rng: the only source of randomness; it advances equally whatever is drawn.

    Returns:
        uint8 [B, H, W, 3].
    """
    count = len(frames)
    chosen = torch.from_numpy(rng.random(count) < config.convolution)
    kernels = torch.from_numpy(rng.standard_normal((count, 3, 3, 3, 3), np.float32))
    limits = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    changes = torch.from_numpy(rng.uniform(-limits, limits, (count, 4)).astype(np.float32))
    pictures = frames.permute(0, 3, 1, 2).float() / 255.0
    augmented = torch.empty_like(pictures)
    augmented[chosen] = convolve(pictures[chosen], kernels[chosen]).sigmoid()
    augmented[~chosen] = recolour(pictures[~chosen], *changes[~chosen].unbind(1))
    return (augmented * 255.0).round().byte().permute(0, 2, 3, 1)


def convolve(pictures: Tensor, kernels: Tensor) -> Tensor:
    """Convolves every picture with a kernel of its own; borders repeat the outermost pixels.

    Args:
        pictures: float32 [B, 3, H, W].
        kernels: float32 [B, outputs, 3, k, k], k odd.

    Returns:
        float32 [B, outputs, H, W].
    """
    height, width = pictures.shape[2:]
    padded = pad(pictures, [kernels.shape[-1] // 2] * 4, mode="replicate")
    patches = padded.unfold(2, height, 1).unfold(3, width, 1)  # [B, 3, k, k, H, W]
    convolved = kernels.flatten(2) @ patches.flatten(4).flatten(1, 3)
    return convolved.unflatten(2, (height, width))


def recolour(
    pictures: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> Tensor:
    """Changes the colours of every picture by amounts of its own; 0 leaves them as they are.

    The usual four changes, in this order. All are linear in a pixel's colour, so that they are one
    matrix for each picture; values are cut to [0, 1] once, after the last.

    Args:
        pictures: float32 [B, 3, H, W] in [0, 1].
        brightness: colours are multiplied by 1 + this, [B].
        contrast: their distance from the picture's mean grey is, [B].
        saturation: their distance from the grey of the pixel is, [B].
        hue: turn about the axis of greys in the YIQ space, in turns, [B].

    Returns:
        float32 [B, 3, H, W] in [0, 1].
    """
    grey = torch.tensor(GREY)
    cosine, sine = (f(2 * torch.pi * hue)[:, None, None] for f in (torch.cos, torch.sin))
    turn = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    keep = torch.tensor([1.0, 0, 0]).diag()
    rotation = keep + cosine * (torch.eye(3) - keep) + sine * turn
    rotation = _FROM_YIQ @ rotation @ _TO_YIQ
    saturated = (1 + saturation)[:, None, None] * torch.eye(3) - saturation[:, None, None] * grey
    matrix = ((1 + brightness) * (1 + contrast))[:, None, None] * (rotation @ saturated)
    mean = pictures.mean((2, 3)) @ grey
    shift = -(1 + brightness) * contrast * mean
    recoloured = torch.baddbmm(shift[:, None, None], matrix, pictures.flatten(2))
    return recoloured.view(pictures.shape).clamp(0.0, 1.0)
