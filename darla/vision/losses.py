"""Noise, divergences and reconstruction terms of stage 1.

Conventions (1707.08475 and its companions): errors are summed over pixels or features, the KL
divergence over latents, and both are averaged over the batch; only so do published values of beta
mean anything.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from darla.vision.networks import DAE


def occlusion_mask(batch: int, size: int, share: float, generator: torch.Generator) -> Tensor:
    """Rectangles to black out, between two uniform corners per picture (1707.08475, section 4.1).

    Args:
        batch: Number of pictures.
        size: Height and width of a picture.
        share: Share of the pictures that get a rectangle.
        generator: Source of randomness; its device is the mask's.

    Returns:
        bool [batch, 1, size, size], true inside the rectangle.
    """
    device = generator.device
    corners = torch.randint(0, size + 1, (batch, 2, 2), generator=generator, device=device)
    chosen = torch.rand(batch, generator=generator, device=device) < share
    low, high = corners.amin(1) * chosen[:, None], corners.amax(1) * chosen[:, None]
    line = torch.arange(size, device=device)
    inside = (line >= low[..., None]) & (line < high[..., None])
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, elementwise."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


def sample(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A reparametrised sample: mean + standard deviation * noise, all of one shape."""
    return mean + (0.5 * log_variance).exp() * noise


def unnormalised_beta(normalised: float, latents: int, values: int) -> float:
    """The weight beta of the KL term whose normalised value is given (1606.05579, section 2).

    beta_norm = beta * latents / values compares models of other sizes.

    Args:
        normalised: beta_norm.
        latents: Number of latents.
        values: Number of values of a picture: channels * height * width.
    """
    return normalised * values / latents


@dataclass(frozen=True)
class CapacitySchedule:
    """The KL divergence C that a training is held to, in nats (1804.03599, equation 8).

    Attributes:
        start: C at the first step.
        end: C after the rise.
        share: Share of the steps over which C rises linearly.
    """

    start: float
    end: float
    share: float

    def at(self, progress: float) -> float:
        """C after a share `progress` of the steps, 0 .. 1."""
        risen = 1.0 if progress >= self.share else progress / self.share
        return self.start + risen * (self.end - self.start)


class Reconstruction(ABC):
    """The reconstruction term as a strategy.

    Attributes:
        reads_logits: Whether it takes the decoder's mean before the sigmoid.
        samples: Whether it can judge samples of the decoder.
    """

    reads_logits: ClassVar[bool] = False
    samples: ClassVar[bool] = False

    def code(self, pictures: Tensor) -> Tensor | None:
        """All that the term depends on of targets [B, C, H, W], if that is less: [B, ...]."""
        return None

    @abstractmethod
    def __call__(
        self,
        target: Tensor,
        mean: Tensor,
        log_variance: Tensor,
        noise: Tensor | None = None,
        code: Tensor | None = None,
    ) -> Tensor:
        """Error of a batch.

        Args:
            target: Pictures [B, C, H, W] in [0, 1].
            mean: Mean of the decoder, same shape, or its logits.
            log_variance: Log-variance of the decoder, same shape.
            noise: Standard normal noise of that shape, or None where the mean is to be used.
            code: What `code` makes of the target, if that is known.

        Returns:
            Scalar: summed over features, averaged over the batch.
        """


@dataclass(frozen=True)
class PixelReconstruction(Reconstruction):
    """The plain beta-VAE: a Gaussian decoder with unit variance, without its constant."""

    def __call__(
        self,
        target: Tensor,
        mean: Tensor,
        log_variance: Tensor,
        noise: Tensor | None = None,
        code: Tensor | None = None,
    ) -> Tensor:
        """See `Reconstruction`; the mean alone counts."""
        return 0.5 * (mean - target).square().sum() / len(target)


@dataclass(frozen=True)
class GaussianReconstruction(Reconstruction):
    """-log N(target; mean, exp(log_variance)) in nats: a decoder that learns its variance."""

    def __call__(
        self,
        target: Tensor,
        mean: Tensor,
        log_variance: Tensor,
        noise: Tensor | None = None,
        code: Tensor | None = None,
    ) -> Tensor:
        """See `Reconstruction`; mean and log-variance count."""
        scaled = (mean - target).square() * (-log_variance).exp()
        return 0.5 * (scaled + log_variance + math.log(2 * math.pi)).sum() / len(target)


@dataclass(frozen=True)
class BernoulliReconstruction(Reconstruction):
    """-log p(target) in nats of independent Bernoulli pixels, from their logits (1606.05579)."""

    reads_logits: ClassVar[bool] = True

    def __call__(
        self,
        target: Tensor,
        mean: Tensor,
        log_variance: Tensor,
        noise: Tensor | None = None,
        code: Tensor | None = None,
    ) -> Tensor:
        """See `Reconstruction`; the logits alone count."""
        return functional.binary_cross_entropy_with_logits(mean, target, reduction="sum") / len(
            target
        )


@dataclass(frozen=True)
class DAEReconstruction(Reconstruction):
    """|| J(x_hat) - J(x) ||^2, with J from a frozen denoising autoencoder (1707.08475, eq. 2).

    J(x) is a constant; the gradient flows through J(x_hat) into the decoder. Both follow from the
    autoencoder's bottleneck, so that of a picture which is learned from again, its code need not be
    computed again.

    Attributes:
        dae: The autoencoder, frozen and in evaluation mode.
        layer: 'output' (before the sigmoid) or 'bottleneck'.
        pixel_weight: Weight of the pixel term of the decoder's mean beside it (0 in the paper).
    """

    samples: ClassVar[bool] = True

    dae: DAE
    layer: str = "output"
    pixel_weight: float = 0.0

    def __post_init__(self) -> None:
        """Freezes the autoencoder."""
        self.dae.requires_grad_(False).eval()

    def code(self, pictures: Tensor) -> Tensor:
        """See `Reconstruction`: their bottleneck, [B, bottleneck]."""
        return self.dae.encode(pictures)

    def __call__(
        self,
        target: Tensor,
        mean: Tensor,
        log_variance: Tensor,
        noise: Tensor | None = None,
        code: Tensor | None = None,
    ) -> Tensor:
        """See `Reconstruction`."""
        guess = mean if noise is None else sample(mean, log_variance, noise)
        with torch.no_grad():
            wanted = self._features(self.code(target) if code is None else code)
        error = (self._features(self.code(guess)) - wanted).square().sum() / len(target)
        if self.pixel_weight:
            error = error + self.pixel_weight * PixelReconstruction()(target, mean, log_variance)
        return error

    def _features(self, code: Tensor) -> Tensor:
        """J, from the bottleneck."""
        return (code if self.layer == "bottleneck" else self.dae.painter(code)).float()
