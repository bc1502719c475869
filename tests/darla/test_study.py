import io

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from darla.storage import read_json
from darla.study import correlate, study, write_study


def rng():
    return np.random.default_rng(0)


def trial(number, *, target, mig=None, beta="1", perception="darla"):
    scores = {} if mig is None else {"mig": mig, "sap": 0.1, "factors": ["room"], "frames": 900}
    policy = {"algorithm": "ec", "perception": perception, "source": 8.0, "target": target}
    return {
        "run": f"runs/{number}",
        "varied": {"vision.vae.beta": beta, "seed": str(number)},
        "visions": [{"perception": perception, "disentanglement": scores}],
        "policies": [policy],
    }


def test_the_correlation_is_spearmans_with_an_interval():
    x = np.random.default_rng(1).normal(size=40)
    y = x + np.random.default_rng(2).normal(size=40)
    found = correlate(x, y, rng())
    assert found["rho"] == pytest.approx(spearmanr(x, y).statistic)
    low, high = found["ci95"]
    assert 0 < low < found["rho"] < high < 1
    assert found["visions"] == 40


@pytest.mark.parametrize(("sign", "rho"), [(1, 1.0), (-1, -1.0)])
def test_ranks_alone_count(sign, rho):
    x = np.arange(8.0)
    assert correlate(x, sign * np.exp(x), rng())["rho"] == pytest.approx(rho)


def test_few_points_and_constants_have_no_correlation():
    nothing = {"rho": None, "ci95": None}
    assert correlate([1, 2, 3], [1, 2, 3], rng()) == nothing | {"visions": 3}
    assert correlate([1, 2, 3, 4], [5, 5, 5, 5], rng()) == nothing | {"visions": 4}


def test_a_study_correlates_every_score_and_leaves_out_unfinished_trials(tmp_path):
    rows = [trial(n, target=float(n), mig=0.1 * n, beta=str(n % 2)) for n in range(6)]
    rows += [trial(6, target=None, mig=0.9), trial(7, target=3.0)]
    result = study(rows, rng())
    assert len(result["points"]) == 6
    assert result["points"][2]["gap"] == 6.0
    found = result["correlations"]["ec darla"]
    assert set(found) == {"mig", "sap"}
    assert found["mig"]["target"]["rho"] == pytest.approx(1.0)
    assert found["mig"]["gap"]["rho"] == pytest.approx(-1.0)
    assert found["sap"]["target"]["rho"] is None
    write_study(result, tmp_path)
    assert read_json(tmp_path / "study.json")["points"] == result["points"]
    assert Image.open(io.BytesIO((tmp_path / "scatter.png").read_bytes())).width > 300


def test_every_policy_is_beside_the_vision_that_it_acts_on():
    rows = [trial(n, target=float(n), mig=0.1 * n) for n in range(4)]
    for row in rows:
        other = trial(0, target=row["policies"][0]["target"], mig=-row["policies"][0]["target"])
        (vision,), (policy,) = other["visions"], other["policies"]
        row["visions"].append(vision | {"perception": "beta-vae"})
        row["policies"] += [policy | {"perception": "beta-vae"}, policy | {"perception": "pixels"}]
    found = study(rows, rng())["correlations"]
    assert found.keys() == {"ec darla", "ec beta-vae"}
    assert found["ec darla"]["mig"]["target"]["rho"] == pytest.approx(1.0)
    assert found["ec beta-vae"]["mig"]["target"]["rho"] == pytest.approx(-1.0)


def test_a_study_without_a_finished_trial_draws_nothing(tmp_path):
    write_study(study([trial(0, target=None, mig=0.1)], rng()), tmp_path)
    assert read_json(tmp_path / "study.json") == {"points": [], "correlations": {}}
    assert not (tmp_path / "scatter.png").exists()
