"""From score rows to results: one dictionary, which every table, figure and sentence is made from.

`summarise` is a pure function of the rows of `scores.jsonl`: the same rows in any order give the
same results, bit for bit. What each number means is defined in docs/report.md and computed in
`benchmarks.statistics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import statistics
from benchmarks.attribution import Drop, drops
from benchmarks.rows import entrant
from benchmarks.sample import Entry, Sample
from benchmarks.scores import (
    GROUPS,
    RANDOM_POLICY,
    UNFINISHED,
    Score,
    by_protocol,
    read_scores,
)
from benchmarks.sentences import headline, limits
from benchmarks.statistics import RESAMPLES, Estimate, FloatArray, Runs, estimate
from benchmarks.tables import csv_table
from darla.errors import ConfigError, DomainError
from darla.storage import write_json, write_text
from envs.domains import ENCODER_OOD, POLICY_OOD, World
from envs.registry import suite_of

if TYPE_CHECKING:
    from darla.rundir import RunDirectory

TARGETS = {"target": POLICY_OOD, "encoder_ood": ENCODER_OOD}
"""The groups of targets, with the tag of their domains."""
THRESHOLDS = 61


def write_results(run: RunDirectory) -> dict[str, Any]:
    """Writes the `results.json` and `results.csv` of a run from its scores.

    Raises:
        MissingFileError, CorruptFileError: As `read_scores`.
    """
    results = results_of(run)
    write_json(run.results_json, results)
    write_text(run.results_csv, csv_table(results))
    return results


def results_of(run: RunDirectory) -> dict[str, Any]:
    """Summarises the scores of a run.

    Returns:
        The summary of the run's own suite, with `protocols`: the summaries of the other suites
        that its policies were scored in, by name.

    Raises:
        MissingFileError, CorruptFileError: As `read_scores`.
    """
    scores = read_scores(run)
    parts = by_protocol(scores)
    own = parts.pop(run.config.suite, [score for score in scores if score.split == "source"])
    try:
        world = suite_of(run.config).world
        results = summarise(own, world, suite=run.config.suite, beside=scores)
        protocols = {
            name: summarise(part, world, suite=name, beside=scores) for name, part in parts.items()
        }
    except (ConfigError, DomainError) as error:
        results = summarise(own, suite=run.config.suite)
        protocols = {name: summarise(part, suite=name) for name, part in parts.items()}
        results["notes"].append(f"What drops are due to is left out: {error}.")
    return results | {"protocols": protocols}


def summarise(
    scores: Sequence[Score],
    world: World | None = None,
    *,
    suite: str | None = None,
    beside: Sequence[Score] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Summarises scores into a dictionary of JSON's types.

    Args:
        scores: Rows in any order.
        world: The world of their domains, which reads factors from ids; without it, there is no
            attribution.
        suite: Name of the suite; by default, that of the targets.
        beside: Scores of other suites of the run too, for the interaction of a pair of changes
            that were scored alone there.
        seed: Seed of the bootstrap.

    Returns:
        `headline` (one sentence), `notes` (what limits the evidence, in sentences), `suite`,
        `bootstrap` (its `seed`, `resamples` and `level`), and
        `rows`: per algorithm and perception its `label`, `kind`, `seeds`, `decisions`, `frames`;
            the scores `source`, `target`, `gap`, `encoder_ood`, `encoder_ood_gap`; on the scale
            of random policy and `factors`, `normalised` (per group); `kept`, the share of the
            source score above the random policy that is left (per group of targets); `success`,
            the share of episodes that reached the goal, by group, null where the world reports
            none; `domains`, a score each; `attribution`, drops per factor value and pair.
        `comparisons`: per algorithm DARLA against each other perception and group of targets:
            `improvement` (the probability that a run of DARLA scores more) and `difference`.
        `profiles`: per group of targets the `thresholds` and per row the `share` of runs above.
        A score has `mean`, `median`, `iqm`, their intervals `ci95`, `median_ci95`, `iqm_ci95`, and
        `seeds`, `episodes`, `over`; other estimates have `value` and `ci95`. What was not scored,
        or is not defined, is null.
    """
    sample = Sample(scores, seed)
    targets = [score for score in scores if score.split == "target"]
    notes: list[str] = []
    rows = [_row(entry, sample, world, notes) for entry in sample.entries.values()]
    if world and any(drop["kind"] == "pair" for row in rows for drop in row["attribution"]):
        # A domain of several suites counts once.
        every = {(s.cell, s.domain, s.episode): s for s in (*beside, *scores)}
        _add_interactions(rows, sample, Sample(list(every.values()), seed), world)
    comparisons = _comparisons(sample)
    notes += limits(rows) + _few_layouts(sample)
    return {
        "headline": headline(rows, comparisons),
        "notes": notes,
        "suite": suite or ", ".join(sorted({each.suite for each in (targets or scores)})),
        "bootstrap": {"seed": seed, "resamples": RESAMPLES, "level": 0.95},
        "rows": rows,
        "comparisons": comparisons,
        "profiles": {group: _profiles(sample, group) for group in TARGETS if sample.domains[group]},
    }


def _row(entry: Entry, sample: Sample, world: World | None, notes: list[str]) -> dict[str, Any]:
    """Summarises one algorithm on one perception; notes what had to be left out."""
    _note_gaps(entry, sample, notes)
    source = sample.domains["source"]
    known = entrant(entry.perception, entry.algorithm)
    row: dict[str, Any] = {
        "algorithm": entry.algorithm,
        "perception": entry.perception,
        "label": known.label + (f" ({UNFINISHED})" if entry.unfinished else ""),
        "kind": known.kind,
        "seeds": entry.seeds,
        "decisions": max(score.decisions for score in entry.scores),
        "frames": max(score.frames for score in entry.scores),
    }
    for group in GROUPS:
        row[group] = _score(entry, sample.domains[group])
    for group, name in (("target", "gap"), ("encoder_ood", "encoder_ood_gap")):
        target = sample.domains[group]
        weights = np.repeat(
            [1 / max(len(source), 1), -1 / max(len(target), 1)], [len(source), len(target)]
        )
        row[name] = _score(entry, (*source, *target), weights) if source and target else None
    row["normalised"] = {group: _normalised(entry, sample, group) for group in GROUPS}
    row["kept"] = {group: _kept(entry, sample, group) for group in TARGETS}
    row["success"] = _success(entry, sample)
    row["domains"] = [
        {
            "domain": domain,
            "group": entry.groups[domain],
            "tags": list(entry.tags[domain]),
            "score": _score(entry, (domain,)),
        }
        for group in GROUPS
        for domain in sorted(entry.groups)
        if entry.groups[domain] == group
    ]
    row["attribution"] = _attribution(entry, world) if world else []
    return row


def _success(entry: Entry, sample: Sample) -> dict[str, float] | None:
    """The share of episodes that reached the goal, by group, over all seeds and domains.

    Where any episode tells of success, one that does not had none: a world may tell of it only
    when it comes.
    """
    if all(score.success is None for each in sample.entries.values() for score in each.scores):
        return None
    reached: dict[str, list[bool]] = {group: [] for group in GROUPS}
    for score in entry.scores:
        reached[score.group].append(bool(score.success))
    return {group: float(np.mean(each)) for group, each in reached.items() if each}


def _note_gaps(entry: Entry, sample: Sample, notes: list[str]) -> None:
    """Notes seeds that are left out of a group, and seeds that were trained differently."""
    for group in GROUPS:
        if group not in entry.groups.values():
            continue
        begun = {score.seed for score in entry.scores if score.group == group}
        dropped = sorted(begun - set(entry.played(sample.domains[group])))
        if dropped:
            notes.append(
                f"{entry.name}: seed(s) {dropped} lack domains of {group} and are left out of its"
                " score."
            )
    if entry.unfinished:
        notes.append(
            f"{entry.name}: seed(s) {entry.unfinished} were scored before their training ended."
        )
    if len({score.frames for score in entry.scores}) > 1:
        notes.append(f"{entry.name}: its seeds were trained for different numbers of frames.")


def _few_layouts(sample: Sample) -> list[str]:
    """Notes groups of domains in which an entrant played a single layout of each."""
    notes = []
    for group in GROUPS:
        domains = sample.domains[group]
        single = [
            entry
            for entry in sample.entries.values()
            if (seeds := entry.played(domains))
            and entry.episodes(domains, seeds) == len(seeds) * len(domains)
        ]
        if domains and single:
            notes.append(
                f"Each domain of {group} was played in a single layout: intervals range over seeds"
                " alone, and those of a single seed have no width and tell nothing."
            )
    return notes


def _score(
    entry: Entry, domains: Sequence[str], weights: FloatArray | None = None
) -> dict[str, Any] | None:
    """A score over domains, or over a contrast of them; None where no seed played all of them."""
    seeds = entry.played(domains)
    if not domains or not seeds:
        return None
    runs = entry.runs(domains, seeds)
    if weights is not None:
        runs = Runs(
            statistics.contrast(runs.scores, weights),
            statistics.contrast(runs.replicates, weights),
        )
    result: dict[str, Any] = {}
    for name, statistic, interval in (
        ("mean", statistics.mean, "ci95"),
        ("median", statistics.median, "median_ci95"),
        ("iqm", statistics.interquartile_mean, "iqm_ci95"),
    ):
        found = estimate(statistic, runs)
        result[name] = float(found.value)
        result[interval] = [float(found.low), float(found.high)]
    return result | {
        "seeds": len(seeds),
        "episodes": entry.episodes(domains, seeds),
        "over": "seeds and layouts" if len(seeds) > 1 else "layouts",
    }


def _normalised(entry: Entry, sample: Sample, group: str) -> dict[str, Any] | None:
    """The mean score with the random policy at 0 and `factors` at 1, if both are there and apart.

    Of the ceiling and the floor themselves it is 1 and 0 by definition, and not given.
    """
    floor = sample.entries.get((RANDOM_POLICY, "none"))
    ceiling = sample.entries.get((entry.algorithm, "factors"))
    if floor is None or ceiling is None or entry is ceiling:
        return None
    runs = _runs_in(sample.domains[group], entry, floor, ceiling)
    if runs is None or estimate(_rise, runs[2], runs[1]).low <= 0:
        return None
    return _estimate(estimate(statistics.normalised, *runs))


def _kept(entry: Entry, sample: Sample, group: str) -> dict[str, Any] | None:
    """What is left of what was learned in the source: (target - floor) / (source - floor).

    The floor is the random policy in the same domains. None where the source score is not above it
    with its interval: nothing was learned that could be kept.
    """
    floor = sample.entries.get((RANDOM_POLICY, "none"))
    source, target = sample.domains["source"], sample.domains[group]
    if floor is None or entry is floor or not source or not target:
        return None
    runs = _runs_in((*source, *target), entry, floor)
    split = len(source)

    def learned(ours: FloatArray, chance: FloatArray) -> FloatArray:
        return _rise(ours[..., :split], chance[..., :split])

    def kept(ours: FloatArray, chance: FloatArray) -> FloatArray:
        return _rise(ours[..., split:], chance[..., split:]) / learned(ours, chance)

    if runs is None or estimate(learned, *runs).low <= 0:
        return None
    return _estimate(estimate(kept, *runs))


def _rise(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """How much more one group scores than another, [..., seeds, domains] x 2 -> [...]."""
    return statistics.mean(ours) - statistics.mean(theirs)


def _runs_in(domains: Sequence[str], *entries: Entry) -> list[Runs] | None:
    """The runs of several entries in the same domains; None unless all have some."""
    seeds = [entry.played(domains) for entry in entries]
    if not domains or not all(seeds):
        return None
    return [entry.runs(domains, own) for entry, own in zip(entries, seeds, strict=True)]


def _attribution(entry: Entry, world: World) -> list[dict[str, Any]]:
    """Drops by what moved, each over the seeds that played all domains it is computed from."""
    return [_shown(entry, drop) for drop in _drops(entry, world)]


def _drops(entry: Entry, world: World) -> list[Drop]:
    parsed = [(world.parse(domain), entry.groups[domain]) for domain in sorted(entry.groups)]
    return drops(
        [domain for domain, group in parsed if group == "source"],
        [(domain, TARGETS[group]) for domain, group in parsed if group in TARGETS],
    )


def _shown(entry: Entry, drop: Drop) -> dict[str, Any]:
    domains = sorted(drop.weights)
    return {
        "tag": drop.tag,
        "kind": drop.kind,
        "label": drop.label,
        "factors": list(drop.factors),
        "domains": list(drop.targets),
        "drop": _score(entry, domains, drop.over(domains)),
    }


def _add_interactions(
    rows: Sequence[dict[str, Any]], sample: Sample, wider: Sample, world: World
) -> None:
    """Adds to pairs the interactions whose single changes other suites scored."""
    for row, (key, entry) in zip(rows, sample.entries.items(), strict=True):
        pairs = {(d["tag"], d["label"]): d for d in row["attribution"] if d["kind"] == "pair"}
        known = {(d["tag"], d["label"]) for d in row["attribution"] if d["kind"] == "interaction"}
        for drop in _drops(wider.entries[key], world) if pairs else ():
            name = drop.tag, drop.label
            if drop.kind != "interaction" or name not in pairs or name in known:
                continue
            if set(drop.targets) <= set(entry.groups):
                place = row["attribution"].index(pairs[name]) + 1
                row["attribution"].insert(place, _shown(wider.entries[key], drop))


def _comparisons(sample: Sample) -> list[dict[str, Any]]:
    """DARLA against each other perception of the same algorithm, and against the random policy."""
    compared = []
    for ours in sample.entries.values():
        if ours.perception != "darla":
            continue
        for theirs in sample.entries.values():
            if theirs is ours or theirs.algorithm not in (ours.algorithm, RANDOM_POLICY):
                continue
            for group in TARGETS:
                runs = _runs_in(sample.domains[group], ours, theirs)
                if runs is None:
                    continue
                improvement = estimate(statistics.probability_of_improvement, *runs)
                compared.append(
                    {
                        "algorithm": ours.algorithm,
                        "against": theirs.perception,
                        "label": entrant(theirs.perception, theirs.algorithm).label,
                        "group": group,
                        "improvement": _estimate(improvement),
                        "difference": _estimate(estimate(_rise, *runs)),
                    }
                )
    return compared


def _profiles(sample: Sample, group: str) -> dict[str, Any]:
    """Performance profiles of all rows on one axis of returns."""
    domains = sample.domains[group]
    runs = {
        key: entry.runs(domains, seeds)
        for key, entry in sample.entries.items()
        if (seeds := entry.played(domains))
    }
    if not runs:
        return {"thresholds": [], "rows": []}
    lowest = min(float(own.scores.min()) for own in runs.values())
    highest = max(float(own.scores.max()) for own in runs.values())
    margin = 0.04 * (highest - lowest) or 1.0
    thresholds = np.linspace(lowest - margin, highest + margin, THRESHOLDS)

    def profile(scores: FloatArray) -> FloatArray:
        return statistics.performance_profile(scores, thresholds)

    rows = []
    for (algorithm, perception), own in runs.items():
        found = estimate(profile, own)
        rows.append(
            {
                "algorithm": algorithm,
                "perception": perception,
                "share": found.value.tolist(),
                "low": found.low.tolist(),
                "high": found.high.tolist(),
            }
        )
    return {"thresholds": thresholds.tolist(), "rows": rows}


def _estimate(found: Estimate) -> dict[str, Any]:
    return {"value": float(found.value), "ci95": [float(found.low), float(found.high)]}
