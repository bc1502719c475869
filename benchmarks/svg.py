"""The parts of the report's figures: axes, grids, text, markers, and how a series looks.

A figure is text without any reference to another file. Colours are CSS variables, which the
report's style sheet sets for light and dark, and `currentColor`; every series also has a marker and
a dash of its own, so that nothing is told by colour alone. Each figure is drawn twice, for wide and
for narrow screens, and the style sheet shows one of them: text keeps its size on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDE, NARROW = 720, 360


@dataclass(frozen=True)
class Style:
    """How a perception is drawn: a hue of Okabe and Ito's palette, a marker, a dash."""

    hue: str
    marker: str
    dash: str


STYLES = {
    "darla": Style("blue", "circle", ""),
    "entangled": Style("sky", "square", "8 3"),
    "beta-vae": Style("sky", "diamond", "6 2 2 2"),
    "dae": Style("sky", "triangle", "3 3"),
    "fine-tuned": Style("purple", "square", "5 2"),
    "random": Style("purple", "triangle", "9 3 2 3"),
    "pixels": Style("vermillion", "square", "7 3"),
    "pixels+augmentation": Style("orange", "diamond", "4 2"),
    "domain-randomisation": Style("orange", "triangle", "2 2"),
    "factors": Style("green", "diamond", "2 3"),
    "none": Style("grey", "circle", "1 4"),
}
OTHER = Style("ink", "circle", "4 2")


def style(key: str) -> Style:
    """The style of a perception, or that of all which are unknown."""
    return STYLES.get(key, OTHER)


def colour(key: str) -> str:
    """The CSS colour of a perception."""
    return f"var(--{style(key).hue}, currentColor)"


@dataclass(frozen=True)
class Axis:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Returns the pixel of a value."""
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


def axis(span: tuple[float, float], start: float, end: float) -> Axis:
    """An axis that ends a little outside of the span."""
    low, high = span
    margin = 0.04 * (high - low or 1.0)
    return Axis(low - margin, high + margin, start, end)


def marker(key: str, x: float, y: float, *, filled: bool) -> str:
    """The marker of a perception at a point, filled or hollow."""
    paint = f"stroke:{colour(key)};fill:{colour(key) if filled else 'var(--paper)'}"
    if style(key).marker == "circle":
        return f'<circle class="mark" style="{paint}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "diamond": ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
    }[style(key).marker]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" style="{paint}" points="{points}"/>'


def swatch(key: str) -> str:
    """A small picture of a perception's marker, for the start of a line of text."""
    return f'<svg viewBox="0 0 14 14" aria-hidden="true">{marker(key, 7, 7, filled=True)}</svg>'


def line(key: str, points: Iterable[tuple[float, float]], title: str) -> str:
    """A line of a perception through points, in its dash; `title` is told on hovering."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline class="curve" style="stroke:{colour(key)}"'
        f' stroke-dasharray="{style(key).dash}" points="{places}">'
        f"<title>{escape(title)}</title></polyline>"
    )


def band(key: str, low: Iterable[tuple[float, float]], high: Iterable[tuple[float, float]]) -> str:
    """The area between two lines in a pale colour."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*high, *reversed(list(low))])
    return f'<polygon class="band" style="fill:{colour(key)}" points="{places}"/>'


def whisker(key: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    """An interval, from end to end."""
    return (
        f'<line class="whisker" style="stroke:{colour(key)}" x1="{start[0]:.1f}"'
        f' y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'
    )


def grid_x(x: Axis, top: float, bottom: float) -> str:
    """Vertical lines at round values, with their numbers below."""
    parts = []
    for tick in x.ticks():
        at = x(tick)
        kind = "zero" if tick == 0 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 8}" y2="{bottom}"/>'
        )
        parts.append(text(at, bottom + 17, tick_label(tick), kind="tick", anchor="middle"))
    return "".join(parts)


def grid_y(y: Axis, left: float, right: float) -> str:
    """Horizontal lines at round values, with their numbers on the left."""
    parts = []
    for tick in y.ticks():
        at = y(tick)
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(left - 7, at + 4, tick_label(tick), kind="tick", anchor="end"))
    return "".join(parts)


def rule(left: float, right: float, y: float, label: str) -> str:
    """A dotted horizontal line with a label above its right end."""
    return f'<line class="floor" x1="{left}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>' + text(
        right - 5, y - 5, label, kind="tick", anchor="end"
    )


def text(x: float, y: float, words: str, *, kind: str = "label", anchor: str = "start") -> str:
    """Words at a point; `kind` is a class of the style sheet."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'


def tick_label(value: float) -> str:
    """A number of an axis."""
    return f"{value:g}".replace("-", "−")


def frames_label(value: float) -> str:
    """A number of frames, in thousands or millions."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def spread(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
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


def responsive(draw: Callable[[int], str]) -> str:
    """A figure at both widths; `draw` takes a width and gives an `<svg>`."""
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'


def drawing(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """An `<svg>` of these parts; a screen reader says the title."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
