import re
from xml.etree import ElementTree

import pytest

from benchmarks import figures, svg
from benchmarks.figures import Curve, ForestRow, Interval, IntervalRow, Profile
from benchmarks.rows import ENTRANTS

SVG = re.compile(r"<svg.*?</svg>", re.S)


def drawings(figure: str) -> list[ElementTree.Element]:
    """The wide and the narrow drawing; fails unless both are well-formed."""
    found = [ElementTree.fromstring(text) for text in SVG.findall(figure)]
    assert [float(svg.get("viewBox").split()[2]) for svg in found] == [720, 360]
    return found


def test_marks_lie_where_the_numbers_are() -> None:
    rows = [
        IntervalRow("darla", "DARLA", Interval(6.0, 5.0, 7.0), Interval(4.0, 3.0, 5.0)),
        IntervalRow("none", "chance", None, Interval(-2.0, -3.0, 0.0)),
    ]
    for drawing in drawings(figures.interval_plot(rows, "scores")):
        x = {float(c.get("cx")): c for c in drawing.iter("circle")}
        low, middle, high = sorted(x)
        assert (middle - low) / (high - low) == pytest.approx(6 / 8, abs=0.01)
        assert "--paper" in x[high].get("style"), "the source is hollow"
        assert "--paper" not in x[low].get("style"), "the target is filled"


def test_curves_rise_with_their_returns_and_are_told_apart_without_colour() -> None:
    curves = [
        Curve("darla", "DARLA", [1e3, 2e3], [0.0, 5.0], [-1.0, 4.0], [1.0, 6.0], Interval(4, 3, 5)),
        Curve("pixels", "pixels, end to end", [1e3, 2e3], [0.0, 8.0]),
    ]
    for drawing in drawings(figures.curve_plot(curves, "curves", floor=0.1)):
        lines = list(drawing.iter("polyline"))
        ends = [float(line.get("points").split()[-1].split(",")[1]) for line in lines]
        assert ends[1] < ends[0], "pixels end higher"
        assert lines[0].get("stroke-dasharray") != lines[1].get("stroke-dasharray")
        assert len([p for p in drawing.iter("polygon") if p.get("class") == "band"]) == 1


def test_rows_of_one_family_keep_labels_apart_on_a_phone() -> None:
    labels = ("DARLA", "DARLA, entangled", "pixels, end to end")
    curves = [Curve(name, name, [1e3, 2e3], [0.0, 5.0]) for name in labels]
    wide, narrow = (
        [each.text for each in drawing.iter("text") if each.get("class") == "series"]
        for drawing in drawings(figures.curve_plot(curves, "curves"))
    )
    assert wide == list(labels) and narrow == ["DARLA", "DARLA, entangled", "pixels"]


def test_one_point_is_a_curve() -> None:
    drawings(figures.curve_plot([Curve("darla", "DARLA", [1e3], [2.0], [2.0], [2.0])], "one"))


@pytest.mark.parametrize("values", [[0.0, 0.0], [3.0, 1.0, 0.5], [-1.0, 2.0], [1e-9] * 64])
def test_bars(values: list[float]) -> None:
    for drawing in drawings(figures.bar_plot(values, "bars")):
        assert len(list(drawing.iter("rect"))) == len(values)


def test_text_is_escaped() -> None:
    row = IntervalRow("x", "<b>&", Interval(1, 0, 2), None)
    assert "<b>" not in figures.interval_plot([row], '"><script>')
    drawings(figures.interval_plot([row], '"><script>'))


@pytest.mark.parametrize("places", [[50.0] * 4, [99.0, 98.0, 1.0, 2.0], [10.0, 20.0], [100.0, 0.0]])
def test_labels_are_moved_apart_in_order(places: list[float]) -> None:
    moved = svg.spread(places, 16, 0, 100)
    ordered = sorted(moved)
    assert all(b - a >= 16 - 1e-9 for a, b in zip(ordered, ordered[1:], strict=False))
    assert 0 <= ordered[0] and ordered[-1] <= 100
    order = sorted(range(len(places)), key=lambda i: places[i])
    assert order == sorted(range(len(places)), key=lambda i: moved[i])


def test_every_row_has_a_look_of_its_own() -> None:
    looks = {name: svg.style(name) for name in ENTRANTS}
    assert svg.OTHER not in looks.values()
    assert len({(look.hue, look.marker) for look in looks.values()}) == len(looks)
    assert len({(look.marker, look.dash) for look in looks.values()}) == len(looks)


def test_a_forest_shows_values_beside_no_effect() -> None:
    rows = [ForestRow("darla", "walls=grey", Interval(0.25, 0.0, 0.5))]
    figure = figures.forest_plot(rows, "drops", "drop", reference=0.5, span=(0.0, 1.0))
    assert "0.25 [0.00, 0.50]" in figure
    for drawing in drawings(figure):
        mark = float(next(iter(drawing.iter("circle"))).get("cx"))
        lines = {line.get("class"): line for line in drawing.iter("line")}
        assert float(lines["whisker"].get("x1")) < mark < float(lines["whisker"].get("x2"))
        assert float(lines["reference"].get("x1")) == float(lines["whisker"].get("x2"))


def test_profiles_fall_to_the_axis() -> None:
    profile = Profile("darla", "DARLA", [1.0, 0.5, 0.0], [1.0, 0.2, 0.0], [1.0, 0.8, 0.0])
    for drawing in drawings(figures.profile_plot([profile], [0.0, 1.0, 2.0], "profiles")):
        points = next(iter(drawing.iter("polyline"))).get("points").split()
        heights = [float(point.split(",")[1]) for point in points]
        assert heights == sorted(heights)
        assert len([p for p in drawing.iter("polygon") if p.get("class") == "band"]) == 1
