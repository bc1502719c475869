"""A contrastive vision (SimCLR, Chen et al. 2020, 2002.05709), learned on the frames of D_U."""

import torch
from torch import nn
from torch.nn import functional

from darla.vision.own import register_vision

LATENTS, BATCH, EPOCHS, SHIFT, TEMPERATURE = 32, 128, 8, 4, 0.1


class Encoder(nn.Module):
    """Maps uint8 [B, size, size, 3] to float32 [B, LATENTS] of unit variance."""

    def __init__(self, size: int) -> None:
        super().__init__()
        layers, channels = [], 3
        for width in (32, 32, 64, 64):
            layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.ReLU()]
            channels, size = width, size // 2
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels * size * size, 256), nn.ReLU(),
            nn.Linear(256, LATENTS), nn.LayerNorm(LATENTS, elementwise_affine=False),
        )  # fmt: skip

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.layers(pictures.permute(0, 3, 1, 2) / 255.0)


def view(pictures: torch.Tensor) -> torch.Tensor:
    """Shifts pictures by a few pixels and changes their brightness; the scene stays."""
    size = pictures.shape[1]
    padded = functional.pad(pictures.permute(0, 3, 1, 2).float(), [SHIFT] * 4, mode="replicate")
    top, left = torch.randint(2 * SHIFT + 1, (2,)).tolist()
    shifted = padded[:, :, top : top + size, left : left + size]
    light = torch.empty(len(pictures), 1, 1, 1, device=pictures.device).uniform_(0.7, 1.3)
    return (shifted * light).clamp(0, 255).permute(0, 2, 3, 1)


def train(encoder: nn.Module, pictures, seed: int) -> None:
    """Pulls two views of a picture together, away from all others of the batch (NT-Xent)."""
    head = nn.Sequential(nn.Linear(LATENTS, 128), nn.ReLU(), nn.Linear(128, 64))
    head.to(pictures.device)
    optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 1e-3)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(pictures)).to(pictures.device).split(BATCH):
            batch = pictures[index]
            seen = functional.normalize(head(encoder(torch.cat([view(batch), view(batch)]))), dim=1)
            likeness = seen @ seen.T / TEMPERATURE
            likeness.fill_diagonal_(-torch.inf)
            other = torch.arange(2 * len(index), device=seen.device).roll(len(index))
            loss = functional.cross_entropy(likeness, other)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


register_vision("contrastive", Encoder, train)
