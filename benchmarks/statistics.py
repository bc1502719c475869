"""Means, interquartile means and 95 % intervals of returns that are grouped by seed and domain.

The unit of evidence is a training run: episodes of one policy are not independent trainings.
Intervals therefore come from a two-level bootstrap, which resamples seeds and then, inside every
drawn seed, the episodes of each domain apart (domains are strata, never resampled). With one seed
only the second level is left: such an interval covers the luck of the evaluation and not that of
the training, and `Estimate.over` says so.

Follows Agarwal et al. 2021 ("Deep RL at the edge of the statistical precipice", arXiv 2108.13264):
the interquartile mean is taken over run scores (one mean return per seed and domain), and intervals
are percentiles of a stratified bootstrap. Everything is NumPy, and every draw comes from the
generator that the caller gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
SeedReturns = Mapping[str, Sequence[float] | FloatArray]
"""The returns of one seed: domain id to the returns of its episodes."""

RESAMPLES = 2_000
FEW_SEEDS = 5
"""Below this many seeds an interval rests on too few trainings to be trusted; reports say so."""


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of scores, in units of return.

    Attributes:
        mean: Mean over seeds of the mean over domains of the mean over episodes.
        iqm: Interquartile mean over run scores (one per seed and domain; for a gap, one per seed).
        ci95: 95 % bootstrap interval of the mean.
        iqm_ci95: 95 % bootstrap interval of the interquartile mean.
        seeds: Number of seeds.
        episodes: Number of episodes, over all seeds and domains.
    """

    mean: float
    iqm: float
    ci95: tuple[float, float]
    iqm_ci95: tuple[float, float]
    seeds: int
    episodes: int

    @property
    def over(self) -> str:
        """What the intervals range over: 'seeds and episodes', or 'episodes' for one seed."""
        return "seeds and episodes" if self.seeds > 1 else "episodes"


def interquartile_mean(values: npt.ArrayLike) -> float | FloatArray:
    """Mean of the middle half: a quarter of the values, rounded down, is dropped at either end.

    Args:
        values: float [..., N], N >= 1.

    Returns:
        float64 [...], a plain float for one row.

    Raises:
        ValueError: When there is no value.
    """
    array = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    count = array.shape[-1]
    if count == 0:
        raise ValueError("the interquartile mean of no values does not exist")
    cut = count // 4
    result = array[..., cut : count - cut].mean(axis=-1)
    return float(result) if result.ndim == 0 else result


def estimate(
    returns: Sequence[SeedReturns], rng: np.random.Generator, *, resamples: int = RESAMPLES
) -> Estimate:
    """Estimates the score of a group of seeds that were played in the same domains.

    Args:
        returns: One mapping per seed. Every seed has the same domains; episode counts may differ.
        rng: Source of every draw.
        resamples: Bootstrap resamples.

    Raises:
        ValueError: When there is no seed, a domain without an episode, or a seed with other
            domains.
    """
    domains = _domains(returns)
    drawn = _draw_seeds(len(returns), resamples, rng)
    resampled = _resample(returns, domains, drawn, rng)
    return _estimate(_run_scores(returns, domains), resampled, len(returns), _episodes(returns))


def paired_gap(
    source: Sequence[SeedReturns],
    target: Sequence[SeedReturns],
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Estimates what transfer costs: per seed, mean source return minus mean target return.

    A drawn seed brings its source and its target episodes along, so that the interval is that of
    the difference within a training run and not of two unrelated scores.

    Args:
        source: One mapping per seed.
        target: One mapping per seed, in the order of `source`.
        rng: Source of every draw.
        resamples: Bootstrap resamples.

    Raises:
        ValueError: As `estimate`, and when the numbers of seeds differ.
    """
    if len(source) != len(target):
        raise ValueError(
            f"{len(source)} source seeds cannot be paired with {len(target)} target seeds"
        )
    source_domains, target_domains = _domains(source), _domains(target)
    drawn = _draw_seeds(len(source), resamples, rng)

    def difference(source_scores: FloatArray, target_scores: FloatArray) -> FloatArray:
        return (source_scores.mean(axis=-1) - target_scores.mean(axis=-1))[..., None]

    return _estimate(
        difference(_run_scores(source, source_domains), _run_scores(target, target_domains)),
        difference(
            _resample(source, source_domains, drawn, rng),
            _resample(target, target_domains, drawn, rng),
        ),
        len(source),
        _episodes(source) + _episodes(target),
    )


def _domains(returns: Sequence[SeedReturns]) -> tuple[str, ...]:
    """The domains that all seeds share, in alphabetical order."""
    if not returns:
        raise ValueError("there is no seed to estimate a score from")
    domains = tuple(sorted(returns[0]))
    for index, seed in enumerate(returns):
        if tuple(sorted(seed)) != domains:
            raise ValueError(
                f"seed {index} has the domains {sorted(seed)}, the first seed has {list(domains)}"
            )
        empty = [domain for domain in domains if len(seed[domain]) == 0]
        if empty:
            raise ValueError(f"seed {index} has no episode in {empty}")
    if not domains:
        raise ValueError("there is no domain to estimate a score from")
    return domains


def _episodes(returns: Sequence[SeedReturns]) -> int:
    return sum(len(episodes) for seed in returns for episodes in seed.values())


def _run_scores(returns: Sequence[SeedReturns], domains: tuple[str, ...]) -> FloatArray:
    """Mean returns, float64 [seeds, domains]."""
    return np.array(
        [[np.mean(seed[domain]) for domain in domains] for seed in returns], dtype=np.float64
    )


def _draw_seeds(seeds: int, resamples: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Seeds drawn with replacement, int64 [resamples, seeds]."""
    return rng.integers(seeds, size=(resamples, seeds))


def _resample(
    returns: Sequence[SeedReturns],
    domains: tuple[str, ...],
    drawn: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> FloatArray:
    """Run scores with episodes resampled, float64 [resamples, seeds, domains]."""
    scores = np.empty((*drawn.shape, len(domains)), dtype=np.float64)
    for index, seed in enumerate(returns):
        slots = drawn == index
        for column, domain in enumerate(domains):
            episodes = np.asarray(seed[domain], dtype=np.float64)
            picks = rng.integers(len(episodes), size=(int(slots.sum()), len(episodes)))
            scores[slots, column] = episodes[picks].mean(axis=1)
    return scores


def _estimate(scores: FloatArray, resampled: FloatArray, seeds: int, episodes: int) -> Estimate:
    """Summarises run scores [seeds, columns] and their resamples [resamples, seeds, columns]."""
    flat = resampled.reshape(len(resampled), -1)
    return Estimate(
        mean=float(scores.mean()),
        iqm=float(interquartile_mean(scores.ravel())),
        ci95=_percentiles(flat.mean(axis=1)),
        iqm_ci95=_percentiles(np.asarray(interquartile_mean(flat))),
        seeds=seeds,
        episodes=episodes,
    )


def _percentiles(statistics: FloatArray) -> tuple[float, float]:
    low, high = np.percentile(statistics, [2.5, 97.5])
    return float(low), float(high)
