import numpy as np
import pytest
from scipy import stats

from benchmarks import statistics
from benchmarks.statistics import Runs, estimate, resample_seeds, weigh_layouts, weighted_scores


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def runs_of(returns: np.ndarray, generator: np.random.Generator, resamples: int = 2_000) -> Runs:
    """Runs of returns [seeds, domains, episodes] that all played the same layouts."""
    episodes = returns.shape[2]
    weights = np.stack([weigh_layouts(generator, resamples) for _ in range(episodes)], axis=1)
    weighted = np.array([[weighted_scores(own, weights) for own in row] for row in returns])
    return resample_seeds(returns.mean(axis=2), np.moveaxis(weighted, -1, 0), generator)


def iqm(values: np.ndarray) -> float:
    return float(statistics.interquartile_mean(np.asarray(values, float).reshape(-1, 1)))


@pytest.mark.parametrize("count", range(1, 14))
def test_interquartile_mean_is_scipys_trimmed_mean(count: int) -> None:
    values = rng().normal(size=(3, count, 1))
    expected = [stats.trim_mean(row.ravel(), 0.25) for row in values]
    np.testing.assert_allclose(statistics.interquartile_mean(values), expected)


def test_interquartile_mean_of_known_numbers() -> None:
    assert iqm(np.arange(12)) == 5.5
    assert iqm([-1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e9]) == 3.5
    assert iqm([0.0, 1.0, 2.0, 100.0]) == 1.5


def test_mean_and_median_are_over_seeds_and_domains() -> None:
    scores = np.array([[[1.0, 2.0], [3.0, 10.0]]] * 3)
    np.testing.assert_allclose(statistics.mean(scores), [4.0] * 3)
    np.testing.assert_allclose(statistics.median(scores), [2.5] * 3)


def test_probability_of_improvement_of_known_pairs() -> None:
    ours, theirs = np.array([[1.0], [3.0]]), np.array([[0.0], [2.0], [3.0]])
    # 1 > 0; 3 > 0 and 3 > 2; 3 = 3 counts one half: 3.5 of 6 pairs.
    assert statistics.probability_of_improvement(ours, theirs) == pytest.approx(3.5 / 6)
    assert statistics.probability_of_improvement(theirs, ours) == pytest.approx(2.5 / 6)
    assert statistics.probability_of_improvement(ours, ours) == 0.5


def test_probability_of_improvement_compares_within_a_domain() -> None:
    ours, theirs = np.array([[0.0, 100.0]]), np.array([[1.0, 50.0], [1.0, 150.0]])
    assert statistics.probability_of_improvement(ours, theirs) == pytest.approx((0.0 + 0.5) / 2)


def test_performance_profile_at_thresholds() -> None:
    scores = np.array([[0.0, 1.0], [2.0, 3.0]])
    shares = statistics.performance_profile(scores, [-1.0, 0.0, 0.5, 2.5, 3.0])
    np.testing.assert_allclose(shares, [1.0, 0.75, 0.75, 0.25, 0.0])
    assert statistics.performance_profile(np.stack([scores] * 4), [0.5]).shape == (4, 1)


def test_normalised_puts_the_floor_at_0_and_the_ceiling_at_1() -> None:
    floor, ceiling = np.array([[2.0]]), np.array([[6.0], [10.0]])
    for value, expected in ((2.0, 0.0), (8.0, 1.0), (5.0, 0.5), (-1.0, -0.5)):
        assert statistics.normalised(np.array([[value]]), floor, ceiling) == expected


def test_contrast_is_paired_by_seed() -> None:
    """Seeds differ widely, but each loses exactly 2: the gap is certain, the scores are not."""
    returns = np.array(
        [[[1.0] * 20, [-1.0] * 20], [[5.0] * 20, [3.0] * 20], [[9.0] * 20, [7.0] * 20]]
    )
    runs = runs_of(returns, rng())

    def gap(scores: np.ndarray) -> np.ndarray:
        return statistics.mean(statistics.contrast(scores, [1.0, -1.0]))

    assert np.allclose(estimate(gap, runs), (2.0, 2.0, 2.0))
    source = estimate(lambda scores: statistics.mean(scores[..., :1]), runs)
    assert np.allclose((source.low, source.high), (1.0, 9.0))


def test_interval_of_one_seed_is_the_normal_one_over_layouts() -> None:
    returns = rng().normal(3.0, 2.0, size=(1, 1, 400))
    found = estimate(statistics.mean, runs_of(returns, rng(), 4_000))
    half = 1.96 * returns.std() / np.sqrt(400)
    assert found.low == pytest.approx(returns.mean() - half, abs=0.03)
    assert found.high == pytest.approx(returns.mean() + half, abs=0.03)


def test_interval_over_seeds_without_noise_within_them() -> None:
    """Two seeds at 0 and 1: the mean is 0, 0.5 or 1 with probabilities 1/4, 1/2, 1/4."""
    found = estimate(statistics.mean, runs_of(np.array([[[0.0] * 50], [[1.0] * 50]]), rng()))
    assert np.allclose(found, (0.5, 0.0, 1.0))


def test_seeds_are_the_unit_of_evidence() -> None:
    """More episodes of the same trainings do not narrow the interval below their spread."""
    means = np.arange(5.0)[:, None, None]
    found = [
        estimate(statistics.mean, runs_of(means + rng().normal(size=(5, 1, count)), rng()))
        for count in (100, 1_000)
    ]
    spread = 2 * 1.96 * np.arange(5.0).std() / np.sqrt(5)
    for each in found:
        assert each.high - each.low == pytest.approx(spread, rel=0.1)


def test_layouts_that_all_seeds_share_do_not_average_out() -> None:
    """Ten equal policies are no more evidence than one: all had the same luck with layouts."""
    luck = rng().normal(size=(1, 1, 100))
    one, ten = (
        estimate(statistics.mean, runs_of(np.repeat(luck, seeds, axis=0), rng()))
        for seeds in (1, 10)
    )
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.05)


def test_interval_covers_the_truth() -> None:
    """Many seeds on shared layouts: about 95 % of the intervals hold the true mean, 0."""
    generator, covered, trials = rng(), 0, 300
    for _ in range(trials):
        seeds, layouts = generator.normal(size=(30, 1, 1)), generator.normal(size=(1, 1, 40))
        returns = seeds + layouts + generator.normal(size=(30, 1, 40))
        found = estimate(statistics.mean, runs_of(returns, generator, 300))
        covered += found.low <= 0.0 <= found.high
    assert 0.91 * trials <= covered <= 0.98 * trials


def test_domains_are_strata() -> None:
    """Constant but different domains leave nothing to resample within one seed."""
    found = estimate(statistics.mean, runs_of(np.array([[[0.0] * 30, [10.0] * 30]]), rng()))
    assert np.allclose(found, (5.0, 5.0, 5.0))


def test_ratios_are_taken_within_a_replicate() -> None:
    """What is twice the ceiling in each replicate is twice it for certain, wide as both may be."""
    ours = runs_of(rng().normal(5.0, 3.0, size=(4, 1, 50)), rng())
    double = Runs(2 * ours.scores, 2 * ours.replicates)
    floor = Runs(np.zeros((1, 1)), np.zeros((2_000, 1, 1)))
    assert np.allclose(estimate(statistics.normalised, double, floor, ours), (2.0, 2.0, 2.0))


def test_same_generator_same_interval() -> None:
    returns = rng().normal(size=(4, 1, 30))
    first, again, other = (
        estimate(statistics.mean, runs_of(returns, np.random.default_rng(seed)))
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first.low != other.low


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no run"):
        resample_seeds(np.zeros((0, 1)), np.zeros((10, 0, 1)), rng())
