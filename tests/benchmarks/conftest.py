"""Made-up scores: what the statistics and the report are tested on."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.scores import Score
from tests.benchmarks.browser import chromium, open_page  # noqa: F401

DOMAINS = {
    "lab/A/hat-can": ("source",),
    "lab/A/cake-balloon": ("source",),
    "lab/B/cake-balloon": ("source",),
    "lab/B/hat-can": ("target", "policy-ood"),
    "lab/B/hat-can/light=0.5": ("target", "encoder-ood"),
}

ScoresOf = Callable[..., list[Score]]


@pytest.fixture
def scores_of() -> ScoresOf:
    """A function that makes the scores of one algorithm on one perception."""

    def make(
        perception: str = "darla",
        *,
        algorithm: str = "dqn",
        seeds: int = 3,
        episodes: int = 10,
        source: float = 7.0,
        target: float = 6.0,
        encoder_ood: float | None = 2.0,
        spread: float = 1.0,
        frames: int = 1_440_000,
    ) -> list[Score]:
        rng = np.random.default_rng(5)
        scores = []
        for seed in range(seeds):
            shift = spread * rng.normal()
            for domain, tags in DOMAINS.items():
                mean = (
                    source
                    if tags == ("source",)
                    else encoder_ood
                    if "encoder-ood" in tags
                    else target
                )
                if mean is None:
                    continue
                for episode in range(episodes):
                    scores.append(
                        Score(
                            suite="lab",
                            domain=domain,
                            tags=tags,
                            split="source" if tags == ("source",) else "target",
                            algorithm=algorithm,
                            perception=perception,
                            seed=seed,
                            episode=episode,
                            layout_seed=(10_000 + episode % 2, episode // 2 % 4, episode // 8),
                            value=float(mean + shift + spread * rng.normal()),
                            length=100,
                            decisions=frames // 12,
                            frames=frames,
                        )
                    )
        return scores

    return make
