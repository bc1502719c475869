"""The network of A3C: a policy and a value on shared layers, with or without an LSTM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import skip_init

from agents.networks import VectorModule, perceptron


class ActorCritic(VectorModule):
    """Logits of every choice and the value, from shared hidden layers and an optional LSTM.

    A memory is the LSTM's output beside its cell state, float32 [B, 2 * lstm]; zeros start an
    episode. Without an LSTM it is empty.

    Args:
        shape: shape of one observation: (D,) latents, or (H, W, C) frames.
        choices: number of options of every choice.
        hidden: widths of the hidden layers.
        lstm: units of the LSTM behind them; 0 for none.
        generator: source of the initial weights; None leaves them to `load_weights`.
        encoder: widths of an encoder between frames and hidden layers; see `perceptron`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        choices: Sequence[int],
        hidden: Sequence[int],
        lstm: int,
        generator: torch.Generator | None = None,
        encoder: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.choices, self.hidden = tuple(shape), tuple(choices), tuple(hidden)
        self.lstm, self.encoder = lstm, encoder and tuple(encoder)
        layers, width = perceptron(self.shape, self.hidden, self.encoder)
        self.layers = nn.Sequential(*layers)
        self.cell = skip_init(nn.LSTMCell, width, lstm) if lstm else None
        self.width = lstm or width
        self.head = skip_init(nn.Linear, self.width, sum(self.choices) + 1)
        self.build()
        self.gather(generator, self.shape, self.choices, self.hidden, self.lstm, None, self.encoder)

    def build(self) -> None:
        """Makes further layers of a subclass, without initial weights."""

    @torch.no_grad()
    def start_value(self, value: float) -> None:
        """Raises all values by a number; to be called before anything is learned."""
        self.head.bias[-1] += value

    @property
    def memory_size(self) -> int:
        """Numbers that are remembered from one decision to the next."""
        return 2 * self.lstm

    def step(
        self, observations: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of one decision.

        Args:
            observations: [B, *shape].
            memory: float32 [B, memory_size].

        Returns:
            Features float32 [B, width], and the memory after the decision.
        """
        features = self.layers(observations)
        return (features, memory) if self.cell is None else self._remember(features, memory)

    def unroll(
        self, observations: torch.Tensor, memory: torch.Tensor, ended: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of consecutive decisions; what was remembered ends with an episode.

        Args:
            observations: [T, B, *shape].
            memory: float32 [B, memory_size], before the first decision.
            ended: bool [T, B], whether the episode ended with the decision.

        Returns:
            Features float32 [T, B, width], and the memories float32 [T, B, memory_size] after each
            decision, before an episode's end clears them.
        """
        features = self.layers(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])
        if self.cell is None:
            return features, memory.expand(len(features), *memory.shape)
        outputs, memories = [], []
        for inputs, end in zip(features, ended, strict=True):
            output, after = self._remember(inputs, memory)
            outputs.append(output)
            memories.append(after)
            memory = after.masked_fill(end[:, None], 0.0)
        return torch.stack(outputs), torch.stack(memories)

    def judge(self, features: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Maps features [..., width] to log-probabilities of every choice and values [...]."""
        logits, value = self.head(features).split([sum(self.choices), 1], -1)
        parts = logits.split(self.choices, -1)
        return [part.log_softmax(-1) for part in parts], value.squeeze(-1)

    def _remember(
        self, features: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output, state = self.cell(features, memory.chunk(2, 1))  # type: ignore[misc]
        return output, torch.cat([output, state], 1)
