"""Stage 1, the data: Ray workers walk through D_U and write uint8 shards.

A random policy mostly stares at walls. The explorer therefore starts anywhere with a free view,
with up to half of the objects gone, walks with persistence, turns away from walls, and starts
afresh after a few decisions. It knows no reward. Other walkers play the task's own episodes:
uniformly at random, or as a policy does that another run trained (`agents.walkers`). A shard
follows from walker, seed, split and number alone: neither the number of workers nor an interruption
changes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete
from gymnasium.vector import VectorEnv

from darla.config import Config
from darla.frames import SPLITS, VISIBLE_PIXELS, save_shard, shard_path, write_index
from darla.progress import Progress
from darla.storage import load_tensors
from envs import draw_actions, make_vector
from envs.domains import Domain
from envs.registry import suite_of

if TYPE_CHECKING:
    from darla.rundir import RunDirectory

ROOMS = 16
#: Metres to the wall ahead under which the explorer turns.
TURN_AWAY = 2.0


STRIDE = 4
"""Decisions between two frames of a walker that plays whole episodes: neighbours look alike."""


class Walker(Protocol):
    """Chooses the actions of one vector environment.

    Attributes:
        anywhere: Whether it starts anywhere, and anew after `frames.segment` decisions, instead of
            playing the task's own episodes.
        stride: Decisions from one frame that is kept to the next.
    """

    anywhere: bool
    stride: int

    def act(self, frames: np.ndarray, info: dict[str, Any], ended: np.ndarray) -> np.ndarray:
        """Chooses actions.

        Args:
            frames: What is seen, uint8 [n, H, W, 3].
            info: What the vector environment tells beside it.
            ended: bool [n], whether the frame is the first of an episode.

        Returns:
            int64 [n], or [n, choices].
        """
        ...


MakeWalker = Callable[[VectorEnv, np.random.Generator], Walker]
"""Makes the walker of a vector environment; picklable."""


class Explorer:
    """A persistent random walk: keeps a choice with probability 2/3, turns where a wall is near.

    Args:
        n: Number of environments.
        space: Actions of one environment, Discrete or MultiDiscrete; each choice is a walk.
        turns: The actions that turn in place (left, right), or none.
        rng: Source of randomness.
    """

    anywhere, stride = True, 1

    def __init__(
        self,
        n: int,
        space: Discrete | MultiDiscrete,
        turns: tuple[int, ...],
        rng: np.random.Generator,
    ) -> None:
        self._space, self._turns, self._rng = space, turns, rng
        self._last = draw_actions(space, n, rng)
        self._side = rng.integers(0, 2, n)

    def act(self, frames: np.ndarray, info: dict[str, Any], ended: np.ndarray) -> np.ndarray:
        """See `Walker`; of `info` it reads `clearance`, metres to the wall ahead, float [n]."""
        shape, rng, clearance = self._last.shape, self._rng, info.get("clearance")
        change = rng.random(shape) < 1 / 3
        self._last = np.where(change, draw_actions(self._space, shape[0], rng), self._last)
        if clearance is not None and self._turns:
            self._side = np.where(change, rng.integers(0, 2, shape), self._side)
            near = clearance < TURN_AWAY
            self._last = np.where(near, np.array(self._turns)[self._side], self._last)
        return self._last


class RandomWalker:
    """Draws actions uniformly."""

    anywhere, stride = False, STRIDE

    def __init__(self, space: Discrete | MultiDiscrete, rng: np.random.Generator) -> None:
        self._space, self._rng = space, rng

    def act(self, frames: np.ndarray, info: dict[str, Any], ended: np.ndarray) -> np.ndarray:
        """See `Walker`."""
        return draw_actions(self._space, len(frames), self._rng)


def make_explorer(vector: VectorEnv, rng: np.random.Generator) -> Walker:
    """The explorer of a vector environment."""
    space: Any = vector.single_action_space
    return Explorer(vector.num_envs, space, getattr(vector, "turns", ()), rng)


def make_random(vector: VectorEnv, rng: np.random.Generator) -> Walker:
    """The uniformly random walker of a vector environment."""
    space: Any = vector.single_action_space
    return RandomWalker(space, rng)


def explore(
    config: Config,
    domains: tuple[Domain, ...],
    split: str,
    number: int,
    count: int,
    make_walker: MakeWalker = make_explorer,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Frames of one shard.

    Args:
        config: Whole configuration; `environment` and `frames` are read.
        domains: D_U.
        split: 'train' or 'validation' (which also gets `kinds` and `background`).
        number: Number of the shard.
        count: Frames to return.
        make_walker: Who walks.

    Returns:
        uint8 [count, H, W, 3] and label arrays of length `count`.
    """
    seeds = np.random.SeedSequence([config.frames.seed, SPLITS.index(split), number])
    layout_seed, walk_seed = (int(word) for word in seeds.generate_state(2))
    pictures: list[np.ndarray] = []
    rows: list[dict[str, np.ndarray]] = []
    with closing(make_vector(config.environment, domains, ROOMS, seed=layout_seed)) as vector:
        maps = getattr(vector, "object_maps", None) if split == "validation" else None
        read_labels = getattr(vector, "labels", dict)
        walker = make_walker(vector, np.random.default_rng(walk_seed))
        options = {"start": "anywhere"} if walker.anywhere else {}
        for decision in range(walker.stride * math.ceil(count / ROOMS)):
            if decision == 0 or (walker.anywhere and decision % config.frames.segment == 0):
                observation, info = vector.reset(options=options)
                ended = np.ones(ROOMS, bool)
            if decision % walker.stride == 0:
                pictures.append(observation)
                rows.append({"domain": info["domain"], **read_labels()})
                if maps is not None:
                    rows[-1]["kinds"], rows[-1]["background"] = maps()
            actions = walker.act(observation, info, ended)
            observation, _, terminated, truncated, info = vector.step(actions)
            ended = terminated | truncated
    labels = {key: np.concatenate([row[key] for row in rows])[:count] for key in rows[0]}
    return np.concatenate(pictures)[:count], labels


def _collect_shard(
    config: Config,
    domains: tuple[Domain, ...],
    make_walker: MakeWalker,
    folder: Path,
    split: str,
    number: int,
    count: int,
) -> str:
    pictures, labels = explore(config, domains, split, number, count, make_walker)
    path = shard_path(folder, split, number)
    save_shard(path, pictures, labels)
    return path.name


def plan(config: Config) -> list[tuple[str, int, int]]:
    """(split, number, count) of every shard.

    No shard of the validation split lies in both of its halves: what is fitted on the first half
    and read on the second, as probes are, is read in other walks.
    """
    total, size = config.frames.count, config.frames.shard
    held_out = max(2, round(total * config.frames.validation))
    shards: list[tuple[str, int, int]] = []
    for split, parts in (
        ("train", [total - held_out]),
        ("validation", [held_out // 2, held_out - held_out // 2]),
    ):
        counts = [min(size, left) for part in parts for left in range(part, 0, -size)]
        shards += [(split, number, count) for number, count in enumerate(counts)]
    return shards


def collect_frames(
    config: Config,
    run: RunDirectory,
    *,
    make_walker: MakeWalker = make_explorer,
    quiet: bool = False,
) -> dict[str, Any]:
    """Collects D_U into the run directory; shards that are there already are kept.

    Args:
        config: Whole configuration.
        run: Where `frames/` goes.
        make_walker: Who walks.
        quiet: No progress.

    Returns:
        Facts: counts, share of frames with an object in view, domains.
    """
    import ray

    from darla.cluster import check_capacity, raised_by, ray_session

    suite = suite_of(config)
    domains = suite.d_u
    folder = run.frames
    folder.mkdir(parents=True, exist_ok=True)
    shards = plan(config)
    missing = [shard for shard in shards if not shard_path(folder, *shard[:2]).exists()]
    done = sum(count for *_, count in shards) - sum(count for *_, count in missing)
    with Progress("collect D_U", config.frames.count, "frames", quiet=quiet) as progress:
        progress.update(done)
        if missing:
            with ray_session(config.ray):
                cpus = config.ray.cpus_per_worker
                check_capacity(config.ray, [{"CPU": cpus}], "a shard", "ray.cpus_per_worker")
                task = ray.remote(num_cpus=cpus)(_collect_shard)
                walks = ray.put(make_walker)
                pending = {
                    task.remote(config, domains, walks, folder, *shard): shard[2]
                    for shard in missing
                }
                while pending:
                    (ready, *_), _ = ray.wait(list(pending), num_returns=1)
                    try:
                        ray.get(ready)
                    except ray.exceptions.RayTaskError as error:
                        raise raised_by(error) from error
                    done += pending.pop(ready)
                    progress.update(done)
    facts = _facts(folder, shards, domains)
    names = {
        split: [shard_path(folder, *s[:2]).name for s in shards if s[0] == split]
        for split in SPLITS
    }
    known = {
        "domains": [domain.id for domain in domains],
        "factors": [domain.factors for domain in domains],
        "kinds": list(suite.world.kinds),
    }
    write_index(folder, names, {**known, **facts})
    return facts


def _facts(
    folder: Path, shards: list[tuple[str, int, int]], domains: tuple[Domain, ...]
) -> dict[str, Any]:
    """Counts, and the share of validation frames in which an object covers enough pixels."""
    facts: dict[str, Any] = {
        split: sum(count for name, _, count in shards if name == split) for split in SPLITS
    }
    masks, owners = [], []
    for split, number, _ in shards:
        if split == "validation":
            tensors, _ = load_tensors(shard_path(folder, split, number))
            if "kinds" in tensors:
                masks.append((tensors["kinds"] >= 0).flatten(1).sum(1).numpy())
                owners.append(tensors["domain"].numpy())
    if masks:
        visible, owner = np.concatenate(masks) >= VISIBLE_PIXELS, np.concatenate(owners)
        facts["object_in_view"] = float(visible.mean())
        facts["object_in_view_by_domain"] = {
            domain.id: float(visible[owner == i].mean())
            for i, domain in enumerate(domains)
            if (owner == i).any()
        }
    return facts
