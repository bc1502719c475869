"""Acting: the one way in which training, evaluation, scoring and replays let a policy play.

`play_episodes` plays in one process; `agents.pool.WorkerPool.evaluate` spreads it over Ray
actors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from agents.policy import Actions, Policy
from agents.seeding import derive, numpy_generator

if TYPE_CHECKING:
    from darla.perception import Perception


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


def observe(
    perception: Perception,
    frames: np.ndarray,
    info: dict[str, Any],
    which: np.ndarray | None = None,
) -> np.ndarray:
    """Encodes what a vector environment returned.

    Args:
        perception: what the policy sees through.
        frames: uint8 [B, H, W, 3].
        info: with the ground truth `state`, float32 [B, S].
        which: bool [B], the environments that matter, at least one; None: all.

    Returns:
        Observations for a policy, [B, *perception.shape]; zeros for environments left out.
    """
    rows = slice(None) if which is None or which.all() else which
    if perception.needs == "state":
        encoded = perception.encode(None, info["state"][rows])
    else:
        encoded = perception.encode(frames[rows], None)
    if len(encoded) == len(frames):
        return encoded
    observations = np.zeros((len(frames), *encoded.shape[1:]), encoded.dtype)
    observations[rows] = encoded
    return observations


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
    if policy is not None:
        if perception is None:
            raise ValueError("a policy needs the perception that it was trained on")
        policy.check(perception)
    count = vector.num_envs
    quota = np.broadcast_to(np.asarray(episodes_per_env), count)
    choices = Actions.of(vector.single_action_space)
    rng = numpy_generator(seed, "actions")
    memory = np.zeros((count, 0), np.float32) if policy is None else policy.start(count)
    frames, info = vector.reset(seed=seed)
    domain = np.array(info["domain"])
    returns, lengths, played = np.zeros(count), np.zeros(count, int), np.zeros(count, int)
    reached = np.zeros(count, bool) if "success" in info else None
    episodes: list[Episode] = []
    retire = getattr(vector, "retire", None)
    while (active := played < quota).any():
        if retire is not None:
            retire(~active)
        seen, before, observations = frames, memory, None
        if policy is None or perception is None:
            actions = choices.sample(rng, count)
        else:
            observations = observe(perception, frames, info, active)
            actions, memory = policy.act(observations, memory, epsilon=epsilon, rng=rng)
        frames, rewards, terminated, truncated, info = vector.step(actions)
        if watch is not None:
            watch(Decision(seen, observations, before, actions, rewards, played))
        returns += rewards
        lengths += 1
        ended = terminated | truncated
        if reached is not None:
            last = info["final_info"]["success"] if ended.any() else ended
            reached |= np.where(ended, last, info["success"])
        for i in np.flatnonzero(ended & (played < quota)):
            numbers = int(domain[i]), float(returns[i]), int(lengths[i]), int(i), int(played[i])
            success = None if reached is None else bool(reached[i])
            episodes.append(Episode(*numbers, seed, success))
        played += ended
        if reached is not None:
            reached &= ~ended
        returns[ended], lengths[ended], memory = (
            0.0,
            0,
            np.where(ended[:, None], np.float32(0), memory),
        )
        domain = np.array(info["domain"])
    return sorted(episodes, key=lambda e: (e.env, e.episode))
