"""The rows of the benchmark: what each perception is compared as, in the order of every table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.scores import RANDOM_POLICY


@dataclass(frozen=True)
class Entrant:
    """A perception as the benchmark presents it.

    Attributes:
        kind: 'ours', 'ablation', 'baseline', 'ceiling', 'floor', or 'other' for unknown names.
        label: Its name in tables and plots.
        words: Its name inside a sentence.
        zero_shot: Whether it is certain that no policy on it was trained in a target domain.
    """

    kind: str
    label: str
    words: str
    zero_shot: bool = True


# fmt: off
ENTRANTS = {
    "darla":                Entrant("ours", "DARLA", "DARLA’s frozen vision"),
    "entangled":            Entrant("ablation", "DARLA, entangled", "an entangled vision"),
    "beta-vae":             Entrant("ablation", "β-VAE, pixel loss", "a pixel-loss β-VAE"),
    "dae":                  Entrant("ablation", "DAE features", "features of the autoencoder"),
    "fine-tuned":           Entrant("ablation", "DARLA, fine-tuned", "a fine-tuned vision"),
    "random":               Entrant("ablation", "untrained encoder", "an untrained encoder"),
    "pixels":               Entrant("baseline", "pixels, end to end", "end-to-end pixels"),
    "pixels+augmentation":  Entrant("baseline", "pixels, augmented", "augmented pixels"),
    "domain-randomisation": Entrant("baseline", "pixels, all D_U", "pixels of all D_U", False),
    "factors":              Entrant("ceiling", "true factors (ceiling)", "the true factors", False),
    "none":                 Entrant("floor", "random policy (floor)", "the random policy"),
}
# fmt: on
"""DARLA, what is taken from it, what others would do today, the ceiling and the floor."""


PROJECTED = Entrant("baseline", "pixels, random projection", "randomly projected pixels")
"""What `pixels` is to episodic control, which learns no network: end to end it is not."""


def entrant(perception: str, algorithm: str = "") -> Entrant:
    """The entrant of a perception; of an unknown one, its name."""
    if (perception, algorithm) == ("pixels", "ec"):
        return PROJECTED
    return ENTRANTS.get(perception, Entrant("other", perception, perception))


def order(algorithm: str, perception: str) -> tuple[bool, str, int, str]:
    """Sorts rows: the random policy last, algorithms together, perceptions as in `ENTRANTS`."""
    known = list(ENTRANTS)
    place = known.index(perception) if perception in known else len(known)
    return (algorithm == RANDOM_POLICY, algorithm, place, perception)


def find(rows: list[dict[str, Any]], algorithm: str, perception: str) -> Mapping[str, Any] | None:
    """The row of an algorithm on a perception, or None."""
    wanted = (algorithm, perception)
    return next((row for row in rows if (row["algorithm"], row["perception"]) == wanted), None)
