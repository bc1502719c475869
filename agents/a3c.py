"""A3C: asynchronous advantage actor-critic (Mnih et al. 2016).

Every worker computes the gradient of its own rollouts, with its own copy of the weights. The
learner applies each gradient as it arrives and answers that worker at once with the new weights;
no worker waits for another. With several workers, results therefore depend on timing. With one,
they follow from configuration and seed, and a training that was killed and continued ends with the
same bits as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch

from agents.actor_critic import ActorCritic
from agents.augmentation import augment
from agents.policy import Actions, Policy
from agents.replay import Steps
from agents.seeding import torch_generator
from agents.trainer import Trainer
from agents.worker import Chunk, Rollout
from darla.config import ActorCriticConfig, AugmentationConfig


class Weights(NamedTuple):
    """What the learner sends.

    Attributes:
        version: updates that were applied to them.
        vector: all parameters, float32 [P].
    """

    version: int
    vector: np.ndarray


class Gradient(NamedTuple):
    """What a worker sends.

    Attributes:
        version: of the weights that it was computed with.
        vector: gradient of all parameters, float32 [P], clipped.
        figures: what was measured: losses, `entropy` in nats and `gradient_norm` before clipping.
    """

    version: int
    vector: np.ndarray
    figures: dict[str, float]


class A3CPolicy(Policy):
    """Draws actions from the network's probabilities, in training and in scoring.

    Args:
        actions: what can be done.
        network: gives probabilities and values.
        perception_fingerprint: fingerprint of the perception that it is trained on.

    Attributes:
        version: updates that were applied to the weights.
    """

    algorithm = "a3c"
    preference = "probability"
    stochastic = True
    network_class: ClassVar[type[ActorCritic]] = ActorCritic

    def __init__(self, actions: Actions, network: ActorCritic, perception_fingerprint: str) -> None:
        super().__init__(actions, perception_fingerprint)
        self.network = network
        self.memory_size = network.memory_size
        self.version = 0

    def choose(
        self, observations: np.ndarray, memory: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Policy`; one number is drawn per row and choice."""
        probabilities, memory = self._evaluate(observations, memory)
        starts = np.cumsum(self.actions.choices)[:-1]
        chosen = np.stack(
            [
                (part.cumsum(1)[:, :-1] < rng.random((len(part), 1))).sum(1)
                for part in np.split(probabilities, starts, axis=1)
            ],
            axis=1,
        )
        return (chosen if self.actions.vector else chosen[:, 0]), memory

    def preferences(self, observations: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """Returns probabilities, float32 [B, options], which sum to 1 over each choice."""
        return self._evaluate(observations, memory)[0]

    def update(self, message: Weights) -> None:
        """Overwrites all weights."""
        self.version = message.version
        self.network.load_weights(message.vector)

    def settings(self) -> dict[str, Any]:
        """See `Policy`."""
        network = self.network
        return {
            "shape": network.shape,
            "hidden": network.hidden,
            "lstm": network.lstm,
            "encoder": network.encoder,
        }

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
        network = cls.network_class(
            settings["shape"],
            actions.choices,
            settings["hidden"],
            settings["lstm"],
            encoder=settings.get("encoder"),
        )
        network.load_weights(tensors["weights"])
        return cls(actions, network, perception_fingerprint)

    def _evaluate(
        self, observations: np.ndarray, memory: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns probabilities [B, options] and the memory after the decision."""
        with torch.inference_mode():
            features, after = self.network.step(
                torch.from_numpy(observations), torch.from_numpy(memory)
            )
            log_probabilities, _ = self.network.judge(features)
            return torch.cat(log_probabilities, 1).exp().numpy(), after.numpy()


def n_step_returns(
    rewards: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    finals: np.ndarray,
    bootstrap: np.ndarray,
    discount: float,
) -> np.ndarray:
    """Returns discounted sums of rewards to the end of the episode or of the rollout.

    Args:
        rewards: float32 [T, B, ...].
        terminated: bool [T, B]; nothing is added after these steps.
        truncated: bool [T, B]; the value of the episode's last observation is added after these.
        finals: these values, float32 [M, ...], in the order of `np.nonzero(truncated)`.
        bootstrap: value of what follows the last step, float32 [B, ...].
        discount: per decision, in [0, 1].

    Returns:
        float32 [T, B, ...].
    """
    after_end = np.zeros_like(rewards)
    after_end[truncated] = finals
    ended = (terminated | truncated).reshape(truncated.shape + (1,) * (rewards.ndim - 2))
    returns, after = np.empty_like(rewards), bootstrap
    for t in reversed(range(len(rewards))):
        after = rewards[t] + np.float32(discount) * np.where(ended[t], after_end[t], after)
        returns[t] = after
    return returns


class Features(NamedTuple):
    """What the shared layers make of a rollout.

    Attributes:
        steps: of each decision, float32 [T, B, width], with gradients.
        last: of what follows the last decision, float32 [B, width].
        finals: of the last observations of truncated episodes, float32 [M, width].
    """

    steps: torch.Tensor
    last: torch.Tensor
    finals: torch.Tensor


def look(network: ActorCritic, steps: Steps, following: np.ndarray, memory: np.ndarray) -> Features:
    """Passes steps through the shared layers.

    Args:
        network: the layers.
        steps: T decisions in each of B environments.
        following: observations after the last of them, [B, *shape].
        memory: before the first of them, float32 [B, memory_size].
    """
    ended = torch.from_numpy(steps.terminated | steps.truncated)
    features, memories = network.unroll(
        torch.from_numpy(steps.observations), torch.from_numpy(memory), ended
    )
    with torch.no_grad():
        before = memories[-1].masked_fill(ended[-1][:, None], 0.0)
        last, _ = network.step(torch.from_numpy(following), before)
        before = memories[torch.from_numpy(steps.truncated)]
        finals, _ = network.step(torch.from_numpy(steps.finals), before)
    return Features(features, last, finals)


def value_returns(
    network: ActorCritic, features: Features, steps: Steps, discount: float
) -> torch.Tensor:
    """Returns what the values should be, float32 [T, B]; see `n_step_returns`."""
    with torch.no_grad():
        finals, last = (network.judge(part)[1].numpy() for part in (features.finals, features.last))
    returns = n_step_returns(
        steps.rewards, steps.terminated, steps.truncated, finals, last, discount
    )
    return torch.from_numpy(returns)


def noised(rollout: Rollout, deviation: float, rng: np.random.Generator) -> Rollout:
    """Returns a rollout with Gaussian noise on its observations, which are latents."""
    s, s_final, s_next = (
        latents + np.float32(deviation) * rng.standard_normal(latents.shape, np.float32)
        for latents in (rollout.steps.observations, rollout.steps.finals, rollout.observations)
    )
    steps = replace(rollout.steps, observations=s, finals=s_final)
    return rollout._replace(steps=steps, observations=s_next)


class GradientDigest:
    """Makes of a rollout the gradient of the worker's own copy of the weights.

    Args:
        config: hyperparameters.
        noise: standard deviation of the noise on the observations that it learns on.
        augmentation: if given, policy and value are drawn on augmented frames to what they are on
            clean ones (DrAC).
        augmentation_weight: weight of that.
    """

    def __init__(
        self,
        config: ActorCriticConfig,
        noise: float = 0.0,
        augmentation: AugmentationConfig | None = None,
        augmentation_weight: float = 0.0,
    ) -> None:
        self.config, self.noise = config, noise
        self.augmentation, self.augmentation_weight = augmentation, augmentation_weight

    def __call__(self, policy: Any, rollout: Rollout, rng: np.random.Generator) -> Gradient:
        """Returns the gradient of an `A3CPolicy`; see `agents.worker.Digest`."""
        network = policy.network
        gradient = network.gradient_vector.zero_()
        if self.noise:
            rollout = noised(rollout, self.noise, rng)
        loss, figures = self.loss(network, rollout, rng)
        loss.backward()
        norm = gradient.norm()
        if self.config.gradient_norm is not None:
            gradient.mul_((self.config.gradient_norm / (norm + 1e-6)).clamp(max=1.0))
        figures["gradient_norm"] = float(norm)
        return Gradient(policy.version, gradient.numpy().copy(), figures)

    def loss(
        self, network: Any, rollout: Rollout, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Returns policy loss, value loss and entropy bonus, as means over decisions."""
        features = look(network, rollout.steps, rollout.observations, rollout.memory)
        log_probabilities, values = network.judge(features.steps)
        returns = value_returns(network, features, rollout.steps, self.config.discount)
        actions = torch.from_numpy(rollout.steps.actions.reshape(*values.shape, -1))
        taken = sum(
            part.gather(-1, action[..., None]).squeeze(-1)
            for part, action in zip(log_probabilities, actions.unbind(-1), strict=True)
        )
        entropy = sum(-(part.exp() * part).sum(-1) for part in log_probabilities).mean()
        advantages = returns - values.detach()
        if self.config.normalise:
            advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
        policy_loss = -(taken * advantages).mean()
        value_loss = 0.5 * (returns - values).square().mean()
        loss = policy_loss + self.config.value_weight * value_loss - self.config.entropy * entropy
        figures = {
            "policy_loss": policy_loss.item(),
            "value_loss": value_loss.item(),
            "entropy": entropy.item(),
        }
        if self.augmentation is not None:
            observations = torch.from_numpy(rollout.steps.observations)
            looks = augment(observations.flatten(0, 1), self.augmentation, rng)
            shift = _shift(network, rollout, looks, log_probabilities, values)
            loss = loss + self.augmentation_weight * shift
            figures["augmentation_loss"] = shift.item()
        return loss, figures

    def state(self) -> dict[str, np.ndarray]:
        """Returns nothing: it keeps nothing."""
        return {}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes nothing."""


def _shift(
    network: ActorCritic,
    rollout: Rollout,
    looks: torch.Tensor,
    log_probabilities: Sequence[torch.Tensor],
    values: torch.Tensor,
) -> torch.Tensor:
    """Returns what policy (KL) and value (squared) change by on other looks of the frames."""
    steps = rollout.steps
    features, _ = network.unroll(
        looks.unflatten(0, values.shape),
        torch.from_numpy(rollout.memory),
        torch.from_numpy(steps.terminated | steps.truncated),
    )
    changed, changed_values = network.judge(features)
    divergences = [
        (part.detach().exp() * (part.detach() - other)).sum(-1)
        for part, other in zip(log_probabilities, changed, strict=True)
    ]
    return (sum(divergences) + (values.detach() - changed_values).square()).mean()


class A3CTrainer(Trainer):
    """Trains an `A3CPolicy`; see `Trainer`."""

    policy: A3CPolicy
    policy_class: ClassVar[type[A3CPolicy]] = A3CPolicy

    @property
    def settings(self) -> ActorCriticConfig:
        """The algorithm's part of the configuration."""
        return self.config.agents.a3c

    def make(self, actions: Actions) -> A3CPolicy:
        """See `Trainer`."""
        settings, start = self.settings, self.perception.start
        network = self.policy_class.network_class(
            self.perception.shape,
            actions.choices,
            settings.hidden,
            settings.lstm,
            torch_generator(self.seed, "weights"),
            None if start is None else start.widths,
        )
        if start is not None:
            network.start_from(start.weights)
        network.start_value(settings.value_start)
        self._sent = 0
        self._vector = torch.nn.Parameter(network.parameters_vector)
        self._vector.grad = network.gradient_vector
        self._decaying = network.parameters_vector[0 if start is None else len(start.weights) :]
        kind = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[settings.optimiser]
        self._optimiser = kind([self._vector])
        return self.policy_class(actions, network, self.perception.fingerprint)

    def digest(self) -> GradientDigest:
        """See `Trainer`."""
        a3c, perception = self.config.agents.a3c, self.perception
        return GradientDigest(
            self.settings,
            a3c.latent_noise if perception.standard else 0.0,
            self.config.agents.augmentation if perception.augmented else None,
            a3c.augmentation_weight,
        )

    def sample(self) -> None:
        """Keeps every idle worker busy, until all decisions are sent out."""
        busy = self.pool.waiting("sample")
        for index in range(self.pool.size):
            if index not in busy:
                self._send(index)

    def learn(self) -> None:
        """Applies gradients as they come, until a round's worth of decisions has come."""
        enough = self.decisions + self.config.agents.chunk * self.pool.streams
        while self.decisions < enough and self.pool.waiting("sample"):
            for index, chunk in self.pool.ready("sample"):
                self._apply(chunk)
                self._send(index)

    def take(self) -> None:
        """Does nothing: `learn` takes what comes."""

    def rest(self) -> None:
        """Applies what is in flight."""
        while self.pool.waiting("sample"):
            for _, chunk in self.pool.ready("sample"):
                self._apply(chunk)

    def epsilon(self, decisions: int) -> float:
        """Returns 0: exploration comes from the policy."""
        return 0.0

    def save_learner(self, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See `Trainer`."""
        moments = self._optimiser.state.get(self._vector, {})
        tensors = {f"optimiser.{name}": tensor for name, tensor in moments.items()}
        return {"weights": self.policy.network.parameters_vector, **tensors}, {}

    def load_learner(
        self, folder: Path, tensors: dict[str, torch.Tensor], values: dict[str, Any]
    ) -> None:
        """See `Trainer`."""
        tensors = dict(tensors)
        self.policy.network.load_weights(tensors.pop("weights"))
        self._optimiser.state[self._vector] = {
            name.removeprefix("optimiser."): tensor.clone() for name, tensor in tensors.items()
        }
        self._sent = self.decisions

    def _send(self, index: int) -> None:
        """Lets a worker sample with the present weights, if decisions are left."""
        left = self.config.agents.decisions - self._sent
        if left <= 0:
            return
        environments = self.pool.config.envs_per_worker
        steps = min(self.settings.n_step, -(-left // environments))
        self._sent += steps * environments
        weights = Weights(self.updates, self.policy.network.weights())
        self.pool.sample(index, weights, np.zeros(steps))

    def _apply(self, chunk: Chunk) -> None:
        """Makes one update with a worker's gradient."""
        settings, gradient = self.settings, chunk.content
        left = 1.0 - self.decisions / self.config.agents.decisions if settings.anneal else 1.0
        rate = settings.learning_rate * left
        (group,) = self._optimiser.param_groups
        group["lr"] = rate
        self._decaying.mul_(1.0 - rate * settings.weight_decay)
        self.policy.network.gradient_vector.numpy()[:] = gradient.vector
        self._optimiser.step()
        staleness = self.updates - gradient.version
        self.figures.add({**gradient.figures, "staleness": staleness}, 1)
        self.figures.peak("stalest", staleness)
        self.updates += 1
        self.count(chunk)
