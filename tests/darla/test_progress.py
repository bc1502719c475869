import io
import sys

import pytest

from darla import progress
from darla.progress import Progress


class Clock:
    """Time that moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_plain_lines_come_at_the_start_once_a_minute_and_at_the_end(clock, capsys):
    with Progress("frames", 40_000, "frames") as bar:
        for second in range(121):
            clock.now = 1000.0 + second
            bar.update(100 * second, loss=0.12345)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "frames: starts, 40,000 frames in all",
        "frames: 6,000 of 40,000 frames, 100 frames/s, 5 min 40 s left, loss 0.123",
        "frames: 12,000 of 40,000 frames, 100 frames/s, 4 min 40 s left, loss 0.123",
        "frames: done, 12,000 of 40,000 frames in 2 min 0 s, 100 frames/s, loss 0.123",
    ]


def test_the_rate_of_a_continued_work_counts_only_what_this_process_did(clock, capsys):
    with Progress("frames", 1000) as bar:
        bar.update(900)
        clock.now += 100
        bar.update(950)
    assert "950 of 1,000, 0.5/s, 1 min 40 s left" in capsys.readouterr().err


def test_an_unknown_total_shows_no_time_left(clock, capsys):
    with Progress("episodes", 0, "episodes") as bar:
        bar.update(0)
        clock.now += 61
        bar.update(122)
    err = capsys.readouterr().err
    assert "episodes: 122 episodes, 2 episodes/s\n" in err
    assert "left" not in err


def test_an_error_ends_with_what_was_done(clock, capsys):
    with pytest.raises(KeyboardInterrupt), Progress("train", 10) as bar:
        bar.update(3)
        raise KeyboardInterrupt
    assert capsys.readouterr().err.splitlines()[-1] == "train: stopped, 3 of 10 in 0 s"


def test_quiet_says_nothing(clock, capsys):
    with Progress("train", 10, quiet=True) as bar:
        clock.now += 100
        bar.update(3)
    assert capsys.readouterr() == ("", "")


def test_nan_is_a_figure(clock, capsys):
    with Progress("train", 10) as bar:
        bar.update(1, loss=float("nan"), best=float("inf"))
    assert "loss nan, best inf" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with Progress("frames", 10, "frames") as bar:
        bar.update(7, loss=0.5)
    shown = terminal.getvalue()
    assert "7 of 10 frames, loss 0.5" in shown
    assert "━" in shown


def test_durations_read_well():
    assert [progress.duration(s) for s in (0.4, 59, 60, 3599.6, 7620)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "1 h 0 min",
        "2 h 7 min",
    ]
