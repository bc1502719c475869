"""Small SVG figures for the report: intervals, learning curves and bars.

A figure is text without any reference to another file. Colours are CSS variables (`--c-darla` and
the like, which the report's style sheet sets for light and dark) and `currentColor`; every series
also has a marker or dash of its own, so that nothing is told by colour alone. Each figure is drawn
twice, for wide and for narrow screens, and the style sheet shows one of them: text keeps its size
on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

WIDE, NARROW = 720, 360
DASHES = {"darla": "", "pixels": "7 3", "factors": "2 3", "random": "9 3 2 3"}
MARKERS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval, in units of return."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class IntervalRow:
    """A line of an interval plot: source (hollow) and target (filled), either may be missing."""

    key: str
    label: str
    source: Interval | None
    target: Interval | None


@dataclass(frozen=True)
class Curve:
    """A learning curve over simulation frames with its range over seeds, and the target score.

    Attributes:
        key: Name of the perception, which picks colour, dash and marker.
        label: Name for readers.
        frames: Increasing frames [N].
        mean: Mean return over seeds [N].
        low: Lowest return over seeds [N].
        high: Highest return over seeds [N].
        target: The zero-shot target score of the finished policy, or None.
    """

    key: str
    label: str
    frames: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())
    target: Interval | None = None


def interval_plot(rows: Sequence[IntervalRow], title: str) -> str:
    """Source and target of every row on one axis, joined by a line as long as the gap."""

    def draw(width: int) -> str:
        wide = width == WIDE
        left, top, step = (190, 26, 40) if wide else (8, 26, 56)
        right, bottom = width - 16, top + step * len(rows)
        x = _axis(_span(rows), left, right)
        parts = [_grid_x(x, top, bottom)]
        for number, row in enumerate(rows):
            middle = top + step * (number + (0.5 if wide else 0.64))
            if wide:
                parts.append(_text(left - 14, middle + 4.5, row.label, anchor="end"))
            else:
                parts.append(_text(left, middle - 15, row.label))
            parts.append(_interval_row(row, x, middle))
        return _svg(width, bottom + 24, title, parts)

    return _responsive(draw)


def curve_plot(curves: Sequence[Curve], title: str, *, floor: float | None = None) -> str:
    """Source return against frames, and at the right edge where the target score ends up.

    Args:
        curves: One per perception; at least one with at least one point.
        title: What a screen reader says.
        floor: Mean source return of the random policy, drawn as a line.
    """

    def draw(width: int) -> str:
        wide = width == WIDE
        height, left, top, bottom = 380, 38, 30, 336
        gutter, labels = (44, 160) if wide else (30, 118)
        right = width - gutter - labels
        x = _Axis(0.0, max(max(curve.frames) for curve in curves), left, right)
        y = _axis(_curve_span(curves, floor), bottom, top)
        parts = [_grid_y(y, left, width - labels), _frame_ticks(x, bottom, 5 if wide else 3)]
        parts.append(_text(left, top - 14, "return in the source", kind="soft"))
        parts.append(_text(right + gutter / 2, top - 14, "target", kind="soft", anchor="middle"))
        parts.append(
            f'<line class="edge" x1="{right:.1f}" x2="{right:.1f}" y1="{top}" y2="{bottom}"/>'
        )
        if floor is not None:
            parts.append(_rule(left, right, y(floor), "random policy"))
        ends = [curve.target.mean if curve.target else curve.mean[-1] for curve in curves]
        places = _spread([y(end) for end in ends], 16, top, bottom)
        for curve, place in zip(curves, places, strict=True):
            parts.append(_curve(curve, x, y, right + gutter / 2))
            label = curve.label if wide else curve.label.split(" (")[0].split(",")[0]
            parts.append(
                f'<text class="series" style="fill:{_colour(curve.key)}" x="{width - labels + 4}"'
                f' y="{place + 4:.1f}">{escape(label)}</text>'
            )
        return _svg(width, height, title, parts)

    return _responsive(draw)


def bar_plot(values: Sequence[float], title: str, unit: str = "") -> str:
    """Bars for a list of numbers, such as the KL of every latent, in the order given."""

    def draw(width: int) -> str:
        height, left, top, bottom = 150, 34, 12, 124
        high = max([*values, 0.0])
        y = _axis((min([*values, 0.0]), high if high > 0 else 1.0), bottom, top)
        slot = (width - left - 6) / len(values)
        parts = [_grid_y(y, left, width - 6)]
        for number, value in enumerate(values):
            upper, lower = sorted((y(value), y(0.0)))
            parts.append(
                f'<rect class="bar" x="{left + slot * (number + 0.12):.1f}" y="{upper:.1f}"'
                f' width="{slot * 0.76:.1f}" height="{max(lower - upper, 0.5):.1f}">'
                f"<title>{number}: {value:.3g} {escape(unit)}</title></rect>"
            )
        every = max(1, math.ceil(24 / slot))
        for number in range(0, len(values), every):
            parts.append(
                _text(
                    left + slot * (number + 0.5),
                    bottom + 16,
                    str(number),
                    kind="tick",
                    anchor="middle",
                )
            )
        return _svg(width, height, title, parts)

    return _responsive(draw)


@dataclass(frozen=True)
class _Axis:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low or 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values inside the axis, about `count` of them."""
        raw = (self.high - self.low or 1.0) / count
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = next(
            magnitude * unit for unit in (1, 2, 2.5, 5, 10) if magnitude * unit >= raw * 0.999
        )
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [step * number for number in range(first, last + 1)]


def _axis(span: tuple[float, float], start: float, end: float) -> _Axis:
    """An axis that ends a little outside of the span."""
    low, high = span
    margin = 0.04 * (high - low or 1.0)
    return _Axis(low - margin, high + margin, start, end)


def _span(rows: Sequence[IntervalRow]) -> tuple[float, float]:
    shown = [entry for row in rows for entry in (row.source, row.target) if entry]
    return min([0.0, *(entry.low for entry in shown)]), max([1.0, *(entry.high for entry in shown)])


def _curve_span(curves: Sequence[Curve], floor: float | None) -> tuple[float, float]:
    values = [0.0, 1.0] if floor is None else [0.0, 1.0, floor]
    for curve in curves:
        values += [*curve.mean, *curve.low, *curve.high]
        values += [curve.target.low, curve.target.high] if curve.target else []
    return min(values), max(values)


def _interval_row(row: IntervalRow, x: _Axis, y: float) -> str:
    colour = _colour(row.key)
    parts = []
    if row.source and row.target:
        parts.append(
            f'<line class="gap" style="stroke:{colour}" x1="{x(row.source.mean):.1f}"'
            f' x2="{x(row.target.mean):.1f}" y1="{y}" y2="{y}"/>'
        )
    for name, entry, offset in (("source", row.source, -5.0), ("target", row.target, 5.0)):
        if entry is None:
            continue
        words = f"{row.label}, {name}: {entry.mean:.2f} [{entry.low:.2f}, {entry.high:.2f}]"
        at = y + offset
        parts.append(
            f"<g><title>{escape(words)}</title>"
            f'<line class="whisker" style="stroke:{colour}" x1="{x(entry.low):.1f}"'
            f' x2="{x(entry.high):.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f"{_marker('circle', x(entry.mean), at, colour, filled=name == 'target')}</g>"
        )
    return "".join(parts)


def _curve(curve: Curve, x: _Axis, y: _Axis, target_x: float) -> str:
    colour = _colour(curve.key)
    points = " ".join(
        f"{x(frame):.1f},{y(value):.1f}"
        for frame, value in zip(curve.frames, curve.mean, strict=True)
    )
    parts = []
    if len(curve.low) and not np.array_equal(curve.low, curve.high):
        upper = [f"{x(f):.1f},{y(v):.1f}" for f, v in zip(curve.frames, curve.high, strict=True)]
        lower = [f"{x(f):.1f},{y(v):.1f}" for f, v in zip(curve.frames, curve.low, strict=True)]
        outline = " ".join(upper + lower[::-1])
        parts.append(f'<polygon class="band" style="fill:{colour}" points="{outline}"/>')
    dash = DASHES.get(curve.key, "4 2")
    parts.append(
        f'<polyline class="curve" style="stroke:{colour}" stroke-dasharray="{dash}"'
        f' points="{points}">'
        f"<title>{escape(curve.label)}: {curve.mean[-1]:.2f} at the end</title></polyline>"
    )
    end = x(curve.frames[-1]), y(curve.mean[-1])
    parts.append(_marker(_shape(curve.key), *end, colour, filled=False))
    if curve.target:
        entry = curve.target
        words = f"{curve.label}, target: {entry.mean:.2f} [{entry.low:.2f}, {entry.high:.2f}]"
        parts.append(
            f'<line class="drop" style="stroke:{colour}" x1="{end[0]:.1f}"'
            f' y1="{end[1]:.1f}" x2="{target_x:.1f}" y2="{y(entry.mean):.1f}"/>'
            f'<line class="whisker" style="stroke:{colour}" x1="{target_x:.1f}" x2="{target_x:.1f}"'
            f' y1="{y(entry.low):.1f}" y2="{y(entry.high):.1f}"/>'
            f"<g><title>{escape(words)}</title>"
            f"{_marker(_shape(curve.key), target_x, y(entry.mean), colour, filled=True)}</g>"
        )
    return "".join(parts)


def _marker(shape: str, x: float, y: float, colour: str, *, filled: bool) -> str:
    style = f"stroke:{colour};fill:{colour if filled else 'var(--paper)'}"
    if shape == "circle":
        return f'<circle class="mark" style="{style}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "diamond": ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
    }[shape]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" style="{style}" points="{points}"/>'


def _shape(key: str) -> str:
    known = list(DASHES)
    return MARKERS[known.index(key)] if key in known else "circle"


def _colour(key: str) -> str:
    return f"var(--c-{key}, currentColor)"


def _grid_x(x: _Axis, top: float, bottom: float) -> str:
    parts = []
    for tick in x.ticks():
        at = x(tick)
        kind = "zero" if tick == 0 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 8}" y2="{bottom}"/>'
        )
        parts.append(_text(at, bottom + 17, _tick(tick), kind="tick", anchor="middle"))
    return "".join(parts)


def _grid_y(y: _Axis, left: float, right: float) -> str:
    parts = []
    for tick in y.ticks():
        at = y(tick)
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(left - 7, at + 4, _tick(tick), kind="tick", anchor="end"))
    return "".join(parts)


def _frame_ticks(x: _Axis, bottom: float, count: int) -> str:
    parts = []
    for tick in x.ticks(count):
        parts.append(_text(x(tick), bottom + 17, _frames(tick), kind="tick", anchor="middle"))
    middle = (x.start + x.end) / 2
    parts.append(
        _text(middle, bottom + 36, "simulation frames in the source", kind="soft", anchor="middle")
    )
    return "".join(parts)


def _rule(left: float, right: float, y: float, label: str) -> str:
    return f'<line class="floor" x1="{left}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>' + _text(
        right - 5, y - 5, label, kind="tick", anchor="end"
    )


def _text(x: float, y: float, text: str, *, kind: str = "label", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _frames(value: float) -> str:
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _spread(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Moves labels apart until neighbours are `distance` away; keeps order and range."""
    order = np.argsort(places, kind="stable")
    moved = np.asarray(places, dtype=np.float64)[order]
    for index in range(1, len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + distance)
    overflow = max(0.0, moved[-1] - high) if len(moved) else 0.0
    moved[-1:] -= overflow
    for index in range(len(moved) - 2, -1, -1):
        moved[index] = min(moved[index], moved[index + 1] - distance)
    result = np.empty_like(moved)
    result[order] = np.maximum(moved, low)
    return [float(value) for value in result]


def _responsive(draw: Callable[[int], str]) -> str:
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
