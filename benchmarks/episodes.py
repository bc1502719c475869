"""Recorded episodes, in files that any viewer can read (docs/replay.md describes the format).

A recording is an episode as `benchmarks.transfer` scores it, played again: layout and random
actions are the same, so that the same policy does the same in it, but for the rounding of batches.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.acting import Decision, play_episodes, spread
from agents.algorithms import POLICY_FILE, load_policy
from agents.cells import Cell, perception_of
from agents.policy import Actions, Policy
from benchmarks.scores import UNFINISHED, Score
from benchmarks.transfer import exams_of
from darla.config import Config
from darla.devices import torch_threads
from darla.errors import CorruptFileError, DomainError, RunDirectoryError
from darla.perception import Perception
from darla.rundir import RunDirectory
from darla.storage import read_bytes, read_json, sha256_file, write_bytes, write_json
from darla.vision.pictures import load_decoder
from envs import make_vector
from envs.domains import Domain, Suite, Value

FORMAT: Literal["darla-episode"] = "darla-episode"
VERSION = 1
ARRAYS = {
    "frames": ("uint8", 4),
    "actions": ("int64", 2),
    "rewards": ("float64", 1),
    "returns": ("float64", 1),
}
"""The dtype and the number of dimensions of the arrays that every recording has."""
OPTIONAL_ARRAYS = {
    "reconstructions": ("uint8", 4),
    "latents": ("float32", 2),
    "preferences": ("float32", 2),
}


class Outcome(BaseModel):
    """Return and length of an episode, as the table of scores has them."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    return_: float = Field(alias="return")
    length: int


class Facts(BaseModel):
    """What the JSON file of a recording says.

    Attributes:
        format: Always 'darla-episode'.
        version: Of the format.
        run: Name of the run.
        suite: Name of the suite.
        domain: Id of the domain.
        tags: The suite's tags of the domain.
        factors: Value of every factor.
        about: What every factor means, with its unit.
        algorithm: Of the cell.
        perception: Of the cell.
        seed: Training seed of the cell.
        perception_fingerprint: Identifies what the policy sees through.
        policy_sha256: SHA-256 of the policy's file.
        epsilon: Share of random actions.
        transfer_seed: Seed of the scoring that the episode is of.
        episode: Number of the episode in that scoring, within cell and domain, from 0.
        layout_seed: (seed, environment, episode): what the layout was drawn from.
        outcome: Return and length.
        scored: Return and length of this episode in `scores.jsonl`; None where it is not there.
        fps: Decisions per second; None where the world does not say.
        choices: Number of options of every choice in one action.
        options: Name of every option, over all choices.
        preference: What `preferences` holds, 'action value' or 'probability'.
        sha256: SHA-256 of the file of arrays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["darla-episode"] = FORMAT
    version: int = VERSION
    run: str
    suite: str
    domain: str
    tags: tuple[str, ...]
    factors: dict[str, Value]
    about: dict[str, str]
    algorithm: str
    perception: str
    seed: int
    perception_fingerprint: str
    policy_sha256: str
    epsilon: float
    transfer_seed: int
    episode: int
    layout_seed: tuple[int, int, int]
    outcome: Outcome
    scored: Outcome | None
    fps: float | None
    choices: tuple[int, ...]
    options: tuple[str, ...]
    preference: Literal["action value", "probability"]
    sha256: str = ""


@dataclass(frozen=True)
class Recording:
    """One episode of T decisions.

    Attributes:
        facts: What it is.
        arrays: By name; `frames` uint8 [T, H, W, 3], what each decision was taken on; `actions`
            int64 [T, J], one column per choice; `rewards` and `returns` float64 [T], what each
            decision gave, and the sum up to it. Where they make sense also `reconstructions` uint8
            [T, H, W, 3], what the vision makes of the frames; `latents` float32 [T, D], what the
            policy saw; and `preferences` float32 [T, K], the value or probability of each option.
    """

    facts: Facts
    arrays: Mapping[str, np.ndarray]


def record(
    run: RunDirectory,
    suite: Suite,
    cell: Cell,
    domain: Domain,
    episode: int,
    *,
    scores: Sequence[Score],
    seed: int | None = None,
) -> Recording:
    """Plays one of the episodes that a cell is scored on, and keeps what happens.

    Args:
        run: Holds the trained policy and vision.
        suite: What the cell is scored on, the run's own suite or another one.
        cell: Who plays.
        domain: Where.
        episode: Number of the episode within cell and domain, as in `scores.jsonl`.
        scores: The run's scores.
        seed: Another seed of layouts and random actions than `transfer.seed`: an episode of a
            scoring that did not take place.

    Raises:
        DomainError: The scoring has fewer episodes in this domain.
        MissingFileError: The cell, or the vision, is not trained yet.
        CorruptFileError: A file of them is damaged.
    """
    config = run.config
    seed = config.transfer.seed if seed is None else seed
    own_seed, quota, env, number = _place(config, suite, domain, episode, seed)
    policy = load_policy(run, cell)
    perception = perception_of(run, cell.perception, cell.seed)
    vector = make_vector(config.environment, [domain], len(quota), seed=own_seed)
    watcher = _Watcher(policy, env, number)
    until_then = [number + 1 if index == env else 0 for index in range(len(quota))]
    with torch_threads(1):  # as in a worker, so that all numbers are the same
        *_, played = play_episodes(
            policy,
            perception,
            vector,
            until_then,
            epsilon=config.transfer.epsilon,
            seed=own_seed,
            watch=watcher,
        )
    actions = Actions.of(vector.single_action_space)
    layout_seed = (own_seed, env, number)
    scored = next(
        (
            Outcome(return_=score.value, length=score.length)
            for score in scores_in(scores, suite, cell, domain)
            if score.episode == episode and score.layout_seed == layout_seed
        ),
        None,
    )
    facts = Facts(
        run=config.name,
        suite=suite.name,
        domain=domain.id,
        tags=suite.tags(domain),
        factors=domain.factors,
        about={factor.name: factor.about for factor in suite.world.factors},
        algorithm=cell.algorithm,
        perception=cell.perception,
        seed=cell.seed,
        perception_fingerprint=perception.fingerprint,
        policy_sha256=sha256_file(run.agent(cell.id) / POLICY_FILE),
        epsilon=config.transfer.epsilon,
        transfer_seed=seed,
        episode=episode,
        layout_seed=layout_seed,
        outcome=Outcome(return_=played.return_, length=played.length),
        scored=scored,
        fps=vector.metadata.get("render_fps"),
        choices=actions.choices,
        options=getattr(vector, "action_names", _numbered(actions)),
        preference=policy.preference,
    )
    return Recording(facts, _arrays(run, perception, watcher.columns))


def scores_in(scores: Sequence[Score], suite: Suite, cell: Cell, domain: Domain) -> list[Score]:
    """Returns the scores of a cell in a domain of a suite, without those of unfinished training."""
    return [
        score
        for score in scores
        if score.cell == cell
        and score.domain == domain.id
        and (score.split == "source" or score.suite == suite.name)
        and UNFINISHED not in score.tags
    ]


def save_recording(path: Path, recording: Recording) -> None:
    """Writes `path`, which ends in `.json`, after a file of the arrays beside it, `.npz`.

    Raises:
        RunDirectoryError: No permission, no space, or a part of the path is not a folder.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **recording.arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    write_bytes(path.with_suffix(".npz"), data)
    sealed = recording.facts.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    write_json(path, sealed.model_dump(mode="json", by_alias=True))


def load_recording(path: Path) -> Recording:
    """Reads what `save_recording` wrote, and verifies it.

    Raises:
        MissingFileError: One of the two files is not there.
        CorruptFileError: One is truncated, altered, or something else.
        RunDirectoryError: It is of a newer version of the format, or cannot be read.
    """
    facts = _read_facts(path)
    arrays_path = path.with_suffix(".npz")
    data = read_bytes(arrays_path)
    if hashlib.sha256(data).hexdigest() != facts.sha256:
        raise CorruptFileError(f"'{arrays_path}' is truncated, or not the one of '{path}'")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise CorruptFileError(f"'{arrays_path}' is no file of arrays ({error})") from error
    wrong = _wrong_arrays(facts, arrays)
    if wrong:
        raise CorruptFileError(f"'{arrays_path}': {wrong}")
    return Recording(facts, arrays)


def recording_path(run: RunDirectory, facts: Facts) -> Path:
    """Returns where a run keeps a recording: `replay/<cell>/<domain>-e<episode>.json`."""
    cell = Cell(facts.algorithm, facts.perception, facts.seed)
    words = [re.sub(r"[^\w.=-]+", "-", facts.domain)]
    if facts.suite != run.config.suite:
        words.append(re.sub(r"[^\w.=-]+", "-", facts.suite))
    if facts.transfer_seed != run.config.transfer.seed:
        words.append(f"seed{facts.transfer_seed}")
    words.append(f"e{facts.episode}")
    return run.path / "replay" / cell.id / f"{'-'.join(words)}.json"


class _Watcher:
    """Keeps what happens in one episode of one environment.

    Args:
        policy: Who plays.
        env: Index of the environment.
        number: Number of the episode in it.
    """

    def __init__(self, policy: Policy, env: int, number: int) -> None:
        self.policy, self.env, self.number = policy, env, number
        self.columns: dict[str, list[Any]] = {
            name: [] for name in ("frames", "observations", "preferences", "actions", "rewards")
        }

    def __call__(self, decision: Decision) -> None:
        i = self.env
        if decision.played[i] != self.number:
            return
        assert decision.observations is not None, "only a policy is recorded"
        own = decision.observations[[i]]
        row = {
            "frames": decision.frames[i].copy(),
            "observations": own[0],
            "preferences": self.policy.preferences(own, decision.memory[[i]])[0],
            "actions": np.atleast_1d(decision.actions[i]),
            "rewards": float(decision.rewards[i]),
        }
        for name, value in row.items():
            self.columns[name].append(value)


def _arrays(
    run: RunDirectory, perception: Perception, columns: Mapping[str, list[Any]]
) -> dict[str, np.ndarray]:
    arrays = {
        "frames": np.stack(columns["frames"]),
        "actions": np.stack(columns["actions"]).astype(np.int64),
        "rewards": np.array(columns["rewards"]),
        "returns": np.cumsum(columns["rewards"]),
        "preferences": np.stack(columns["preferences"]).astype(np.float32),
    }
    if len(perception.shape) == 1:
        arrays["latents"] = np.stack(columns["observations"])
        decode = load_decoder(perception.name, run)
        if decode is not None:
            arrays["reconstructions"] = decode(arrays["latents"])
    return arrays


def _place(
    config: Config, suite: Suite, domain: Domain, episode: int, seed: int
) -> tuple[int, list[int], int, int]:
    """Returns where in a scoring an episode is.

    That is: the seed of its worker, the episodes of each of that worker's environments, the index
    of its environment among them, and its number there.
    """
    exams = exams_of(suite, config.transfer.episodes)
    count = next((exam.episodes for exam in exams if exam.domain == domain), 1)
    if not 0 <= episode < count:
        raise DomainError(
            f"there is no episode {episode} in '{domain}', which is scored on {count}; "
            f"give --episode from 0 to {count - 1}"
        )
    shares = spread(count, config.ray.workers, config.ray.envs_per_worker, seed)
    places = [
        (own_seed, quota, env, number)
        for own_seed, quota in shares
        for env, episodes in enumerate(quota)
        for number in range(episodes)
    ]
    return places[episode]


def _numbered(actions: Actions) -> tuple[str, ...]:
    """Names of options where the world gives none: their numbers, after that of the choice."""
    if not actions.vector:
        return tuple(str(option) for option in range(actions.choices[0]))
    return tuple(
        f"{choice}: {option}"
        for choice, count in enumerate(actions.choices)
        for option in range(count)
    )


def _read_facts(path: Path) -> Facts:
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CorruptFileError(f"'{path}' is no recorded episode: its format is not '{FORMAT}'")
    version = value.get("version")
    if isinstance(version, int) and version > VERSION:
        raise RunDirectoryError(
            f"'{path}' is of version {version} of the format, newer than the {VERSION} that this "
            "code reads; update the project, or record the episode again with `darla replay`"
        )
    try:
        return Facts.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CorruptFileError(f"'{path}': '{key}': {first['msg'].lower()}") from error


def _wrong_arrays(facts: Facts, arrays: Mapping[str, np.ndarray]) -> str | None:
    """Says what is not as the format wants it."""
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        return f"the array(s) {', '.join(missing)} are missing"
    for name, array in arrays.items():
        if name not in ARRAYS | OPTIONAL_ARRAYS:
            continue
        dtype, dimensions = (ARRAYS | OPTIONAL_ARRAYS)[name]
        if array.dtype != dtype or array.ndim != dimensions:
            return f"'{name}' is {array.dtype} {list(array.shape)}, not {dtype} of {dimensions}-d"
        if len(array) != facts.outcome.length:
            return f"'{name}' has {len(array)} steps, the episode {facts.outcome.length}"
    preferences = arrays.get("preferences")
    if preferences is not None and preferences.shape[1] != len(facts.options):
        return f"'preferences' has {preferences.shape[1]} options, the episode {len(facts.options)}"
    return None
