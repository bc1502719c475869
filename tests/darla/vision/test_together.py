"""Several processes train the same model as one, to the same bits."""

from __future__ import annotations

import os
import threading
import time

import psutil
import pytest
import torch

from darla.config import Config
from darla.errors import ConfigError, DarlaError
from darla.frames import shard_path
from darla.rundir import RunDirectory
from darla.storage import load_tensors, read_jsonl
from darla.vision.pretrain import train_vision, weights_file
from darla.vision.together import check_batches, fit_together


def variant(run: RunDirectory, name: str, **vision: object) -> RunDirectory:
    tree = run.config.model_dump()
    tree["vision"] |= vision
    tree["agents"]["perceptions"] = ["dae"]
    tree |= {"name": name, "ray": {"workers": 1, "cpus_per_worker": 0.5}}
    other = RunDirectory.open(Config.model_validate(tree))
    (other.path / "frames").symlink_to(run.frames)
    return other


def test_two_processes_are_one_with_two_parts(run: RunDirectory, capsys) -> None:
    one = variant(run, "one", parts=2)
    two = variant(run, "two", parts=1, processes=2, pictures="disk")
    report = train_vision(one.config, one, quiet=True)
    assert "train dae" not in capsys.readouterr().err
    assert train_vision(two.config, two) == report
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train dae")]
    assert shown[0] == "train dae: starts, 640 images in all"
    assert shown[-1].startswith("train dae: done, 640 of 640 images") and ", loss " in shown[-1]
    weights, others = (load_tensors(weights_file(each, "dae"))[0] for each in (one, two))
    assert all((weights[name] == others[name]).all() for name in weights)
    rows, others = (read_jsonl(each.vision / "metrics.jsonl") for each in (one, two))
    assert rows == others
    assert {path.name for path in two.vision.iterdir()} == {p.name for p in one.vision.iterdir()}
    assert not (two.path / ".ray-train").exists()
    assert two.status()["stages"]["dae"]["finished"]


@pytest.mark.skipif(
    "DARLA_TEST_FAULTS" not in os.environ, reason="slow; DARLA_TEST_FAULTS=1 runs it"
)
def test_a_process_that_is_killed_changes_no_bit(run: RunDirectory) -> None:
    dae = run.config.vision.dae.model_dump(mode="json")
    dae["optimisation"]["images"] = 16_000
    one = variant(run, "one", parts=2, dae=dae)
    two = variant(run, "two", parts=1, processes=2, dae=dae)
    killer = threading.Thread(target=kill_a_process_after, args=(3_000, two), daemon=True)
    killer.start()
    train_vision(two.config, two, quiet=True)
    killer.join(1.0)
    assert not killer.is_alive(), "nothing was killed"
    train_vision(one.config, one, quiet=True)
    weights, others = (load_tensors(weights_file(each, "dae"))[0] for each in (one, two))
    assert all((weights[name] == others[name]).all() for name in weights)
    rows, others = (read_jsonl(each.vision / "metrics.jsonl") for each in (one, two))
    assert rows == others


def kill_a_process_after(images: int, run: RunDirectory) -> None:
    """Waits until a model has seen so many images, and kills one of the processes."""
    metrics = run.vision / "metrics.jsonl"
    while not metrics.exists() or len(read_jsonl(metrics)) < images // 160:
        time.sleep(0.2)
    named = (p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"])
    next(p for p in named if "RayTrainWorker" in p.info["cmdline"][0]).kill()


def test_a_batch_must_have_a_picture_for_every_part(run: RunDirectory) -> None:
    many = variant(run, "many", parts=4, processes=5)
    with pytest.raises(ConfigError, match="5 of 4 parts each cannot share batches of 16, .* of 20"):
        fit_together(many.config, many, "dae", torch.device("cpu"), quiet=True)
    odd = variant(run, "odd", parts=1, processes=7)  # torch cuts 16 into parts of 3: into 6
    with pytest.raises(ConfigError, match="in 7 parts; give a .* multiple of 7"):
        check_batches(odd.config)


def test_more_processes_than_cpus_are_refused(run: RunDirectory) -> None:
    crowd = variant(run, "crowd", parts=1, processes=16)
    ray = crowd.config.ray.model_copy(update={"cpus_per_worker": 1000.0})
    config = crowd.config.model_copy(update={"ray": ray})
    with pytest.raises(ConfigError, match=r"reserves 16000 CPUs and this machine has \d+; give"):
        fit_together(config, crowd, "dae", torch.device("cpu"), quiet=True)


def test_what_a_process_raises_is_told(run: RunDirectory) -> None:
    damaged = variant(run, "damaged", parts=1, processes=2)
    shard = shard_path(run.frames, "train", 0)
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(DarlaError, match=f"on 2 processes failed: .*{shard.name}"):
        fit_together(damaged.config, damaged, "dae", torch.device("cpu"), quiet=True)
