"""Several processes train the same model as one, to the same bits."""

from __future__ import annotations

import pytest
import torch

from darla.config import Config
from darla.errors import ConfigError, DarlaError
from darla.frames import shard_path
from darla.rundir import RunDirectory
from darla.storage import load_tensors, read_jsonl
from darla.vision.pretrain import train_vision, weights_file
from darla.vision.together import fit_together


def variant(run: RunDirectory, name: str, **vision: object) -> RunDirectory:
    tree = run.config.model_dump()
    tree["vision"] |= vision
    tree["agents"]["perceptions"] = ["dae"]
    tree |= {"name": name, "ray": {"workers": 1, "cpus_per_worker": 0.5}}
    other = RunDirectory.open(Config.model_validate(tree))
    (other.path / "frames").symlink_to(run.frames)
    return other


def test_two_processes_are_one_with_two_parts(run: RunDirectory) -> None:
    one = variant(run, "one", parts=2)
    two = variant(run, "two", parts=1, processes=2, pictures="disk")
    assert train_vision(one.config, one, quiet=True) == train_vision(two.config, two, quiet=True)
    weights, others = (load_tensors(weights_file(each, "dae"))[0] for each in (one, two))
    assert all((weights[name] == others[name]).all() for name in weights)
    rows, others = (read_jsonl(each.vision / "metrics.jsonl") for each in (one, two))
    assert rows == others
    assert {path.name for path in two.vision.iterdir()} == {p.name for p in one.vision.iterdir()}
    assert not (two.path / ".ray-train").exists()
    assert two.status()["stages"]["dae"]["finished"]


def test_a_batch_must_have_a_picture_for_every_part(run: RunDirectory) -> None:
    many = variant(run, "many", parts=4, processes=5)
    with pytest.raises(ConfigError, match="5 of 4 parts each need batches of at least 20"):
        fit_together(many.config, many, "dae", torch.device("cpu"), quiet=True)


def test_what_a_process_raises_is_told(run: RunDirectory) -> None:
    damaged = variant(run, "damaged", parts=1, processes=2)
    shard = shard_path(run.frames, "train", 0)
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(DarlaError, match=f"on 2 processes failed: .*{shard.name}"):
        fit_together(damaged.config, damaged, "dae", torch.device("cpu"), quiet=True)
