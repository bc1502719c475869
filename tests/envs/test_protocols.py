"""Protocols: the table's claims hold of the looks, and fresh targets follow from tag and salt."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools

import pytest

from darla.config import Config
from darla.errors import ConfigError, DomainError
from envs.domains import ENCODER_OOD, POLICY_OOD, Domain
from envs.lab import LAB, look_of
from envs.protocols import Protocol, Shift, commitment, fresh_targets, make_protocol
from envs.registry import get_suite, protocol_of

START = LAB.domain(room="B", pair="cake-balloon")
SALT = "0123456789abcdef"
FROZEN = {
    "lab-single": ["light=0.489", "light=0.521", "light=1.49", "light=0.554", "light=0.785"]
    + ["height=0.902", "height=0.77", "height=1.14", "height=0.27"]
    + ["pitch=-6.11", "pitch=18.4", "pitch=16.4", "pitch=-7.02"]
    + ["fov=85.6", "fov=47.7", "fov=45.9"],
    "lab-pairs": ["walls=grey/floor=olive", "walls=grey/objects=pastel", "walls=grey/light=1.47"],
}
"""What a published tag and salt give must never change."""


def protocol(name: str) -> Protocol:
    found = get_suite(name)
    assert isinstance(found, Protocol)
    return found


def moved(domain: Domain, start: Domain = START) -> dict:
    return dict(set(domain.values) - set(start.values))


@pytest.mark.parametrize(("name", "count"), [("lab-single", 1), ("lab-pairs", 2)])
def test_every_target_is_a_source_with_so_many_factors_moved(name: str, count: int) -> None:
    suite = protocol(name)
    assert START in suite.d_s
    assert (suite.d_u, suite.d_s) == (get_suite("lab").d_u, get_suite("lab").d_s)
    for each in (suite, fresh_targets(suite, "v1", SALT)):
        assert {len(moved(domain)) for domain in each.d_t} == {count}


def test_the_targets_are_those_of_the_table() -> None:
    single, pairs = protocol("lab-single"), protocol("lab-pairs")
    table = {(shift.factor, value) for shift in single.shifts for value in shift.values}
    assert {next(iter(moved(domain).items())) for domain in single.d_t} == table
    factors = {"walls", "floor", "objects", "light", "height", "pitch", "fov"}
    assert {factor for factor, _ in table} == factors
    assert {frozenset(moved(domain)) for domain in pairs.d_t} == {
        frozenset(pair) for pair in itertools.combinations(factors, 2)
    }
    alone = {value for domain in single.d_t for value in moved(domain).items()}
    for domain in pairs.d_t:
        assert set(moved(domain).items()) <= alone, "a pair's parts are scored alone too"


def test_a_tag_says_what_frames_of_d_u_show() -> None:
    suite = protocol("lab-single")
    shown = [look_of(domain) for domain in suite.d_u]
    for domain in suite.d_t:
        look = look_of(domain)
        parts = [
            any(getattr(look, field.name) == getattr(other, field.name) for other in shown)
            for field in dataclasses.fields(look)
        ]
        assert suite.tags(domain) == ("target", POLICY_OOD if all(parts) else ENCODER_OOD)
        assert look not in shown, "no target is a domain of D_U under another name"


@pytest.mark.parametrize("name", FROZEN)
def test_fresh_targets_are_known_for_a_tag_and_a_salt(name: str) -> None:
    drawn = fresh_targets(protocol(name), "v0.1", SALT)
    assert drawn.name == f"{name}@v0.1-" + commitment("v0.1", SALT)[:8]
    known = FROZEN[name]
    assert [str(domain).removeprefix(f"{START}/") for domain in drawn.d_t][: len(known)] == known
    digest = hashlib.sha256(b"v0.1\0" + SALT.encode()).hexdigest()
    assert commitment("v0.1", SALT) == digest


@pytest.mark.parametrize("name", ["lab-single", "lab-pairs"])
def test_fresh_targets_are_new_and_lie_in_the_table(name: str) -> None:
    suite = protocol(name)
    drawings = set()
    for tag, salt in (("v0.1", SALT), ("v0.2", SALT), ("v0.1", SALT[::-1])):
        drawn = fresh_targets(suite, tag, salt)
        assert drawn == fresh_targets(suite, tag, salt)
        assert not {*drawn.d_t} & {*suite.d_u, *suite.d_s, *suite.d_t}
        assert len({*drawn.d_t}) == len(drawn.d_t)
        for domain in drawn.d_t:
            assert LAB.parse(domain.id) == domain
            assert drawn.tags(domain) == ("target", ENCODER_OOD)
            for factor, value in moved(domain).items():
                assert any(allows(s, value) for s in suite.shifts if s.factor == factor)
        drawings.add(frozenset(drawn.d_t))
    assert len(drawings) == 3


def allows(shift: Shift, value: object) -> bool:
    return any(
        value == part if isinstance(part, str) else part[0] <= float(str(value)) <= part[1]
        for part in shift.fresh
    )


def test_fresh_numbers_are_drawn_evenly_over_both_intervals() -> None:
    shift = Shift("light", ENCODER_OOD, (0.6,), ((0.4, 0.8), (1.2, 1.6)))
    drawn = [float(shift.draw(i / 1000)) for i in range(1000)]
    assert min(drawn) == 0.4 and max(drawn) == 1.6
    assert sum(value <= 0.8 for value in drawn) == pytest.approx(500, abs=1)
    assert not any(0.8 < value < 1.2 for value in drawn)
    assert drawn[250] == pytest.approx(0.6, abs=1e-3)


def test_what_has_nothing_left_to_draw_gets_no_fresh_target() -> None:
    base = get_suite("lab")
    shifts = (Shift("objects", ENCODER_OOD, ("pastel",)),)
    named = make_protocol("named", "", base, START, shifts)
    with pytest.raises(DomainError, match="'named' has no values for fresh targets"):
        fresh_targets(named, "v1", SALT)
    few = make_protocol(
        "few",
        "",
        base,
        START,
        (Shift("walls", ENCODER_OOD, ("grey", "purple"), ("grey", "teal")),),
    )
    assert [moved(domain) for domain in fresh_targets(few, "v1", SALT).d_t] == [{"walls": "teal"}]


@pytest.mark.parametrize(
    ("tag", "salt", "message"),
    [
        ("v 1", SALT, "the tag is 'v 1'; it must be one word, such as v0.1"),
        ("", SALT, "the tag is ''"),
        ("v1", "short", "the salt has 5 characters; with fewer than 16 it can be guessed"),
    ],
)
def test_a_tag_or_salt_that_hides_nothing_is_refused(tag: str, salt: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        commitment(tag, salt)


def test_a_protocol_starts_from_a_source() -> None:
    with pytest.raises(DomainError, match="starts from lab/B/hat-can, which is no source"):
        make_protocol(
            "x",
            "",
            get_suite("lab"),
            LAB.domain(room="B", pair="hat-can"),
            protocol("lab-single").shifts,
        )
    with pytest.raises(DomainError, match="both source and target"):
        make_protocol("x", "", get_suite("lab"), START, (Shift("room", POLICY_OOD, ("A",)),))


def test_a_run_is_scored_on_protocols_that_share_its_training_domains() -> None:
    config = Config(name="x")
    assert protocol_of(config, "lab-single") is get_suite("lab-single")
    assert protocol_of(config, "lab") is get_suite("lab")
    with pytest.raises(DomainError, match="'lab-minimal' has another D_U than 'lab', on which"):
        protocol_of(config, "lab-minimal")
    with pytest.raises(DomainError, match="'lab-A-hat-can' has another D_S than 'lab'"):
        protocol_of(config, "lab-A-hat-can")
    with pytest.raises(DomainError, match="did you mean 'lab-single'"):
        protocol_of(config, "lab-singel")
