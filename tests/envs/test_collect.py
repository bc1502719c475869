"""Collecting D_U: shards that follow from the seed alone, resumption, facts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Discrete, MultiDiscrete

from darla.config import Config, FramesConfig
from darla.errors import ConfigError, CorruptFileError
from darla.frames import load_frames, shard_path
from darla.rundir import RunDirectory
from darla.storage import read_json
from envs import collect, make_vector, registry
from envs.collect import (
    ROOMS,
    TURN_AWAY,
    Explorer,
    collect_frames,
    explore,
    make_random,
    plan,
)
from envs.registry import get_suite

DOMAINS = get_suite("lab").d_u
NOTHING, ENDED = np.zeros((500, 0, 0, 3), np.uint8), np.zeros(500, bool)
"""What the explorer does not look at."""


WRONG_SIZE = """
import gymnasium, numpy
from envs.domains import Factor, Suite, World
from envs.registry import Simulator, register
from envs.single import vector_of

WORLD = World("wrong", (Factor("colour", None, "", ("red", "blue")),))
RED, BLUE = WORLD.domain(colour="red"), WORLD.domain(colour="blue")

class Large(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (48, 48, 3), numpy.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, domain, size, frame_skip):
        pass

suite = Suite("wrong", "too large", WORLD, d_u=(RED, BLUE), d_s=(RED,), d_t=(BLUE,))
register(Simulator("wrong", vector_of(Large, WORLD), (suite,)))
"""
"""A user's world whose pictures have another size than the configuration says."""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    tree = {
        "name": "frames",
        "runs": str(tmp_path),
        "environment": {"size": 32},
        "frames": {"count": 400, "validation": 0.2, "shard": 150, "segment": 4},
        "ray": {"workers": 1},
    }
    return Config.model_validate(tree)


def test_the_environments_of_a_shard_are_closed(config: Config, monkeypatch) -> None:
    made = []

    def make_and_keep(*args, **options):
        made.append(make_vector(*args, **options))
        return made[-1]

    monkeypatch.setattr(collect, "make_vector", make_and_keep)
    explore(config, DOMAINS, "train", 0, ROOMS)
    assert [vector.closed for vector in made] == [True]


def test_the_plan_covers_every_frame_once(config: Config) -> None:
    shards = plan(config)
    assert shards == [
        ("train", 0, 150),
        ("train", 1, 150),
        ("train", 2, 20),
        ("validation", 0, 40),
        ("validation", 1, 40),
    ]


def test_a_shard_follows_from_seed_split_and_number(config: Config) -> None:
    pictures, labels = explore(config, DOMAINS, "train", 0, 100)
    again, _ = explore(config, DOMAINS, "train", 0, 100)
    assert pictures.shape == (100, 32, 32, 3) and pictures.dtype == np.uint8
    assert (pictures == again).all()
    assert set(labels) == {"domain", "kind", "bearing", "distance", "pose"}
    for split, number in (("train", 1), ("validation", 0)):
        assert (explore(config, DOMAINS, split, number, 100)[0] != pictures).any()


def test_validation_labels_tell_objects_from_the_room(config: Config) -> None:
    pictures, labels = explore(config, DOMAINS, "validation", 0, 60)
    mask = labels["kinds"] >= 0
    assert 0.01 < mask.mean() < 0.5
    assert (pictures[~mask] == labels["background"][~mask]).all()
    shown = {int(kind) for kind in np.unique(labels["kinds"])} - {-1}
    assert shown == {0, 1, 2, 3}
    # Hats and cans are never seen in a domain of cakes and balloons.
    for i, domain in enumerate(DOMAINS):
        own = np.unique(labels["kinds"][labels["domain"] == i])
        allowed = {0, 1} if domain.factors["pair"] == "hat-can" else {2, 3}
        assert set(own.tolist()) - {-1} <= allowed


def test_the_explorer_persists_and_turns_away_from_walls() -> None:
    walker = Explorer(500, Discrete(8), (4, 5), np.random.default_rng(0))
    far, near = ({"clearance": np.full(500, metres)} for metres in (9.0, TURN_AWAY - 0.1))
    first = walker.act(NOTHING, far, ENDED).copy()
    second = walker.act(NOTHING, far, ENDED).copy()
    assert 0.6 < (first == second).mean() < 0.8
    near = walker.act(NOTHING, near, ENDED)
    assert set(near.tolist()) == {4, 5}


def test_the_explorer_walks_in_each_of_several_choices() -> None:
    walker = Explorer(500, MultiDiscrete([5, 5, 2]), (), np.random.default_rng(0))
    first = walker.act(NOTHING, {}, ENDED).copy()
    second = walker.act(NOTHING, {}, ENDED)
    assert first.shape == (500, 3) and first.max(0).tolist() == [4, 4, 1]
    kept = first == second
    assert (kept.mean(0) > 0.6).all() and 0 < kept.all(1).mean() < 0.6


@pytest.fixture
def fast(config: Config) -> Config:
    """Episodes of at most 60 decisions."""
    return config.model_copy(
        update={"environment": config.environment.model_copy(update={"frame_skip": 60})}
    )


def test_a_random_walker_plays_the_tasks_own_episodes(fast: Config) -> None:
    count = ROOMS * 20
    pictures, labels = explore(fast, DOMAINS, "train", 0, count, make_random)
    assert pictures.shape == (count, 32, 32, 3)
    assert (pictures == explore(fast, DOMAINS, "train", 0, count, make_random)[0]).all()
    assert (pictures != explore(fast, DOMAINS, "train", 0, count)[0]).any()
    # Whoever picks up little has 60 decisions, of which every fourth is kept.
    domain = labels["domain"].reshape(20, ROOMS)
    assert (domain[:15] == domain[0]).all(0).sum() >= ROOMS // 2
    assert (domain[19] != domain[0]).any()


class Counting:
    """A walker that keeps what it is told."""

    anywhere, stride = False, 3

    def __init__(self, vector, rng) -> None:
        self.ended: list[np.ndarray] = []
        self._vector, self._random = vector, make_random(vector, rng)

    def act(self, frames, info, ended):
        assert frames.shape == (ROOMS, 32, 32, 3) and info["domain"].shape == (ROOMS,)
        self.ended.append(ended)
        return self._random.act(frames, info, ended)


def test_a_walker_learns_of_ends_and_its_stride_is_kept(fast: Config) -> None:
    made = []

    def make(vector, rng):
        made.append(Counting(vector, rng))
        return made[-1]

    pictures, _ = explore(fast, DOMAINS, "train", 0, ROOMS * 41, make)
    (walker,) = made
    assert len(pictures) == ROOMS * 41
    assert len(walker.ended) == 41 * walker.stride
    assert walker.ended[0].all()
    assert np.sum(walker.ended[1:], axis=0).min() >= 2, "episodes of at most 60 decisions"


def test_an_error_of_a_task_arrives_as_one_line(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(WRONG_SIZE)
    environment = config.environment.model_copy(update={"id": "wrong", "plugin": str(plugin)})
    config = config.model_copy(update={"environment": environment, "suite": "wrong"})
    monkeypatch.setattr(registry, "_SIMULATORS", dict(registry.simulators()))
    with pytest.raises(ConfigError) as caught:
        collect_frames(config, RunDirectory.open(config), quiet=True)
    assert "environment.size=32" in str(caught.value) and "\n" not in str(caught.value)


def test_frames_are_collected_resumed_and_described(config: Config) -> None:
    run = RunDirectory.open(config)
    facts = collect_frames(config, run, quiet=True)
    assert (facts["train"], facts["validation"]) == (320, 80)
    assert facts["object_in_view"] > 0.6
    assert set(facts["object_in_view_by_domain"]) == {domain.id for domain in DOMAINS}
    frames = load_frames(run.frames, "train")
    assert len(frames) == 320
    assert frames.kinds == ("hat", "can", "cake", "balloon")
    index = read_json(run.frames / "index.json")

    # As after kill -9: no index, one shard missing. Only that one is drawn again, to the same bits.
    (run.frames / "index.json").unlink()
    lost, kept = (shard_path(run.frames, "train", number) for number in (1, 0))
    lost.unlink()
    before = kept.stat().st_mtime_ns
    collect_frames(config, run, quiet=True)
    assert kept.stat().st_mtime_ns == before
    assert (load_frames(run.frames, "train").pictures == frames.pictures).all()
    assert read_json(run.frames / "index.json")["domains"] == index["domains"]

    lost.unlink()
    with pytest.raises(CorruptFileError, match=lost.name):
        load_frames(run.frames, "train")


def test_a_small_share_of_validation_is_two_frames_at_least(tmp_path):
    config = Config(
        name="x", runs=str(tmp_path), frames=FramesConfig(count=100, validation=0.001, shard=150)
    )
    assert plan(config) == [("train", 0, 98), ("validation", 0, 1), ("validation", 1, 1)]


@pytest.mark.parametrize(("count", "counts"), [(700, [150, 150, 50] * 2), (7, [3, 4])])
def test_both_halves_of_the_validation_are_of_whole_shards(config: Config, count, counts):
    frames = config.frames.model_copy(update={"count": 10 * count, "validation": 0.1})
    shards = plan(config.model_copy(update={"frames": frames}))
    assert [each for split, _, each in shards if split == "validation"] == counts
    assert sum(each for *_, each in shards) == 10 * count
