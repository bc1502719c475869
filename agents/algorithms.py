"""The algorithms by name, and the files of their finished policies."""

from __future__ import annotations

import json

from agents.a3c import A3CPolicy, A3CTrainer
from agents.cells import Cell
from agents.dqn import DQNTrainer, QPolicy
from agents.episodic_control import EpisodicPolicy, EpisodicTrainer
from agents.policy import Actions, Policy
from agents.trainer import Trainer
from agents.unreal import UnrealPolicy, UnrealTrainer
from darla.errors import CorruptFileError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import load_tensors, save_tensors

POLICY_FILE = "policy.safetensors"

TRAINERS: dict[str, type[Trainer]] = {
    "dqn": DQNTrainer,
    "a3c": A3CTrainer,
    "unreal": UnrealTrainer,
    "ec": EpisodicTrainer,
}
POLICIES: dict[str, type[Policy]] = {
    policy.algorithm: policy for policy in (QPolicy, A3CPolicy, UnrealPolicy, EpisodicPolicy)
}


def save_policy(run: RunDirectory, cell: Cell, policy: Policy, facts: str) -> None:
    """Writes the final policy of a cell; `facts` is kept beside it as text."""
    metadata = {
        "cell": cell.id,
        "algorithm": policy.algorithm,
        "perception_fingerprint": policy.perception_fingerprint,
        "choices": json.dumps(policy.actions.choices),
        "vector": json.dumps(policy.actions.vector),
        "settings": json.dumps(policy.settings()),
        "facts": facts,
    }
    save_tensors(run.agent(cell.id) / POLICY_FILE, dict(policy.tensors()), metadata)


def is_trained(run: RunDirectory, cell: Cell) -> bool:
    """Whether a cell is trained to its end."""
    return (run.agent(cell.id) / POLICY_FILE).exists()


def load_policy(run: RunDirectory, cell: Cell) -> Policy:
    """Reads the final policy of a cell.

    Raises:
        MissingFileError: the cell is not trained to its end.
        CorruptFileError: the file is damaged.
    """
    path = run.agent(cell.id) / POLICY_FILE
    if not is_trained(run, cell):
        raise MissingFileError(f"{cell.id} is not trained yet: there is no '{path}'")
    tensors, metadata = load_tensors(path)
    try:
        return POLICIES[metadata["algorithm"]].restore(
            Actions(tuple(json.loads(metadata["choices"])), json.loads(metadata["vector"])),
            metadata["perception_fingerprint"],
            json.loads(metadata["settings"]),
            tensors,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"'{path}' is not a policy: {error}") from error
