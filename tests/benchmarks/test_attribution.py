import numpy as np
import pytest

from benchmarks.attribution import drops, shift_of
from envs.lab import LAB

SOURCES = [
    LAB.parse(text) for text in ("lab/A/hat-can", "lab/A/cake-balloon", "lab/B/cake-balloon")
]


def drops_of(*targets: tuple[str, str]) -> dict[tuple[str, str], dict[str, float]]:
    found = drops(SOURCES, [(LAB.parse(text), tag) for text, tag in targets])
    for drop in found:
        assert sum(drop.weights.values()) == pytest.approx(0.0)
    return {(drop.kind, drop.label): dict(drop.weights) for drop in found}


def test_the_papers_target_is_a_conjunction_of_known_values() -> None:
    shift = shift_of(LAB.parse("lab/B/hat-can"), SOURCES)
    assert (shift.changes, shift.conjunction) == ((), True)
    assert shift.nearest == ("lab/A/hat-can", "lab/B/cake-balloon")
    weights = drops_of(("lab/B/hat-can", "policy-ood"))["conjunction", "new conjunction"]
    assert weights == {"lab/A/hat-can": 0.5, "lab/B/cake-balloon": 0.5, "lab/B/hat-can": -1.0}


def test_a_single_shift_is_compared_with_the_source_that_it_left() -> None:
    weights = drops_of(("lab/B/cake-balloon/walls=grey", "encoder-ood"))["single", "walls=grey"]
    assert weights == {"lab/B/cake-balloon": 1.0, "lab/B/cake-balloon/walls=grey": -1.0}


def test_values_of_a_factor_are_averaged_beside_each_of_them() -> None:
    found = drops_of(
        ("lab/B/cake-balloon/light=0.6", "encoder-ood"),
        ("lab/A/hat-can/light=0.6", "encoder-ood"),
        ("lab/B/cake-balloon/light=1.25", "encoder-ood"),
    )
    assert list(found) == [("factor", "light"), ("single", "light=0.6"), ("single", "light=1.25")]
    assert found["factor", "light"]["lab/B/cake-balloon"] == pytest.approx(2 / 3)
    assert found["single", "light=0.6"]["lab/A/hat-can"] == 0.5


def test_a_pair_has_an_interaction_where_both_parts_were_scored() -> None:
    found = drops_of(
        ("lab/B/cake-balloon/walls=grey", "encoder-ood"),
        ("lab/B/cake-balloon/floor=brown", "encoder-ood"),
        ("lab/B/cake-balloon/walls=grey/floor=brown", "encoder-ood"),
        ("lab/B/cake-balloon/walls=grey/light=0.6", "encoder-ood"),
    )
    scores = {"lab/B/cake-balloon": 9.0, "lab/B/cake-balloon/walls=grey": 7.0}
    scores |= {"lab/B/cake-balloon/floor=brown": 8.0}
    scores |= {"lab/B/cake-balloon/walls=grey/floor=brown": 1.0}
    weights = found["interaction", "walls=grey + floor=brown"]
    # The pair costs 8, its parts 2 and 1.
    assert sum(weights[domain] * scores[domain] for domain in weights) == pytest.approx(5.0)
    assert ("pair", "walls=grey + light=0.6") in found
    assert ("interaction", "walls=grey + light=0.6") not in found


def test_a_new_value_in_a_new_conjunction_is_no_single_shift() -> None:
    found = drops_of(("lab/B/hat-can/light=0.5", "encoder-ood"))
    assert list(found) == [("several", "light=0.5 + new conjunction")]


def test_tags_are_never_averaged_together() -> None:
    targets = [
        ("lab/B/cake-balloon/light=0.6", "encoder-ood"),
        ("lab/A/hat-can/light=0.6", "policy-ood"),
    ]
    found = drops(SOURCES, [(LAB.parse(text), tag) for text, tag in targets])
    assert [(drop.tag, drop.targets) for drop in found] == [
        ("policy-ood", ("lab/A/hat-can/light=0.6",)),
        ("encoder-ood", ("lab/B/cake-balloon/light=0.6",)),
    ]


def test_weights_over_domains() -> None:
    drop = drops(SOURCES, [(LAB.parse("lab/B/hat-can"), "policy-ood")])[0]
    np.testing.assert_allclose(drop.over(["lab/B/hat-can", "elsewhere"]), [-1.0, 0.0])
    assert drops([], [(SOURCES[0], "policy-ood")]) == []


def test_values_that_differ_late_have_labels_of_their_own():
    found = drops_of(
        ("lab/A/hat-can/light=0.6000001", "encoder-ood"),
        ("lab/A/hat-can/light=0.6000002", "encoder-ood"),
    )
    assert {name for kind, name in found if kind == "single"} == {
        "light=0.6000001",
        "light=0.6000002",
    }


def test_values_of_two_tags_are_not_averaged_into_one_factor():
    targets = [
        ("lab/B/cake-balloon/light=0.6", "encoder-ood"),
        ("lab/A/hat-can/light=1.25", "policy-ood"),
    ]
    found = drops(SOURCES, [(LAB.parse(t), tag) for t, tag in targets])
    assert [d.kind for d in found] == ["single", "single"]


def test_a_value_in_a_new_conjunction_is_not_averaged_into_its_factor():
    found = drops_of(
        ("lab/B/cake-balloon/light=0.6", "encoder-ood"), ("lab/B/hat-can/light=1.25", "encoder-ood")
    )
    assert list(found) == [("single", "light=0.6"), ("several", "light=1.25 + new conjunction")]
