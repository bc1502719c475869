"""The experiments on 2D shapes at toy size: they run, resume and report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from darla.config import Config
from darla.errors import ConfigError, DependencyError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import read_json, read_jsonl
from darla.vision import shapes, shapes_experiment, training
from darla.vision.evaluation import posterior
from darla.vision.metrics import beta_vae_score
from darla.vision.pretrain import make_vae, seed_weights
from darla.vision.shapes_experiment import (
    ShapePictures,
    check_shapes,
    entries,
    held_out,
    scores_of,
    summary_table,
    train_shapes,
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(shapes_experiment, "WATCHED", 200)
    optimisation = {"images": 960, "batch": 32, "optimiser": "adagrad", "learning_rate": 1e-2}
    vae = {
        "network": "mlp",
        "hidden": 16,
        "latents": 4,
        "reconstruction": "bernoulli",
        "objective": "capacity",
        "gamma": 10.0,
        "capacity": {"end": 8.0},
        "optimisation": optimisation,
    }
    vision = {"evaluate_every": 320, "checkpoint_every": 320, "precision": "float32", "vae": vae}
    tree = {
        "name": "toy",
        "runs": str(tmp_path),
        "shapes": {"sample": 1_000, "held_out": True},
        "vision": vision,
    }
    return Config.model_validate(tree)


def replaced(config: Config, section: str, **values: object) -> Config:
    tree = config.model_dump()
    tree[section] |= values
    return Config.model_validate(tree)


def test_pictures_come_by_index_and_leave_out_what_is_held_out(config: Config) -> None:
    kept = np.flatnonzero(~held_out())
    assert len(kept) == shapes.COUNT * 11 // 12
    pictures = ShapePictures(config.shapes, kept, torch.device("cpu"))
    assert pictures.shape == (len(kept), 64, 64, 1)
    last = pictures[torch.tensor([0, len(kept) - 1])]
    assert last.dtype == torch.uint8 and last.unique().tolist() == [0, 255]
    assert np.array_equal(last[1, ..., 0] == 255, shapes.images([kept[-1]])[0] == 1)


def test_held_out_are_hearts_in_the_upper_right() -> None:
    drawn = shapes.images(np.flatnonzero(held_out())[::997])
    rows, columns = drawn.any(2), drawn.any(1)
    assert rows[:, :16].any() and columns[:, 48:].any()
    middle_row = (drawn.sum(2) @ np.arange(64)) / drawn.sum((1, 2))
    middle_column = (drawn.sum(1) @ np.arange(64)) / drawn.sum((1, 2))
    assert (middle_row < 33).all() and (middle_column > 31).all()


def untrained_score(config: Config) -> float:
    """The beta-VAE score of the network before its training, over all factors but shape."""
    rng = np.random.default_rng(config.vision.seed)
    pictures = ShapePictures(config.shapes, np.flatnonzero(~held_out()), torch.device("cpu"))
    chosen = rng.choice(pictures.indices, config.shapes.sample)
    vae = make_vae(config, channels=1)
    seed_weights(vae, config.vision.seed, 1)
    latents, _ = posterior(vae, pictures.at(chosen))
    return beta_vae_score(latents, shapes.factors_of(chosen)[:, 1:], rng)


def test_the_experiment_reports_scores_entries_and_inference(config: Config) -> None:
    run = RunDirectory.open(config)
    report = train_shapes(config, run, quiet=True)
    assert read_json(run.vision / "report.json") == report
    assert set(report["factors"]) == set(shapes.FACTORS)
    assert 0.25 <= report["disentanglement"]["beta_vae/continuous"] <= 1
    assert set(report["inference"]) == {"seen", "held_out"}
    assert report["inference"]["seen"]["x"] < 8
    assert report["untrained"] == untrained_score(config)
    rows = read_jsonl(run.vision / "metrics.jsonl")
    assert [row["capacity"] for row in rows] == sorted(row["capacity"] for row in rows)
    assert rows[-1]["capacity"] == pytest.approx(8 * 29 / 30, abs=1e-3)
    assert rows[-1]["loss"] < rows[0]["loss"]
    for name in ("traversals.png", "reconstructions.png", "annealing/000000960.png"):
        assert (run.vision / name).stat().st_size > 500
    assert run.finished("shapes")


def test_an_interrupted_training_ends_with_the_same_weights(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_shapes(config, RunDirectory.open(config), quiet=True)
    again = config.model_copy(update={"name": "again"})
    step = training.Trainer.step

    def dying(self: training.Trainer) -> dict[str, torch.Tensor]:
        if self.step_number == 25:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(training.Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        train_shapes(again, RunDirectory.open(again), quiet=True)
    monkeypatch.setattr(training.Trainer, "step", step)
    resumed = train_shapes(again, RunDirectory.open(again), quiet=True)
    assert resumed["fingerprint"] == whole["fingerprint"]
    assert resumed["disentanglement"] == whole["disentanglement"]


@pytest.mark.parametrize(
    ("section", "values"),
    [("vision", {"vae": {}}), ("environment", {"size": 32})],
    ids=["reconstruction", "size"],
)
def test_what_cannot_see_shapes_is_refused(
    config: Config, section: str, values: dict[str, object]
) -> None:
    wrong = replaced(config, section, **values)
    with pytest.raises(ConfigError, match=r"give environment.size=64 vision.vae.reconstruction"):
        train_shapes(wrong, RunDirectory.open(wrong), quiet=True)


@pytest.mark.parametrize(
    ("section", "values", "error", "words"),
    [
        ("vision", {"processes": 2}, ConfigError, "vision.processes=1"),
        ("vision", {"device": "mps"}, DependencyError, "allowed is auto, cpu, cuda"),
        ("shapes", {"file": "nowhere.npz"}, MissingFileError, "give shapes.file=null"),
    ],
)
def test_what_is_not_here_is_refused(
    config: Config, section: str, values: dict[str, object], error: type, words: str
) -> None:
    given = getattr(config, section).model_dump() | values
    with pytest.raises(error, match=words):
        check_shapes(replaced(config, section, **given))


def told(**shares: float) -> list[list[float]]:
    """Shares told by two latents, the second of which tells nothing."""
    return [[shares.get(name, 0.0) for name in shapes.FACTORS], [0.0] * 5]


def test_a_factor_enters_when_half_of_what_is_told_at_the_end_is_told_to_stay() -> None:
    history = [told(x=0.5, y=0.1), told(x=0.3, y=0.5), told(x=0.5, y=0.6)]
    rows = [
        {"images": 100 * n, "validation_kl": 2.0 * n, "told": each}
        for n, each in enumerate(history, 1)
    ]
    factors = entries([{"images": 50, "loss": 1.0}, *rows], np.array(told(x=0.8, y=0.6)))
    assert factors["x"] == {"latent": 0, "told": 0.8, "images": 300, "nats": 6.0}
    assert factors["y"] == {"latent": 0, "told": 0.6, "images": 200, "nats": 4.0}
    assert factors["shape"] == {"latent": None, "told": 0.0, "images": None, "nats": None}


def test_the_summary_has_the_mean_over_runs() -> None:
    def report(mig: float) -> dict[str, object]:
        return {
            "disentanglement": {"mig": mig},
            "untrained": 0.5,
            "latents": {"kl": 10.0},
            "pixels": 0.01,
            "factors": {"x": {"told": 0.5}},
        }

    reports = {"a": report(0.1), "b": report(0.3)}
    assert scores_of(reports)["mig"] == [0.1, 0.3]
    table = summary_table(reports)
    assert [column.header for column in table.columns] == ["score", "a", "b", "mean", "sd"]
    seeds = summary_table({f"quick-seed-{seed}": report(0.1) for seed in range(3)})
    assert seeds.title == "quick-seed"
    assert [column.header for column in seeds.columns][:4] == ["score", "0", "1", "2"]
    assert [list(column.cells)[1] for column in table.columns] == [
        "mig",
        "0.100",
        "0.300",
        "0.200",
        "0.141",
    ]
