"""Progress of long work, on stderr: a bar on a terminal, one plain line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PLAIN_SECONDS = 60.0
"""Seconds between two plain lines."""


class Progress:
    """Shows how far a piece of work is, how fast it goes and how long it will take.

    Example:
        >>> with Progress("frames", total=40_000, unit="frames") as progress:
        ...     progress.update(2_000, in_view=0.71)
    """

    def __init__(self, label: str, total: int, unit: str = "", *, quiet: bool = False) -> None:
        """Describes the work.

        Args:
            label: What is done, in a few words.
            total: Units of the whole work; 0 where it is not known.
            unit: Name of a unit, such as `frames`.
            quiet: Show nothing at all.
        """
        self._label = label
        self._total = total
        self._unit = f" {unit}" if unit else ""
        self._quiet = quiet
        self._bar: tuple[Bar, TaskID] | None = None
        self._mark: tuple[float, int] | None = None
        self._done = 0
        self._figures = ""
        self._began = self._spoke = 0.0

    def __enter__(self) -> Progress:
        """Starts the clock and shows the first line or the empty bar."""
        self._began = self._spoke = time.monotonic()
        if self._quiet:
            return self
        if sys.stderr.isatty():
            self._bar = _start_bar(self._label, self._total)
        else:
            self._say(f"starts, {self._total:,}{self._unit} in all" if self._total else "starts")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the bar, or says in one line how much was done in which time."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar[0].stop()
            return
        verb = "done" if kind is None else "stopped"
        took = f" in {duration(time.monotonic() - self._began)}"
        self._say(f"{verb}, {self._state()}{took}{self._pace(left=False)}{self._figures}")

    def update(self, done: int, **figures: float | str) -> None:
        """Reports the state of the work; costs microseconds, so call it as often as you like.

        Args:
            done: Units done so far in all, those of an earlier, interrupted process included: the
                rate is measured from the first call on.
            **figures: Further numbers to show, such as a loss.
        """
        now = time.monotonic()
        if self._mark is None:
            self._mark = (now, done)
        self._done = done
        self._figures = "".join(f", {name} {_figure(value)}" for name, value in figures.items())
        if self._quiet:
            return
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=done, told=f"{self._state()}{self._pace()}{self._figures}")
        elif now - self._spoke >= PLAIN_SECONDS:
            self._spoke = now
            self._say(f"{self._state()}{self._pace()}{self._figures}")

    def _state(self) -> str:
        of = f" of {self._total:,}" if self._total else ""
        return f"{self._done:,}{of}{self._unit}"

    def _pace(self, *, left: bool = True) -> str:
        """Returns the rate since the first update and, with `left`, the time that is left."""
        if self._mark is None:
            return ""
        began, first = self._mark
        seconds, done = time.monotonic() - began, self._done - first
        if seconds <= 0.0 or done <= 0:
            return ""
        rate = done / seconds
        pace = f", {_figure(rate)}{self._unit}/s"
        if left and self._total:
            pace += f", {duration(max(0, self._total - self._done) / rate)} left"
        return pace

    def _say(self, text: str) -> None:
        print(f"{self._label}: {text}", file=sys.stderr, flush=True)


def _start_bar(label: str, total: int) -> tuple[Bar, TaskID]:
    """Shows an empty bar; rich is imported here, since only a terminal needs it."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    bar = Bar(*columns, console=Console(stderr=True), refresh_per_second=4)
    bar.start()
    return bar, bar.add_task(label, total=total or None, told="")


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Returns seconds in words: `4 s`, `3 min 5 s` or `2 h 7 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
