"""Workers: Ray actors that each step a vector of environments, encode in batches and act."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import ray
import torch
from gymnasium.vector import VectorEnv

from agents.acting import Episode, Policy, action_count, observe, observe_final, play_episodes
from agents.replay import Steps
from agents.seeding import derive, numpy_generator
from darla.config import RayConfig
from darla.errors import DarlaError
from envs.domains import Domain

if TYPE_CHECKING:
    from darla.perception import Perception

#: `factory(domains, num_envs, seed=..., render=...)`, with the contract of `envs.make_vector`.
EnvironmentFactory = Callable[..., VectorEnv]


class Chunk(NamedTuple):
    """What a worker sends.

    Attributes:
        steps: T steps of its B environments.
        returns: returns of the episodes that ended in them.
    """

    steps: Steps
    returns: list[float]


class Worker:
    """Steps environments: for training without end, for evaluation episode by episode.

    Args:
        factory: makes vector environments.
        threads: torch threads of this process; None leaves them as they are.
    """

    def __init__(self, factory: EnvironmentFactory, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._factory = factory
        self._vectors: dict[tuple, VectorEnv] = {}

    def begin(
        self, perception: Perception, domains: Sequence[Domain], num_envs: int, seed: int
    ) -> int:
        """Makes the training environments and starts an episode in each.

        Args:
            perception: what policies see through.
            domains: each episode draws one uniformly.
            num_envs: number of environments B.
            seed: seed of layouts and of exploration.

        Returns:
            The number of actions.
        """
        self._perception = perception
        render = perception.needs == "frames"
        self._vector = self._factory(domains, num_envs, seed=derive(seed, "layouts"), render=render)
        self._rng = numpy_generator(seed, "exploration")
        frames, info = self._vector.reset(seed=derive(seed, "layouts"))
        self._observations = observe(perception, frames, info)
        self._returns = np.zeros(num_envs)
        return action_count(self._vector)

    def sample(self, policy: Policy, epsilons: np.ndarray) -> Chunk:
        """Steps all training environments once per entry of `epsilons`."""
        size = (len(epsilons), self._vector.num_envs)
        observations = np.empty((*size, *self._observations.shape[1:]), self._observations.dtype)
        actions, rewards = np.empty(size, np.int64), np.empty(size, np.float32)
        terminated, truncated = np.empty(size, bool), np.empty(size, bool)
        finals = [observations[0, :0]]
        returns: list[float] = []
        for t, epsilon in enumerate(epsilons):
            observations[t] = self._observations
            actions[t] = policy.act(self._observations, epsilon=epsilon, rng=self._rng)
            frames, rewards[t], terminated[t], cut, info = self._vector.step(actions[t])
            truncated[t] = cut & ~terminated[t]
            if truncated[t].any():
                finals.append(observe_final(self._perception, info, truncated[t]))
            self._observations = observe(self._perception, frames, info)
            self._returns += rewards[t]
            ended = terminated[t] | truncated[t]
            returns += self._returns[ended].tolist()
            self._returns[ended] = 0.0
        steps = Steps(observations, actions, rewards, terminated, truncated, np.concatenate(finals))
        return Chunk(steps, returns)

    def evaluate(
        self,
        policy: Policy | None,
        perception: Perception | None,
        domains: Sequence[Domain],
        quota: Sequence[int],
        *,
        epsilon: float,
        seed: int,
    ) -> list[Episode]:
        """Plays `quota[i]` episodes in environment i, without touching the training's state.

        See `agents.acting.play_episodes`.
        """
        render = policy is not None and perception is not None and perception.needs == "frames"
        key = (tuple(domains), len(quota), render)
        if key not in self._vectors:
            self._vectors[key] = self._factory(domains, len(quota), seed=seed, render=render)
        return play_episodes(
            policy, perception, self._vectors[key], quota, epsilon=epsilon, seed=seed
        )

    def state(self) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
        """Returns the state of the training, as arrays and as JSON values."""
        arrays = {"observations": self._observations, "returns": self._returns}
        if hasattr(self._vector, "state_dict"):
            arrays |= {f"env.{name}": array for name, array in self._vector.state_dict().items()}
        return arrays, self._rng.bit_generator.state

    def load(self, arrays: dict[str, np.ndarray], rng: Mapping[str, Any]) -> None:
        """Continues from what `state` returned, after `begin`.

        Environments that cannot restore their state start new episodes instead.
        """
        self._rng.bit_generator.state = rng
        inner = {name[4:]: array for name, array in arrays.items() if name.startswith("env.")}
        if inner:
            self._vector.load_state_dict(inner)  # type: ignore[attr-defined]
            self._observations = arrays["observations"].copy()  # Ray's arrays are read-only
            self._returns = arrays["returns"].copy()


def collect(references: list[ray.ObjectRef]) -> list[Any]:
    """Waits for the results of several workers.

    Raises:
        DarlaError: a worker raised one, or died.
    """
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DarlaError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise DarlaError(
            "a worker process died (out of memory?); repeat the command to continue from the last "
            "checkpoint"
        ) from error


class WorkerPool:
    """The workers of a run; a context manager inside `darla.cluster.ray_session`.

    Args:
        config: number of workers, of their environments and of CPUs.
        factory: makes vector environments, such as `envs.make_vector` bound to a configuration.
    """

    def __init__(self, config: RayConfig, factory: EnvironmentFactory) -> None:
        self.config = config
        actor = ray.remote(num_cpus=config.cpus_per_worker)(Worker)
        self.actors: list[Any] = [actor.remote(factory, threads=1) for _ in range(config.workers)]

    def __enter__(self) -> Self:
        """Returns the pool."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the workers."""
        for actor in self.actors:
            ray.kill(actor)

    @property
    def streams(self) -> int:
        """Number of environments over all workers."""
        return self.config.workers * self.config.envs_per_worker

    def begin(self, perception: Perception, domains: Sequence[Domain], seed: int) -> int:
        """Starts the training environments of every worker; returns the number of actions."""
        shared, size = ray.put(perception), self.config.envs_per_worker
        actions = collect(
            [
                actor.begin.remote(shared, domains, size, derive(seed, "worker", index))
                for index, actor in enumerate(self.actors)
            ]
        )
        return actions[0]

    def launch_samples(self, policy: Policy, epsilons: np.ndarray) -> list[ray.ObjectRef]:
        """Lets every worker sample; `collect` gives one Chunk per worker, in the workers' order."""
        shared = ray.put(policy)
        return [actor.sample.remote(shared, epsilons) for actor in self.actors]

    def launch_evaluation(
        self,
        policy: Policy | None,
        perception: Perception | None,
        domains: Sequence[Domain],
        episodes: int,
        *,
        epsilon: float,
        seed: int,
    ) -> list[ray.ObjectRef]:
        """Lets the workers play; `collect` gives a list of episodes per worker. See `evaluate`."""
        count = min(episodes, self.streams)
        quota = [episodes // count + (i < episodes % count) for i in range(count)]
        what = ray.put(policy), ray.put(perception)
        references = []
        for index, actor in enumerate(self.actors):
            own = quota[index :: len(self.actors)]
            if own:
                worker_seed = derive(seed, "worker", index)
                references.append(
                    actor.evaluate.remote(*what, domains, own, epsilon=epsilon, seed=worker_seed)
                )
        return references

    def evaluate(
        self,
        policy: Policy | None,
        perception: Perception | None,
        domains: Sequence[Domain],
        episodes: int,
        *,
        epsilon: float,
        seed: int,
    ) -> list[Episode]:
        """Plays exactly `episodes` episodes, spread evenly over all environments.

        The layouts follow from `seed`, `domains`, `episodes` and the Ray settings, never from the
        policy.

        Args:
            policy: what acts; None is the uniform random policy.
            perception: what it sees through; None for the random policy.
            domains: each episode draws one uniformly.
            episodes: number of episodes, at least 1.
            epsilon: share of random actions, in [0, 1].
            seed: seed of layouts and of random actions.

        Returns:
            The episodes, in an order that does not depend on timing.

        Raises:
            FingerprintError: the policy was trained on another perception.
        """
        parts = collect(
            self.launch_evaluation(
                policy, perception, domains, episodes, epsilon=epsilon, seed=seed
            )
        )
        return [episode for part in parts for episode in part]
