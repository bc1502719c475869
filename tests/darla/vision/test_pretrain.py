"""Stage 1 as a whole on a toy: it learns, resumes to the same bits, refuses what is broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from darla.config import Config, config_identity, load_config
from darla.errors import CorruptFileError, DivergenceError, MissingFileError
from darla.frames import load_frames
from darla.perception import load_perception
from darla.rundir import RunDirectory
from darla.storage import read_json, read_jsonl
from darla.vision import pretrain, training
from darla.vision.pretrain import GateError, models_of, train_vision, vae_settings
from darla.vision.training import checkpoint_path, learning_rate


def with_vision(config: Config, **vision: object) -> Config:
    tree = config.model_dump()
    tree["vision"] |= vision
    return Config.model_validate(tree)


def test_the_models_learn_and_the_report_says_how_well(run: RunDirectory) -> None:
    report = train_vision(run.config, run, quiet=True)
    rows = [row for row in read_jsonl(run.vision / "metrics.jsonl") if row["model"] == "dae"]
    assert rows[-1]["loss"] < 0.65 * rows[0]["loss"]
    assert rows[-1]["images"] == 640
    assert read_json(run.vision / "report.json") == report
    assert report["probe"]["room"] > 0.75 > report["probe"]["room/chance"] + 0.15
    assert len(report["latents"]["kl_per_latent"]) == 4
    for name in ("reconstructions.png", "traversals.png"):
        assert (run.vision / name).stat().st_size > 1000
    assert not list(run.vision.glob("*.checkpoint.*"))


def with_perceptions(config: Config, *names: str, **changes: object) -> Config:
    tree = config.model_dump()
    tree["agents"]["perceptions"] = names
    return Config.model_validate(tree | changes)


def test_the_other_visions_keep_to_beta_whatever_the_objective() -> None:
    changes = {"objective": "capacity", "beta": 7.0}
    config = load_config("lab-smoke", [f"vision.vae.{key}={v}" for key, v in changes.items()])
    assert vae_settings(config, "darla").objective == "capacity"
    for name, own in (("entangled", config.vision.entangled), ("beta-vae", config.vision.beta_vae)):
        settings = vae_settings(config, name)
        assert (settings.objective, settings.beta) == ("beta", own.beta)


@pytest.mark.parametrize(
    ("perceptions", "models"),
    [
        (("darla",), ["dae", "darla"]),
        (("fine-tuned", "pixels"), ["dae", "darla"]),
        (("pixels", "factors"), ["dae", "darla"]),
        (("dae",), ["dae"]),
        (("beta-vae",), ["beta-vae"]),
        (("entangled",), ["dae", "entangled"]),
        (("beta-vae", "entangled", "darla"), ["dae", "darla", "entangled", "beta-vae"]),
    ],
)
def test_the_perceptions_say_what_is_trained(
    config: Config, perceptions: tuple[str, ...], models: list[str]
) -> None:
    assert models_of(with_perceptions(config, *perceptions)) == models


def test_a_pixel_loss_that_starts_from_the_dae_waits_for_it(config: Config) -> None:
    tree = with_perceptions(config, "beta-vae").model_dump()
    tree["vision"]["vae"]["warm_start"] = True
    assert models_of(Config.model_validate(tree)) == ["dae", "beta-vae"]


def test_frames_on_the_disk_give_the_same_vision(run: RunDirectory) -> None:
    in_memory = train_vision(with_vision(run.config, pictures="memory"), run, quiet=True)
    config = with_vision(run.config, pictures="disk").model_copy(update={"name": "disk"})
    other = RunDirectory.open(config)
    (other.path / "frames").symlink_to(run.frames)
    assert train_vision(config, other, quiet=True) == in_memory


def test_further_visions_leave_the_first_as_it_is(run: RunDirectory, tmp_path: Path) -> None:
    alone = train_vision(run.config, run, quiet=True)
    config = with_perceptions(run.config, "darla", "entangled", "beta-vae", name="three")
    other = RunDirectory.open(config)
    (other.path / "frames").symlink_to(run.frames)
    report = train_vision(config, other, quiet=True)
    further = {name: report.pop(name) for name in ("entangled", "beta-vae")}
    assert report == alone
    marks = {report["fingerprint"], *(each["fingerprint"] for each in further.values())}
    assert len(marks) == 3
    assert further["entangled"]["latents"]["kl"] > 1.2 * report["latents"]["kl"]
    assert "through_dae/pixels" in further["entangled"]["vae"]
    assert "through_dae/pixels" not in further["beta-vae"]["vae"]
    stages = other.status()["stages"]
    for name in further:
        assert load_perception(name, other, 0, 0).fingerprint == further[name]["fingerprint"]
        assert stages[name]["facts"]["images"] == 640
        for kind in ("reconstructions", "traversals"):
            assert (other.vision / f"{kind}-{name}.png").stat().st_size > 1000
    rows = read_jsonl(other.vision / "metrics.jsonl")
    assert {row["model"] for row in rows} == {"dae", "vae", "entangled", "beta-vae"}


class Killed(BaseException):
    """Stands for kill -9: nothing that is not on disk survives."""


@pytest.mark.parametrize(
    ("model", "step"), [("dae", 25), ("vae", 13), ("vae", 38), ("entangled", 25)]
)
def test_killed_and_repeated_it_ends_with_the_same_bits(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, step: int
) -> None:
    perceptions = ("entangled",) if model == "entangled" else ("darla",)
    run.config = with_perceptions(run.config, *perceptions)
    whole = train_vision(run.config, run, quiet=True)
    metrics = read_jsonl(run.vision / "metrics.jsonl")

    again = tmp_path / "again"
    again.mkdir()
    config = run.config.model_copy(update={"runs": str(again)})
    other = RunDirectory.open(config)
    (run.path / "frames").rename(other.path / "frames")
    take = training.Trainer.step

    def step_or_die(self: training.Trainer) -> dict[str, torch.Tensor]:
        if self.objective.name == model and self.step_number == step:
            raise Killed
        return take(self)

    monkeypatch.setattr(training.Trainer, "step", step_or_die)
    with pytest.raises(Killed):
        train_vision(config, other, quiet=True)
    monkeypatch.setattr(training.Trainer, "step", take)
    steps = []

    def counted(self: training.Trainer) -> dict[str, torch.Tensor]:
        steps.append((self.objective.name, self.step_number))
        return take(self)

    monkeypatch.setattr(training.Trainer, "step", counted)
    assert train_vision(config, other, quiet=True) == whole
    assert read_jsonl(other.vision / "metrics.jsonl") == metrics
    # Not more than one checkpoint interval (10 steps) was repeated.
    assert min(number for name, number in steps if name == model) >= step - 10


def test_a_finished_vision_is_not_trained_again(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_vision(run.config, run, quiet=True)
    monkeypatch.setattr(pretrain, "fit", None)
    train_vision(run.config, run, quiet=True)


def test_seeds_differ(run: RunDirectory, tmp_path: Path) -> None:
    marks = set()
    for seed in (0, 1):
        config = with_vision(run.config, seed=seed).model_copy(update={"name": f"s{seed}"})
        other = RunDirectory.open(config)
        (other.path / "frames").symlink_to(run.frames)
        marks.add(train_vision(config, other, quiet=True)["fingerprint"])
    assert len(marks) == 2


def test_a_blind_dae_stops_at_the_gate(run: RunDirectory) -> None:
    config = with_vision(run.config, gate={"object_error": 1e-6, "action": "stop"})
    with pytest.raises(GateError, match="loses the objects"):
        train_vision(config, run, quiet=True)
    assert (run.vision / "dae.safetensors").exists(), "the DAE's work must not be lost"
    assert (run.vision / "reconstructions.png").exists()


def test_a_run_that_stopped_at_the_gate_may_go_on(run: RunDirectory) -> None:
    strict = with_vision(run.config, gate={"object_error": 1e-6, "action": "stop"})
    with pytest.raises(GateError, match="or go on with this one: vision.gate.action=warn"):
        train_vision(strict, run, quiet=True)
    lenient = with_vision(run.config, gate={"object_error": 1e-6, "action": "warn"})
    assert config_identity(strict) == config_identity(lenient) == config_identity(run.config)
    train_vision(lenient, run, quiet=True)
    assert (run.vision / "report.json").exists()


def test_a_training_that_was_killed_before_its_first_checkpoint_logs_each_row_once(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = training.Trainer.step

    def step_or_die(self: training.Trainer) -> dict[str, torch.Tensor]:
        if self.step_number == 5:
            raise Killed
        return take(self)

    monkeypatch.setattr(training.Trainer, "step", step_or_die)
    with pytest.raises(Killed):
        train_vision(run.config, run, quiet=True)
    assert read_jsonl(run.vision / "metrics.jsonl")
    monkeypatch.setattr(training.Trainer, "step", take)
    train_vision(run.config, run, quiet=True)
    rows = [(row["model"], row["images"]) for row in read_jsonl(run.vision / "metrics.jsonl")]
    assert len(set(rows)) == len(rows)


def test_a_variance_is_learned_beside_a_decoder_that_has_none(run: RunDirectory) -> None:
    vision = run.config.model_dump()["vision"]
    config = with_vision(
        run.config,
        vae=vision["vae"] | {"reconstruction": "bernoulli"},
        beta_vae=vision["beta_vae"] | {"reconstruction": "gaussian"},
    )
    latents = torch.zeros(1, config.vision.vae.latents)
    assert pretrain.make_vae(config, "beta-vae").decode(latents)[1].any()
    assert not pretrain.make_vae(config).decode(latents)[1].any()


def test_a_training_that_diverges_says_so(run: RunDirectory) -> None:
    dae = run.config.vision.dae
    steep = dae.optimisation.model_copy(update={"learning_rate": 1e30})
    config = with_vision(run.config, dae=dae.model_copy(update={"optimisation": steep}))
    with pytest.raises(DivergenceError, match=r"vision\.dae\.optimisation\.learning_rate"):
        train_vision(config, run, quiet=True)
    assert not (run.vision / "dae.safetensors").exists()
    assert not checkpoint_path(run.vision, "dae").exists()


def test_bfloat16_learns_like_float32(run: RunDirectory) -> None:
    errors = []
    for precision in ("float32", "bfloat16"):
        config = with_vision(run.config, precision=precision)
        config = config.model_copy(update={"name": precision})
        other = RunDirectory.open(config)
        (other.path / "frames").symlink_to(run.frames)
        errors.append(train_vision(config, other, quiet=True)["dae"]["pixels"])
    assert errors[1] == pytest.approx(errors[0], rel=0.15)


@pytest.mark.parametrize("name", ["train-00000.safetensors", "index.json"])
def test_damaged_frames_are_named(run: RunDirectory, name: str) -> None:
    path = run.frames / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CorruptFileError, match=name):
        train_vision(run.config, run, quiet=True)


def test_frames_that_are_not_there_name_the_command(config: Config) -> None:
    run = RunDirectory.open(config)
    with pytest.raises(MissingFileError, match="darla pretrain"):
        train_vision(config, run, quiet=True)


def test_frames_round_trip(run: RunDirectory) -> None:
    frames = load_frames(run.frames, "validation")
    assert frames.pictures.shape == (200, 32, 32, 3) and frames.pictures.dtype == torch.uint8
    assert frames.domains == ("toy/A/square", "toy/B/square")
    assert frames.factors[1] == {"room": "B"}
    assert frames.labels["kinds"].dtype == np.int8
    assert (frames.pictures.numpy()[frames.labels["kinds"] == 0] == 240).all()


@pytest.mark.parametrize("file", ["dae.safetensors", "vision.safetensors"])
def test_a_truncated_model_is_named_and_kept(run: RunDirectory, file: str) -> None:
    train_vision(run.config, run, quiet=True)
    path = run.vision / file
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(half)
    with pytest.raises(CorruptFileError, match=file):
        train_vision(run.config, run, quiet=True)
    assert path.read_bytes() == half


def test_a_damaged_checkpoint_is_named_with_its_remedy(run: RunDirectory) -> None:
    run.vision.mkdir()
    path = checkpoint_path(run.vision, "dae")
    path.write_bytes(b"half of a")
    with pytest.raises(CorruptFileError, match=rf"{path.name}.*; delete it to start over"):
        train_vision(run.config, run, quiet=True)
    path.unlink()
    train_vision(run.config, run, quiet=True)


def test_a_checkpoint_of_another_network_is_refused(run: RunDirectory) -> None:
    train_vision(run.config, run, quiet=True)
    wider = with_vision(run.config)
    tree = wider.model_dump()
    tree["vision"]["vae"]["latents"] = 5
    run.config = Config.model_validate(tree)
    with pytest.raises(CorruptFileError, match="does not fit"):
        load_perception("darla", run, 0, 0)


def test_learning_rate_rises_and_falls(config: Config) -> None:
    schedule = config.vision.dae.optimisation
    rates = [learning_rate(step, 1000, schedule) for step in range(1000)]
    assert rates[0] == pytest.approx(schedule.learning_rate / 50, rel=1e-3)
    assert max(rates) == pytest.approx(schedule.learning_rate, rel=0.01)
    assert rates[-1] == pytest.approx(schedule.learning_rate * schedule.final, rel=0.01)
    assert rates.index(max(rates)) == pytest.approx(50, abs=2)
