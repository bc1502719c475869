"""Domains as values: factors of variation, worlds that declare them, and suites of them.

A *domain* assigns a value to every factor of a world. A *suite* names the three sets of DARLA
(1707.08475, section 2): D_U (vision learns), D_S (the policy learns) and D_T (zero-shot targets),
and refuses to exist when a target is among the sources. Nothing here imports a simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from darla.errors import DomainError, did_you_mean

Value = str | float

#: The parts were seen by the encoder, the conjunction was not seen by the policy: DARLA's own
#: claim.
POLICY_OOD = "policy-ood"
#: A factor value that the encoder never saw. Never averaged together with `policy-ood`.
ENCODER_OOD = "encoder-ood"


@dataclass(frozen=True)
class Factor:
    """A factor of variation: named choices, or a number in a closed interval.

    Attributes:
        name: Field name, for instance `light`.
        default: Value of a domain that does not say otherwise; None if every domain must say it.
        choices: Allowed names, or empty for a number.
        low: Smallest allowed number.
        high: Largest allowed number.
        about: One line for people, with the unit.
        visible: False where it changes nothing that can be seen, so that a new value of it makes no
            target `encoder-ood`.
        whole: True where a number must be a whole one.
    """

    name: str
    default: Value | None
    about: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    visible: bool = True
    whole: bool = False

    def check(self, value: object) -> Value:
        """Returns the value in its canonical type, or raises DomainError with what is allowed."""
        if self.choices:
            if value in self.choices:
                return str(value)
            allowed = f"one of {', '.join(self.choices)}{did_you_mean(str(value), self.choices)}"
        else:
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                number = float("nan")
            if self.low <= number <= self.high and (number.is_integer() or not self.whole):
                return number
            kind = "a whole number" if self.whole else "a number"
            allowed = f"{kind} from {self.low:g} to {self.high:g}"
        raise DomainError(f"factor '{self.name}' is {value!r}, allowed is {allowed}")


@dataclass(frozen=True)
class Domain:
    """An assignment of all factors of a world. Equal and hashable by its values.

    Attributes:
        world: Name of the world, the first part of the id.
        values: (factor, value) for every factor, in the world's order.
        id: Readable and parseable, for instance `lab/B/hat-can/light=0.7`.
    """

    world: str
    values: tuple[tuple[str, Value], ...]
    id: str = field(compare=False)

    @property
    def factors(self) -> dict[str, Value]:
        """The values by factor name."""
        return dict(self.values)

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True)
class World:
    """A named list of factors that makes, names and parses domains.

    Factors without a default come first in an id, as bare values; the others appear as `name=value`
    where they differ from their default.

    Where one look or motion has several names (the walls of room B are red: so are walls that are
    said to be red), `canonical` tells what decides it. Ids, equality and hashes of domains are by
    their values all the same.

    Attributes:
        name: First part of every id.
        factors: Factors of variation.
        kinds: Kinds of objects, in the order of the environments' indices.
        state_size: Length of `info["state"]`, the ground truth.
        canonical: Maps the values of all factors of a domain to those that decide its look and its
            dynamics, by the factors' names: resolved where they stand for another, left out where
            they decide nothing; None where every value decides.
    """

    name: str
    factors: tuple[Factor, ...]
    kinds: tuple[str, ...] = ()
    state_size: int = 0
    canonical: Callable[[Mapping[str, Value]], Mapping[str, Value]] | None = field(
        default=None, repr=False
    )

    def __post_init__(self) -> None:
        """Raises DomainError where ids would be ambiguous, or a default is not allowed."""
        names = [factor.name for factor in self.factors]
        for factor in self.factors:
            if names.count(factor.name) > 1:
                raise DomainError(f"world '{self.name}' has the factor '{factor.name}' twice")
            if factor.default is not None:
                factor.check(factor.default)
        for word in (self.name, *names, *(word for f in self.factors for word in f.choices)):
            if not word or set("/=") & set(word):
                raise DomainError(
                    f"world '{self.name}': '{word}' cannot be part of an id; give a name without "
                    "'/' and '='"
                )

    def domain(self, **values: Value) -> Domain:
        """Makes a domain; factors that are not given take their default.

        Raises:
            DomainError: An unknown factor, a missing one, or a value that is not allowed.
        """
        names = [factor.name for factor in self.factors]
        for name in values:
            if name not in names:
                raise DomainError(
                    f"world '{self.name}' has no factor '{name}'{did_you_mean(name, names)}; "
                    f"it has {', '.join(names)}"
                )
        chosen: list[tuple[str, Value]] = []
        words, options = [self.name], []
        for factor in self.factors:
            given = values.get(factor.name, factor.default)
            if given is None:
                raise DomainError(f"a domain of '{self.name}' must name its {factor.name}")
            value = factor.check(given)
            chosen.append((factor.name, value))
            if factor.default is None:
                words.append(str(value))
            elif value != factor.default:
                options.append(f"{factor.name}={value_text(value)}")
        return Domain(self.name, tuple(chosen), "/".join([*words, *options]))

    def canonical_values(self, domain: Domain) -> frozenset[tuple[str, Value]]:
        """The (name, value) pairs that decide how a domain of this world looks and moves.

        Two domains of equal pairs are one and the same to an agent, whatever their ids.
        """
        factors = domain.factors
        return frozenset((self.canonical(factors) if self.canonical else factors).items())

    def parse(self, text: str) -> Domain:
        """The domain with this id; the inverse of `Domain.id`.

        Raises:
            DomainError: The text is not an id of this world.
        """
        world, *words = text.split("/")
        if world != self.name:
            raise DomainError(f"domain '{text}' is not of world '{self.name}'")
        required = [factor for factor in self.factors if factor.default is None]
        if len(words) < len(required):
            example = "/".join(
                [self.name, *(f.choices[0] if f.choices else str(f.low) for f in required)]
            )
            raise DomainError(f"domain '{text}' is too short, an example is '{example}'")
        names = (factor.name for factor in required)
        values: dict[str, Value] = dict(zip(names, words, strict=False))
        for word in words[len(required) :]:
            name, equals, value = word.partition("=")
            if not equals:
                raise DomainError(f"in domain '{text}', '{word}' is not of the form factor=value")
            if name in values:
                raise DomainError(f"domain '{text}' names its {name} twice")
            values[name] = value
        return self.domain(**values)


def value_text(value: Value) -> str:
    """A value as it stands in ids and labels: a number in as few digits as lead back to it."""
    if isinstance(value, str):
        return value
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


@dataclass(frozen=True)
class Suite:
    """The sets D_U, D_S and D_T of one experiment.

    Attributes:
        name: Name in configurations.
        about: One line for people.
        world: The world that all domains belong to.
        d_u: Domains whose frames train the vision.
        d_s: Domains in which the policy learns.
        d_t: Domains of zero-shot scoring.
    """

    name: str
    about: str
    world: World
    d_u: tuple[Domain, ...]
    d_s: tuple[Domain, ...]
    d_t: tuple[Domain, ...]

    def __post_init__(self) -> None:
        """Raises DomainError if a target is a source too, or a set is empty or repeats a domain.

        A target is a source too where the world says that they look and move alike.
        """
        for label, domains in (("D_U", self.d_u), ("D_S", self.d_s), ("D_T", self.d_t)):
            if not domains:
                raise DomainError(f"suite '{self.name}' has no domain in {label}")
            check_domains(self.world, domains)
            if len(set(domains)) < len(domains):
                raise DomainError(f"suite '{self.name}' names a domain twice in {label}")
        sources = {self.world.canonical_values(domain): domain for domain in self.d_s}
        shared = []
        for domain in self.d_t:
            twin = sources.get(self.world.canonical_values(domain))
            if domain in self.d_s:
                shared.append(domain.id)
            elif twin is not None:
                shared.append(f"{domain.id} (which looks and moves as {twin.id} does)")
        if shared:
            raise DomainError(
                f"suite '{self.name}': {', '.join(shared)} is both source and target; "
                "a target must never be trained on"
            )

    def tags(self, domain: Domain) -> tuple[str, ...]:
        """Tags of a domain: `source`, or `target` with `policy-ood` or `encoder-ood`.

        A target is `encoder-ood` as soon as one of the visible values that decide it is not among
        those `seen`.
        """
        tags: list[str] = []
        if domain in self.d_u:
            tags.append("vision")
        if domain in self.d_s:
            tags.append("source")
        if domain in self.d_t:
            hidden = {factor.name for factor in self.world.factors if not factor.visible}
            new = self.world.canonical_values(domain) - self.seen
            known = all(name in hidden for name, _ in new)
            tags += ["target", POLICY_OOD if known else ENCODER_OOD]
        return tuple(tags)

    @property
    def seen(self) -> set[tuple[str, Value]]:
        """The (factor, value) pairs that frames of D_U show, as in `World.canonical_values`."""
        return {pair for member in self.d_u for pair in self.world.canonical_values(member)}

    @property
    def domains(self) -> tuple[Domain, ...]:
        """Every domain once, sources first, then targets, then what only the vision saw."""
        return tuple(dict.fromkeys((*self.d_s, *self.d_t, *self.d_u)))

    def domain(self, text: str) -> Domain:
        """The domain of this suite with this id.

        Raises:
            DomainError: The suite has no such domain.
        """
        ids = {domain.id: domain for domain in self.domains}
        if text not in ids:
            raise DomainError(
                f"suite '{self.name}' has no domain '{text}'{did_you_mean(text, ids)}; "
                f"it has {', '.join(ids)}"
            )
        return ids[text]


def check_domains(world: World, domains: Sequence[Domain]) -> tuple[Domain, ...]:
    """Returns what an environment of a world may play.

    Raises:
        DomainError: There are no domains, or one is of another world.
    """
    if not domains:
        raise DomainError("an environment needs at least one domain")
    for domain in domains:
        if domain.world != world.name:
            raise DomainError(f"domain '{domain}' is not of world '{world.name}'")
    return tuple(domains)


def hold_out(
    name: str, about: str, world: World, domains: Sequence[Domain], target: Domain
) -> Suite:
    """Makes the suite whose vision sees all domains, and whose policy all but the target."""
    sources = tuple(domain for domain in domains if domain != target)
    return Suite(name, about, world, d_u=tuple(domains), d_s=sources, d_t=(target,))


def parse_domains(
    world: World, domain: Domain | str | Iterable[Domain | str]
) -> tuple[Domain, ...]:
    """Domains of a world from values or ids, one or several; errors as for `World.parse`."""
    items = [domain] if isinstance(domain, (Domain, str)) else list(domain)
    return tuple(world.parse(item) if isinstance(item, str) else item for item in items)


def product(world: World, **choices: Iterable[Any]) -> tuple[Domain, ...]:
    """Every combination of the given factor values, the first factor varying slowest."""
    rows: list[Mapping[str, Value]] = [{}]
    for name, values in choices.items():
        options = list(values)
        rows = [{**row, name: value} for row in rows for value in options]
    return tuple(world.domain(**row) for row in rows)
