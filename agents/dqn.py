"""DQN: Q-learning from a replay (Mnih et al. 2015), double, with n-step returns.

Sampling and learning overlap in a fixed order (`agents.trainer.LockstepTrainer`): a training that
was killed and continued ends with the same bits as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from agents.augmentation import augment
from agents.networks import QNetwork
from agents.policy import Actions, Policy
from agents.replay import Batch, Replay, ReplayStore, Steps
from agents.seeding import derive, numpy_generator, torch_generator
from agents.trainer import LockstepTrainer, linear_epsilon
from darla.config import AugmentationConfig, Config, DQNConfig
from darla.errors import ConfigError, CorruptFileError
from darla.perception import Start

_BLOCK_BYTES = 1 << 17


def epsilon_at(decision: int | np.ndarray, decisions: int, config: DQNConfig) -> np.ndarray:
    """Returns the share of random actions: 1 in the warm-up, then on a linear schedule.

    Args:
        decision: decisions taken before, over all environments.
        decisions: decisions of the whole training.
        config: the schedule.
    """
    scheduled = linear_epsilon(decision, decisions, config)
    return np.where(np.asarray(decision) < config.warmup, 1.0, scheduled)


class QPolicy(Policy):
    """Takes the action of the highest value.

    Args:
        network: gives action values.
        perception_fingerprint: fingerprint of the perception that it is trained on.
    """

    algorithm = "dqn"
    preference = "action value"

    def __init__(self, network: QNetwork, perception_fingerprint: str) -> None:
        super().__init__(Actions((network.actions,)), perception_fingerprint)
        self.network = network

    def choose(
        self, observations: np.ndarray, memory: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Policy`; nothing is drawn."""
        return self.preferences(observations, memory).argmax(1), memory

    def preferences(self, observations: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """Returns action values, float32 [B, actions]."""
        with torch.inference_mode():
            return self.network(torch.from_numpy(observations)).numpy()

    def update(self, message: np.ndarray) -> None:
        """Overwrites all weights, float32 [P]."""
        self.network.load_weights(message)

    def settings(self) -> dict[str, Any]:
        """See `Policy`."""
        network = self.network
        return {"shape": network.shape, "hidden": network.hidden, "encoder": network.encoder}

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Policy`."""
        return {"weights": self.network.parameters_vector}

    @classmethod
    def restore(
        cls,
        actions: Actions,
        perception_fingerprint: str,
        settings: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
    ) -> Self:
        """See `Policy`."""
        network = QNetwork(
            settings["shape"],
            actions.choices[0],
            settings["hidden"],
            encoder=settings.get("encoder"),
        )
        network.load_weights(tensors["weights"])
        return cls(network, perception_fingerprint)


class Learner:
    """Online network, target network, optimiser and the order of batches.

    Args:
        shape: shape of one observation.
        actions: number of discrete actions.
        config: hyperparameters.
        seed: seed of initial weights, of the batches' order and of noise.
        noise: standard deviation of the noise on observations, drawn anew for every batch.
        start: an encoder to start from, which weight decay spares.
        augmentation: if given, half of each batch that is learned on has other looks (SVEA).
    """

    def __init__(
        self,
        shape: Sequence[int],
        actions: int,
        config: DQNConfig,
        seed: int,
        *,
        noise: float = 0.0,
        start: Start | None = None,
        augmentation: AugmentationConfig | None = None,
    ) -> None:
        self.config, self.noise, self.augmentation = config, noise, augmentation
        encoder = None if start is None else start.widths
        self.online, self.target = (
            QNetwork(shape, actions, config.hidden, torch_generator(seed, "weights"), encoder)
            for _ in range(2)
        )
        if start is not None:
            self.online.start_from(start.weights)
            self.target.start_from(start.weights)
        self.updates = 0
        self._rng = numpy_generator(seed, "batches")
        self._vector = torch.nn.Parameter(self.online.parameters_vector)
        self._vector.grad = self.online.gradient_vector
        self._decaying = self.online.parameters_vector[0 if start is None else len(start.weights) :]
        self._optimiser = torch.optim.Adam([self._vector], config.learning_rate, fused=True)

    def train(self, replay: Replay, updates: int) -> dict[str, float]:
        """Makes `updates` updates on batches drawn from `replay`.

        Returns:
            Sums over the updates: `loss`, the mean Huber loss of each batch, and `q`, the mean
            value of its actions.

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
            drawn = self._noised(replay.sample(count * config.batch, self._rng))
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
        return {"loss": loss, "q": q}

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

    def _noised(self, batch: Batch) -> Batch:
        """Adds noise to the observations."""
        if not self.noise:
            return batch
        s_tm1, s_t = (
            s + self.noise * torch.from_numpy(self._rng.standard_normal(s.shape, np.float32))
            for s in (batch.s_tm1, batch.s_t)
        )
        return batch._replace(s_tm1=s_tm1, s_t=s_t)

    def _update(self, batch: Batch, q_t: torch.Tensor, sums: torch.Tensor) -> None:
        """Makes one update; `q_t` are the target network's values of `batch.s_t`."""
        config = self.config
        with torch.no_grad():
            choice = self.online(batch.s_t) if config.double else q_t
            value_t = q_t.gather(1, choice.argmax(1, keepdim=True)).squeeze(1)
            goal = batch.r_t + batch.discount_t * value_t
        s_tm1, a_tm1 = batch.s_tm1, batch.a_tm1
        if self.augmentation is not None:
            s_tm1 = torch.cat([s_tm1, augment(s_tm1, self.augmentation, self._rng)])
            a_tm1, goal = a_tm1.repeat(2), goal.repeat(2)
        q_tm1 = self.online(s_tm1)
        with torch.no_grad():
            q_a = q_tm1.gather(1, a_tm1[:, None]).squeeze(1)
            error = q_a - goal
            slope = error.clamp(-1.0, 1.0)  # the derivative of the Huber loss
            gradient = torch.zeros_like(q_tm1)
            gradient.scatter_(1, a_tm1[:, None], slope[:, None] / len(error))
            sums[0] += (slope * (error - 0.5 * slope)).mean()
            sums[1] += q_a.mean()
        self.online.gradient_vector.zero_()
        torch.autograd.backward([q_tm1], [gradient])
        if config.gradient_norm is not None:
            norm = self.online.gradient_vector.norm()
            self.online.gradient_vector.mul_((config.gradient_norm / (norm + 1e-6)).clamp(max=1.0))
        self._decaying.mul_(1.0 - config.learning_rate * config.weight_decay)
        self._optimiser.step()


class DQNTrainer(LockstepTrainer):
    """Trains a `QPolicy`; see `Trainer`."""

    @classmethod
    def check(cls, config: Config) -> None:
        """See `Trainer`.

        Raises:
            ConfigError: the replay is smaller than what the workers send at once, or the training
                ends before it begins to learn.
        """
        agents, dqn = config.agents, config.agents.dqn
        sent = config.ray.workers * config.ray.envs_per_worker * agents.chunk
        if dqn.replay < sent:
            raise ConfigError(
                f"agents.dqn.replay is {dqn.replay}, but the workers send {sent} transitions at "
                "once (ray.workers x ray.envs_per_worker x agents.chunk); the replay must hold at "
                "least these"
            )
        if agents.decisions < dqn.warmup + dqn.decisions_per_update:
            raise ConfigError(
                f"agents.dqn.warmup is {dqn.warmup:,}, of {agents.decisions:,} agents.decisions: "
                "nothing would be learned; give a smaller warm-up, or more decisions"
            )

    def make(self, actions: Actions) -> QPolicy:
        """See `Trainer`.

        Raises:
            ConfigError: there are several choices in one action.
        """
        agents, dqn, streams = self.config.agents, self.config.agents.dqn, self.pool.streams
        shape, dtype = self.perception.shape, self.perception.dtype
        seed = derive(self.seed, "learner")
        noise = dqn.latent_noise if self.perception.standard else 0.0
        self.learner = Learner(
            shape,
            actions.count("dqn"),
            dqn,
            seed,
            noise=noise,
            start=self.perception.start,
            augmentation=agents.augmentation if self.perception.augmented else None,
        )
        self.replay = Replay(
            dqn.replay, streams, shape, dtype, n_step=dqn.n_step, discount=dqn.discount
        )
        self._stored = 0
        return QPolicy(self.learner.online, self.perception.fingerprint)

    def message(self) -> np.ndarray:
        """Returns the weights."""
        return self.learner.online.weights()

    def insert(self, steps: Steps) -> None:
        """Appends the steps to the replay."""
        self.replay.insert(steps)

    def part(self, streams: np.ndarray) -> None:
        """See `LockstepTrainer`."""
        self.replay.cut(streams)

    def epsilons(self, decisions: np.ndarray) -> np.ndarray:
        """See `LockstepTrainer`."""
        agents = self.config.agents
        return epsilon_at(decisions, agents.decisions, agents.dqn)

    def learn(self) -> None:
        """Makes as many updates as the decisions received so far ask for."""
        dqn = self.config.agents.dqn
        due = max(0, self.decisions - dqn.warmup) // dqn.decisions_per_update - self.updates
        if len(self.replay) and due > 0:
            self.figures.add(self.learner.train(self.replay, due), due)
            self.updates = self.learner.updates

    def save_learner(self, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See `Trainer`; the steps of the replay go to `folder`."""
        ReplayStore(folder).save(self.replay, since=self._stored)
        self._stored = self.replay.head
        return self.learner.state(), {"head": self.replay.head, **self.learner.counters()}

    def load_learner(
        self, folder: Path, tensors: dict[str, torch.Tensor], values: dict[str, Any]
    ) -> None:
        """See `Trainer`."""
        self.learner.load(tensors, values)
        ReplayStore(folder).load(self.replay, head=values["head"])
        self._stored = self.replay.head

    def prune(self, folder: Path, oldest: int) -> None:
        """See `Trainer`."""
        ReplayStore(folder).prune(oldest // self.replay.streams - self.replay.slots)
