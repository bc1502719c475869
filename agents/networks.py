"""Networks on latents or frames, with all their parameters in one vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import skip_init

from darla.devices import choose_precision


def _initialise(layer: nn.Module, generator: torch.Generator) -> None:
    """Fills a layer as torch does by default: uniform in +-1/sqrt(inputs), of an LSTM's units."""
    if isinstance(layer, nn.LSTMCell):
        bound = 1.0 / math.sqrt(layer.hidden_size)
    else:
        bound = 1.0 / math.sqrt(layer.weight[0].numel())  # type: ignore[index]
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter.uniform_(-bound, bound, generator=generator)


class ConvTrunk(nn.Module):
    """Four convolutions and one fully connected layer, the shape of the vision's encoder.

    Args:
        shape: (height, width, channels) of a frame; height and width at least 16.
        features: width of the fully connected layer.
    """

    filters = (32, 32, 64, 64)
    features = 256

    def __init__(self, shape: Sequence[int], features: int = features) -> None:
        super().__init__()
        height, width, channels = shape
        layers: list[nn.Module] = []
        for filters in self.filters:
            layers += [skip_init(nn.Conv2d, channels, filters, 4, stride=2, padding=1), nn.ReLU()]
            height, width, channels = height // 2, width // 2, filters
        if height < 1 or width < 1:
            raise ValueError(f"frames of {tuple(shape)} are too small: at least 16 x 16 pixels")
        dense = skip_init(nn.Linear, height * width * channels, features)
        self.layers = nn.Sequential(*layers, nn.Flatten(), dense, nn.ReLU())

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Maps uint8 [B, H, W, C] in 0..255 to float32 [B, features].

        The convolutions compute in bfloat16 where the processor multiplies it natively.
        """
        # The permuted view is laid out as channels_last, which convolutions prefer on a CPU.
        pictures = frames.permute(0, 3, 1, 2).float() / 255.0
        precision = choose_precision("auto", frames.device)
        with torch.autocast(frames.device.type, precision, enabled=precision != torch.float32):
            return self.layers(pictures).float()


class VectorModule(nn.Module):
    """A network whose parameters are views of one vector, and whose gradients are of another.

    Optimiser steps, clipping, copies to a target network and messages to workers are then single
    operations. A subclass makes its layers without values, then calls `gather`.

    Attributes:
        parameters_vector: all parameters, float32 [P].
        gradient_vector: their gradients, float32 [P].
    """

    def gather(self, generator: torch.Generator | None, *arguments: Any) -> None:
        """Gives all layers their initial weights and puts them into one vector.

        Args:
            generator: source of the initial weights; None leaves them to `load_weights`.
            arguments: what the constructor was given, None for the generator: a copy is made of it.
        """
        self._arguments = arguments
        for layer in self.modules():
            if generator is not None and next(layer.parameters(recurse=False), None) is not None:
                _initialise(layer, generator)
        self.parameters_vector = nn.utils.parameters_to_vector(self.parameters()).detach()
        self.gradient_vector = torch.zeros_like(self.parameters_vector)
        start = 0
        for parameter in self.parameters():
            end = start + parameter.numel()
            parameter.data = self.parameters_vector[start:end].view_as(parameter)
            parameter.grad = self.gradient_vector[start:end].view_as(parameter)
            start = end

    def __reduce__(self) -> tuple:
        """Pickles the parameters once, and makes them views of one vector again."""
        return _rebuild, (type(self), self._arguments, self.weights())

    def weights(self) -> np.ndarray:
        """Returns a copy of all parameters, float32 [P]."""
        return self.parameters_vector.numpy().copy()

    def load_weights(self, weights: np.ndarray | torch.Tensor) -> None:
        """Overwrites all parameters with float32 [P], as given by `weights` of an equal network.

        Raises:
            ValueError: the number of parameters differs.
        """
        if tuple(weights.shape) != tuple(self.parameters_vector.shape):
            raise ValueError(
                f"{tuple(weights.shape)} parameters for a network of "
                f"{tuple(self.parameters_vector.shape)}"
            )
        self.parameters_vector.numpy()[:] = weights

    def start_from(self, weights: np.ndarray) -> None:
        """Overwrites the first parameters, those of an encoder, with float32 [P]."""
        self.parameters_vector.numpy()[: len(weights)] = weights


def _rebuild(kind: type[VectorModule], arguments: tuple, weights: np.ndarray) -> VectorModule:
    network = kind(*arguments)
    network.load_weights(weights)
    return network


def perceptron(
    shape: Sequence[int], hidden: Sequence[int], encoder: Sequence[int] | None = None
) -> tuple[list[nn.Module], int]:
    """Returns hidden layers, behind a convolutional trunk where observations are frames.

    Args:
        shape: shape of one observation: (D,) latents, or (H, W, C) frames.
        hidden: widths of the hidden layers.
        encoder: widths of the trunk's last layer and of the latents that a linear layer makes of
            it; None: a trunk without latents.

    Returns:
        The layers, without initial weights, and the width of the last one.
    """
    layers: list[nn.Module] = []
    width = shape[0]
    if encoder is not None:
        features, width = encoder
        layers += [ConvTrunk(shape, features), skip_init(nn.Linear, features, width)]
    elif len(shape) == 3:
        layers.append(ConvTrunk(shape))
        width = ConvTrunk.features
    for units in hidden:
        layers += [skip_init(nn.Linear, width, units), nn.ReLU()]
        width = units
    return layers, width


class QNetwork(VectorModule):
    """Action values: a perceptron, behind a convolutional trunk where observations are frames.

    Args:
        shape: shape of one observation: (D,) latents, or (H, W, C) frames.
        actions: number of discrete actions.
        hidden: widths of the hidden layers.
        generator: source of the initial weights; None leaves them to `load_weights`.
        encoder: widths of an encoder between frames and hidden layers; see `perceptron`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        actions: int,
        hidden: Sequence[int],
        generator: torch.Generator | None = None,
        encoder: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.actions, self.hidden = tuple(shape), actions, tuple(hidden)
        self.encoder = encoder and tuple(encoder)
        layers, width = perceptron(self.shape, self.hidden, self.encoder)
        self.layers = nn.Sequential(*layers, skip_init(nn.Linear, width, actions))
        self.gather(generator, self.shape, self.actions, self.hidden, None, self.encoder)

    @property
    def on_frames(self) -> bool:
        """Whether observations are uint8 frames."""
        return len(self.shape) == 3

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Maps float32 [B, D], or uint8 [B, H, W, C], to action values float32 [B, actions]."""
        return self.layers(observations)
