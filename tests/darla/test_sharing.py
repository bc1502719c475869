from __future__ import annotations

import os
from pathlib import Path

import pytest

from darla import sharing
from darla.config import Config, load_config
from darla.rundir import RunDirectory
from darla.sharing import share_stage_one
from darla.vision.training import checkpoint_path

FRAMES = ("frames/train-00000.safetensors", "frames/validation-00000.safetensors")
ALL = (*FRAMES, "vision/dae.safetensors", "vision/vision.safetensors")


@pytest.fixture
def config(tmp_path):
    """Returns configurations of runs in the test's folder."""

    def make(name: str, *overrides: str) -> Config:
        return load_config("lab-quick", [f"runs={tmp_path}", f"name={name}", *overrides])

    return make


def made(config: Config, *names: str) -> RunDirectory:
    """A run with some files, each of which holds its own name and the run's."""
    run = RunDirectory.open(config)
    for name in names:
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text(f"{config.name} {name}")
    return run


def has(run: RunDirectory) -> tuple[str, ...]:
    return tuple(
        str(file.relative_to(run.path)) for file in sorted(run.path.rglob("*.safetensors"))
    )


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ("agents.decisions=7", ALL),
        ("transfer.episodes=7", ALL),
        ("vision.vae.beta=7", ALL[:3]),
        ("vision.gate.action=stop", ALL),
        ("vision.dae.bottleneck=7", FRAMES),
        ("vision.seed=7", FRAMES),
        ("vision.evaluate_every=7000", FRAMES),
        ("frames.seed=7", ()),
        ("environment.size=32", ()),
        ("suite=lab-A-hat-can", ()),
        ("ray.envs_per_worker=7", ()),
    ],
)
def test_what_two_runs_share_follows_from_what_differs(config, change, shared):
    made(config("first"), *ALL)
    second = config("second", change)
    share_stage_one(second, [config("first"), config("not-begun")])
    run = RunDirectory.open(second)
    assert has(run) == shared
    for name in shared:
        assert (run.path / name).read_text() == f"first {name}"
    stages = run.status()["stages"]
    assert {stage: entry["facts"] for stage, entry in stages.items()} == {
        stage: {"taken_from": "first"}
        for stage, name in (("dae", ALL[2]), ("vae", ALL[3]))
        if name in shared
    }
    assert all(run.finished(stage) for stage in stages)
    assert not (run.path.parent / "not-begun").exists()


def test_what_a_run_has_or_has_begun_stays(config):
    made(config("first"), *ALL)
    run = made(config("second"), FRAMES[0])
    checkpoint = checkpoint_path(run.vision, "dae")
    checkpoint.parent.mkdir()
    checkpoint.write_text("half")
    share_stage_one(run.config, [config("first")])
    assert (run.path / FRAMES[0]).read_text() == f"second {FRAMES[0]}"
    assert (run.path / FRAMES[1]).read_text() == f"first {FRAMES[1]}"
    assert checkpoint.exists() and not (run.path / ALL[2]).exists()
    assert run.finished("vae")


def test_a_model_that_the_perceptions_do_not_ask_for_is_left(config):
    cold = "vision.vae.warm_start=false"
    first = made(config("first", cold), *ALL, "vision/beta-vae.safetensors")
    second = config("second", "agents.perceptions=[beta-vae]", cold)
    share_stage_one(second, [first.config])
    assert has(RunDirectory.open(second)) == (*FRAMES, "vision/beta-vae.safetensors")


def test_nothing_is_taken_from_a_run_of_another_configuration_under_the_same_name(config):
    stale = made(config("first", "vision.dae.optimisation.images=7"), *ALL)
    share_stage_one(config("second"), [config("first")])
    assert has(RunDirectory.open(config("second"))) == ()
    share_stage_one(config("third", "vision.dae.optimisation.images=7"), [stale.config])
    third = RunDirectory.open(config("third", "vision.dae.optimisation.images=7"))
    assert has(third) == ALL


def test_files_are_links_and_copies_where_there_can_be_none(config, monkeypatch):
    first = made(config("first"), *ALL)
    share_stage_one(config("second"), [first.config])
    assert os.path.samefile(first.path / ALL[0], first.path.parent / "second" / ALL[0])

    def refuse(source: Path, place: Path) -> None:
        raise PermissionError("links are not allowed here")

    monkeypatch.setattr(sharing.os, "link", refuse)
    share_stage_one(config("third"), [first.config])
    third = RunDirectory.open(config("third"))
    assert has(third) == ALL and not list(third.path.rglob("*.tmp"))
    assert not os.path.samefile(first.path / ALL[0], third.path / ALL[0])
    assert (third.path / ALL[0]).read_text() == f"first {ALL[0]}"
