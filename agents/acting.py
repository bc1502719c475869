"""Acting: the one way in which training, evaluation, scoring and replays let a policy play.

`play_episodes` plays in one process; `agents.worker.WorkerPool.evaluate` spreads it over Ray
actors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv

from agents.cells import Cell
from agents.networks import QNetwork
from agents.seeding import numpy_generator
from darla.errors import ConfigError, CorruptFileError, FingerprintError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import load_tensors, save_tensors

if TYPE_CHECKING:
    from darla.perception import Perception

POLICY_FILE = "policy.safetensors"


class Policy:
    """Epsilon-greedy on action values.

    Args:
        network: gives action values.
        perception_fingerprint: fingerprint of the perception that it was trained on.
    """

    def __init__(self, network: QNetwork, perception_fingerprint: str) -> None:
        self.network = network
        self.perception_fingerprint = perception_fingerprint

    def act(self, latents: np.ndarray, *, epsilon: float, rng: np.random.Generator) -> np.ndarray:
        """Chooses one action per row.

        The generator advances equally whatever epsilon is, so that paired comparisons stay paired.

        Args:
            latents: float32 [B, D], or uint8 [B, H, W, C] for a policy on frames.
            epsilon: share of uniformly random actions, in [0, 1].
            rng: source of the exploration.

        Returns:
            Actions, int64 [B].
        """
        explore = rng.random(len(latents)) < epsilon
        actions = rng.integers(self.network.actions, size=len(latents))
        if not explore.all():
            with torch.inference_mode():
                greedy = self.network(torch.from_numpy(latents)).argmax(1).numpy()
            actions = np.where(explore, actions, greedy)
        return actions

    def check(self, perception: Perception) -> None:
        """Refuses a perception that the policy was not trained on.

        Raises:
            FingerprintError: the fingerprints differ.
        """
        if perception.fingerprint != self.perception_fingerprint:
            raise FingerprintError(
                f"this policy was trained on perception {self.perception_fingerprint[:12]}, not on "
                f"'{perception.name}' {perception.fingerprint[:12]}: the vision has "
                "changed since; train anew"
            )


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
    """

    domain: int
    return_: float
    length: int
    env: int
    episode: int
    seed: int


def action_count(vector: VectorEnv) -> int:
    """Returns the number of discrete actions of an environment.

    Raises:
        ConfigError: its actions are not discrete.
    """
    space = vector.single_action_space
    if not isinstance(space, Discrete):
        raise ConfigError(f"this algorithm needs discrete actions, the environment has {space}")
    return int(space.n)


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
) -> list[Episode]:
    """Plays exactly the first episodes of every sub-environment: short ones are not favoured.

    Args:
        policy: what acts; None is the uniform random policy.
        perception: what it sees through; unused by the random policy.
        vector: environments in autoreset mode SAME_STEP; reset first.
        episodes_per_env: episodes of every sub-environment, or of each one.
        epsilon: share of random actions, in [0, 1].
        seed: seed of the layouts and of the random actions.

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
    choices = action_count(vector)
    rng = numpy_generator(seed, "actions")
    frames, info = vector.reset(seed=seed)
    domain = np.array(info["domain"])
    returns, lengths, played = np.zeros(count), np.zeros(count, int), np.zeros(count, int)
    episodes: list[Episode] = []
    while (played < quota).any():
        if policy is None or perception is None:
            actions = rng.integers(choices, size=count)
        else:
            actions = policy.act(observe(perception, frames, info), epsilon=epsilon, rng=rng)
        frames, rewards, terminated, truncated, info = vector.step(actions)
        returns += rewards
        lengths += 1
        ended = terminated | truncated
        for i in np.flatnonzero(ended & (played < quota)):
            numbers = int(domain[i]), float(returns[i]), int(lengths[i]), int(i), int(played[i])
            episodes.append(Episode(*numbers, seed))
        played += ended
        returns[ended], lengths[ended] = 0.0, 0
        domain = np.array(info["domain"])
    return sorted(episodes, key=lambda e: (e.env, e.episode))


def save_policy(run: RunDirectory, cell: Cell, policy: Policy, facts: str) -> None:
    """Writes the final policy of a cell; `facts` is kept beside it as text."""
    network = policy.network
    metadata = {
        "cell": cell.id,
        "perception_fingerprint": policy.perception_fingerprint,
        "shape": " ".join(map(str, network.shape)),
        "actions": str(network.actions),
        "hidden": " ".join(map(str, network.hidden)),
        "facts": facts,
    }
    save_tensors(run.agent(cell.id) / POLICY_FILE, {"weights": network.parameters_vector}, metadata)


def load_policy(run: RunDirectory, cell: Cell) -> Policy:
    """Reads the final policy of a cell.

    Raises:
        MissingFileError: the cell is not trained to its end.
        CorruptFileError: the file is damaged.
    """
    path = run.agent(cell.id) / POLICY_FILE
    if not path.exists():
        raise MissingFileError(f"{cell.id} is not trained yet: there is no '{path}'")
    tensors, metadata = load_tensors(path)
    try:
        shape = [int(word) for word in metadata["shape"].split()]
        hidden = [int(word) for word in metadata["hidden"].split()]
        network = QNetwork(shape, int(metadata["actions"]), hidden)
        network.load_weights(tensors["weights"])
        return Policy(network, metadata["perception_fingerprint"])
    except (KeyError, ValueError) as error:
        raise CorruptFileError(f"'{path}' is not a policy: {error}") from error
