"""Planted contamination is flagged, and what is clean is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from agents.cells import Cell
from benchmarks import contamination
from benchmarks.contamination import (
    check_contamination,
    compare,
    judge,
    nearest,
    thumbnails,
    verdict,
)
from darla.config import AgentsConfig, Config, FramesConfig
from darla.frames import save_shard, shard_path, write_index
from darla.rundir import RunDirectory
from darla.storage import read_json
from envs.collect import explore, plan
from envs.domains import ENCODER_OOD
from envs.lab import LAB
from envs.protocols import Shift, make_protocol
from envs.registry import get_suite

PAPER = get_suite("lab")
TARGET = PAPER.d_t[0]
START = LAB.domain(room="B", pair="cake-balloon")
CLEAN = {"nearest": 9.0, "median": 20.0, "duplicates": 0.2}


def test_distances_are_root_mean_squares_on_thumbnails() -> None:
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    frames[1] = 10
    frames[2, :, :32] = 20
    small = thumbnails(frames)
    assert small.shape == (3, 16 * 16 * 3) and small[2, 0] == 20.0
    distances = nearest(small, small[:1])
    assert distances == pytest.approx([0.0, 10.0, np.sqrt(200.0)])
    assert nearest(small, small) == pytest.approx([0.0, 0.0, 0.0])


def test_the_share_of_duplicates_counts_near_and_equal_frames_once() -> None:
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames += np.array([0, 50, 100, 200], np.uint8)[:, None, None, None]
    gallery = thumbnails(frames[:1])
    assert compare(frames, [], gallery, close=1.0) == {
        "nearest": 0.0,
        "median": 75.0,
        "duplicates": 0.25,
    }
    twin = frames.copy()
    twin[2:] += 1
    assert compare(frames, [twin], gallery, close=1.0)["duplicates"] == 0.5
    assert compare(frames, [twin], None, close=0.0) == {
        "nearest": None,
        "median": None,
        "duplicates": 0.5,
    }


def test_a_target_is_flagged_for_the_cells_that_learned_in_it() -> None:
    trained = {"dqn-darla-s0": PAPER.d_s, "dqn-domain-randomisation-s0": PAPER.d_u}
    found = judge(TARGET, PAPER.tags(TARGET), trained=trained, vision=PAPER.d_u, measures=CLEAN)
    assert found["trained_on"] == ["dqn-domain-randomisation-s0"]
    assert found["flags"] == ["trained on by dqn-domain-randomisation-s0"]
    assert found["seen_by_vision"] and found["tags"] == ["vision", "target", "policy-ood"]
    honest = judge(TARGET, (), trained={"dqn-darla-s0": PAPER.d_s}, vision=(), measures=CLEAN)
    assert honest["flags"] == [] and not honest["seen_by_vision"]


def test_more_than_half_near_duplicates_are_flagged() -> None:
    measures = CLEAN | {"duplicates": 0.51}
    found = judge(TARGET, (), trained={}, vision=(), measures=measures)
    assert found["flags"] == ["51% of its frames are near-duplicates"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run with frames of stage 1."""
    config = Config(
        name="r",
        runs=str(tmp_path_factory.mktemp("runs")),
        frames=FramesConfig(count=2000, shard=1000, validation=0.2),
    )
    run = RunDirectory.open(config)
    names: dict[str, list[str]] = {"train": [], "validation": []}
    for split, number, count in plan(config):
        path = shard_path(run.frames, split, number)
        save_shard(path, *explore(config, PAPER.d_u, split, number, count))
        names[split].append(path.name)
    facts = {"domains": [], "factors": [], "kinds": []}
    write_index(run.frames, names, facts)
    return run


def test_a_source_under_another_name_is_flagged_and_honest_targets_are_not(run) -> None:
    silent = dataclasses.replace(LAB, canonical=None)  # a world that does not tell of twins
    leaky = make_protocol(
        "leaky",
        "",
        dataclasses.replace(PAPER, world=silent),
        START,
        (
            Shift("walls", ENCODER_OOD, ("red",)),  # the walls that room B has
            Shift("light", ENCODER_OOD, (0.6,)),
            Shift("fov", ENCODER_OOD, (85.0,)),
        ),
    )
    cells = [Cell("dqn", "darla", 0)]
    found = check_contamination(run.config, run, cells, [PAPER, leaky])
    planted = found["targets"]["leaky"]["lab/B/cake-balloon/walls=red"]
    assert planted["flags"] == ["100% of its frames are near-duplicates"]
    assert planted["trained_on"] == [] and not planted["seen_by_vision"]
    others = {**found["targets"]["lab"], **found["targets"]["leaky"]}
    assert [name for name, each in others.items() if each["flags"]] == [
        "lab/B/cake-balloon/walls=red"
    ]
    assert others["lab/B/cake-balloon/light=0.6"]["nearest"] > found["reference"]["close"]
    assert others["lab/B/hat-can"]["seen_by_vision"]
    assert read_json(run.path / "contamination.json") == found
    line = verdict(found, "leaky")
    assert "1 of 3 targets flagged: lab/B/cake-balloon/walls=red (100%" in line
    assert "nearest to the vision's frames: " in line and "\n" not in line
    assert verdict(found, "lab").startswith("contamination of lab: none of 1 targets flagged; ")


def test_what_was_measured_is_not_measured_again(run, monkeypatch) -> None:
    cells = [Cell("dqn", "darla", 0)]
    first = check_contamination(run.config, run, cells, [PAPER])

    def refuse(*_: object) -> None:
        raise AssertionError("walked again")

    monkeypatch.setattr("benchmarks.contamination.explore", refuse)
    assert check_contamination(run.config, run, cells, [PAPER]) == first
    index = run.frames / "index.json"
    index.write_text(index.read_text() + "\n")
    with pytest.raises(AssertionError, match="walked again"):
        check_contamination(run.config, run, cells, [PAPER])


def test_without_frames_of_stage_1_domains_are_still_compared(tmp_path: Path) -> None:
    config = Config(name="r", runs=str(tmp_path))
    found = check_contamination(config, RunDirectory.open(config), [], [PAPER])
    assert found["frames"] is None and found["reference"] is None
    (target,) = found["targets"]["lab"].values()
    assert target["nearest"] is None and 0.0 < target["duplicates"] < 0.5
    assert verdict(found, "lab") == "contamination of lab: none of 1 targets flagged"
    assert target["seen_by_vision"], "it will be: a policy sees through a vision of D_U"


def test_where_no_policy_sees_through_a_vision_none_has_seen_the_target(tmp_path: Path) -> None:
    config = Config(name="r", runs=str(tmp_path), agents=AgentsConfig(perceptions=["pixels"]))
    found = check_contamination(config, RunDirectory.open(config), [], [PAPER])
    (target,) = found["targets"]["lab"].values()
    assert not target["seen_by_vision"]


def test_half_of_duplicates_is_not_more_than_half():
    assert (
        judge(TARGET, (), trained={}, vision=(), measures=CLEAN | {"duplicates": 0.5})["flags"]
        == []
    )


def test_the_walks_in_targets_have_layouts_of_their_own(tmp_path, monkeypatch):
    seeds = set()

    def walk(config, *_):
        seeds.add(config.frames.seed)
        return np.zeros((4, 16, 16, 3), np.uint8), {}

    monkeypatch.setattr(contamination, "explore", walk)
    config = Config(name="r", runs=str(tmp_path))
    check_contamination(config, RunDirectory.open(config), [], [PAPER])
    assert seeds == {config.frames.seed + 1 + config.transfer.seed}
