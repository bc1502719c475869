"""UNREAL: A3C with auxiliary tasks (Jaderberg et al. 2017).

Every worker keeps its newest steps. Beside the gradient of its rollout it computes those of three
tasks on what it keeps: to control how pixels change, to predict the sign of the next reward, and to
learn values again. They shape the convolutional trunk, so that UNREAL is for perception `pixels`.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import skip_init

from agents.a3c import (
    A3CPolicy,
    A3CTrainer,
    Features,
    GradientDigest,
    look,
    n_step_returns,
    value_returns,
)
from agents.actor_critic import ActorCritic
from agents.networks import ConvTrunk
from agents.policy import Actions
from agents.replay import Steps, section
from agents.worker import Rollout
from darla.config import Config, UnrealConfig
from darla.errors import ConfigError

CELL = 4
"""Height and width, in pixels, of the cells whose change is controlled."""
SEQUENCE = 3
"""Frames from which a reward is predicted."""


def cells(side: int) -> int:
    """Returns the number of cells along a side of so many pixels, at least 16.

    84 pixels have 20 cells, as in the paper; at other sizes they cover as much of the frame, in an
    even number: 14 of 64 pixels, 4 of 16.
    """
    return max(4, side * 20 // 21 // (2 * CELL) * 2)


def pixel_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Returns the mean absolute change of every cell in the middle of a frame.

    Args:
        before: uint8 [..., H, W, C].
        after: the frames one decision later.

    Returns:
        float32 [..., cells(H), cells(W)], in [0, 1].
    """
    *batch, height, width, _ = before.shape
    rows, columns = cells(height), cells(width)
    top, left = (height - rows * CELL) // 2, (width - columns * CELL) // 2
    place = (..., slice(top, top + rows * CELL), slice(left, left + columns * CELL), slice(None))
    larger, smaller = (
        np.maximum(before[place], after[place]),
        np.minimum(before[place], after[place]),
    )
    parts = (larger - smaller).reshape(*batch, rows, CELL, columns, CELL, -1)
    return parts.mean((-4, -2, -1), dtype=np.float32) / np.float32(255)


class History:
    """The newest steps of one worker's environments.

    Args:
        capacity: decisions to keep, over all environments.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.steps: Steps | None = None

    def append(self, steps: Steps) -> None:
        """Adds steps, and forgets the oldest beyond the capacity."""
        if self.steps is not None:
            old = self.steps
            parts = {f.name: [getattr(old, f.name), getattr(steps, f.name)] for f in fields(Steps)}
            steps = Steps(**{name: np.concatenate(pair) for name, pair in parts.items()})
        count = len(steps.rewards)
        kept = max(1, self.capacity // steps.rewards.shape[1])
        self.steps = section(steps, max(0, count - kept), count)

    def window(self, length: int, rng: np.random.Generator) -> tuple[Steps, np.ndarray]:
        """Draws `length` consecutive steps of every environment; returns what follows them too."""
        steps = self._held()
        first = int(rng.integers(len(steps.rewards) - length))
        last = first + length
        return section(steps, first, last), steps.observations[last]

    def sequences(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws sequences of frames inside episodes; a reward follows half of them.

        Where there are only such, or none such, all are of the other kind; where no episode is long
        enough, none is drawn.

        Returns:
            Frames [N, SEQUENCE, *shape], and the signs of the rewards after them, int64 [N] in
            0 (none), 1 (positive), 2 (negative).
        """
        steps = self._held()
        ended = steps.terminated | steps.truncated
        last = len(ended) - SEQUENCE + 1
        whole = ~np.any([ended[i : last + i] for i in range(SEQUENCE - 1)], axis=0)
        signs = np.sign(steps.rewards[SEQUENCE - 1 :]).astype(np.int64)
        kinds = [np.argwhere(whole & (signs == 0)), np.argwhere(whole & (signs != 0))]
        present = [kind for kind in kinds if len(kind)]
        picks = rng.integers(len(present), size=count if present else 0)
        places = np.array([rng.choice(present[pick]) for pick in picks], int).reshape(-1, 2)
        time, stream = places.T
        frames = steps.observations[time[:, None] + np.arange(SEQUENCE), stream[:, None]]
        return frames, signs[time, stream] % 3

    def _held(self) -> Steps:
        if self.steps is None:
            raise ValueError("nothing was appended yet")
        return self.steps


class UnrealNetwork(ActorCritic):
    """An `ActorCritic` on frames, of one choice, with the heads of the auxiliary tasks."""

    def build(self) -> None:
        """Makes the deconvolutions of pixel control and the layers of reward prediction."""
        height, width, _ = self.shape
        (actions,) = self.choices
        rows, columns = cells(height) // 2 - 1, cells(width) // 2 - 1
        self.spread = nn.Sequential(
            skip_init(nn.Linear, self.width, 32 * rows * columns),
            nn.ReLU(),
            nn.Unflatten(1, (32, rows, columns)),
        )
        self.level = skip_init(nn.ConvTranspose2d, 32, 1, 4, stride=2)
        self.advantage = skip_init(nn.ConvTranspose2d, 32, actions, 4, stride=2)
        self.reward = nn.Sequential(
            skip_init(nn.Linear, SEQUENCE * ConvTrunk.features, 128),
            nn.ReLU(),
            skip_init(nn.Linear, 128, 3),
        )

    def control(self, features: torch.Tensor) -> torch.Tensor:
        """Maps features [N, width] to values of pixel control, float32 [N, actions, h, w]."""
        spread = self.spread(features)
        advantage = self.advantage(spread)
        return self.level(spread) + advantage - advantage.mean(1, keepdim=True)

    def predict(self, frames: torch.Tensor) -> torch.Tensor:
        """Maps uint8 [N, SEQUENCE, H, W, C] to logits of the reward's sign, float32 [N, 3]."""
        return self.reward(self.layers[0](frames.flatten(0, 1)).view(len(frames), -1))


class UnrealPolicy(A3CPolicy):
    """An `A3CPolicy` whose network has further heads."""

    algorithm = "unreal"
    network_class = UnrealNetwork


class UnrealDigest(GradientDigest):
    """Adds the auxiliary tasks' gradients; see `GradientDigest`.

    Args:
        config: hyperparameters.
    """

    config: UnrealConfig

    def __init__(self, config: UnrealConfig) -> None:
        super().__init__(config)
        self.history = History(config.replay)

    def loss(
        self, network: UnrealNetwork, rollout: Rollout, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Returns A3C's loss and the auxiliary ones, which begin with the second rollout."""
        loss, figures = super().loss(network, rollout, rng)
        begun = self.history.steps is not None
        self.history.append(rollout.steps)
        if begun:
            config = self.config
            value, control = self._replayed(network, rollout, rng)
            prediction = self._prediction(network, rng, rollout.steps.rewards.shape[1])
            loss = (
                loss
                + config.value_replay * value
                + config.pixel_control * control
                + config.reward_prediction * prediction
            )
        else:
            value = control = prediction = torch.zeros(())
        figures["value_replay_loss"] = value.item()
        figures["pixel_control_loss"] = control.item()
        figures["reward_prediction_loss"] = prediction.item()
        return loss, figures

    def state(self) -> dict[str, np.ndarray]:
        """Returns the steps that it keeps."""
        return {} if self.history.steps is None else dict(vars(self.history.steps))

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes over what `state` returned."""
        self.history.steps = Steps(**{name: array.copy() for name, array in arrays.items()})

    def _replayed(
        self, network: UnrealNetwork, rollout: Rollout, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the losses of value replay and of pixel control, on the same steps."""
        length = len(rollout.steps.rewards)
        steps, following = self.history.window(length, rng)
        memory = np.zeros((len(following), network.memory_size), np.float32)
        features = look(network, steps, following, memory)
        returns = value_returns(network, features, steps, self.config.discount)
        _, values = network.judge(features.steps)
        value = 0.5 * (returns - values).square().mean()
        discount = self.config.pixel_discount
        return value, control_loss(network, features, steps, following, discount)

    def _prediction(
        self, network: UnrealNetwork, rng: np.random.Generator, count: int
    ) -> torch.Tensor:
        """Returns the loss of reward prediction."""
        frames, signs = self.history.sequences(count, rng)
        if not len(signs):
            return torch.zeros(())
        return cross_entropy(network.predict(torch.from_numpy(frames)), torch.from_numpy(signs))


def control_loss(
    network: UnrealNetwork,
    features: Features,
    steps: Steps,
    following: np.ndarray,
    discount: float,
) -> torch.Tensor:
    """Returns the squared error of pixel control: summed over cells, mean over decisions.

    The reward of a decision is the change that follows it. What a terminated episode ended with is
    not known: it counts as no change.
    """
    after = np.concatenate([steps.observations[1:], following[None]])
    after[steps.truncated] = steps.finals
    rewards = pixel_change(steps.observations, after)
    rewards[steps.terminated] = 0.0
    with torch.no_grad():
        finals, last = (
            network.control(part).amax(1).numpy() for part in (features.finals, features.last)
        )
    returns = n_step_returns(rewards, steps.terminated, steps.truncated, finals, last, discount)
    values = network.control(features.steps.flatten(0, 1))
    actions = torch.from_numpy(steps.actions).flatten()
    taken = values[torch.arange(len(actions)), actions]
    error = taken - torch.from_numpy(returns).flatten(0, 1)
    return 0.5 * error.square().sum((1, 2)).mean()


class UnrealTrainer(A3CTrainer):
    """Trains an `UnrealPolicy`; see `Trainer`."""

    policy_class = UnrealPolicy

    @property
    def settings(self) -> UnrealConfig:
        """The algorithm's part of the configuration."""
        return self.config.agents.unreal

    @classmethod
    def check(cls, config: Config) -> None:
        """See `Trainer`.

        Raises:
            ConfigError: the replay of a worker does not hold what it draws from.
        """
        settings = config.agents.unreal
        needed = (settings.n_step + 1) * config.ray.envs_per_worker
        if settings.replay < needed:
            raise ConfigError(
                f"agents.unreal.replay is {settings.replay}, but rollouts are drawn from it; it "
                f"must hold at least {needed} steps (ray.envs_per_worker x (agents.unreal.n_step "
                "+ 1))"
            )

    def make(self, actions: Actions) -> A3CPolicy:
        """See `Trainer`.

        Raises:
            ConfigError: there are several choices in one action.
        """
        actions.count("unreal")
        return super().make(actions)

    def digest(self) -> UnrealDigest:
        """See `Trainer`."""
        return UnrealDigest(self.settings)
