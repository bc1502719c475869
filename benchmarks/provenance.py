"""Where numbers come from: code, versions, digests, commands, and the episodes to look at."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.algorithms import POLICY_FILE
from benchmarks.scores import UNFINISHED, Score
from benchmarks.sight import scalar
from benchmarks.tiers import tier_of
from darla.progress import duration
from darla.rundir import RunDirectory
from darla.storage import read_json, sha256_file, write_json
from envs.digest import frame_digest
from envs.domains import Suite

FRAME_DIGESTS = "digests.json"


@dataclass(frozen=True)
class Replay:
    """An episode that is worth a look.

    Attributes:
        title: 'worst' or 'best'.
        cell: Id of the cell that played it.
        domain: Id of its domain.
        episode: Its number.
        value: Its return.
        command: What to type for its replay.
        link: Address of the replay relative to the page, or None where there is none yet.
    """

    title: str
    cell: str
    domain: str
    episode: int
    value: float
    command: str
    link: str | None


def commands_of(run: RunDirectory, status: Mapping[str, Any], protocols: Sequence[str] = ()) -> str:
    """What to type for the same run, from a checkout of the project, one command a line.

    Args:
        run: The run.
        status: Its status.
        protocols: Other suites that it was scored on.
    """
    commit = (_code(status) or [{}])[-1].get("commit")
    lines = [f"git checkout {commit}"] if commit else []
    lines += ["make install", ". .venv/bin/activate"]
    again = f"name={run.config.name}-again"
    tier = tier_of(run.config)
    if tier is not None and {run.config.suite, *protocols} == set(tier.protocols):
        world = "" if tier.world == "lab" else f" --world {tier.world}"
        return "\n".join([*lines, f"darla benchmark --tier {tier.name}{world} {again}"])
    config = shlex.quote(str(run.path / "config.yaml"))
    lines.append(f"darla run {config} {again}")
    lines += [f"darla transfer {config} {again} --protocol {_words(name)}" for name in protocols]
    return "\n".join(lines)


def _words(protocol: str) -> str:
    """What to type for a protocol; fresh targets are named PROTOCOL@TAG-DIGEST."""
    name, fresh, drawn = protocol.partition("@")
    return f"{name} --fresh {drawn.rpartition('-')[0]} --salt-file SALT" if fresh else name


def _code(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The commits that worked on a run: at its creation, then on each stage."""
    stages = (status.get("stages") or {}).values()
    used = [status.get("git"), *(git for entry in stages for git in entry.get("code") or [])]
    return [git for git in used if git]


def facts_of(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of code, host, versions and seeds in `run.json`."""
    states = dict.fromkeys((g.get("commit", "unknown"), g.get("changed")) for g in _code(status))
    commits = [
        f"commit {commit}{', with changes that were not committed' if changed else ''}"
        for commit, changed in states
    ]
    code = [("code", "; ".join(commits))] if commits else []
    groups = (
        ("host, ", status.get("host")),
        ("", status.get("versions")),
        ("seed, ", status.get("seeds")),
    )
    return code + [
        (f"{prefix}{name}", scalar(value))
        for prefix, group in groups
        for name, value in (group or {}).items()
    ]


def stages_of(status: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(stage, state, duration) in the order of the run."""
    return [
        (
            stage,
            "finished" if entry.get("finished") else "not finished",
            duration(float(entry.get("seconds", 0.0))),
        )
        for stage, entry in (status.get("stages") or {}).items()
        if stage != "report"  # it cannot be finished before it is written
    ]


def keep_frame_digests(run: RunDirectory, suites: Sequence[Suite]) -> None:
    """Writes the frame digest of every domain that suites score in, where it is not there yet.

    Raises:
        DependencyError: No off-screen OpenGL.
    """
    path = run.path / FRAME_DIGESTS
    known = read_json(path) if path.exists() else {}
    domains = {domain for suite in suites for domain in (*suite.d_s, *suite.d_t)}
    for domain in domains:
        if domain.id not in known:
            known[domain.id] = frame_digest(run.config.environment, domain)
    write_json(path, dict(sorted(known.items())))


def frame_digests_of(run: RunDirectory) -> list[tuple[str, str]]:
    """(what, SHA-256) of frames of a fixed walk: where they differ, machines render differently.

    Raises:
        CorruptFileError: Their file is damaged.
    """
    path = run.path / FRAME_DIGESTS
    known = read_json(path) if path.exists() else {}
    return [(f"frames of {domain}", value) for domain, value in known.items()]


def digests_of(run: RunDirectory, status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, SHA-256) of scores, vision and scored policies: equal runs have equal digests."""
    weights = [
        file
        for file in sorted(run.vision.glob("*.safetensors"))
        if file.suffixes == [".safetensors"]
    ]
    files = [run.scores, *weights]
    found = [
        (str(file.relative_to(run.path)), sha256_file(file)) for file in files if file.is_file()
    ]
    for stage, entry in (status.get("stages") or {}).items():
        if stage.startswith("score/"):
            policies = entry.get("parents") or {}
            found += [(name, value) for name, value in policies.items() if POLICY_FILE in name]
    return found


def replays_of(
    run: RunDirectory, row: Mapping[str, Any], scores: Sequence[Score], page: Path
) -> list[Replay]:
    """The worst and best target episode, in the own suite, of a row of results, with links."""
    own = [
        score
        for score in scores
        if (score.algorithm, score.perception) == (row["algorithm"], row["perception"])
        and score.split == "target"
        and score.suite == run.config.suite
        and UNFINISHED not in score.tags  # of these, no policy is kept
    ]
    if not own:
        return []
    replays = []
    for title, pick in (("worst", min), ("best", max)):
        score = pick(own, key=lambda each: each.value)
        cell = score.cell.id
        file = run.path / "replay" / f"{title}.html"
        words = ["darla", "replay", str(run.path), "--cell", cell, "--domain", score.domain]
        words += ["--episode", str(score.episode), "-o", str(file)]
        link = os.path.relpath(file, page.parent) if file.is_file() else None
        replays.append(
            Replay(title, cell, score.domain, score.episode, score.value, shlex.join(words), link)
        )
    return replays
