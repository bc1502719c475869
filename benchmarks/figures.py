"""The report's figures: intervals, learning curves, performance profiles and bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from benchmarks.svg import (
    WIDE,
    Axis,
    axis,
    band,
    colour,
    drawing,
    frames_label,
    grid_x,
    grid_y,
    line,
    marker,
    responsive,
    rule,
    spread,
    text,
    tick_label,
    whisker,
)
from benchmarks.tables import number


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval, in units of return."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Returns `mean [low, high]`."""
        return f"{number(self.mean)} [{number(self.low)}, {number(self.high)}]"


@dataclass(frozen=True)
class IntervalRow:
    """A line of an interval plot: source (hollow) and target (filled), either may be missing."""

    key: str
    label: str
    source: Interval | None
    target: Interval | None


@dataclass(frozen=True)
class ForestRow:
    """A line of a forest plot; `key` is the perception that it is drawn as."""

    key: str
    label: str
    value: Interval


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


@dataclass(frozen=True)
class Profile:
    """The share of runs above each threshold, with the ends of its interval, each [T]."""

    key: str
    label: str
    share: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def interval_plot(rows: Sequence[IntervalRow], title: str) -> str:
    """Source and target of every row on one axis, joined by a bar as long as the gap."""

    def draw(width: int) -> str:
        wide = width == WIDE
        left, top, step = (_margin(rows), 18, 38) if wide else (8, 18, 54)
        right, bottom = width - 16, top + step * len(rows)
        x = axis(_span(rows), left, right)
        parts = [grid_x(x, top, bottom)]
        for place, row in enumerate(rows):
            middle = top + step * (place + (0.5 if wide else 0.66))
            parts.append(_row_label(row.label, wide, left, middle))
            parts.append(_interval_row(row, x, middle))
        parts.append(text((left + right) / 2, bottom + 36, "return", kind="soft", anchor="middle"))
        return drawing(width, bottom + 42, title, parts)

    return responsive(draw)


def forest_plot(
    rows: Sequence[ForestRow], title: str, unit: str, *, reference: float, span: tuple[float, float]
) -> str:
    """One interval a row beside a reference line, with its numbers at the right.

    Args:
        rows: At least one.
        title: What a screen reader says.
        unit: What the axis shows.
        reference: Where there is no effect.
        span: What the axis covers at least.
    """

    def draw(width: int) -> str:
        wide = width == WIDE
        left, top, step = (_margin(rows), 14, 30) if wide else (8, 14, 46)
        right, bottom = width - (150 if wide else 16), top + step * len(rows)
        low = min([span[0], *(row.value.low for row in rows)])
        high = max([span[1], *(row.value.high for row in rows)])
        x = axis((low, high), left, right)
        parts = [grid_x(x, top, bottom)]
        parts.append(
            f'<line class="reference" x1="{x(reference):.1f}" x2="{x(reference):.1f}"'
            f' y1="{top - 8}" y2="{bottom}"/>'
        )
        for place, row in enumerate(rows):
            middle = top + step * (place + (0.5 if wide else 0.7))
            parts.append(_row_label(row.label, wide, left, middle))
            parts.append(
                whisker(row.key, (x(row.value.low), middle), (x(row.value.high), middle))
                + marker(row.key, x(row.value.mean), middle, filled=True)
            )
            offset = 4.5 if wide else -14.0
            parts.append(
                text(width - 4, middle + offset, str(row.value), kind="value", anchor="end")
            )
        parts.append(text((left + right) / 2, bottom + 36, unit, kind="soft", anchor="middle"))
        return drawing(width, bottom + 42, title, parts)

    return responsive(draw)


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
        gutter, labels = (44, 150) if wide else (28, 124)
        right = width - gutter - labels
        x = Axis(0.0, max(max(curve.frames) for curve in curves), left, right)
        y = axis(_curve_span(curves, floor), bottom, top)
        parts = [grid_y(y, left, width - labels)]
        parts += [
            text(x(tick), bottom + 17, frames_label(tick), kind="tick", anchor="middle")
            for tick in x.ticks(5 if wide else 3)
        ]
        about = "simulation frames in the source" if wide else "frames in the source"
        parts.append(text((left + right) / 2, bottom + 36, about, kind="soft", anchor="middle"))
        parts.append(text(left, top - 14, "return in the source", kind="soft"))
        parts.append(text(right + gutter / 2, top - 14, "target", kind="soft", anchor="middle"))
        parts.append(
            f'<line class="edge" x1="{right:.1f}" x2="{right:.1f}" y1="{top}" y2="{bottom}"/>'
        )
        if floor is not None:
            parts.append(rule(left, right, y(floor), "random policy"))
        ends = [curve.target.mean if curve.target else curve.mean[-1] for curve in curves]
        places = spread([y(end) for end in ends], 16, top, bottom)
        names = [curve.label.split(" (")[0] for curve in curves]
        if not wide:
            names = _shortened(names)
        for curve, place, name in zip(curves, places, names, strict=True):
            parts.append(_curve(curve, x, y, right + gutter / 2))
            parts.append(
                f'<text class="series" style="fill:{colour(curve.key)}" x="{width - labels + 4}"'
                f' y="{place + 4:.1f}">{escape(name)}</text>'
            )
        return drawing(width, height, title, parts)

    return responsive(draw)


def _shortened(labels: Sequence[str]) -> list[str]:
    """Labels up to their comma, where that leaves them apart."""
    short = [label.split(",")[0] for label in labels]
    return [a if short.count(a) == 1 else b for a, b in zip(short, labels, strict=True)]


def profile_plot(profiles: Sequence[Profile], thresholds: Sequence[float], title: str) -> str:
    """The share of runs that score more than a return, against that return."""

    def draw(width: int) -> str:
        height, left, top, bottom, right = 300, 44, 30, 256, width - 14
        x = Axis(thresholds[0], thresholds[-1], left, right)
        y = Axis(0.0, 1.0, bottom, top)
        parts = [grid_y(y, left, right)]
        parts += [
            text(x(tick), bottom + 17, tick_label(tick), kind="tick", anchor="middle")
            for tick in x.ticks(8 if width == WIDE else 5)
        ]
        parts.append(text(left, top - 14, "share of runs that score more", kind="soft"))
        parts.append(text((left + right) / 2, bottom + 36, "return", kind="soft", anchor="middle"))
        places = [x(threshold) for threshold in thresholds]
        for each in profiles:
            low, high, share = (
                list(zip(places, map(y, values), strict=True))
                for values in (each.low, each.high, each.share)
            )
            parts += [band(each.key, low, high), line(each.key, share, each.label)]
        return drawing(width, height, title, parts)

    return responsive(draw)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """A list of (perception, label) with a piece of each one's line and its marker."""
    items = []
    for key, label in dict.fromkeys(entries):
        sample = line(key, [(1, 7), (33, 7)], label) + marker(key, 17, 7, filled=True)
        items.append(
            f'<li><svg viewBox="0 0 34 14" aria-hidden="true">{sample}</svg>{escape(label)}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def bar_plot(values: Sequence[float], title: str, unit: str = "") -> str:
    """Bars for a list of numbers, such as the KL of every latent, in the order given."""

    def draw(width: int) -> str:
        height, left, top, bottom = 150, 34, 12, 124
        high = max([*values, 0.0])
        y = axis((min([*values, 0.0]), high if high > 0 else 1.0), bottom, top)
        slot = (width - left - 6) / len(values)
        parts = [grid_y(y, left, width - 6)]
        for place, value in enumerate(values):
            upper, lower = sorted((y(value), y(0.0)))
            parts.append(
                f'<rect class="bar" x="{left + slot * (place + 0.12):.1f}" y="{upper:.1f}"'
                f' width="{slot * 0.76:.1f}" height="{max(lower - upper, 0.5):.1f}">'
                f"<title>{place}: {value:.3g} {escape(unit)}</title></rect>"
            )
        every = max(1, math.ceil(24 / slot))
        parts += [
            text(left + slot * (place + 0.5), bottom + 16, str(place), kind="tick", anchor="middle")
            for place in range(0, len(values), every)
        ]
        return drawing(width, height, title, parts)

    return responsive(draw)


def _margin(rows: Sequence[IntervalRow | ForestRow]) -> float:
    """Room for the longest label at the left of a wide figure."""
    return 18 + 7.6 * max([15, *(len(row.label) for row in rows)])


def _row_label(label: str, wide: bool, left: float, middle: float) -> str:
    """Left of a row on a wide screen, above it on a narrow one."""
    if wide:
        return text(left - 14, middle + 4.5, label, anchor="end")
    return text(left, middle - 14, label)


def _span(rows: Sequence[IntervalRow]) -> tuple[float, float]:
    shown = [entry for row in rows for entry in (row.source, row.target) if entry]
    return min([0.0, *(entry.low for entry in shown)]), max([1.0, *(entry.high for entry in shown)])


def _curve_span(curves: Sequence[Curve], floor: float | None) -> tuple[float, float]:
    values = [0.0, 1.0] if floor is None else [0.0, 1.0, floor]
    for curve in curves:
        values += [*curve.mean, *curve.low, *curve.high]
        values += [curve.target.low, curve.target.high] if curve.target else []
    return min(values), max(values)


def _interval_row(row: IntervalRow, x: Axis, y: float) -> str:
    parts = []
    if row.source and row.target:
        parts.append(
            f'<line class="gap" style="stroke:{colour(row.key)}" x1="{x(row.source.mean):.1f}"'
            f' x2="{x(row.target.mean):.1f}" y1="{y}" y2="{y}"/>'
        )
    for name, entry, offset in (("source", row.source, -5.0), ("target", row.target, 5.0)):
        if entry is None:
            continue
        at = y + offset
        parts.append(
            f"<g><title>{escape(f'{row.label}, {name}: {entry}')}</title>"
            f"{whisker(row.key, (x(entry.low), at), (x(entry.high), at))}"
            f"{marker(row.key, x(entry.mean), at, filled=name == 'target')}</g>"
        )
    return "".join(parts)


def _curve(curve: Curve, x: Axis, y: Axis, target_x: float) -> str:
    def points(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(x(frame), y(value)) for frame, value in zip(curve.frames, values, strict=True)]

    parts = []
    if len(curve.low) and not np.array_equal(curve.low, curve.high):
        parts.append(band(curve.key, points(curve.low), points(curve.high)))
    told = f"{curve.label}: {number(curve.mean[-1])} at the end"
    parts.append(line(curve.key, points(curve.mean), told))
    end = points(curve.mean)[-1]
    parts.append(marker(curve.key, *end, filled=False))
    if curve.target:
        entry = curve.target
        parts.append(
            f'<line class="drop" style="stroke:{colour(curve.key)}" x1="{end[0]:.1f}"'
            f' y1="{end[1]:.1f}" x2="{target_x:.1f}" y2="{y(entry.mean):.1f}"/>'
            f"<g><title>{escape(f'{curve.label}, target: {entry}')}</title>"
            f"{whisker(curve.key, (target_x, y(entry.low)), (target_x, y(entry.high)))}"
            f"{marker(curve.key, target_x, y(entry.mean), filled=True)}</g>"
        )
    return "".join(parts)
