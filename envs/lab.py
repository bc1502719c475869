"""The Lab: collect cans and balloons, avoid hats and cakes, in a room of changing looks.

The task is DeepMind Lab's level `contributed/dmlab30/rooms_collect_good_objects`, which the DARLA
paper introduced (1707.08475, section 4; facts in docs/lab.md), rebuilt on MuJoCo's renderer so that
it needs no GPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from envs.domains import Domain, Factor, Value, World, parse_domains
from envs.lab_scene import (
    FLOOR_COLOURS,
    KINDS,
    OBJECT_COLOURS,
    WALL_COLOURS,
    LabRenderer,
    Look,
    make_look,
)
from envs.simulation import Simulation, SimulationEnv, SimulationVectorEnv

CELLS_X, CELLS_Y = 10, 9
SPACING = 1.5
WIDTH, DEPTH = CELLS_X * SPACING, CELLS_Y * SPACING
OBJECTS = 20
PICKUPS = 10
FPS = 60
EPISODE_FRAMES = 60 * FPS
END_DELAY = 12
SPEED = 3.2
TURN = math.radians(90.0)
PICKUP_RADIUS = 0.45
WALL_MARGIN = 0.35

ACTIONS = (
    "forward",
    "back",
    "strafe-left",
    "strafe-right",
    "turn-left",
    "turn-right",
    "forward-left",
    "forward-right",
)
ACTION_SPACE: gymnasium.Space = gymnasium.spaces.Discrete(len(ACTIONS))
#: Forward, leftward and (counter-clockwise) turning motion of every action, in units of SPEED and
#: TURN.
MOTION = np.array(
    [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1), (1, 0, 1), (1, 0, -1)],
    np.float64,
)
PAIRS = {"hat-can": ("hat", "can"), "cake-balloon": ("cake", "balloon")}
REWARDS = {"hat": -1.0, "can": 1.0, "cake": -1.0, "balloon": 1.0}
ROOMS = {"A": ("green", "orange"), "B": ("red", "blue")}

#: Two nearest objects of each kind x (in view, bearing, nearness), the room as two flags, nearness
#: of the wall ahead.
STATE_SIZE = len(KINDS) * 2 * 3 + len(ROOMS) + 1


def canonical(factors: Mapping[str, Value]) -> dict[str, Value]:
    """The values that decide look and dynamics: walls and floor as they are, and no room."""
    resolved = dict(factors)
    own = dict(zip(("walls", "floor"), ROOMS[str(resolved.pop("room"))], strict=True))
    return {name: own[name] if value == "room" else value for name, value in resolved.items()}


LAB = World(
    "lab",
    (
        Factor("room", None, "colours of walls and floor together", tuple(ROOMS)),
        Factor("pair", None, "which two kinds of objects lie in the room", tuple(PAIRS)),
        Factor(
            "walls", "room", "colour of the walls ('room': the room's own)", ("room", *WALL_COLOURS)
        ),
        Factor(
            "floor",
            "room",
            "colour of the floor ('room': the room's own)",
            ("room", *FLOOR_COLOURS),
        ),
        Factor("objects", "original", "palette of the objects", tuple(OBJECT_COLOURS)),
        Factor("light", 1.0, "brightness, 1 is the source domains'", low=0.2, high=1.5),
        Factor("height", 0.5, "eye height in metres", low=0.2, high=1.5),
        Factor("pitch", 7.0, "downward tilt of the camera in degrees", low=-15.0, high=30.0),
        Factor("fov", 70.0, "field of view in degrees", low=40.0, high=110.0),
    ),
    KINDS,
    STATE_SIZE,
    canonical,
)


@functools.cache
def look_of(domain: Domain) -> Look:
    """The appearance that a domain's factors stand for."""
    f: dict[str, Any] = canonical(domain.factors)
    names = ("walls", "floor", "objects", "light", "height", "pitch", "fov")
    return make_look(*(f[name] for name in names))


@functools.cache
def shared_renderer(size: int) -> LabRenderer:
    """This process's renderer at a resolution; all environments draw with it in turn."""
    return LabRenderer(WIDTH, DEPTH, size)


class LabSimulation(Simulation):
    """The state and the rules of `n` rooms at once; see `envs.simulation.Simulation`.

    Args:
        domains: Domains of which each episode draws one uniformly.
        n: Number of rooms.
        frame_skip: Simulation frames (1/60 s) per decision.
        streams: Stream numbers of the rooms; None: 0 to n - 1.
    """

    arrays = ("pose", "objects", "kinds", "present", "frames", "picked", "end_frame")
    start = "cell"
    fps = FPS

    def __init__(
        self,
        domains: Sequence[Domain],
        n: int,
        frame_skip: int,
        streams: Sequence[int] | None = None,
    ) -> None:
        super().__init__(LAB, domains, n, frame_skip, streams)
        self.pose = np.zeros((n, 3))
        self.objects = np.zeros((n, OBJECTS, 2))
        self.kinds = np.zeros((n, OBJECTS), np.int64)
        self.present = np.zeros((n, OBJECTS), bool)
        self.frames = np.zeros(n, np.int64)
        self.picked = np.zeros(n, np.int64)
        self.end_frame = np.full(n, EPISODE_FRAMES)
        # Per domain: half the field of view in radians, and which room it is.
        self._half_fov = np.array([look_of(d).fov * math.pi / 360 for d in self.domains])
        self._room = np.array([tuple(ROOMS).index(str(d.factors["room"])) for d in self.domains])

    def begin(self, i: int, start: str = "cell") -> None:
        """Starts the next episode of room `i`.

        Args:
            i: Index of the room.
            start: `cell`, the task's own start; or `anywhere`, for exploration: any place with a
                free view of 2.5 m or more, and up to ten objects already gone.
        """
        rng = self.next_episode(i)
        pair = PAIRS[str(self.domains[self.domain[i]].factors["pair"])]
        cells = rng.permutation(CELLS_X * CELLS_Y)[: OBJECTS + 1]
        places = (np.stack([cells % CELLS_X, cells // CELLS_X], axis=1) + 0.5) * SPACING
        self.objects[i] = places[:OBJECTS]
        self.kinds[i] = np.repeat([KINDS.index(kind) for kind in pair], OBJECTS // 2)
        self.present[i] = True
        self.pose[i] = (*places[OBJECTS], rng.uniform(-math.pi, math.pi))
        self.frames[i] = self.picked[i] = 0
        self.end_frame[i] = EPISODE_FRAMES
        if start == "anywhere":
            self.present[i, rng.permutation(OBJECTS)[: rng.integers(0, PICKUPS + 1)]] = False
            while True:
                x = rng.uniform(WALL_MARGIN, WIDTH - WALL_MARGIN)
                y = rng.uniform(WALL_MARGIN, DEPTH - WALL_MARGIN)
                self.pose[i] = (x, y, rng.uniform(-math.pi, math.pi))
                if self.clearance()[i] >= 2.5:
                    break
            distance = np.hypot(*(self.objects[i] - self.pose[i, :2]).T)
            self.present[i] &= distance > PICKUP_RADIUS

    def clearance(self) -> np.ndarray:
        """Distance from each eye to the wall straight ahead, float64 [n], metres."""
        x, y, heading = self.pose.T
        cos, sin = np.cos(heading), np.sin(heading)
        with np.errstate(divide="ignore", invalid="ignore"):
            along_x = np.where(cos > 0, WIDTH - x, x) / np.abs(cos)
            along_y = np.where(sin > 0, DEPTH - y, y) / np.abs(sin)
        return np.minimum(along_x, along_y)

    def relative(self) -> tuple[np.ndarray, np.ndarray]:
        """Bearing (radians, positive to the left) and distance (metres), float64 [n, 20] each."""
        delta = self.objects - self.pose[:, None, :2]
        distance = np.hypot(delta[..., 0], delta[..., 1])
        bearing = np.arctan2(delta[..., 1], delta[..., 0]) - self.pose[:, 2, None]
        return (bearing + math.pi) % (2 * math.pi) - math.pi, distance

    def in_view(self, bearing: np.ndarray) -> np.ndarray:
        """Which objects are there and have their axis inside the field of view, bool [n, 20]."""
        return self.present & (np.abs(bearing) < self._half_fov[self.domain][:, None])

    def state(self) -> np.ndarray:
        """Ground truth of what is in view, float32 [n, STATE_SIZE], each entry in [-1, 1].

        For each kind, its two nearest objects in view: 1, bearing / half field of view, 1 / (1 +
        distance), or three zeros. Then one flag per room and 1 / (1 + distance) of the wall ahead.
        Walls hide nothing in an open room, and objects that hide each other are ignored.
        """
        bearing, distance = self.relative()
        half, visible = self._half_fov[self.domain], self.in_view(bearing)
        out = np.zeros((self.n, STATE_SIZE), np.float32)
        rows = np.arange(self.n)
        for kind in range(len(KINDS)):
            ranked = np.where(visible & (self.kinds == kind), distance, np.inf)
            for rank in range(2):
                nearest = ranked.argmin(axis=1)
                d = ranked[rows, nearest]
                ranked[rows, nearest] = np.inf
                there = np.isfinite(d)
                at = (kind * 2 + rank) * 3
                out[:, at] = there
                out[:, at + 1] = np.where(there, bearing[rows, nearest] / half, 0.0)
                out[:, at + 2] = 1.0 / (1.0 + d)
        out[rows, len(KINDS) * 6 + self._room[self.domain]] = 1.0
        out[:, -1] = 1.0 / (1.0 + self.clearance())
        return out

    def nearest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest object in view: kind (-1 if none), bearing (degrees), distance (metres)."""
        bearing, distance = self.relative()
        ranked = np.where(self.in_view(bearing), distance, np.inf)
        rows, index = np.arange(self.n), ranked.argmin(axis=1)
        there = np.isfinite(ranked[rows, index])
        kind = np.where(there, self.kinds[rows, index], -1)
        return (
            kind,
            np.where(there, np.degrees(bearing[rows, index]), np.nan),
            np.where(there, distance[rows, index], np.nan),
        )

    def advance(self, i: int, action: int) -> tuple[float, bool, bool]:
        """Lets room `i` live through one decision.

        Returns:
            Reward, terminated (the delay after the 10th pick-up is over), truncated (60 s are
            over).
        """
        forward, left, turn = MOTION[action].tolist()
        x, y, heading = self.pose[i].tolist()
        step, rotation = SPEED / FPS, turn * TURN / FPS
        start = int(self.frames[i])
        count = min(self.frame_skip, int(self.end_frame[i]) - start)
        path = []
        for _ in range(count):
            heading += rotation
            if forward or left:
                cos, sin = math.cos(heading), math.sin(heading)
                x += step * (forward * cos - left * sin)
                y += step * (forward * sin + left * cos)
                x = min(max(x, WALL_MARGIN), WIDTH - WALL_MARGIN)
                y = min(max(y, WALL_MARGIN), DEPTH - WALL_MARGIN)
                path.append((x, y, heading))
        reward, lived = 0.0, count
        if path:
            delta = self.objects[i][None] - np.array(path)[:, None, :2]
            touched = self.present[i] & ((delta * delta).sum(-1) < PICKUP_RADIUS**2)
            if touched.any():
                reward, lived = self._pick_up(i, touched, start)
                if lived < count:
                    x, y, heading = path[lived - 1]
        self.pose[i] = (x, y, (heading + math.pi) % (2 * math.pi) - math.pi)
        self.frames[i] = start + lived
        terminated = bool(self.picked[i] >= PICKUPS and self.frames[i] >= self.end_frame[i])
        return reward, terminated, not terminated and bool(self.frames[i] >= EPISODE_FRAMES)

    def _pick_up(self, i: int, touched: np.ndarray, start: int) -> tuple[float, int]:
        """Removes touched objects frame by frame; returns the reward and the frames lived."""
        reward = 0.0
        for frame in range(len(touched)):
            if start + frame >= self.end_frame[i]:
                return reward, frame
            for index in np.flatnonzero(touched[frame] & self.present[i]):
                self.present[i, index] = False
                reward += REWARDS[KINDS[self.kinds[i, index]]]
                self.picked[i] += 1
                if self.picked[i] == PICKUPS:
                    self.end_frame[i] = min(start + frame + 1 + END_DELAY, EPISODE_FRAMES)
        return reward, len(touched)

    def draw(self, i: int, renderer: LabRenderer, out: np.ndarray) -> None:
        """Draws what the eye in room `i` sees into `out`, uint8 [size, size, 3]."""
        renderer.frame(*self.view(i), out)

    def view(self, i: int) -> tuple[Look, tuple[float, float], float, np.ndarray, np.ndarray]:
        """Arguments of `LabRenderer.frame` for room `i`."""
        x, y, heading = self.pose[i].tolist()
        here = self.present[i]
        look = look_of(self.domains[self.domain[i]])
        return look, (x, y), heading, self.objects[i][here], self.kinds[i][here]

    def info(self) -> dict[str, np.ndarray]:
        """`domain`, `state`, `pose` and `clearance` of every room."""
        return {
            "domain": self.domain.copy(),
            "state": self.state(),
            "pose": self.pose.copy(),
            "clearance": self.clearance(),
        }


class LabEnv(SimulationEnv):
    """One room of the Lab.

    Description:
        An open room of 10 x 9 cells holds 20 objects of one pair, ten of each kind. The agent walks
        into objects to pick them up. Two kinds are good and two bad; which, it must learn.

        1 cm stands for one DeepMind Lab unit, so that grid spacing (150 units = 1.5 m), walking
        speed (320 units/s = 3.2 m/s: one cell in 0.47 s) and eye height (50 units = 0.5 m) are in
        the original's proportion. What differs: speed is reached at once (no inertia); turning is
        90 degrees/s; the room ends half a cell outside the outer objects; the field of view is 70
        degrees (original 90) and the camera looks 7 degrees down, so that objects can be recognised
        at 64 x 64; pick-up is at 0.45 m in any direction (original: a box of about that size).

    Action Space:
        `Discrete(8)`: forward, back, strafe-left, strafe-right, turn-left, turn-right,
            forward-left, forward-right.
        One action lasts `frame_skip` frames of 1/60 s (12 by default: 0.2 s, 0.64 m, 18 degrees).

    Observation:
        uint8 [size, size, 3], RGB.

    Rewards:
        can +1, balloon +1, hat -1, cake -1.

    Termination:
        Terminated 0.2 s after the 10th pick-up of any kind. Truncated after 60 s. Objects do not
        come back.

    Factors of variation:
        room, pair, walls, floor, objects, light, height, pitch, fov (see `envs.lab.LAB`); an
        episode draws one of the given domains uniformly. `info` holds `factors`, `domain` (index),
        `pose` (x, y in metres, heading in radians), `state` (ground truth, see
        `LabSimulation.state`) and `clearance` (metres to the wall ahead).

    Registered ids:
        `darla/Lab-v0`.

    Args:
        domain: A domain, an id such as 'lab/B/hat-can', or several of either.
        size: Height and width of an observation in pixels.
        frame_skip: Simulation frames per decision.
        render_mode: None or 'rgb_array'.
    """

    def __init__(
        self,
        domain: Domain | str | Sequence[Domain | str] = "lab/A/hat-can",
        size: int = 64,
        frame_skip: int = 12,
        render_mode: str | None = None,
    ) -> None:
        simulation = LabSimulation(parse_domains(LAB, domain), 1, frame_skip)
        super().__init__(simulation, ACTION_SPACE, shared_renderer(size), size, render_mode)


class LabVectorEnv(SimulationVectorEnv):
    """`n` rooms in one process that share one GL context; same task as `LabEnv`.

    See `SimulationVectorEnv`; `info` holds `domain` int64 [n], `state` float32 [n, STATE_SIZE],
    `pose` float64 [n, 3] and `clearance` float64 [n].

    Args:
        domains: Domains of which each episode draws one uniformly.
        num_envs: Number of rooms.
        size: Height and width of an observation in pixels.
        frame_skip: Simulation frames per decision.
        seed: Seed until `reset(seed=...)` gives another.
        render: False leaves observations black and needs no OpenGL.
    """

    simulation: LabSimulation
    #: Names of the actions, for people.
    action_names = ACTIONS
    #: Actions that turn in place, for explorers.
    turns = (ACTIONS.index("turn-left"), ACTIONS.index("turn-right"))

    def __init__(
        self,
        domains: Sequence[Domain],
        num_envs: int,
        *,
        size: int = 64,
        frame_skip: int = 12,
        seed: int = 0,
        render: bool = True,
    ) -> None:
        simulation = LabSimulation(domains, num_envs, frame_skip)
        simulation.seed = seed
        renderer = shared_renderer(size) if render else None
        super().__init__(simulation, ACTION_SPACE, renderer, size)

    def labels(self) -> dict[str, np.ndarray]:
        """Ground truth for probes, arrays [n].

        `pose`, and `kind` (index into KINDS or -1), `bearing` (degrees, positive to the left) and
        `distance` (metres) of the nearest object in view.
        """
        kind, bearing, distance = self.simulation.nearest()
        return {
            "kind": kind,
            "bearing": bearing,
            "distance": distance,
            "pose": self.simulation.pose.copy(),
        }

    def object_maps(self) -> tuple[np.ndarray, np.ndarray]:
        """What an evaluation of the vision needs to know about each pixel of the observations.

        Returns:
            The kind of object that a pixel shows (index into KINDS, -1 for none), int8 [n, size,
            size]; and the same views with all objects gone, uint8 [n, size, size, 3].
        """
        assert self._renderer is not None, "object_maps needs render=True"
        kinds = np.empty(self._shape[:3], np.int8)
        empty = np.empty(self._shape, np.uint8)
        nothing = (np.zeros((0, 2)), np.zeros(0, np.int64))
        for i in range(self.num_envs):
            view = self.simulation.view(i)
            index = self._renderer.segmentation(*view)
            kinds[i] = np.append(view[-1], -1)[index]
            self._renderer.frame(*view[:3], *nothing, empty[i])
        return kinds, empty
