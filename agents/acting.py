"""Acting: the one way in which training, evaluation, scoring and replays let a policy play.

`play_episodes` and `play_together` play in one process; `agents.pool.WorkerPool.evaluate` spreads
that over Ray actors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from agents.policy import Actions, Policy
from agents.seeding import derive, numpy_generator
from darla.errors import ConfigError, DarlaError

if TYPE_CHECKING:
    from darla.perception import Perception

#: Decisions after which an episode counts as one that never ends.
LONGEST = 100_000


@dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
        domain: index into the domains that the vector environment draws from.
        return_: undiscounted sum of rewards.
        length: decisions.
        env: index of the sub-environment.
        episode: number of the episode in its sub-environment, from 0.
        seed: seed of the vector environment; with `env` and `episode` it names the layout.
        success: whether the goal was reached after any of its decisions; None where the world
            reports no `success`.
    """

    domain: int
    return_: float
    length: int
    env: int
    episode: int
    seed: int
    success: bool | None = None


class Decision(NamedTuple):
    """One decision in each of B environments, for who watches.

    Attributes:
        frames: what the decisions were taken on, uint8 [B, H, W, 3].
        observations: what the perception made of it, [B, *shape]; None for the random policy.
        memory: the policy's memory before, float32 [B, memory_size].
        actions: int64 [B] or [B, J].
        rewards: float64 [B].
        played: number of each environment's episode, from 0, int64 [B].
    """

    frames: np.ndarray
    observations: np.ndarray | None
    memory: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    played: np.ndarray


def spread(
    episodes: int, workers: int, envs_per_worker: int, seed: int
) -> list[tuple[int, list[int]]]:
    """How an evaluation is spread evenly over the environments of workers.

    Returns:
        Per worker, its seed and the number of episodes of each of its environments, at least 1;
        both are what `play_episodes` takes. The list of environments may be empty.
    """
    count = min(episodes, workers * envs_per_worker)
    quota = [episodes // count + (i < episodes % count) for i in range(count)]
    return [(derive(seed, "worker", index), quota[index::workers]) for index in range(workers)]


def observe(perception: Perception, frames: np.ndarray, info: dict[str, Any]) -> np.ndarray:
    """Encodes what a vector environment returned.

    Args:
        perception: what the policy sees through.
        frames: uint8 [B, H, W, 3].
        info: with the ground truth `state`, float32 [B, S].

    Returns:
        Observations for a policy, [B, *perception.shape].
    """
    if perception.needs == "state":
        return perception.encode(None, info["state"])
    return perception.encode(frames, None)


def observe_final(perception: Perception, info: dict[str, Any], ended: np.ndarray) -> np.ndarray:
    """Encodes the last observations of the episodes that ended in this step.

    Args:
        perception: what the policy sees through.
        info: with `final_obs` and `final_info`, as in Gymnasium's autoreset mode SAME_STEP.
        ended: bool [B], the environments to encode, at least one.

    Returns:
        Observations, [number of True in `ended`, *perception.shape].
    """
    if perception.needs == "state":
        return perception.encode(None, info["final_info"]["state"][ended])
    return perception.encode(np.stack([info["final_obs"][i] for i in np.flatnonzero(ended)]), None)


def play_episodes(
    policy: Policy | None,
    perception: Perception | None,
    vector: VectorEnv,
    episodes_per_env: int | Sequence[int],
    *,
    epsilon: float,
    seed: int,
    watch: Callable[[Decision], None] | None = None,
) -> list[Episode]:
    """Plays exactly the first episodes of every sub-environment: short ones are not favoured.

    A sub-environment that has played its episodes retires, if the vector lets it (see
    `envs.make_vector`), and is not encoded any more.

    Args:
        policy: what acts; None is the uniform random policy.
        perception: what it sees through; unused by the random policy.
        vector: environments in autoreset mode SAME_STEP; reset first.
        episodes_per_env: episodes of every sub-environment, or of each one.
        epsilon: share of random actions, in [0, 1].
        seed: seed of the layouts and of the random actions.
        watch: called with every decision; it must copy what it keeps.

    Returns:
        The episodes, by sub-environment, then in the order played.

    Raises:
        FingerprintError: the policy was trained on another perception.
    """
    quota = np.broadcast_to(np.asarray(episodes_per_env), vector.num_envs)
    game = Game(vector, quota, seed, watch)
    play_together(policy, perception, [game], epsilon=epsilon)
    return game.finished


class Game:
    """Episodes to play in one vector environment, and what was played of them.

    Args:
        vector: environments in autoreset mode SAME_STEP; reset by `begin`.
        quota: episodes of each sub-environment, int [B].
        seed: seed of the layouts and of the random actions.
        watch: called with every decision; it must copy what it keeps.

    Attributes:
        frames: what is seen now, uint8 [B, H, W, 3].
        info: what the vector tells beside it.
        finished: the episodes, by sub-environment, then in the order played.
    """

    def __init__(
        self,
        vector: VectorEnv,
        quota: np.ndarray | Sequence[int],
        seed: int,
        watch: Callable[[Decision], None] | None = None,
    ) -> None:
        self._vector, self._quota, self._seed, self._watch = vector, np.asarray(quota), seed, watch
        self._retire = getattr(vector, "retire", None)
        self._episodes: list[Episode] = []

    @property
    def active(self) -> np.ndarray:
        """Which sub-environments have episodes left, bool [B]."""
        return self._played < self._quota

    @property
    def finished(self) -> list[Episode]:
        """The episodes, by sub-environment, then in the order played.

        Where the vector ever told of a success, every episode did or did not have one.
        """
        episodes = sorted(self._episodes, key=lambda e: (e.env, e.episode))
        return episodes if self._told else [replace(each, success=None) for each in episodes]

    def begin(self, policy: Policy | None) -> None:
        """Starts an episode in every sub-environment.

        Raises:
            ConfigError: the policy was trained with other actions.
        """
        count = self._vector.num_envs
        self._policy = policy
        self._choices = Actions.of(self._vector.single_action_space)
        if policy is not None and policy.actions != self._choices:
            raise ConfigError(
                f"the policy has {policy.actions} and the environment it is to act in "
                f"{self._choices}; a policy acts where the actions are those of its training"
            )
        self._rng = numpy_generator(self._seed, "actions")
        self._memory = np.zeros((count, 0), np.float32) if policy is None else policy.start(count)
        self.frames, self.info = self._vector.reset(seed=self._seed)
        self._domain = np.array(self.info["domain"])
        self._returns, self._lengths = np.zeros(count), np.zeros(count, int)
        self._played = np.zeros(count, int)
        self._reached, self._told = np.zeros(count, bool), "success" in self.info

    def step(self, observations: np.ndarray | None, epsilon: float) -> None:
        """Takes one decision in every sub-environment that is active.

        Args:
            observations: what the policy sees, [B, *shape]; None for the random policy.
            epsilon: share of random actions, in [0, 1].
        """
        if self._retire is not None:
            self._retire(~self.active)
        seen, before = self.frames, self._memory
        if self._policy is None or observations is None:
            actions = self._choices.sample(self._rng, len(before))
        else:
            actions, self._memory = self._policy.act(
                observations, before, epsilon=epsilon, rng=self._rng
            )
        self.frames, rewards, terminated, truncated, self.info = self._vector.step(actions)
        if self._watch is not None:
            self._watch(Decision(seen, observations, before, actions, rewards, self._played))
        self._count(rewards, terminated | truncated)

    def _count(self, rewards: np.ndarray, ended: np.ndarray) -> None:
        self._returns += rewards
        self._lengths += 1
        if self._lengths[self.active].max(initial=0) > LONGEST:
            raise DarlaError(
                f"an episode has lasted {LONGEST:,} decisions and does not end; give the "
                "environment an end, for instance with gymnasium.wrappers.TimeLimit"
            )
        last = self.info.get("final_info", {})
        self._told = self._told or "success" in self.info or "success" in last
        now, then = (np.asarray(info.get("success", False), bool) for info in (self.info, last))
        self._reached |= np.where(ended, then, now)
        for i in np.flatnonzero(ended & self.active).tolist():
            self._episodes.append(
                Episode(
                    domain=int(self._domain[i]),
                    return_=float(self._returns[i]),
                    length=int(self._lengths[i]),
                    env=i,
                    episode=int(self._played[i]),
                    seed=self._seed,
                    success=bool(self._reached[i]),
                )
            )
        self._played += ended
        self._reached &= ~ended
        self._returns[ended], self._lengths[ended] = 0.0, 0
        self._memory = np.where(ended[:, None], np.float32(0), self._memory)
        self._domain = np.array(self.info["domain"])


def play_together(
    policy: Policy | None,
    perception: Perception | None,
    games: Sequence[Game],
    *,
    epsilon: float,
) -> None:
    """Plays games to their ends, decision by decision, and encodes what all of them see at once.

    Each takes the course that it would take alone.

    Args:
        policy: what acts; None is the uniform random policy.
        perception: what it sees through; unused by the random policy.
        games: what to play.
        epsilon: share of random actions, in [0, 1].

    Raises:
        FingerprintError: the policy was trained on another perception.
    """
    if policy is not None:
        if perception is None:
            raise ValueError("a policy needs the perception that it was trained on")
        policy.check(perception)
    for game in games:
        game.begin(policy)
    while running := [game for game in games if game.active.any()]:
        observations: list[Any] = [None] * len(running)
        if policy is not None and perception is not None:
            observations = _observe_all(perception, running)
        for game, seen in zip(running, observations, strict=True):
            game.step(seen, epsilon)


def _observe_all(perception: Perception, games: Sequence[Game]) -> list[np.ndarray]:
    """Encodes what the active environments of games see; the others get zeros."""
    active = [game.active for game in games]
    if perception.needs == "state":
        states = [game.info["state"][which] for game, which in zip(games, active, strict=True)]
        encoded = perception.encode(None, np.concatenate(states))
    else:
        frames = [game.frames[which] for game, which in zip(games, active, strict=True)]
        encoded = perception.encode(np.concatenate(frames), None)
    ends = np.cumsum([which.sum() for which in active])
    observations = []
    for which, own in zip(active, np.split(encoded, ends[:-1]), strict=True):
        observations.append(np.zeros((len(which), *own.shape[1:]), own.dtype))
        observations[-1][which] = own
    return observations
