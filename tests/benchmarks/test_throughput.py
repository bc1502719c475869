import functools
import importlib.util
import os
import time

import numpy as np
import pytest

from benchmarks import throughput
from benchmarks.contenders import rate, vision
from benchmarks.throughput import Figure, Side, line, measure
from darla.errors import DarlaError
from tests.benchmarks.toy_contenders import broken, constant, dead, threads


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    rates = {"ours": [10.0, 30.0, 20.0], "peer": [5.0, 10.0, 20.0]}
    result = line(Figure("f", "x/s", "ours", "peer"), rates, {"ours": 1, "peer": 2})
    assert (result["value"], result["peer_value"], result["ratio"]) == (20.0, 10.0, 2.0)
    assert result["rounds"] == [[10.0, 5.0], [30.0, 10.0], [20.0, 20.0]]
    assert result["threads"] == {"ours": 1, "peer": 2}
    inverted = line(
        Figure("f", "x/s", "ours", "peer", inverted=True), rates, result["threads"] | rates
    )
    assert inverted["ratio"] == 0.5


def test_every_side_is_measured_in_every_round_with_its_threads(capfd) -> None:
    sides = [
        Side("one", functools.partial(constant, 3.0), 1),
        Side("two", functools.partial(constant, 4.0), 1),
        Side("pinned", threads, 7),
    ]
    before = dict(os.environ)
    assert measure(sides, 2, 0.01) == {"one": [3.0, 3.0], "two": [4.0, 4.0], "pinned": [7.0, 7.0]}
    assert dict(os.environ) == before
    assert capfd.readouterr().out == ""


def test_processes_of_a_side_work_at_once_and_their_rates_are_added() -> None:
    three = Side("three", functools.partial(constant, 3.0), 1, processes=3)
    assert measure([three], 1, 0.01) == {"three": [9.0]}


@pytest.mark.parametrize(("contender", "words"), [(broken, "no such thing"), (dead, "died")])
def test_a_contender_that_fails_is_an_error(contender, words: str) -> None:
    with pytest.raises(DarlaError, match=words):
        measure([Side("bad", contender, 1)], 1, 0.01)


@pytest.mark.parametrize("benchmark", ["env", "vision", "agents", "ec"])
def test_a_missing_peer_says_how_to_install_it(benchmark: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert throughput.main([benchmark]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "pip install -e '.[peers]'" in captured.err


@pytest.mark.parametrize("words", [["cpu"], ["env", "--rounds", "0"], ["env", "--seconds", "x"]])
def test_bad_arguments_are_refused(words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        throughput.main(words)
    assert caught.value.code == 2
    capsys.readouterr()


def test_rate_counts_units_per_second() -> None:
    def work() -> int:
        time.sleep(0.01)
        return 5

    assert 250 < rate(work, 0.2) <= 500


def test_our_elbo_is_pythaes(monkeypatch) -> None:
    pytest.importorskip("pythae")
    monkeypatch.setattr(vision, "ELBO_STEPS", 4)
    monkeypatch.setattr(vision, "BATCH", 8)
    monkeypatch.setattr(vision, "PICTURES", 16)
    ours, theirs = vision.elbo_agreement()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[-1] < ours[0]
