"""Protocols: the table's claims hold of the looks, and fresh targets follow from tag and salt."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools

import pytest

from darla.config import Config
from darla.errors import ConfigError, DomainError
from envs.domains import ENCODER_OOD, POLICY_OOD, Domain, Factor, Suite, World
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
DIGESTS = {
    ("lab-single", "v0.1"): "cc7749c057d5beb7789f19a2d05d13f93d22ceeb6d380fb45b6211df82092944",
    ("lab-single", "v0.2"): "841179045124fedd62eb52ee484ccfd0304521dd837727148d9360421e5038c7",
    ("lab-pairs", "v0.1"): "a58d973bcac85a8837290f31dce0fd10056528ee6c22edb9d22791ba09510910",
    ("lab-pairs", "v0.2"): "0737c830412429a3a70f1d10126d1c3bc7877dc645aa440229bdb539b7595407",
}
"""SHA-256 of the ids of all fresh targets, one a line."""


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


@pytest.mark.parametrize(("name", "tag"), DIGESTS)
def test_no_fresh_target_of_a_tag_and_a_salt_changes(name: str, tag: str) -> None:
    ids = "\n".join(domain.id for domain in fresh_targets(protocol(name), tag, SALT).d_t)
    assert hashlib.sha256(ids.encode()).hexdigest() == DIGESTS[name, tag]


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


def tables(*shifts: Shift, together: int = 1) -> Protocol:
    return make_protocol("table", "", get_suite("lab"), START, shifts, together=together)


def drawn(table: Protocol, tag: str = "v1") -> list[dict]:
    return [moved(domain) for domain in fresh_targets(table, tag, SALT).d_t]


def test_a_row_that_has_fewer_fresh_values_than_published_ones_is_refused() -> None:
    enough = tables(Shift("walls", ENCODER_OOD, ("purple",), ("purple", "teal")))
    assert drawn(enough) == [{"walls": "teal"}]
    few = tables(Shift("walls", ENCODER_OOD, ("grey", "purple"), ("grey", "teal")))
    words = (
        "'table': the row of walls draws 1 of 2 fresh targets, as many as it publishes; .* give it "
        "more values, or none"
    )
    with pytest.raises(DomainError, match=words):
        fresh_targets(few, "v1", SALT)
    pair = tables(
        Shift("walls", ENCODER_OOD, ("grey",), ("grey",)),
        Shift("floor", ENCODER_OOD, ("grey",), ("grey",)),
        together=2,
    )
    with pytest.raises(DomainError, match="the pair of walls and floor draws 0 of 1 fresh targets"):
        fresh_targets(pair, "v1", SALT)


def test_rows_of_one_factor_draw_different_fresh_targets() -> None:
    numbers = tables(
        Shift("light", ENCODER_OOD, (0.5, 0.6), ((0.4, 0.8),)),
        Shift("light", ENCODER_OOD, (0.7,), ((0.4, 0.8),)),
    )
    names = tables(
        Shift("walls", POLICY_OOD, ("green",), ("grey", "teal")),
        Shift("walls", ENCODER_OOD, ("purple",), ("grey", "teal")),
    )
    pairs = tables(
        Shift("walls", ENCODER_OOD, ("green",), ("grey", "teal")),
        Shift("walls", ENCODER_OOD, ("purple",), ("grey", "teal")),
        Shift("floor", ENCODER_OOD, ("brown",), ("grey",)),
        together=2,
    )
    for tag in ("v1", "v2", "v3"):
        lights = [row["light"] for row in drawn(numbers, tag)]
        assert len(set(lights)) == 3 and all(0.4 <= light <= 0.8 for light in lights)
        assert sorted(row["walls"] for row in drawn(names, tag)) == ["grey", "teal"]
        assert sorted(row["walls"] for row in drawn(pairs, tag)) == ["grey", "teal"]
    alone = tables(Shift("light", ENCODER_OOD, (0.5, 0.6), ((0.4, 0.8),)))
    assert drawn(alone) == drawn(numbers)[:2], "the first row draws what it draws alone"
    few = tables(
        Shift("walls", ENCODER_OOD, ("green",), ("teal",)),
        Shift("walls", ENCODER_OOD, ("purple",), ("teal",)),
    )
    with pytest.raises(DomainError, match="the row of walls draws 0 of 1 fresh targets"):
        fresh_targets(few, "v1", SALT)


def test_no_fresh_target_is_a_training_domain_under_another_name() -> None:
    # The walls of room B, where the targets are, are red.
    table = tables(Shift("walls", ENCODER_OOD, ("purple",), ("red", "grey")))
    for tag in ("v1", "v2", "v3", "v4"):
        assert drawn(table, tag) == [{"walls": "grey"}]


@pytest.mark.parametrize("tag", ["policy_ood", "Encoder-ood", ""])
def test_a_shift_of_an_unknown_tag_is_refused(tag: str) -> None:
    words = f"of light is '{tag}', allowed are policy-ood and encoder-ood"
    with pytest.raises(DomainError, match=words) as error:
        Shift("light", tag, (0.4,))
    assert not tag or "did you mean" in str(error.value)


def test_a_shift_may_say_that_frames_show_what_no_domain_of_d_u_names() -> None:
    tint, lamp = (Factor(name, 0.0, "", high=9.0) for name in ("tint", "lamp"))
    room = World("room", (Factor("walls", None, "", ("wood", "brick")), tint, lamp))
    start = room.domain(walls="wood")
    base = Suite("base", "", room, (start,), (start,), (room.domain(walls="brick"),))
    shifts = (Shift("tint", POLICY_OOD, (1.0,)), Shift("lamp", ENCODER_OOD, (1.0,)))
    table = make_protocol("table", "", base, start, shifts)
    assert [table.tags(domain)[1] for domain in table.d_t] == [POLICY_OOD, ENCODER_OOD]


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
