"""The networks of stage 1: a denoising and a variational autoencoder (1707.08475, appendix A).

Both share the convolutional trunk of the paper: four convolutions with kernel 4 and stride 2.
Pictures are float tensors [B, 3, H, W] in [0, 1] with H and W multiples of 16; memory is
channels-last throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS = (32, 32, 64, 64)
#: Log-variances are kept inside this range (both of q(z|x) and of the decoder).
LOG_VARIANCE = (-10.0, 4.0)
#: The decoder's log-variance when it starts from an autoencoder.
START_LOG_VARIANCE = -4.0


def sides(size: int) -> list[int]:
    """Height and width after each convolution, the picture's own first: 64, 32, 16, 8, 4."""
    return [size >> halvings for halvings in range(len(CHANNELS) + 1)]


def trunk(size: int) -> tuple[nn.Sequential, int]:
    """The convolutional encoder and the number of its outputs.

    Args:
        size: Height and width of a picture, at least 16.

    Returns:
        A module [B, 3, size, size] -> [B, features] and `features`.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *CHANNELS), CHANNELS, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten()), CHANNELS[-1] * sides(size)[-1] ** 2


class Painter(nn.Module):
    """The trunk mirrored: features to a picture, before any output non-linearity.

    Args:
        inputs: Width of the features.
        outputs: Channels of the picture.
        size: Height and width of the picture.
    """

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        small, *larger = reversed(sides(size))
        self._side = small
        self.grow = nn.Linear(inputs, CHANNELS[-1] * small**2)
        widths = (*reversed(CHANNELS), outputs)
        layers: list[nn.Module] = []
        for wide, narrow, side in zip(widths, widths[1:], larger, strict=False):
            layers += [nn.ReLU(), nn.ConvTranspose2d(wide, narrow, 4, 2, 1, side % 2)]
        self.paint = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Paints [B, inputs] as [B, outputs, size, size]."""
        grown = self.grow(features).view(-1, CHANNELS[-1], self._side, self._side)
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

    def features(self, pictures: Tensor, layer: str) -> Tensor:
        """J of a batch, flattened to [B, F]; `layer` is 'output' or 'bottleneck'."""
        return self.encode(pictures) if layer == "bottleneck" else self.logits(pictures).flatten(1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W] in [0, 1]."""
        return self.logits(pictures).sigmoid()


class VAE(nn.Module):
    """Variational autoencoder with a Gaussian decoder (mean and log-variance per channel).

    Args:
        size: Height and width of a picture.
        latents: Number of latents.
        hidden: Width of the fully connected layers.
    """

    def __init__(self, size: int = 64, latents: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.trunk, features = trunk(size)
        self.hidden = nn.Sequential(nn.Linear(features, hidden), nn.ReLU())
        self.posterior = nn.Linear(hidden, 2 * latents)
        self.expand = nn.Sequential(nn.Linear(latents, hidden), nn.ReLU())
        self.painter = Painter(hidden, 6, size)

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> mean and log-variance of q(z|x), each [B, latents]."""
        mean, log_variance = self.posterior(self.hidden(self.trunk(pictures))).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[B, latents] -> mean in [0, 1] and log-variance of p(x|z), each [B, 3, H, W]."""
        mean, log_variance = self.painter(self.expand(latents)).chunk(2, dim=1)
        return mean.sigmoid(), log_variance.clamp(*LOG_VARIANCE)

    def forward(self, pictures: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W]: the decoder's mean at the posterior's mean."""
        return self.decode(self.encode(pictures)[0])[0]

    @torch.no_grad()
    def start_from(self, dae: DAE) -> None:
        """Copies the convolutions of a trained autoencoder of the same picture size.

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
