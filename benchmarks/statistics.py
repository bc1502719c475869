"""Aggregates of transfer scores, and their 95 % bootstrap intervals, as functions of arrays.

A *run score* is the mean return of one trained policy in one domain; run scores of a group are an
array [seeds, domains]. Every statistic here maps arrays [..., seeds, domains] to [...], so that one
call serves what was observed and all bootstrap replicates of it, and statistics of several groups
(a gap, a ratio, a comparison) are taken within a replicate, jointly.

The bootstrap has the two levels at which luck enters. Seeds are drawn with replacement, each with
all of its domains, which are strata and never drawn. All policies play the same layouts, so that a
lucky draw of layouts lifts all of them: each replicate therefore gives every layout one random
weight, exponential as in Rubin's Bayesian bootstrap (1981), which holds for all seeds, domains and
perceptions that played it. Resampling both of two crossed factors is Owen's pigeonhole bootstrap
(Annals of Applied Statistics, 2007), a little too wide where seeds and layouts interact. With one
seed only the layouts are left: such an interval covers the luck of the evaluation and not that of
the training.

Interquartile mean, performance profile, probability of improvement and the percentile bootstrap
follow Agarwal et al. 2021 ("Deep RL at the edge of the statistical precipice", arXiv 2108.13264);
there every run is one task's, here it plays all domains. Draws come from the generator given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 2_000
FEW_SEEDS = 5
"""Below this many seeds an interval rests on too few trainings to be trusted; reports say so."""


@dataclass(frozen=True)
class Runs:
    """Run scores of one group and their bootstrap replicates.

    Attributes:
        scores: float64 [seeds, domains], in units of return.
        replicates: float64 [resamples, seeds, domains].
    """

    scores: FloatArray
    replicates: FloatArray


class Estimate(NamedTuple):
    """A statistic with the ends of its 95 % interval, each float64 of the statistic's shape."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


def weigh_layouts(rng: np.random.Generator, resamples: int = RESAMPLES) -> FloatArray:
    """Weights of one layout in all replicates, float64 [resamples], mean 1."""
    return rng.exponential(size=resamples)


def weighted_scores(returns: npt.ArrayLike, weights: FloatArray) -> FloatArray:
    """The run score in every replicate.

    Args:
        returns: float [episodes], of one policy in one domain.
        weights: float64 [resamples, episodes], those of the episodes' layouts.

    Returns:
        float64 [resamples].
    """
    return weights @ np.asarray(returns, dtype=np.float64) / weights.sum(axis=1)


def resample_seeds(scores: FloatArray, weighted: FloatArray, rng: np.random.Generator) -> Runs:
    """Draws seeds with replacement, as many as there are.

    Args:
        scores: float64 [seeds, domains].
        weighted: float64 [resamples, seeds, domains], from `weighted_scores`.
        rng: Source of the draws.

    Raises:
        ValueError: When there is no seed or no domain.
    """
    if not scores.size:
        raise ValueError("there is no run to estimate a score from")
    drawn = rng.integers(scores.shape[0], size=weighted.shape[:2])
    return Runs(scores, np.take_along_axis(weighted, drawn[..., None], axis=1))


def estimate(statistic: Callable[..., FloatArray], *groups: Runs) -> Estimate:
    """A statistic of one or several groups with its 95 % percentile interval.

    Args:
        statistic: Maps one array [..., seeds, domains] per group to [...] or [..., K].
        groups: Groups whose replicates belong together one by one.
    """
    replicates = statistic(*(group.replicates for group in groups))
    low, high = np.percentile(replicates, [2.5, 97.5], axis=0)
    return Estimate(np.asarray(statistic(*(group.scores for group in groups))), low, high)


def mean(scores: FloatArray) -> FloatArray:
    """Mean over seeds and domains, [..., seeds, domains] -> [...]."""
    return scores.mean(axis=(-2, -1))


def median(scores: FloatArray) -> FloatArray:
    """Median over all run scores, [..., seeds, domains] -> [...]."""
    return np.median(scores, axis=(-2, -1))


def interquartile_mean(scores: FloatArray) -> FloatArray:
    """Mean of the middle half of all run scores, [..., seeds, domains] -> [...].

    A quarter of the N = seeds x domains scores, rounded down, is dropped at either end, as by
    `scipy.stats.trim_mean(scores, 0.25)`, which Agarwal et al. use.
    """
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    count = ordered.shape[-1]
    return ordered[..., count // 4 : count - count // 4].mean(axis=-1)


def contrast(scores: FloatArray, weights: npt.ArrayLike) -> FloatArray:
    """A weighted sum over domains, paired by seed, such as source minus target.

    Args:
        scores: float64 [..., seeds, domains].
        weights: float [domains], for a gap positive on sources, negative on targets.

    Returns:
        float64 [..., seeds, 1], run scores of a single, made-up domain.
    """
    return (scores @ np.asarray(weights, dtype=np.float64))[..., None]


def normalised(scores: FloatArray, floor: FloatArray, ceiling: FloatArray) -> FloatArray:
    """Mean score on the scale where the mean of `floor` is 0 and that of `ceiling` is 1.

    Each group has its own seeds; domains are the same. [..., seeds, domains] x 3 -> [...].
    """
    low = mean(floor)
    return (mean(scores) - low) / (mean(ceiling) - low)


def probability_of_improvement(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """How often a run of ours scores more than one of theirs in the same domain.

    The share of pairs of seeds in which ours is higher, a tie counting one half, averaged over
    domains (Agarwal et al. 2021).

    Args:
        ours: float64 [..., seeds, domains].
        theirs: float64 [..., other seeds, domains].

    Returns:
        float64 [...], from 0 to 1.
    """
    difference = ours[..., :, None, :] - theirs[..., None, :, :]
    return (0.5 * (np.sign(difference) + 1.0)).mean(axis=(-3, -2, -1))


def performance_profile(scores: FloatArray, thresholds: npt.ArrayLike) -> FloatArray:
    """The share of runs, over seeds and domains, that score more than each threshold.

    The run-score distribution of Agarwal et al. 2021.

    Args:
        scores: float64 [..., seeds, domains].
        thresholds: float [T], in units of return.

    Returns:
        float64 [..., T], from 0 to 1, falling.
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    shares = [(scores > level).mean(axis=(-2, -1)) for level in levels]
    return np.stack(shares, axis=-1)
