"""DQN's learner: Q-learning from a replay (Mnih et al. 2015), double, with n-step returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agents.networks import QNetwork
from agents.replay import Batch, Replay
from agents.seeding import numpy_generator, torch_generator
from darla.config import DQNConfig
from darla.errors import CorruptFileError

_BLOCK_BYTES = 1 << 17


def epsilon_at(decision: int | np.ndarray, decisions: int, config: DQNConfig) -> np.ndarray:
    """Returns the share of random actions: 1 in the warm-up, then on a linear schedule.

    Args:
        decision: decisions taken before, over all environments.
        decisions: decisions of the whole training.
        config: the schedule.
    """
    progress = np.minimum(1.0, np.asarray(decision) / max(1.0, config.epsilon_fraction * decisions))
    scheduled = config.epsilon_start + progress * (config.epsilon_end - config.epsilon_start)
    return np.where(np.asarray(decision) < config.warmup, 1.0, scheduled)


@dataclass
class Losses:
    """Sums over updates since they were last read.

    Attributes:
        loss: Huber loss, mean over each batch.
        q: value of the actions taken, mean over each batch.
        updates: number of batches summed.
    """

    loss: float = 0.0
    q: float = 0.0
    updates: int = 0

    def add(self, other: Losses) -> None:
        """Adds the sums of further updates."""
        self.loss, self.q = self.loss + other.loss, self.q + other.q
        self.updates += other.updates

    def means(self) -> dict[str, float | None]:
        """Returns the means per update, None before the first one."""
        if not self.updates:
            return {"loss": None, "q": None}
        return {"loss": self.loss / self.updates, "q": self.q / self.updates}


class Learner:
    """Online network, target network, optimiser and the order of batches.

    Args:
        shape: shape of one observation.
        actions: number of discrete actions.
        config: hyperparameters.
        seed: seed of initial weights and of the batches' order.
    """

    def __init__(self, shape: Sequence[int], actions: int, config: DQNConfig, seed: int) -> None:
        self.config = config
        self.online = QNetwork(shape, actions, config.hidden, torch_generator(seed, "weights"))
        self.target = QNetwork(shape, actions, config.hidden, torch_generator(seed, "weights"))
        self.updates = 0
        self._rng = numpy_generator(seed, "batches")
        self._vector = torch.nn.Parameter(self.online.parameters_vector)
        self._vector.grad = self.online.gradient_vector
        self._optimiser = torch.optim.AdamW(
            [self._vector], config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def train(self, replay: Replay, updates: int) -> Losses:
        """Makes `updates` updates on batches drawn from `replay`.

        Raises:
            ValueError: the replay holds no transition yet.
        """
        config = self.config
        row = int(np.prod(self.online.shape)) * (1 if self.online.on_frames else 4)
        block = max(1, _BLOCK_BYTES // (config.batch * row))
        sums, done = torch.zeros(2), 0
        while done < updates:
            # Several batches at once: their target values need the target network only.
            count = min(
                updates - done, block, config.target_period - self.updates % config.target_period
            )
            drawn = replay.sample(count * config.batch, self._rng)
            with torch.no_grad():
                q_t = self.target(drawn.s_t)
            for start in range(0, count * config.batch, config.batch):
                part = slice(start, start + config.batch)
                self._update(Batch(*(field[part] for field in drawn)), q_t[part], sums)
            done += count
            self.updates += count
            if self.updates % config.target_period == 0:
                self.target.load_weights(self.online.parameters_vector)
        loss, q = sums.tolist()
        return Losses(loss, q, updates)

    def state(self) -> dict[str, torch.Tensor]:
        """Returns all tensors of the learner: networks and optimiser."""
        adam = self._optimiser.state.get(self._vector, {})
        return {
            "online": self.online.parameters_vector,
            "target": self.target.parameters_vector,
            **{f"adam.{name}": value for name, value in adam.items()},
        }

    def counters(self) -> dict:
        """Returns what `state` leaves out, as JSON values."""
        return {"updates": self.updates, "rng": self._rng.bit_generator.state}

    def load(self, state: dict[str, torch.Tensor], counters: dict) -> None:
        """Continues from what `state` and `counters` returned.

        Raises:
            CorruptFileError: they belong to another network.
        """
        try:
            self.online.load_weights(state["online"])
            self.target.load_weights(state["target"])
            self.updates = counters["updates"]
            self._rng.bit_generator.state = counters["rng"]
            adam = {name[5:]: t.clone() for name, t in state.items() if name.startswith("adam.")}
            self._optimiser.state[self._vector] = adam
        except (KeyError, ValueError) as error:
            raise CorruptFileError(f"not a checkpoint of this learner: {error}") from error

    def _update(self, batch: Batch, q_t: torch.Tensor, sums: torch.Tensor) -> None:
        """Makes one update; `q_t` are the target network's values of `batch.s_t`."""
        config = self.config
        with torch.no_grad():
            choice = self.online(batch.s_t) if config.double else q_t
            value_t = q_t.gather(1, choice.argmax(1, keepdim=True)).squeeze(1)
            goal = batch.r_t + batch.discount_t * value_t
        q_tm1 = self.online(batch.s_tm1)
        with torch.no_grad():
            q_a = q_tm1.gather(1, batch.a_tm1[:, None]).squeeze(1)
            error = q_a - goal
            slope = error.clamp(-1.0, 1.0)  # the derivative of the Huber loss
            gradient = torch.zeros_like(q_tm1)
            gradient.scatter_(1, batch.a_tm1[:, None], slope[:, None] / len(error))
            sums[0] += (slope * (error - 0.5 * slope)).mean()
            sums[1] += q_a.mean()
        self.online.gradient_vector.zero_()
        torch.autograd.backward([q_tm1], [gradient])
        if config.gradient_norm is not None:
            norm = self.online.gradient_vector.norm()
            self.online.gradient_vector.mul_((config.gradient_norm / (norm + 1e-6)).clamp(max=1.0))
        self._optimiser.step()
