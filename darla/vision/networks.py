"""The networks of stage 1: a denoising and a variational autoencoder (1707.08475, appendix A).

Both share the convolutional trunk of the paper: four convolutions with kernel 4 and stride 2.
Pictures are float tensors [B, 3, H, W] in [0, 1] with H and W multiples of 16; memory is
channels-last throughout. The variational autoencoder also has the networks of the papers on 2D
shapes, whose pictures have one channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

CHANNELS = (32, 32, 64, 64)
#: Log-variances are kept inside this range (both of q(z|x) and of the decoder).
LOG_VARIANCE = (-10.0, 4.0)
#: The decoder's log-variance when it starts from an autoencoder.
START_LOG_VARIANCE = -4.0


@dataclass(frozen=True)
class Architecture:
    """What differs between the networks of a beta-VAE.

    Attributes:
        filters: Filters of each convolution, mirrored by the decoder; empty: fully connected.
        encoder: Hidden fully connected layers before the posterior, with ReLU.
        decoder: Those behind the latents.
        nonlinearity: Of the decoder's hidden layers.
    """

    filters: tuple[int, ...]
    encoder: int
    decoder: int
    nonlinearity: type[nn.Module] = nn.ReLU


#: By name in `vision.vae.network`: 1707.08475, 1804.03599 (Burgess et al.), 1606.05579.
ARCHITECTURES = {
    "darla": Architecture(CHANNELS, 1, 1),
    "burgess": Architecture((32, 32, 32, 32), 2, 2),
    "mlp": Architecture((), 2, 3, nn.Tanh),
}


def sides(size: int, convolutions: int = len(CHANNELS)) -> list[int]:
    """Height and width after each convolution, the picture's own first: 64, 32, 16, 8, 4."""
    return [size >> halvings for halvings in range(convolutions + 1)]


def trunk(
    size: int, channels: int = 3, filters: tuple[int, ...] = CHANNELS
) -> tuple[nn.Sequential, int]:
    """The convolutional encoder and the number of its outputs.

    Args:
        size: Height and width of a picture, at least 16.
        channels: Channels of a picture.
        filters: Filters of each convolution.

    Returns:
        A module [B, channels, size, size] -> [B, features] and `features`.
    """
    layers: list[nn.Module] = []
    widths = (channels, *filters)
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten()), widths[-1] * sides(size, len(filters))[-1] ** 2


def stack(
    inputs: int, width: int, layers: int, nonlinearity: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Fully connected layers of one width, each with its non-linearity."""
    widths = (inputs, *[width] * layers)
    return nn.Sequential(
        *(m for pair in pairwise(widths) for m in (nn.Linear(*pair), nonlinearity()))
    )


class Painter(nn.Module):
    """The trunk mirrored: features to a picture, before any output non-linearity.

    Args:
        inputs: Width of the features.
        outputs: Channels of the picture.
        size: Height and width of the picture.
        filters: Filters of the convolutions that are mirrored.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, filters: tuple[int, ...] = CHANNELS
    ) -> None:
        super().__init__()
        small, *larger = reversed(sides(size, len(filters)))
        widths = (*reversed(filters), outputs)
        self._shape = (widths[0], small, small)
        self.grow = nn.Linear(inputs, widths[0] * small**2)
        layers: list[nn.Module] = []
        for wide, narrow, side in zip(widths, widths[1:], larger, strict=False):
            layers += [nn.ReLU(), nn.ConvTranspose2d(wide, narrow, 4, 2, 1, side % 2)]
        self.paint = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Paints [B, inputs] as [B, outputs, size, size]."""
        grown = self.grow(features).view(-1, *self._shape)
        return self.paint(grown.contiguous(memory_format=torch.channels_last))


class DAE(nn.Module):
    """Denoising autoencoder. Its features J are the space in which the beta-VAE is judged.

    Args:
        size: Height and width of a picture.
        bottleneck: Width of the bottleneck.
    """

    def __init__(self, size: int = 64, bottleneck: int = 100) -> None:
        super().__init__()
        self.trunk, features = trunk(size)
        self.squeeze = nn.Linear(features, bottleneck)
        self.painter = Painter(bottleneck, 3, size)

    def encode(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> bottleneck [B, bottleneck]."""
        return self.squeeze(self.trunk(pictures))

    def logits(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> the last layer before the sigmoid, same shape: J = `output`."""
        return self.painter(self.encode(pictures))

    def forward(self, pictures: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W] in [0, 1]."""
        return self.logits(pictures).sigmoid()


class VAE(nn.Module):
    """Variational autoencoder with a Gaussian decoder (mean and log-variance per channel).

    Args:
        size: Height and width of a picture.
        latents: Number of latents.
        hidden: Width of the fully connected layers.
        network: Key of `ARCHITECTURES`.
        channels: Channels C of a picture.
        variance: Whether the decoder learns a log-variance, which is 0 otherwise.
    """

    def __init__(
        self,
        size: int = 64,
        latents: int = 32,
        hidden: int = 256,
        *,
        network: str = "darla",
        channels: int = 3,
        variance: bool = True,
    ) -> None:
        super().__init__()
        built = ARCHITECTURES[network]
        self._variance = variance
        self.trunk, features = trunk(size, channels, built.filters)
        self.hidden = stack(features, hidden, built.encoder)
        self.posterior = nn.Linear(hidden, 2 * latents)
        self.expand = stack(latents, hidden, built.decoder, built.nonlinearity)
        self.painter = Painter(hidden, channels * (1 + variance), size, built.filters)

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> mean and log-variance of q(z|x), each [B, latents]."""
        mean, log_variance = self.posterior(self.hidden(self.trunk(pictures))).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def logits(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[B, latents] -> the mean of p(x|z) before its sigmoid and log-variance, [B, C, H, W]."""
        painted = self.painter(self.expand(latents))
        if not self._variance:
            return painted, torch.zeros_like(painted)
        logits, log_variance = painted.chunk(2, dim=1)
        return logits, log_variance.clamp(*LOG_VARIANCE)

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[B, latents] -> mean in [0, 1] and log-variance of p(x|z), each [B, C, H, W]."""
        logits, log_variance = self.logits(latents)
        return logits.sigmoid(), log_variance

    def forward(self, pictures: Tensor) -> Tensor:
        """Reconstruction [B, C, H, W]: the decoder's mean at the posterior's mean."""
        return self.decode(self.encode(pictures)[0])[0]

    @torch.no_grad()
    def start_from(self, dae: DAE) -> None:
        """Copies the convolutions of a trained autoencoder of the same picture size to `darla`.

        The fully connected layers stay as they are; the decoder's variance starts small.
        """
        self.trunk.load_state_dict(dae.trunk.state_dict())
        *inner, last = (m for m in self.painter.paint if isinstance(m, nn.ConvTranspose2d))
        *taught, taught_last = (m for m in dae.painter.paint if isinstance(m, nn.ConvTranspose2d))
        for layer, source in zip(inner, taught, strict=True):
            layer.load_state_dict(source.state_dict())
        assert last.bias is not None and taught_last.bias is not None
        last.weight.zero_()
        last.weight[:, :3] = taught_last.weight
        last.bias[:3], last.bias[3:] = taught_last.bias, START_LOG_VARIANCE
