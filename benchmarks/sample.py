"""From score rows to arrays: the run scores of every row, with replicates that belong together."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.rows import order
from benchmarks.scores import GROUPS, UNFINISHED, Score
from benchmarks.statistics import (
    RESAMPLES,
    FloatArray,
    Runs,
    resample_seeds,
    weigh_layouts,
    weighted_scores,
)


class Entry:
    """The scores of one algorithm on one perception.

    Attributes:
        algorithm: Name of the algorithm.
        perception: Name of the perception.
        scores: Its rows.
        seeds: Its training seeds, in order.
        unfinished: Those of them whose training had not ended.
        tags: Tags of every domain that it was scored in.
        groups: Group ('source', 'target', 'encoder_ood') of every domain that it was scored in.
    """

    def __init__(self, scores: Sequence[Score], sample: Sample) -> None:
        """Use `Sample`."""
        self.algorithm, self.perception = scores[0].algorithm, scores[0].perception
        self.scores = scores
        self.seeds = sorted({score.seed for score in scores})
        self.unfinished = sorted({score.seed for score in scores if UNFINISHED in score.tags})
        self.tags = {score.domain: score.tags for score in scores}
        self.groups = {score.domain: score.group for score in scores}
        self._sample = sample
        self._returns: dict[tuple[int, str], list[Score]] = defaultdict(list)
        for score in scores:
            self._returns[score.seed, score.domain].append(score)
        self._weighted: dict[tuple[int, str], FloatArray] = {}

    @property
    def name(self) -> str:
        """Such as 'dqn on darla'."""
        if self.perception == "none":
            return self.algorithm
        return f"{self.algorithm} on {self.perception}"

    def played(self, domains: Iterable[str]) -> list[int]:
        """The seeds that have an episode in each of these domains."""
        wanted = list(domains)
        return [s for s in self.seeds if all((s, domain) in self._returns for domain in wanted)]

    def episodes(self, domains: Iterable[str], seeds: Iterable[int]) -> int:
        """Number of episodes of these seeds in these domains."""
        pairs = [(seed, domain) for domain in domains for seed in seeds]
        return sum(len(self._returns[pair]) for pair in pairs if pair in self._returns)

    def runs(self, domains: Sequence[str], seeds: Sequence[int]) -> Runs:
        """Run scores in these domains, in their order, of seeds that played all of them.

        A replicate has the same number in all rows and domains: what is computed from several of
        them within a replicate is drawn jointly.

        Raises:
            ValueError: When there is no seed or no domain.
        """
        scores = [
            [np.mean([score.value for score in self._returns[seed, domain]]) for domain in domains]
            for seed in seeds
        ]
        weighted = [[self._reweighted(seed, domain) for domain in domains] for seed in seeds]
        return resample_seeds(
            np.array(scores, dtype=np.float64),
            np.moveaxis(np.array(weighted, dtype=np.float64), -1, 0),
            self._sample.generator("seeds", self.algorithm, self.perception, *map(str, seeds)),
        )

    def _reweighted(self, seed: int, domain: str) -> FloatArray:
        """The run score in every replicate, float64 [resamples]."""
        if (seed, domain) not in self._weighted:
            episodes = self._returns[seed, domain]
            weights = [self._sample.weights(episode.layout_seed) for episode in episodes]
            self._weighted[seed, domain] = weighted_scores(
                [episode.value for episode in episodes], np.stack(weights, axis=1)
            )
        return self._weighted[seed, domain]


class Sample:
    """All scores of a run, and the draws of the bootstrap.

    Every draw comes from a generator of its own name, so that no estimate depends on which others
    there are, or on the order of the rows.

    Attributes:
        entries: By algorithm and perception, in the order of every table.
        domains: Per group, the ids of the domains that anything was scored in, sorted.
    """

    def __init__(self, scores: Iterable[Score], seed: int, resamples: int = RESAMPLES) -> None:
        """Sorts rows that may come in any order.

        Args:
            scores: The rows.
            seed: Seed of the bootstrap.
            resamples: Number of its replicates.
        """
        self._seed, self._resamples = seed, resamples
        self._weights: dict[tuple[int, ...], FloatArray] = {}
        rows: dict[tuple[str, str], list[Score]] = defaultdict(list)
        domains: dict[str, set[str]] = {group: set() for group in GROUPS}
        for score in sorted(scores, key=lambda score: score.key):
            rows[score.algorithm, score.perception].append(score)
            domains[score.group].add(score.domain)
        self.entries = {
            key: Entry(rows[key], self) for key in sorted(rows, key=lambda k: order(*k))
        }
        self.domains = {group: tuple(sorted(ids)) for group, ids in domains.items()}

    def generator(self, *words: str) -> np.random.Generator:
        """A generator that depends on the seed and a name alone."""
        digest = hashlib.sha256("\0".join(words).encode()).digest()
        return np.random.default_rng([self._seed, int.from_bytes(digest[:8], "little")])

    def weights(self, layout: tuple[int, ...]) -> FloatArray:
        """The weight of a layout in every replicate, float64 [resamples]."""
        if layout not in self._weights:
            rng = self.generator("layout", *map(str, layout))
            self._weights[layout] = weigh_layouts(rng, self._resamples)
        return self._weights[layout]
