from benchmarks.plots import _curve


def test_a_curve_ends_where_the_shortest_training_stands() -> None:
    seeds = [[(10, 1.0), (20, 3.0), (30, 9.0)], [(10, 2.0), (20, 4.0)]]
    curve = _curve("darla", "DARLA", seeds, None)
    assert curve.frames == [10, 20]
    assert curve.mean == [1.5, 3.5] and curve.low == [1.0, 3.0] and curve.high == [2.0, 4.0]
    assert curve.target is None
