"""Disentanglement of a representation: scores of a sample of latents whose factors are known.

Every score reads `latents`, float [N, D], and `factors`, int [N, K]: of sample n, the values of K
factors of variation, each of which takes at least two values. Draws come from the generator that is
given, and samples with an equal factor are drawn from the sample itself. 1 is the best value and 0
the worst, unless a score says otherwise. Scores assume that factors vary independently.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]

#: A latent is active when the variance of its mean is above this (Burda et al. 2016, 1509.00519).
ACTIVE_VARIANCE = 0.01
#: FactorVAE's score leaves out latents whose variance is below this, where the prior's is 1.
COLLAPSED_VARIANCE = 0.05
#: A latent whose values differ by less than this share of the largest of them differs by rounding.
CONSTANT = 1e-5
BINS = 20
#: Samples that the forest of DCI is fitted to; as many others test it.
FOREST_SAMPLES = 4_000
TREES = 10


def disentanglement(
    latents: Floats,
    factors: Integers,
    rng: np.random.Generator,
    *,
    nominal: Collection[int] = (),
    walks: bool = False,
) -> dict[str, float]:
    """All scores of this module.

    Args:
        latents: float [N, D].
        factors: int [N, K].
        rng: Source of every draw.
        nominal: Columns of `factors` whose values have no order.
        walks: Whether samples are in the order of walks, in which neighbours resemble each other.

    Returns:
        `beta_vae`, `factor_vae`, `mig`, `dci_forest/disentanglement`, `dci_forest/completeness`,
        `dci_forest/informativeness`, `sap`, `modularity`, `active_units`.

    Raises:
        ValueError: Lengths differ, or a factor has a single value.
    """
    return {
        "beta_vae": beta_vae_score(latents, factors, rng),
        "factor_vae": factor_vae_score(latents, factors, rng),
        "mig": mutual_information_gap(latents, factors),
        **dci_forest(latents, factors, rng, nominal=nominal, walks=walks),
        "sap": separated_predictability(latents, factors, nominal=nominal),
        "modularity": modularity(latents, factors),
        "active_units": active_units(latents),
    }


def beta_vae_score(
    latents: Floats,
    factors: Integers,
    rng: np.random.Generator,
    *,
    points: int = 1_500,
    pairs: int = 64,
) -> float:
    """Accuracy with which a linear classifier names the factor that pairs have in common.

    A point is the mean of |z_a - z_b| over pairs (a, b) that agree in one factor, whichever its
    value, and are random otherwise (1606.05579, section 3).

    Args:
        latents: float [N, D].
        factors: int [N, K].
        rng: Source of every draw.
        points: Points; two thirds fit the classifier, the rest is scored.
        pairs: Pairs in one point.

    Returns:
        Accuracy; chance is 1 / K.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    codes = _codes(latents, factors)
    shared = rng.permutation(np.arange(points) % codes.shape[1])
    first = rng.integers(len(latents), size=(points, pairs))
    features = np.empty((points, latents.shape[1]))
    for factor in range(codes.shape[1]):
        own = first[shared == factor]
        other = _peers(codes[:, factor], own.ravel(), 1, rng).reshape(own.shape)
        features[shared == factor] = np.abs(latents[own] - latents[other]).mean(1)
    fit = points * 2 // 3
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=10.0, max_iter=2_000))
    classifier.fit(features[:fit], shared[:fit])
    return float(classifier.score(features[fit:], shared[fit:]))


def factor_vae_score(
    latents: Floats,
    factors: Integers,
    rng: np.random.Generator,
    *,
    points: int = 1_500,
    batch: int = 64,
) -> float:
    """Accuracy with which the latent that varies least names the factor that is fixed.

    A point is the latent of the smallest variance, relative to that over all samples, in a batch
    whose samples agree in one factor; a majority vote names the factor (Kim & Mnih 2018,
    1802.05983). Latents whose variance is below `COLLAPSED_VARIANCE` are left out, as in the paper.

    Args:
        latents: float [N, D].
        factors: int [N, K].
        rng: Source of every draw.
        points: Points; two thirds vote, the rest is scored.
        batch: Samples of one point.

    Returns:
        Accuracy; chance is 1 / K, which is also the score where every latent is collapsed.
    """
    codes = _codes(latents, factors)
    count = codes.shape[1]
    kept = latents[:, latents.var(0) >= COLLAPSED_VARIANCE]
    if not kept.shape[1]:
        return 1 / count
    kept = kept / kept.std(0)
    fixed = rng.permutation(np.arange(points) % count)
    least = np.empty(points, int)
    for factor in range(count):
        own = fixed == factor
        members = rng.integers(len(latents), size=int(own.sum()))
        least[own] = kept[_peers(codes[:, factor], members, batch, rng)].var(1).argmin(1)
    fit = points * 2 // 3
    votes = np.zeros((kept.shape[1], count), int)
    np.add.at(votes, (least[:fit], fixed[:fit]), 1)
    return float((votes.argmax(1)[least[fit:]] == fixed[fit:]).mean())


def mutual_information_gap(latents: Floats, factors: Integers) -> float:
    """MIG: how much more the best latent tells of a factor than the second best.

    I(z_j; v_k) / H(v_k), the largest less the second largest over j, averaged over the factors
    (Chen et al. 2018, 1802.04942), from histograms of 20 bins as in Locatello et al. (1811.12359):
    a latent cannot tell more than log 20 nats of a factor.
    """
    codes = _codes(latents, factors)
    shares = mutual_information(latents, factors) / [_entropy(column) for column in codes.T]
    return float(_gap(shares).mean())


def dci_forest(
    latents: Floats,
    factors: Integers,
    rng: np.random.Generator,
    *,
    nominal: Collection[int] = (),
    walks: bool = False,
) -> dict[str, float]:
    """DCI by a random forest per factor, every tree of which sees all latents at every split.

    Importances of latent i for factor k are the mean decreases in impurity of the forest, a
    classifier for factors in `nominal` and a regressor for the others (Eastwood & Williams 2018).
    The estimator is in the name, because scores of other estimators differ.

    Forests are fitted to a random half of the samples and tested on the other; with `walks`, to the
    first half, since a random half holds a near copy of nearly every sample of the other.

    Returns:
        `dci_forest/disentanglement`: 1 where each latent matters to one factor, weighted by how
            much it matters; `dci_forest/completeness`: 1 where each factor needs one latent;
            `dci_forest/informativeness`: mean accuracy or, of regressors, R^2 (at least 0), on
            samples that the forest has not seen.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    codes = _codes(latents, factors)
    order = np.arange(len(latents)) if walks else rng.permutation(len(latents))
    half = len(order) // 2
    fit, test = order[:half][:FOREST_SAMPLES], order[half:][:FOREST_SAMPLES]
    importance, scores = np.zeros((latents.shape[1], codes.shape[1])), []
    for factor in range(codes.shape[1]):
        kind = RandomForestClassifier if factor in nominal else RandomForestRegressor
        target = codes[:, factor] if factor in nominal else factors[:, factor]
        forest = kind(TREES, max_features=None, random_state=int(rng.integers(2**31)))
        forest.fit(latents[fit], target[fit])
        importance[:, factor] = forest.feature_importances_
        scores.append(max(0.0, forest.score(latents[test], target[test])))
    weight = importance.sum(1)
    total = max(weight.sum(), np.finfo(float).tiny)
    return {
        "dci_forest/disentanglement": float(_concentration(importance) @ weight / total),
        "dci_forest/completeness": float(_concentration(importance.T).mean()),
        "dci_forest/informativeness": float(np.mean(scores)),
    }


def separated_predictability(
    latents: Floats, factors: Integers, *, nominal: Collection[int] = ()
) -> float:
    """SAP: how much better the best latent predicts a factor than the second best.

    The share R^2 of variance that a linear fit of one latent explains, the largest less the second
    largest, averaged over the factors (Kumar et al. 2018, 1711.00848). For a factor in `nominal`,
    where the paper counts errors of a classifier, R^2 is the share of the latent's variance that is
    between the factor's values.
    """
    codes = _codes(latents, factors)
    centred = latents - latents.mean(0)
    spread = (centred**2).sum(0)
    explained = np.zeros((latents.shape[1], codes.shape[1]))
    for factor, column in enumerate(codes.T):
        if factor in nominal:
            sizes = np.bincount(column)
            means = np.stack([np.bincount(column, z) for z in centred.T]) / sizes
            explained[:, factor] = (means**2) @ sizes
        else:
            values = factors[:, factor] - factors[:, factor].mean()
            explained[:, factor] = (values @ centred) ** 2 / (values @ values)
    moving = spread > np.finfo(np.float32).tiny
    shares = np.where(moving[:, None], explained / np.where(moving, spread, 1.0)[:, None], 0.0)
    return float(_gap(shares).mean())


def modularity(latents: Floats, factors: Integers) -> float:
    """How far each latent tells of one factor alone (Ridgeway & Mozer 2018, 1802.05312).

    Per latent, 1 less the squared mutual information with other factors than its best, relative to
    that with its best and averaged over them; the mean over latents. Latents whose variance is
    below `COLLAPSED_VARIANCE` are left out; where that leaves none the score is 0.
    """
    shares = mutual_information(latents, factors)[latents.var(0) >= COLLAPSED_VARIANCE] ** 2
    best = shares.max(1, initial=0.0)
    shares, best = shares[best > 0], best[best > 0]
    if not len(best):
        return 0.0
    return float((1 - (shares.sum(1) / best - 1) / max(1, factors.shape[1] - 1)).mean())


def active_units(latents: Floats) -> int:
    """Number of latents whose variance is above `ACTIVE_VARIANCE` (Burda et al. 2016)."""
    return int((latents.var(0) > ACTIVE_VARIANCE).sum())


def mutual_information(latents: Floats, factors: Integers) -> npt.NDArray[np.float64]:
    """I(z_j; v_k) in nats, float64 [D, K], with latents cut into 20 bins of equal width."""
    codes = _codes(latents, factors)
    result = np.zeros((latents.shape[1], codes.shape[1]))
    for latent, values in enumerate(latents.T.astype(np.float64)):
        if np.ptp(values) <= CONSTANT * np.abs(values).max():
            continue  # it tells nothing, and has no bins
        bins = np.digitize(values, np.histogram_bin_edges(values, BINS)[1:-1])
        for factor, column in enumerate(codes.T):
            joint = _entropy(bins * (column.max() + 1) + column)
            result[latent, factor] = _entropy(bins) + _entropy(column) - joint
    return np.maximum(result, 0.0)


def _codes(latents: Floats, factors: Integers) -> npt.NDArray[np.int64]:
    """The factors with their values numbered from 0, int64 [N, K]."""
    if len(latents) != len(factors):
        raise ValueError(f"{len(latents)} latents do not fit {len(factors)} rows of factors")
    columns = [np.unique(column, return_inverse=True)[1] for column in factors.T]
    for factor, column in enumerate(columns):
        if not column.any():
            raise ValueError(f"factor {factor} has a single value; leave it out")
    return np.stack(columns, axis=1)


def _peers(codes: Integers, members: Integers, count: int, rng: np.random.Generator) -> Integers:
    """Samples with the same value as each of `members` [M], drawn with replacement: [M, count]."""
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    value = codes[members][:, None]
    offset = (rng.random((len(members), count)) * sizes[value]).astype(int)
    return order[(np.cumsum(sizes) - sizes)[value] + offset]


def _entropy(codes: Integers) -> float:
    """Entropy in nats of the values of an integer array."""
    counts = np.bincount(codes)
    shares = counts[counts > 0] / len(codes)
    return float(-(shares * np.log(shares)).sum())


def _gap(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Largest less second largest over the first axis; a second that is not there counts as 0."""
    ordered = np.sort(np.pad(scores, ((1, 0), (0, 0))), axis=0)
    return ordered[-1] - ordered[-2]


def _concentration(importance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Per row, 1 less its entropy relative to that of an even spread; 0 for a row of zeros."""
    total = importance.sum(1, keepdims=True)
    shares = importance / np.where(total > 0, total, 1.0)
    logarithms = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    concentration = 1 + (shares * logarithms).sum(1) / np.log(max(2, importance.shape[1]))
    return np.where(total[:, 0] > 0, concentration, 0.0)
