"""Domains, worlds and suites: values, names, rules."""

from __future__ import annotations

import pytest

from darla.errors import DomainError
from envs.domains import ENCODER_OOD, POLICY_OOD, Factor, Suite, World
from envs.jaco import JACO
from envs.lab import LAB
from envs.registry import get_suite, suites

TARGET = LAB.domain(room="B", pair="hat-can")


def test_id_names_what_differs_from_the_default_and_parses_back() -> None:
    domain = LAB.domain(room="B", pair="hat-can", light=0.6, walls="grey")
    assert domain.id == "lab/B/hat-can/walls=grey/light=0.6"
    assert LAB.parse(domain.id) == domain
    assert hash(LAB.parse(domain.id)) == hash(domain)
    assert LAB.domain(room="B", pair="hat-can", light=1.0) == TARGET
    assert domain.factors["light"] == 0.6
    assert domain.factors["pitch"] == 7.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"room": "C", "pair": "hat-can"}, ["'C'", "A, B"]),
        ({"room": "A"}, ["must name its pair"]),
        ({"room": "A", "pair": "hat-cann"}, ["did you mean 'hat-can'"]),
        ({"room": "A", "pair": "hat-can", "light": 9.0}, ["9.0", "0.2 to 1.5"]),
        ({"room": "A", "pair": "hat-can", "light": "dim"}, ["'dim'", "a number"]),
        ({"room": "A", "pair": "hat-can", "lihgt": 1.0}, ["did you mean 'light'"]),
    ],
)
def test_a_wrong_factor_says_what_is_allowed(values: dict, words: list[str]) -> None:
    with pytest.raises(DomainError) as error:
        LAB.domain(**values)
    for word in words:
        assert word in str(error.value)


def test_numbers_of_many_digits_have_ids_of_their_own() -> None:
    maze = World("maze", (Factor("level", None, "", high=1e9), Factor("light", 1.0, "", high=2.0)))
    for level, light in ((1234567, 1 / 3), (1234568, 0.333333), (0.1, 1e-7)):
        domain = maze.domain(level=level, light=light)
        assert maze.parse(domain.id) == domain
    assert maze.domain(level=3, light=0.5).id == "maze/3.0/light=0.5"
    with pytest.raises(DomainError, match=r"an example is 'maze/0\.0'"):
        maze.parse("maze")


@pytest.mark.parametrize("text", ["lab", "lab/A", "jaco/A/hat-can", "lab/A/hat-can/bright"])
def test_a_wrong_id_is_refused(text: str) -> None:
    with pytest.raises(DomainError):
        LAB.parse(text)


def test_the_paper_suite_holds_out_the_conjunction_but_not_its_parts() -> None:
    suite = get_suite("lab")
    assert suite.d_t == (TARGET,)
    assert TARGET not in suite.d_s
    assert {("room", "B"), ("pair", "hat-can")} <= {v for d in suite.d_s for v in d.values}
    assert {domain.id for domain in suite.d_s} == {
        "lab/A/hat-can",
        "lab/A/cake-balloon",
        "lab/B/cake-balloon",
    }
    assert TARGET in suite.d_u
    assert TARGET not in get_suite("lab-minimal").d_u


def test_tags_tell_a_new_conjunction_from_a_new_value() -> None:
    single = get_suite("lab-single")
    dark = LAB.domain(room="B", pair="cake-balloon", light=0.6)
    assert single.tags(dark) == ("target", ENCODER_OOD)
    assert "source" in single.tags(single.d_s[0])
    # To a vision that never saw hats in room B, their parts are still known.
    for name in ("lab", "lab-minimal"):
        assert POLICY_OOD in get_suite(name).tags(TARGET)


def test_a_new_value_of_a_factor_that_cannot_be_seen_is_no_new_look() -> None:
    factors = tuple(
        Factor(name, None, "", ("1", "2"), visible=visible)
        for name, visible in (("walls", True), ("friction", False))
    )
    world = World("slope", factors)
    source, slippery, other = (
        world.domain(walls=walls, friction=friction)
        for walls, friction in (("1", "1"), ("1", "2"), ("2", "1"))
    )
    suite = Suite("s", "", world, d_u=(source,), d_s=(source,), d_t=(slippery, other))
    assert POLICY_OOD in suite.tags(slippery) and ENCODER_OOD not in suite.tags(slippery)
    assert ENCODER_OOD in suite.tags(other)


def test_what_settings_are_tuned_on_is_never_the_papers_target():
    tuned = [suite for name, suite in suites().items() if name.startswith(("lab-A", "lab-B"))]
    assert len({suite.d_t for suite in tuned}) == 3
    for suite in tuned:
        assert TARGET not in suite.d_t and len(suite.d_t) == 1
        assert suite.name == suite.d_t[0].id.replace("/", "-")


@pytest.mark.parametrize("name", suites())
def test_every_suite_keeps_targets_out_of_the_sources(name: str) -> None:
    suite = get_suite(name)
    assert not set(suite.d_t) & set(suite.d_s)
    assert suite.domain(suite.d_t[0].id) == suite.d_t[0]


def test_a_target_among_the_sources_is_refused() -> None:
    with pytest.raises(DomainError, match="lab/B/hat-can is both source and target"):
        Suite("leaky", "", LAB, d_u=(TARGET,), d_s=(TARGET,), d_t=(TARGET,))


ALIKE = [
    (LAB, "lab/B/cake-balloon", "lab/B/cake-balloon/walls=red/floor=blue"),
    (LAB, "lab/B/cake-balloon", "lab/A/cake-balloon/walls=red/floor=blue"),
    (LAB, "lab/B/hat-can/walls=green", "lab/A/hat-can/floor=blue"),
    (JACO, "jaco/A/ball", "jaco/A/ball/colour=red/table=oak/surface=wood/backdrop=navy"),
    (JACO, "jaco/A/cube/backdrop=umber", "jaco/B/cube/table=oak/surface=wood"),
    (JACO, "jaco/A/ball/scene=stand-in", "jaco/A/ball/scene=stand-in/light=0.5"),
    (JACO, "jaco/A/ball/scene=stand-in", "jaco/B/ball/scene=stand-in/latency=3"),
]


@pytest.mark.parametrize(("world", "one", "other"), ALIKE)
def test_a_target_that_looks_and_moves_as_a_source_does_is_one(
    world: World, one: str, other: str
) -> None:
    source, target = world.parse(one), world.parse(other)
    with pytest.raises(DomainError) as error:
        Suite("leaky", "", world, d_u=(source,), d_s=(source,), d_t=(target,))
    words = f"'leaky': {other} (which looks and moves as {one} does) is both source and target"
    assert words in str(error.value)
    assert source != target and (source.id, target.id) == (one, other), "they are two values still"
    changed = {"object": "can"} if world is JACO else {"light": 0.3}
    elsewhere = world.domain(**{**source.factors, **changed})
    vision = Suite("seen", "", world, (source,), (elsewhere,), (target,))
    assert vision.tags(target) == ("target", POLICY_OOD), "D_U shows it under another name"


@pytest.mark.parametrize(
    ("world", "one", "other"),
    [
        (LAB, "lab/B/cake-balloon", "lab/B/cake-balloon/walls=red/floor=orange"),
        (LAB, "lab/B/cake-balloon", "lab/B/hat-can/walls=red/floor=blue"),
        (JACO, "jaco/A/ball/scene=stand-in", "jaco/A/can/scene=stand-in"),
        (JACO, "jaco/A/ball", "jaco/A/cube/colour=red"),
        (JACO, "jaco/A/ball", "jaco/A/ball/light=0.5"),
        (JACO, "jaco/A/ball", "jaco/A/ball/speed=0.5"),
    ],
)
def test_a_target_that_differs_in_look_or_motion_is_none(
    world: World, one: str, other: str
) -> None:
    source, target = world.parse(one), world.parse(other)
    suite = Suite("sound", "", world, d_u=(source,), d_s=(source,), d_t=(target,))
    assert suite.tags(target) == ("target", ENCODER_OOD)


def test_where_every_value_decides_no_canonical_values_are_given() -> None:
    world = World("hall", (Factor("walls", None, "", ("wood", "brick")),))
    assert world.canonical_values(world.domain(walls="wood")) == {("walls", "wood")}


def test_a_canonical_value_of_a_factor_that_cannot_be_seen_is_no_new_look() -> None:
    factors = (Factor("slide", None, "", ("1", "2"), visible=False), Factor("dim", 0.0, "", high=9))
    world = World("slope", factors, canonical=lambda f: {"slide": f["slide"], "glow": 9 - f["dim"]})
    source, slippery, dim = (world.parse(id) for id in ("slope/1", "slope/2", "slope/2/dim=1"))
    suite = Suite("s", "", world, d_u=(source,), d_s=(source,), d_t=(slippery, dim))
    assert suite.tags(slippery) == ("target", POLICY_OOD)
    assert suite.tags(dim) == ("target", ENCODER_OOD)


def test_a_suite_names_sources_first_then_targets_then_what_only_the_vision_saw() -> None:
    one, two, three, four = (
        LAB.domain(room=room, pair=pair)
        for room in ("A", "B")
        for pair in ("hat-can", "cake-balloon")
    )
    suite = Suite("order", "", LAB, d_u=(one, two, three, four), d_s=(four, two), d_t=(three,))
    assert suite.domains == (four, two, three, one)


def test_a_number_that_must_be_whole_is() -> None:
    late = Factor("late", 0.0, "", high=4, whole=True)
    assert World("w", (late,)).domain(late="3").id == "w/late=3"
    for value in (0.4, "2.5", 5, "x"):
        with pytest.raises(
            DomainError, match=f"'?{value}'?, allowed is a whole number from 0 to 4"
        ):
            World("w", (late,)).domain(late=value)
    with pytest.raises(DomainError, match="'late' is 0.5, allowed is a whole number"):
        World("w", (Factor("late", 0.5, "", high=4, whole=True),))


def test_an_empty_or_repeated_set_is_refused() -> None:
    other = LAB.domain(room="A", pair="hat-can")
    with pytest.raises(DomainError, match="no domain in D_T"):
        Suite("empty", "", LAB, d_u=(TARGET,), d_s=(TARGET,), d_t=())
    with pytest.raises(DomainError, match="twice in D_S"):
        Suite("twice", "", LAB, d_u=(TARGET,), d_s=(other, other), d_t=(TARGET,))


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(DomainError, match="did you mean 'lab-single'"):
        get_suite("lab-singel")
    with pytest.raises(DomainError, match="did you mean 'lab/B/hat-can'"):
        get_suite("lab").domain("lab/B/hat-cam")


def test_ids_name_what_every_domain_must_say_first() -> None:
    light, walls = Factor("light", 0.5, "", high=1.0), Factor("walls", None, "", ("wood", "brick"))
    hall = World("hall", (light, walls))
    domain = hall.domain(light=0.3, walls="wood")
    assert domain.id == "hall/wood/light=0.3" and hall.parse(domain.id) == domain
    assert domain.values == (("light", 0.3), ("walls", "wood"))
    with pytest.raises(DomainError, match="names its light twice"):
        hall.parse("hall/wood/light=0.3/light=0.4")
    with pytest.raises(DomainError, match="names its walls twice"):
        hall.parse("hall/wood/walls=brick")


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ((Factor("a", None, "", ("x",)), Factor("a", None, "", ("y",))), "the factor 'a' twice"),
        ((Factor("a", "marble", "", ("wood", "brick")),), "'marble', allowed is one of wood"),
        ((Factor("a", 2.0, "", high=1.0),), "allowed is a number from 0 to 1"),
        ((Factor("a", None, "", ("wood/dark",)),), "'wood/dark' cannot be part of an id"),
        ((Factor("a", None, "", ("x=1",)),), "'x=1' cannot be part of an id"),
        ((Factor("a/b", None, "", ("x",)),), "'a/b' cannot be part of an id"),
    ],
)
def test_a_world_whose_ids_would_be_ambiguous_is_refused(factors: tuple, words: str) -> None:
    with pytest.raises(DomainError, match=words):
        World("hall", factors)


def test_a_suite_of_another_worlds_domains_is_refused() -> None:
    world = World("hall", (Factor("walls", None, "", ("wood", "brick")),))
    domains = get_suite("lab").d_s
    with pytest.raises(DomainError, match="'lab/A/hat-can' is not of world 'hall'"):
        Suite("s", "", world, domains, domains[:1], domains[1:])
