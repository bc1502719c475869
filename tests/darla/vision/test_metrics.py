"""Scores of representations whose disentanglement is known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from darla.vision.metrics import (
    active_units,
    beta_vae_score,
    dci_forest,
    disentanglement,
    factor_vae_score,
    modularity,
    mutual_information,
    mutual_information_gap,
    separated_predictability,
)

SIZES = (4, 6, 5)


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture(scope="module")
def factors() -> np.ndarray:
    return np.random.default_rng(0).integers(SIZES, size=(4_000, 3))


def standard(factors: np.ndarray) -> np.ndarray:
    return (factors - factors.mean(0)) / factors.std(0)


def scores(latents: np.ndarray, factors: np.ndarray) -> dict[str, float]:
    return disentanglement(latents, factors, rng(), nominal=(0,))


@pytest.fixture(scope="module")
def ideal(factors: np.ndarray) -> dict[str, float]:
    return scores(standard(factors), factors)


def test_the_factors_themselves_are_disentangled(ideal: dict[str, float]) -> None:
    assert ideal.pop("active_units") == 3
    assert ideal["beta_vae"] == ideal["factor_vae"] == 1.0
    for name, score in ideal.items():
        assert score == pytest.approx(1.0, abs=0.02), name


@pytest.mark.parametrize("case", ["permutation", "constants"])
def test_order_and_constant_latents_do_not_matter(
    case: str, factors: np.ndarray, ideal: dict[str, float]
) -> None:
    latents = standard(factors)
    if case == "permutation":
        latents = latents[:, [2, 0, 1]]
    else:
        latents = np.insert(latents, [0, 2], 7.0, axis=1)
    for name, score in scores(latents, factors).items():
        if name in ideal:
            assert score == pytest.approx(ideal[name], abs=0.02), name


def test_a_rotation_entangles(factors: np.ndarray) -> None:
    turn = np.sqrt(0.5) * np.array([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, np.sqrt(2)]])
    latents = standard(factors) @ turn
    # Two of three factors are spread evenly over two latents, the third is alone in one.
    assert separated_predictability(latents, factors) == pytest.approx(1 / 3, abs=0.02)
    assert mutual_information_gap(latents, factors) == pytest.approx(1 / 3, abs=0.06)
    dci = dci_forest(latents, factors, rng())
    assert dci["dci_forest/disentanglement"] < 0.75 and dci["dci_forest/completeness"] < 0.75
    assert dci["dci_forest/informativeness"] > 0.98
    assert modularity(latents, factors) < 0.9
    assert factor_vae_score(latents, factors, rng()) < 0.95


def test_duplicates_have_no_gap_but_stay_modular(factors: np.ndarray) -> None:
    latents = np.tile(standard(factors), 2)
    result = scores(latents, factors)
    assert result["mig"] == pytest.approx(0.0, abs=1e-9)
    assert result["sap"] == pytest.approx(0.0, abs=1e-9)
    assert result["beta_vae"] == result["factor_vae"] == 1.0
    assert result["modularity"] == pytest.approx(1.0, abs=0.02)
    assert result["dci_forest/disentanglement"] > 0.98 > result["dci_forest/completeness"]
    assert result["active_units"] == 6


def test_collapsed_latents_tell_nothing(factors: np.ndarray) -> None:
    result = scores(np.zeros((len(factors), 4)), factors)
    assert result.pop("beta_vae") == pytest.approx(1 / 3, abs=0.05)
    assert result.pop("factor_vae") == 1 / 3
    assert result.pop("dci_forest/informativeness") == pytest.approx(0.25 / 3, abs=0.02)
    assert set(result.values()) == {0.0}


def test_noise_of_a_collapsed_latent_does_not_win_the_vote(factors: np.ndarray) -> None:
    faint = 1e-3 * np.random.default_rng(2).normal(size=(len(factors), 1))
    faint[factors[:, 0] == 0] = 0.0  # the smallest relative variance wherever factor 0 is 0
    latents = np.hstack([standard(factors), faint])
    assert factor_vae_score(latents, factors, rng()) == 1.0
    assert active_units(latents) == 3


def test_random_latents_are_at_chance(factors: np.ndarray) -> None:
    latents = np.random.default_rng(2).normal(size=(len(factors), 5))
    result = scores(latents, factors)
    assert result["beta_vae"] == pytest.approx(1 / 3, abs=0.08)
    assert result["factor_vae"] == pytest.approx(1 / 3, abs=0.12)
    assert result["mig"] < 0.02 and result["sap"] < 0.01


def test_mutual_information_in_nats() -> None:
    factors = np.array([[0], [1], [2], [3]] * 100)
    latents = np.hstack([factors, factors // 2, np.zeros_like(factors)]).astype(float)
    expected = [[np.log(4)], [np.log(2)], [0.0]]
    assert mutual_information(latents, factors) == pytest.approx(np.array(expected))


def test_a_latent_that_differs_by_rounding_alone_tells_nothing() -> None:
    factors = np.array([[0], [1]] * 200)
    latents = np.full((400, 1), 0.1, np.float32)
    latents[::3] = np.nextafter(np.float32(0.1), np.float32(1))
    assert mutual_information(latents, factors) == 0
    shifted = 100.0 + 0.01 * factors.astype(np.float32)
    assert mutual_information(shifted, factors) == pytest.approx(np.log(2))


def test_sap_of_a_factor_without_order_is_the_variance_between_its_values() -> None:
    factors = np.array([[0], [1], [2]] * 50)
    latents = np.where(factors == 1, 1.0, 0.0)  # linear in no numbering but the middle one
    assert separated_predictability(latents, factors) == pytest.approx(0.0)
    assert separated_predictability(latents, factors, nominal=(0,)) == pytest.approx(1.0)


def test_the_generator_alone_decides(factors: np.ndarray) -> None:
    latents = np.random.default_rng(3).normal(size=(len(factors), 3)) + 0.3 * factors
    first, again = (beta_vae_score(latents, factors, rng()) for _ in range(2))
    assert first == again
    assert scores(latents, factors) == scores(latents, factors)


@pytest.mark.parametrize(
    ("rows", "column", "message"),
    [(3, [0, 1, 0, 1], "3 latents do not fit 4 rows"), (4, [2, 2, 2, 2], "factor 0 has a single")],
)
def test_unusable_samples_are_refused(rows: int, column: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        disentanglement(np.zeros((rows, 2)), np.array(column)[:, None], rng())


def test_the_factor_vae_score_does_not_depend_on_scales(factors):
    latents = standard(factors) + 0.3 * np.random.default_rng(4).normal(size=factors.shape)
    assert (
        factor_vae_score(latents * [1.0, 10.0, 100.0], factors, rng())
        == factor_vae_score(latents, factors, rng())
        > 0.95
    )


def test_completeness_is_shared_between_copies(factors):
    dci = dci_forest(np.tile(standard(factors), 2), factors, rng())
    assert dci["dci_forest/completeness"] == pytest.approx(1 - np.log(2) / np.log(6), abs=0.06)


def test_modularity_of_a_latent_that_tells_two_factors():
    factors = np.array([[a, b] for a in range(2) for b in range(4)] * 50)
    latents = 4.0 * factors[:, :1] + factors[:, 1:]
    # log 4 of one and log 2 of the other: 1 - (1/2)^2
    assert modularity(latents, factors) == pytest.approx(0.75)
    three = np.hstack([factors, np.repeat([[0], [1]], 200, 0)])
    assert modularity(latents, three) == pytest.approx(0.875)


def test_the_gap_is_relative_to_the_entropy_of_each_factor() -> None:
    skewed = (np.random.default_rng(2).random(4_000) < 0.05).astype(int)
    factors = np.stack([skewed, np.arange(4_000) % 4], axis=1)
    assert mutual_information_gap(factors.astype(float), factors) == pytest.approx(1.0, abs=0.02)


def test_disentanglement_is_weighted_by_how_much_a_latent_matters() -> None:
    rng = np.random.default_rng(3)
    factors = rng.integers(4, size=(4_000, 2))
    mixed = factors.sum(1) + 2.0 * rng.normal(size=4_000)  # tells both factors, and little
    latents = np.column_stack([standard(factors), mixed])
    dci = dci_forest(latents, factors, rng)
    assert dci["dci_forest/disentanglement"] > 0.95


def test_informativeness_is_of_what_the_forest_was_not_fitted_to(factors):
    latents = np.random.default_rng(2).normal(size=(len(factors), 5))
    assert dci_forest(latents, factors, rng(), nominal=(0,))["dci_forest/informativeness"] < 0.12
