"""Protocols: suites whose targets are a table of shifts away from one source domain.

A protocol shares D_U and D_S with a suite, so that a run that was trained on that suite is scored
on the protocol without training anything anew. Every target is the start, a source domain, with one
factor moved (or two at once): what a policy loses there is due to that shift.

Published targets can be tuned on, on purpose or not. `fresh_targets` draws others by hash from a
release tag and a salt that stays secret until the evaluation; only its `commitment` is published.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from darla.errors import ConfigError, DomainError, did_you_mean
from envs.domains import ENCODER_OOD, POLICY_OOD, Domain, Suite, Value

SALT_CHARACTERS = 16
"""A shorter salt could be found by trying."""
_DRAWS = 1_000


@dataclass(frozen=True)
class Shift:
    """A row of a protocol: one factor, and where it moves to.

    Attributes:
        factor: Name of the factor.
        tag: `policy-ood` where frames of D_U show all these values, though no domain of D_U names
            them so (the walls of one room in another), else `encoder-ood`.
        values: The published targets' values.
        fresh: What fresh targets draw from: names, or closed intervals of a number; empty where
            every value is published.
    """

    factor: str
    tag: str
    values: tuple[Value, ...]
    fresh: tuple[str | tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Raises DomainError where the tag is none."""
        if self.tag not in (POLICY_OOD, ENCODER_OOD):
            raise DomainError(
                f"the tag of a shift of {self.factor} is '{self.tag}', allowed are "
                f"{POLICY_OOD} and {ENCODER_OOD}{did_you_mean(self.tag, (POLICY_OOD, ENCODER_OOD))}"
            )

    def draw(self, share: float) -> Value:
        """Returns the value at a share, in [0, 1), of `fresh`; numbers have three digits."""
        if isinstance(self.fresh[0], str):
            return str(self.fresh[int(share * len(self.fresh))])
        spans = [span for span in self.fresh if not isinstance(span, str)]
        left = share * sum(high - low for low, high in spans)
        for low, high in spans:
            if left < high - low:
                break
            left -= high - low
        return float(f"{min(low + left, high):.3g}")


@dataclass(frozen=True)
class Protocol(Suite):
    """A suite whose targets are shifts of a source domain; make it with `make_protocol`.

    Attributes:
        start: The source domain that every target is a shift of.
        shifts: The table.
        together: Factors that move at once: 1 or 2.
    """

    start: Domain
    shifts: tuple[Shift, ...]
    together: int = 1

    def __post_init__(self) -> None:
        """Raises DomainError as a suite does, and where the start is no source domain."""
        super().__post_init__()
        if self.start not in self.d_s:
            raise DomainError(
                f"protocol '{self.name}' starts from {self.start}, which is no source domain"
            )

    @property
    def seen(self) -> set[tuple[str, Value]]:
        """Factor values that frames of D_U show, those of `policy-ood` shifts included."""
        start = self.world.canonical_values(self.start)
        shown = super().seen
        for shift in self.shifts:
            if shift.tag == POLICY_OOD:
                for value in shift.values:
                    moved = _moved(self, self.start, (shift,), (value,))
                    shown |= self.world.canonical_values(moved) - start
        return shown


def make_protocol(
    name: str,
    about: str,
    base: Suite,
    start: Domain,
    shifts: tuple[Shift, ...],
    *,
    together: int = 1,
) -> Protocol:
    """Makes the protocol of a table.

    Args:
        name: Name in configurations.
        about: One line for people.
        base: The suite whose D_U and D_S it shares.
        start: One of its source domains.
        shifts: The table.
        together: Factors that move at once: every row alone, or every two rows of different factors
            (1 or 2).

    Raises:
        DomainError: The start is no source, or a target is a source domain or named twice.
    """
    targets = tuple(
        _moved(base, start, group, values)
        for group in _groups(shifts, together)
        for values in itertools.product(*(shift.values for shift in group))
    )
    return Protocol(name, about, base.world, base.d_u, base.d_s, targets, start, shifts, together)


def fresh_targets(protocol: Protocol, tag: str, salt: str) -> Protocol:
    """Returns the protocol with other targets, drawn by SHA-256 from a tag and a salt.

    Every row (or pair of rows) gets as many fresh targets as it has published ones, or none where
    it has nothing to draw from. None of them is a published target or a training domain, and rows
    of one factor share none.

    Args:
        protocol: The table to draw from.
        tag: Release that is evaluated, such as 'v0.1'.
        salt: Secret until the evaluation.

    Returns:
        A protocol whose name ends in the tag and the first digits of the commitment.

    Raises:
        ConfigError: As in `commitment`.
        DomainError: The table, or a row that is to be drawn from, has too little to draw from.
    """
    name = f"{protocol.name}@{tag}-{commitment(tag, salt)[:8]}"
    canonical = protocol.world.canonical_values
    taken = {canonical(domain) for domain in (*protocol.d_u, *protocol.d_s, *protocol.d_t)}
    targets: list[Domain] = []
    for group in _groups(protocol.shifts, protocol.together):
        if all(shift.fresh for shift in group):
            wanted = math.prod(len(shift.values) for shift in group)
            drawn = list(itertools.islice(_drawn(protocol, group, tag, salt, taken), wanted))
            if len(drawn) < wanted:
                raise DomainError(
                    f"protocol '{protocol.name}': {_row(group)} draws {len(drawn)} of {wanted} "
                    "fresh targets, as many as it publishes; what is left of its `fresh` is "
                    "published, trained on or drawn by another row: give it more values, or none"
                )
            targets += drawn
    if not targets:
        raise DomainError(f"protocol '{protocol.name}' has no values for fresh targets")
    return dataclasses.replace(protocol, name=name, d_t=tuple(targets))


def commitment(tag: str, salt: str) -> str:
    """Returns what is published before an evaluation: 64 hexadecimal digits of SHA-256.

    Raises:
        ConfigError: The tag is no single word, or the salt is too short to be secret.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tag):
        raise ConfigError(f"the tag is '{tag}'; it must be one word, such as v0.1")
    if len(salt) < SALT_CHARACTERS:
        raise ConfigError(
            f"the salt has {len(salt)} characters; with fewer than {SALT_CHARACTERS} it can be "
            "guessed from the digest. `openssl rand -hex 16` makes one"
        )
    return _digest(tag, salt).hex()


def _groups(shifts: tuple[Shift, ...], together: int) -> list[tuple[Shift, ...]]:
    """Returns the rows that move at once; two rows of one factor never do."""
    groups = itertools.combinations(shifts, together)
    return [group for group in groups if len({shift.factor for shift in group}) == together]


def _moved(
    suite: Suite, start: Domain, group: tuple[Shift, ...], values: Iterable[Value]
) -> Domain:
    """Returns the start with the factors of a group at other values."""
    moved = {shift.factor: value for shift, value in zip(group, values, strict=True)}
    return suite.world.domain(**{**start.factors, **moved})


def _row(group: tuple[Shift, ...]) -> str:
    """How a message names the rows that move at once."""
    names = " and ".join(shift.factor for shift in group)
    return f"the row of {names}" if len(group) == 1 else f"the pair of {names}"


def _drawn(
    protocol: Protocol,
    group: tuple[Shift, ...],
    tag: str,
    salt: str,
    taken: set[frozenset[tuple[str, Value]]],
) -> Iterator[Domain]:
    """Yields fresh targets of a group, none whose canonical values are in `taken`; adds them there.

    Two rows of one factor follow from the same words, so that they draw the same shares: what one
    of them took, the other leaves out.
    """
    factors = [shift.factor for shift in group]
    for index in range(_DRAWS):
        values = [
            shift.draw(_share(tag, salt, protocol.name, *factors, shift.factor, str(index)))
            for shift in group
        ]
        domain = _moved(protocol, protocol.start, group, values)
        key = protocol.world.canonical_values(domain)
        if key not in taken:
            taken.add(key)
            yield domain


def _share(*words: str) -> float:
    """Returns a number in [0, 1) that the words decide."""
    return int.from_bytes(_digest(*words)[:6], "big") / 2**48


def _digest(*words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode()).digest()
