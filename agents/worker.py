"""Workers: Ray actors that each step a vector of environments, encode in batches and act."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from agents.acting import Episode, Game, observe, observe_final, play_together
from agents.policy import Actions, Policy
from agents.replay import Steps
from agents.seeding import derive, numpy_generator
from darla.devices import release_memory
from envs.domains import Domain
from envs.single import SEEDS

if TYPE_CHECKING:
    from darla.perception import Perception

#: Decisions after which memory is given back to the system: some 10 ms each time.
RELEASE_EVERY = 4_000
#: `factory(domains, num_envs, seed=..., render=...)`, with the contract of `envs.make_vector`.
EnvironmentFactory = Callable[..., VectorEnv]


class WorkerState(NamedTuple):
    """Where a worker's training stands: enough to go on from, in another process.

    Attributes:
        arrays: observations, returns so far, the policy's memory and the environments' state.
        rng: state of the generator of exploration, as JSON values.
    """

    arrays: dict[str, np.ndarray]
    rng: Mapping[str, Any]


class Rollout(NamedTuple):
    """T consecutive decisions in each of B environments, with what surrounds them.

    Attributes:
        steps: the decisions.
        memory: memory of the policy before the first of them, float32 [B, memory_size].
        observations: what the next decision is taken on, [B, *shape].
    """

    steps: Steps
    memory: np.ndarray
    observations: np.ndarray


class Digest(Protocol):
    """Makes of a rollout, in the worker, what the learner needs: a gradient instead of steps."""

    def __call__(self, policy: Policy, rollout: Rollout, rng: np.random.Generator) -> Any:
        """Returns what is sent; `policy` is the worker's own copy."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Returns what it keeps from one rollout to the next; saved with a checkpoint."""
        ...

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Continues from what `state` returned."""
        ...


class Chunk(NamedTuple):
    """What a worker sends.

    Attributes:
        content: T steps of its B environments, or what a digest made of them.
        decisions: T * B.
        returns: returns of the episodes that ended in them.
        state: the worker's state after them.
        parted: whether all its episodes began with these steps, and those of the chunk before never
            ended: its environments could not go on from where they were.
    """

    content: Any
    decisions: int
    returns: list[float]
    state: WorkerState
    parted: bool = False


class NotBegunError(RuntimeError):
    """A worker was asked to go on with what it knows nothing of: Ray has started it again."""


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
        self._vector: VectorEnv | None = None
        self._policy: Policy | None = None
        self._parted = False
        self._unreleased = 0

    def begin(
        self, perception: Perception, domains: Sequence[Domain], num_envs: int, seed: int
    ) -> Actions:
        """Makes the training environments and starts an episode in each.

        Args:
            perception: what policies see through.
            domains: each episode draws one uniformly.
            num_envs: number of environments B.
            seed: seed of layouts and of exploration.

        Returns:
            What can be done.

        Raises:
            ConfigError: the environment's actions are continuous.
        """
        self._perception = perception
        render = perception.needs == "frames"
        vector = self._factory(domains, num_envs, seed=derive(seed, "layouts"), render=render)
        self._rng = numpy_generator(seed, "exploration")
        frames, info = vector.reset(seed=derive(seed, "layouts"))
        self._observations = observe(perception, frames, info)
        self._returns = np.zeros(num_envs)
        self._vector, self._policy, self._parted = vector, None, False
        return Actions.of(vector.single_action_space)

    def adopt(self, policy: Policy, digest: Digest | None = None) -> None:
        """Takes a copy of a policy to act with, and what to make of rollouts.

        Raises:
            NotBegunError: no training has begun here.
        """
        self._digest = digest
        self._memory = policy.start(self._begun().num_envs)
        self._policy = policy

    def sample(self, message: Any, epsilons: np.ndarray) -> Chunk:
        """Updates its policy and steps all training environments once per entry of `epsilons`.

        Raises:
            NotBegunError: no training has begun here.
        """
        vector, policy = self._begun(), self._adopted()
        policy.update(message)
        size = (len(epsilons), vector.num_envs)
        observations = np.empty((*size, *self._observations.shape[1:]), self._observations.dtype)
        actions: list[np.ndarray] = []
        rewards = np.empty(size, np.float32)
        terminated, truncated = np.empty(size, bool), np.empty(size, bool)
        finals = [observations[0, :0]]
        returns: list[float] = []
        memory = self._memory
        for t, epsilon in enumerate(epsilons):
            observations[t] = self._observations
            chosen, self._memory = policy.act(
                self._observations, self._memory, epsilon=epsilon, rng=self._rng
            )
            actions.append(chosen)
            frames, rewards[t], terminated[t], cut, info = vector.step(chosen)
            truncated[t] = cut & ~terminated[t]
            if truncated[t].any():
                finals.append(observe_final(self._perception, info, truncated[t]))
            self._observations = observe(self._perception, frames, info)
            self._returns += rewards[t]
            ended = terminated[t] | truncated[t]
            returns += self._returns[ended].tolist()
            self._returns[ended] = 0.0
            if policy.memory_size and ended.any():
                self._memory = np.where(ended[:, None], np.float32(0), self._memory)
        steps = Steps(
            observations, np.stack(actions), rewards, terminated, truncated, np.concatenate(finals)
        )
        content: Any = steps
        if self._digest is not None:
            rollout = Rollout(steps, memory, self._observations)
            content = self._digest(policy, rollout, self._rng)
        self._unreleased += rewards.size
        if self._unreleased >= RELEASE_EVERY:
            release_memory()
            self._unreleased = 0
        parted, self._parted = self._parted, False
        return Chunk(content, rewards.size, returns, self.state(), parted)

    def evaluate(
        self,
        policy: Policy | None,
        perception: Perception | None,
        exams: Sequence[tuple[Sequence[Domain], Sequence[int], int]],
        *,
        epsilon: float,
    ) -> list[list[Episode]]:
        """Plays exams side by side, without touching the training's state.

        Args:
            policy: what acts; None is the uniform random policy.
            perception: what it sees through; None for the random policy.
            exams: of each the domains, of which each episode draws one; the episodes of each
                environment; and the seed of layouts and random actions.
            epsilon: share of random actions, in [0, 1].

        Returns:
            The episodes of each exam; see `agents.acting.play_episodes`.
        """
        render = policy is not None and perception is not None and perception.needs == "frames"
        games, taken = [], Counter[tuple]()
        for domains, quota, seed in exams:
            kind = (tuple(domains), len(quota), render)
            key = (*kind, taken[kind])
            taken[kind] += 1
            if key not in self._vectors:
                self._vectors[key] = self._factory(domains, len(quota), seed=seed, render=render)
            games.append(Game(self._vectors[key], quota, seed))
        play_together(policy, perception, games, epsilon=epsilon)
        release_memory()
        return [game.finished for game in games]

    def state(self) -> WorkerState:
        """Returns where the training stands.

        Raises:
            NotBegunError: no training has begun here.
        """
        vector = self._begun()
        arrays = {
            "observations": self._observations,
            "returns": self._returns.copy(),
            "memory": self._memory,
        }
        if hasattr(vector, "state_dict"):
            arrays |= {f"env.{name}": array for name, array in vector.state_dict().items()}
        return WorkerState(arrays, self._rng.bit_generator.state)

    def digest_state(self) -> dict[str, np.ndarray]:
        """Returns what the digest keeps.

        Raises:
            NotBegunError: no training has begun here.
        """
        self._adopted()
        return {} if self._digest is None else self._digest.state()

    def load(self, state: WorkerState, digest_state: dict[str, np.ndarray] | None = None) -> None:
        """Continues from what `state` returned, after `begin` and `adopt`.

        Environments that cannot restore their state start new episodes instead, on a seed that
        follows from the state: the next chunk says so, and what the digest kept of the old ones is
        dropped.

        Raises:
            NotBegunError: no training has begun here.
        """
        vector, _ = self._begun(), self._adopted()
        arrays, self._rng.bit_generator.state = state
        inner = {name[4:]: array for name, array in arrays.items() if name.startswith("env.")}
        self._parted = not inner
        if not inner:
            # With the seed of `begin`, the training would see its first layouts again each time.
            frames, info = vector.reset(seed=int(self._rng.integers(SEEDS)))
            self._observations = observe(self._perception, frames, info)
            return
        # Ray's arrays are read-only.
        vector.load_state_dict({k: v.copy() for k, v in inner.items()})  # type: ignore[attr-defined]
        self._observations = arrays["observations"].copy()
        self._returns = arrays["returns"].copy()
        self._memory = arrays["memory"].copy()
        if digest_state and self._digest is not None:
            self._digest.load(digest_state)

    def _begun(self) -> VectorEnv:
        """Returns the training environments."""
        if self._vector is None:
            raise NotBegunError("no training has begun here")
        return self._vector

    def _adopted(self) -> Policy:
        """Returns the policy that acts in training."""
        if self._policy is None:
            raise NotBegunError("no policy has been adopted here")
        return self._policy

    # What `ray.rllib.utils.actor_manager.FaultTolerantActorManager` asks of an actor.

    def ping(self) -> str:
        """Says that the worker lives."""
        return "pong"

    def apply(self, func: Callable[..., Any], **options: Any) -> Any:
        """Calls a function with this worker."""
        return func(self, **options)


def call(worker: Worker, *, method: str, **options: Any) -> Any:
    """Calls a method of a worker by name."""
    return getattr(worker, method)(**options)
