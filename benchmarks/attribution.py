"""To what a loss of transfer is due: the drop per factor value that moved, per pair, per tag.

A target is compared with its *nearest* sources, those that differ from it in the fewest factors.
Factor values of the target that no source has are its *changes*. A target without any is a new
conjunction of known values; one change is a single-factor shift, two are a pair. Where a pair's two
changes were also scored alone, its interaction is the pair's drop minus both of theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.statistics import FloatArray
from envs.domains import Domain, Value, value_text

Changes = tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Shift:
    """How a target differs from the sources.

    Attributes:
        target: Id of the target.
        changes: (factor, value) that no source has, in the world's order.
        conjunction: Whether the nearest sources differ in more than the changes.
        nearest: Ids of the sources that differ in the fewest factors.
    """

    target: str
    changes: Changes
    conjunction: bool
    nearest: tuple[str, ...]


@dataclass(frozen=True)
class Drop:
    """A drop that is to be estimated, source minus target, as a contrast over domains.

    Attributes:
        tag: 'policy-ood' or 'encoder-ood'; the two are never averaged together.
        kind: 'conjunction', 'factor' (several values of one factor), 'single', 'pair', 'several',
            or 'interaction'.
        label: What moved, for readers, such as 'walls=grey'.
        factors: Names of the factors that moved to a value that no source has.
        targets: Ids of the targets that the drop is the mean over.
        weights: Weight of every domain id, positive on sources; sums to 0.
    """

    tag: str
    kind: str
    label: str
    factors: tuple[str, ...]
    targets: tuple[str, ...]
    weights: Mapping[str, float] = field(repr=False)

    def over(self, domains: Sequence[str]) -> FloatArray:
        """The weights as float64 [domains], for `statistics.contrast`."""
        return np.array([self.weights.get(domain, 0.0) for domain in domains])


def shift_of(target: Domain, sources: Sequence[Domain]) -> Shift:
    """Compares a target with the sources, of which there must be one."""
    known = {value for source in sources for value in source.values}
    changes = tuple(value for value in target.values if value not in known)
    distances = [len(set(target.values) - set(source.values)) for source in sources]
    nearest = min(distances)
    return Shift(
        target=target.id,
        changes=changes,
        conjunction=nearest > len(changes),
        nearest=tuple(s.id for s, d in zip(sources, distances, strict=True) if d == nearest),
    )


def drops(sources: Sequence[Domain], targets: Iterable[tuple[Domain, str]]) -> list[Drop]:
    """Every drop that the targets of a run tell about.

    Args:
        sources: Domains that the policy learned in.
        targets: (target, tag), the tag 'policy-ood' or 'encoder-ood'.

    Returns:
        Per tag: conjunctions, then each factor over all its values and value by value, then pairs
        with their interactions, then whatever moved more.
    """
    if not sources:
        return []
    alike: dict[tuple[str, Changes, bool], list[Shift]] = defaultdict(list)
    for target, tag in targets:
        shift = shift_of(target, sources)
        alike[tag, shift.changes, shift.conjunction].append(shift)
    found = [
        _drop(tag, _kind(changes, conjunction), _label(changes, conjunction), shifts)
        for (tag, changes, conjunction), shifts in alike.items()
    ]
    single = {(drop.tag, drop.label): drop for drop in found if drop.kind == "single"}
    for tag, factor in dict.fromkeys((drop.tag, drop.factors[0]) for drop in single.values()):
        values = [
            shift
            for (own, changes, conjunction), shifts in alike.items()
            for shift in shifts
            if own == tag and not conjunction and [name for name, _ in changes] == [factor]
        ]
        if len({shift.changes for shift in values}) > 1:
            found.append(_drop(tag, "factor", factor, values))
    for (tag, changes, conjunction), shifts in alike.items():
        parts = [single.get((tag, _label((change,), False))) for change in changes]
        if len(changes) == 2 and not conjunction and all(parts):
            pair = _drop(tag, "interaction", _label(changes, False), shifts)
            found.append(_minus(pair, [part for part in parts if part]))
    return sorted(found, key=_order)


def _kind(changes: Changes, conjunction: bool) -> str:
    if not changes:
        return "conjunction"
    if conjunction or len(changes) > 2:
        return "several"
    return "single" if len(changes) == 1 else "pair"


def _label(changes: Changes, conjunction: bool) -> str:
    words = [f"{name}={value_text(value)}" for name, value in changes]
    return " + ".join(words + ["new conjunction"] * conjunction)


def _drop(tag: str, kind: str, label: str, shifts: Sequence[Shift]) -> Drop:
    """The mean over targets of: mean of its nearest sources, minus it."""
    weights: dict[str, float] = defaultdict(float)
    for shift in shifts:
        weights[shift.target] -= 1 / len(shifts)
        for source in shift.nearest:
            weights[source] += 1 / len(shifts) / len(shift.nearest)
    factors = tuple(name for name, _ in shifts[0].changes)
    targets = tuple(sorted(shift.target for shift in shifts))
    return Drop(tag, kind, label, factors, targets, dict(weights))


def _minus(drop: Drop, parts: Sequence[Drop]) -> Drop:
    weights = defaultdict(float, drop.weights)
    for part in parts:
        for domain, weight in part.weights.items():
            weights[domain] -= weight
    return Drop(drop.tag, drop.kind, drop.label, drop.factors, drop.targets, dict(weights))


def _order(drop: Drop) -> tuple[bool, int, tuple[str, ...], bool, str, bool]:
    tiers = {"conjunction": 0, "factor": 1, "single": 1, "pair": 2, "interaction": 2, "several": 3}
    return (
        drop.tag != "policy-ood",
        tiers[drop.kind],
        drop.factors,
        drop.kind != "factor",
        drop.label,
        drop.kind == "interaction",
    )
