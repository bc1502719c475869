import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics import Estimate, estimate, interquartile_mean, paired_gap


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def seeds_of(scores: np.ndarray, domain: str = "d") -> list[dict[str, np.ndarray]]:
    """One seed per row of `scores` [seeds, episodes]."""
    return [{domain: row} for row in scores]


@pytest.mark.parametrize("count", range(1, 14))
def test_interquartile_mean_is_scipys_trimmed_mean(count: int) -> None:
    values = rng().normal(size=(3, count))
    expected = [stats.trim_mean(row, 0.25) for row in values]
    np.testing.assert_allclose(interquartile_mean(values), expected)


def test_interquartile_mean_ignores_outliers() -> None:
    assert interquartile_mean([-1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e9]) == 3.5


def test_interquartile_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        interquartile_mean([])


def test_point_estimates() -> None:
    returns = [{"a": [1.0, 3.0], "b": [5.0]}, {"a": [4.0], "b": [0.0, 2.0, 4.0]}]
    result = estimate(returns, rng(), resamples=10)
    assert result.mean == pytest.approx((2 + 5 + 4 + 2) / 4)
    assert result.iqm == pytest.approx((2 + 4) / 2)
    assert (result.seeds, result.episodes) == (2, 7)


def test_interval_over_episodes_of_one_seed_is_the_normal_one() -> None:
    episodes = rng().normal(3.0, 2.0, size=400)
    result = estimate([{"d": episodes}], rng(), resamples=4_000)
    half = 1.96 * episodes.std() / np.sqrt(len(episodes))
    assert result.over == "episodes"
    assert result.ci95[0] == pytest.approx(episodes.mean() - half, abs=0.03)
    assert result.ci95[1] == pytest.approx(episodes.mean() + half, abs=0.03)


def test_interval_over_seeds_without_noise_within_them() -> None:
    """Two seeds at 0 and 1: the mean is 0, 0.5 or 1 with probabilities 1/4, 1/2, 1/4."""
    result = estimate(seeds_of(np.array([[0.0] * 50, [1.0] * 50])), rng())
    assert result.ci95 == (0.0, 1.0)
    assert result.over == "seeds and episodes"


def test_seeds_are_the_unit_of_evidence() -> None:
    """More episodes of the same trainings do not narrow the interval below their spread."""
    means = np.array([0.0, 1.0, 2.0, 3.0, 4.0])[:, None]
    few = estimate(seeds_of(means + rng().normal(size=(5, 100))), rng())
    many = estimate(seeds_of(means + rng().normal(size=(5, 4_000))), rng())
    spread = 2 * 1.96 * means.std() / np.sqrt(5)
    assert many.ci95[1] - many.ci95[0] == pytest.approx(spread, rel=0.1)
    assert many.ci95[1] - many.ci95[0] == pytest.approx(few.ci95[1] - few.ci95[0], rel=0.1)


def test_interval_covers_the_truth() -> None:
    """With ten seeds the interval covers the true mean about nine times in ten."""
    generator = rng()
    covered = 0
    for _ in range(200):
        scores = generator.normal(size=(10, 1)) + generator.normal(size=(10, 20))
        low, high = estimate(seeds_of(scores), generator, resamples=300).ci95
        covered += low <= 0.0 <= high
    assert 172 <= covered <= 200


def test_domains_are_strata() -> None:
    """Constant but different domains leave nothing to resample within one seed."""
    result = estimate([{"a": [0.0] * 30, "b": [10.0] * 30}], rng())
    assert result.ci95 == (5.0, 5.0)


def test_gap_is_paired_by_seed() -> None:
    """Seeds differ widely, but each loses exactly 2: the gap is certain, the scores are not."""
    source = seeds_of(np.array([[1.0] * 20, [5.0] * 20, [9.0] * 20]), "s")
    target = seeds_of(np.array([[-1.0] * 20, [3.0] * 20, [7.0] * 20]), "t")
    gap = paired_gap(source, target, rng())
    assert (gap.mean, gap.iqm, gap.ci95) == (2.0, 2.0, (2.0, 2.0))
    assert gap.episodes == 120
    assert estimate(source, rng()).ci95 == (1.0, 9.0)


def test_same_generator_same_interval() -> None:
    scores = seeds_of(rng().normal(size=(4, 30)))
    first: Estimate = estimate(scores, np.random.default_rng(1))
    assert first == estimate(scores, np.random.default_rng(1))
    assert first.ci95 != estimate(scores, np.random.default_rng(2)).ci95


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ValueError, match="no seed"):
        estimate([], rng())
    with pytest.raises(ValueError, match="no domain"):
        estimate([{}], rng())
    with pytest.raises(ValueError, match="no episode in"):
        estimate([{"a": []}], rng())
    with pytest.raises(ValueError, match="seed 1 has the domains"):
        estimate([{"a": [1.0]}, {"b": [1.0]}], rng())
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_gap([{"a": [1.0]}], [], rng())
