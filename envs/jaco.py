"""The Jaco task: an arm with a three-fingered hand reaches for a target on a table, from pixels.

The task is the second of the DARLA paper (1707.08475, section 4; facts and differences in
docs/jaco.md), with dm_control's model of the Kinova Jaco.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np

from darla.errors import ConfigError, did_you_mean
from envs.domains import Domain, Factor, Value, World, parse_domains
from envs.jaco_scene import (
    ARM_COLOURS,
    BACKDROP_COLOURS,
    JOINTS,
    KINDS,
    MAX_SPEED,
    OBJECT_COLOURS,
    OWN_COLOURS,
    SHAPES,
    TABLE_COLOURS,
    TEXTURES,
    TIMESTEP,
    JacoRenderer,
    Look,
    rgb,
    shared_model,
)
from envs.rendering import import_mujoco
from envs.simulation import Simulation, SimulationEnv, SimulationVectorEnv

FRAME_SECONDS = 0.1
EPISODE_FRAMES = 150
#: A fingertip this near to the target's middle has reached it, metres.
REACHED = 0.05
#: Where the target stands, x and y, and where exploration puts it, metres; the arm stands at 0, 0.
TARGET_LOW, TARGET_HIGH = 0.1, 0.5
EXPLORED_LOW, EXPLORED_HIGH = 0.05, 0.56
#: Where the middle of the fingertips may be at the start, and where exploration puts it, metres.
HAND_LOW, HAND_HIGH = (0.1, 0.1, 0.1), (0.5, 0.5, 0.35)
SEEN_LOW, SEEN_HIGH = (0.05, 0.05, 0.02), (0.55, 0.55, 0.45)
#: The highest that exploration puts it beside the target, metres.
NEAR_HIGH = 0.2
#: How far below the wrist the fingertips are at the start at least, metres.
HAND_DOWN = 0.08
#: Angles of the arm's joints about which it starts (leaning forward, elbow up, hand down), how far
#: each may be from there, both in degrees, and how many times as far in exploration. Without this
#: bound, as many arms lean backward over the same hand. A small picture hardly shows the
#: difference, but their joints move the hand the other way.
HOME = (135.0, 212.0, 75.0, -45.0, 45.0, 0.0)
SPREAD = (60.0, 35.0, 50.0, 60.0, 50.0, 60.0)
EXPLORED = 1.5
#: Joint speeds that one choice offers, as shares of the largest.
LEVELS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
MAX_LATENCY = 4
ARM = 6

DESKS = {"A": ("oak", "wood", "navy"), "B": ("slate", "plain", "umber")}

#: What stands for a real arm and a real camera: no source domain has any of these values.
STAND_IN: dict[str, Value] = {
    "colour": "yellow",
    "size": 0.05,
    "table": "moss",
    "surface": "speckle",
    "backdrop": "grey",
    "wallpaper": "tiles",
    "arm": "black",
    "light": 0.85,
    "lamp": 70.0,
    "azimuth": 34.0,
    "elevation": 32.0,
    "distance": 1.5,
    "fov": 40.0,
    "blur": 0.6,
    "noise": 8.0,
    "speed": 0.85,
    "latency": 1.0,
}

#: Sines and cosines of the arm's joints, positions of the fingers', middle of the fingertips,
#: target, and the way from one to the other, as it is and magnified.
STATE_SIZE = 2 * ARM + (len(JOINTS) - ARM) + 3 + 2 + 3 + 3


def _choice(name: str, default: str | None, about: str, choices: Iterable[str]) -> Factor:
    return Factor(name, default, about, tuple(choices))


def canonical(factors: Mapping[str, Value]) -> dict[str, Value]:
    """The values that decide look and dynamics, as they are used: no scene and no desk.

    The stand-in's where the scene is that; else those of desk and target where they are left to
    these.
    """
    f = {**factors, **STAND_IN} if factors["scene"] == "stand-in" else dict(factors)
    del f["scene"]
    own = dict(zip(("table", "surface", "backdrop"), DESKS[str(f.pop("desk"))], strict=True))
    f |= {name: value for name, value in own.items() if f[name] == "desk"}
    if f["colour"] == "own":
        f["colour"] = OWN_COLOURS[str(f["object"])]
    return f


JACO = World(
    "jaco",
    (
        _choice("desk", None, "table and background together", DESKS),
        _choice("object", None, "shape of the target, with a colour of its own", SHAPES),
        _choice(
            "scene",
            "simulated",
            "'stand-in' for a real one: replaces all that follows",
            ("simulated", "stand-in"),
        ),
        _choice(
            "colour",
            "own",
            "colour of the target ('own': its shape's)",
            ("own", *OBJECT_COLOURS),
        ),
        Factor("size", 0.055, "radius or half edge of the target in metres", low=0.02, high=0.1),
        _choice(
            "table",
            "desk",
            "colour of the table ('desk': the desk's own)",
            ("desk", *TABLE_COLOURS),
        ),
        _choice("surface", "desk", "texture of the table", ("desk", *TEXTURES)),
        _choice("backdrop", "desk", "colour of floor and walls", ("desk", *BACKDROP_COLOURS)),
        _choice("wallpaper", "plain", "texture of floor and walls", TEXTURES),
        _choice("arm", "silver", "colours of the arm", tuple(ARM_COLOURS)),
        Factor("light", 1.0, "brightness, 1 is the source domains'", low=0.2, high=1.5),
        Factor("lamp", 20.0, "where the lamp stands, degrees around the table", low=-180, high=180),
        Factor("azimuth", 30.0, "where the camera stands, degrees around it", low=-180, high=180),
        Factor("elevation", 30.0, "of the camera, degrees above the table", low=10.0, high=85.0),
        Factor("distance", 1.4, "of the camera in metres", low=0.7, high=2.5),
        Factor("fov", 38.0, "field of view in degrees", low=25.0, high=80.0),
        Factor("blur", 0.0, "of the picture, standard deviation in pixels", low=0.0, high=3.0),
        Factor("noise", 0.0, "of the picture, standard deviation in grey levels", low=0, high=50),
        Factor("speed", 1.0, "of the joints, 1 is the source domains'", low=0.3, high=1.5),
        Factor(
            "latency",
            0.0,
            "decisions until an action takes effect, whole",
            low=0,
            high=MAX_LATENCY,
            whole=True,
        ),
    ),
    KINDS,
    STATE_SIZE,
    canonical,
)


@functools.cache
def settings_of(domain: Domain) -> dict[str, Any]:
    """What decides a domain's look and dynamics; see `canonical`."""
    return canonical(domain.factors)


@functools.cache
def look_of(domain: Domain) -> Look:
    """The appearance that a domain's factors stand for."""
    f = settings_of(domain)
    links, bright = ARM_COLOURS[f["arm"]]
    return Look(
        shape=SHAPES.index(f["object"]),
        target=rgb(OBJECT_COLOURS[f["colour"]]),
        table=(rgb(TABLE_COLOURS[f["table"]]), TEXTURES.index(f["surface"])),
        backdrop=(rgb(BACKDROP_COLOURS[f["backdrop"]]), TEXTURES.index(f["wallpaper"])),
        arm=(rgb(links), rgb(bright)),
        **{
            name: f[name]
            for name in (
                *("size", "light", "lamp", "azimuth", "elevation"),
                *("distance", "fov", "blur", "noise"),
            )
        },
    )


@functools.cache
def shared_renderer(size: int) -> JacoRenderer:
    """This process's renderer at a resolution; all environments draw with it in turn."""
    return JacoRenderer(size)


class JacoSimulation(Simulation):
    """The state and the rules of `n` arms at once; see `envs.simulation.Simulation`.

    All share one `MjModel`; each has an `MjData` of its own, which is stepped with MuJoCo's full
    dynamics, contacts included. The target is looked at only: nothing collides with it.

    Args:
        domains: Domains of which each episode draws one uniformly.
        n: Number of arms.
        frame_skip: Frames of 0.1 s per decision.
        streams: Stream numbers of the arms; None: 0 to n - 1.
        continuous: Whether actions are shares of the largest speeds; else indices into LEVELS.

    Attributes:
        frames: Frames lived in the present episode, int64 [n].
        joints: Angles of the nine joints, float64 [n, 9], radians.
        tips: Positions of the three fingertips, float64 [n, 3, 3], metres.
        target: Position of the target's middle, float64 [n, 3], metres.
        pending: Actions that wait for their latency, float64 [n, MAX_LATENCY, 9], newest first.
    """

    arrays = ("frames", "target", "pending")
    start = "hanging"
    fps = round(1.0 / FRAME_SECONDS)

    def __init__(
        self,
        domains: Sequence[Domain],
        n: int,
        frame_skip: int,
        streams: Sequence[int] | None = None,
        *,
        continuous: bool = False,
    ) -> None:
        super().__init__(JACO, domains, n, frame_skip, streams)
        self.continuous = continuous
        self._mujoco = mujoco = import_mujoco()
        self._model = model = shared_model()
        self._data = [mujoco.MjData(model) for _ in range(n)]
        self._tips = np.array([model.site(f"jaco/tip_{k}").id for k in range(1, 4)])
        self._wrist = model.site("jaco/wristsite").id
        self._substeps = round(FRAME_SECONDS / TIMESTEP)
        self._physics = mujoco.mjtState.mjSTATE_INTEGRATION
        free = np.ptp(model.jnt_range, axis=1) == 0
        self._low = np.where(free, -np.pi, model.jnt_range[:, 0])
        self._span = np.where(free, np.pi, model.jnt_range[:, 1]) - self._low
        self._starts = {scale: self._box(scale) for scale in (1.0, EXPLORED)}
        settings = [settings_of(domain) for domain in self.domains]
        self._speed = [each["speed"] for each in settings]
        self._latency = [int(each["latency"]) for each in settings]
        self._size = [each["size"] for each in settings]
        self.frames = np.zeros(n, np.int64)
        self.joints = np.zeros((n, len(JOINTS)))
        self.tips = np.zeros((n, 3, 3))
        self.target = np.zeros((n, 3))
        self.pending = np.zeros((n, MAX_LATENCY, len(JOINTS)))

    def begin(self, i: int, start: str = "hanging") -> None:
        """Starts the next episode of arm `i`.

        Args:
            i: Index of the arm.
            start: `hanging`, the task's own start: a pose near HOME without any contact, the
                fingertips over the table and below the wrist; or `anywhere`, for exploration: a
                pose less near HOME, without contact, that has the fingertips in view, and in every
                other episode the target beside the hand.
        """
        rng = self.next_episode(i)
        near = start == "anywhere" and rng.random() < 0.5
        if near:
            self._pose(i, rng, SEEN_LOW, (*SEEN_HIGH[:2], NEAR_HIGH), HAND_DOWN, EXPLORED)
        elif start == "anywhere":
            self._pose(i, rng, SEEN_LOW, SEEN_HIGH, -np.inf, EXPLORED)
        else:
            self._pose(i, rng, HAND_LOW, HAND_HIGH, HAND_DOWN, 1.0)
        if near:
            xy = self.tips[i].mean(0)[:2] + rng.normal(0.0, 0.06, 2)
            xy = xy.clip(EXPLORED_LOW, EXPLORED_HIGH)
        elif start == "anywhere":
            xy = rng.uniform(EXPLORED_LOW, EXPLORED_HIGH, 2)
        else:
            xy = rng.uniform(TARGET_LOW, TARGET_HIGH, 2)
        self.target[i] = (*xy, self._size[self.domain[i]])
        self._data[i].mocap_pos[0] = self.target[i]
        self.frames[i] = 0
        self.pending[i] = 0.0
        self._look_at(i)

    def _box(self, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Least angles of the nine joints, and their spans, radians: HOME +- `scale` SPREAD."""
        low, high = self._low.copy(), self._low + self._span
        reach = self._model.jnt_range[:ARM]
        limits = np.where(np.ptp(reach, axis=1, keepdims=True) == 0, (-np.inf, np.inf), reach)
        home, spread = np.radians(HOME), scale * np.radians(SPREAD)
        low[:ARM], high[:ARM] = np.clip((home - spread, home + spread), *limits.T)
        return low, high - low

    def _pose(
        self,
        i: int,
        rng: np.random.Generator,
        low: tuple[float, ...],
        high: tuple[float, ...],
        down: float,
        scale: float,
    ) -> None:
        """Draws joint angles until the fingertips are within bounds and nothing is in contact.

        Args:
            i: Index of the arm.
            rng: Source of the angles.
            low: Least x, y, z of the middle of the fingertips, metres.
            high: Greatest x, y, z.
            down: How far below the wrist it must be, metres.
            scale: How many times SPREAD the arm's joints may be from HOME.
        """
        mujoco, model, data = self._mujoco, self._model, self._data[i]
        least, span = self._starts[scale]
        mujoco.mj_resetData(model, data)
        angles, sites = data.qpos, data.site_xpos
        while True:  # many times: no arrays of three numbers
            angles[:] = least + span * rng.random(len(JOINTS))
            mujoco.mj_kinematics(model, data)
            one, other, third = sites[self._tips].tolist()
            x, y, z = ((a + b + c) / 3 for a, b, c in zip(one, other, third, strict=True))
            if not (low[0] <= x <= high[0] and low[1] <= y <= high[1] and low[2] <= z <= high[2]):
                continue
            if z > sites[self._wrist, 2] - down:
                continue
            mujoco.mj_forward(model, data)
            if data.ncon == 0:
                self._look_at(i)
                return

    def _look_at(self, i: int) -> None:
        """Reads the arm's positions from its physics, after bringing them up to date."""
        data = self._data[i]
        self._mujoco.mj_kinematics(self._model, data)
        self.joints[i] = data.qpos
        self.tips[i] = data.site_xpos[self._tips]

    def advance(self, i: int, action: np.ndarray) -> tuple[float, bool, bool]:
        """Lets arm `i` live through one decision.

        Args:
            i: Index of the arm.
            action: Speed of each joint: int [9], indices into LEVELS, or float [9] in [-1, 1].

        Returns:
            Reward, False, truncated (15 s are over).
        """
        latency = self._latency[self.domain[i]]
        data, reward = self._data[i], 0.0
        wanted = np.clip(action, -1.0, 1.0) if self.continuous else LEVELS[action]
        effective = self.pending[i, latency - 1] if latency else wanted
        data.ctrl[:] = effective * MAX_SPEED * self._speed[self.domain[i]]
        self.pending[i, 1:] = self.pending[i, :-1].copy()
        self.pending[i, 0] = wanted
        for _ in range(min(self.frame_skip, EPISODE_FRAMES - int(self.frames[i]))):
            self._mujoco.mj_step(self._model, data, self._substeps)
            self._look_at(i)
            self.frames[i] += 1
            reward += self.reward(i)
        return reward, False, bool(self.frames[i] >= EPISODE_FRAMES)

    def reward(self, i: int) -> float:
        """1 at the target, and less by half of the distance, of which x and y count double."""
        dx, dy, dz = (self.tips[i].mean(0) - self.target[i]).tolist()
        return max(0.0, 1.0 - (4.0 * dx * dx + 4.0 * dy * dy + dz * dz) ** 0.5 / 2.0)

    def distance(self) -> np.ndarray:
        """From the nearest fingertip to the target's middle, float64 [n], metres."""
        return np.linalg.norm(self.tips - self.target[:, None], axis=2).min(1)

    def state(self) -> np.ndarray:
        """Ground truth, float32 [n, STATE_SIZE], each entry in [-1, 1].

        Sines and cosines of the arm's joints; the fingers' joints within their ranges; middle of
        the fingertips and target (x, y) in metres from the table's middle; the way from that middle
        to the target in metres, and again as tanh(10 d).
        """
        middle = self.tips.mean(1)
        way = self.target - middle
        arm, fingers = self.joints[:, :ARM], self.joints[:, ARM:]
        low, span = self._low[ARM:], self._span[ARM:]
        parts = (
            np.sin(arm),
            np.cos(arm),
            2.0 * (fingers - low) / span - 1.0,
            middle - (0.3, 0.3, 0.3),
            self.target[:, :2] - 0.3,
            way,
            np.tanh(10.0 * way),
        )
        return np.concatenate(parts, axis=1).clip(-1.0, 1.0).astype(np.float32)

    def info(self) -> dict[str, np.ndarray]:
        """`domain`, `state`, `joints`; `distance` (metres), and `success`: it has reached now."""
        distance = self.distance()
        return {
            "domain": self.domain.copy(),
            "state": self.state(),
            "joints": self.joints.copy(),
            "distance": distance,
            "success": distance < REACHED,
        }

    def view(self, i: int) -> tuple[Look, Any, tuple[int, ...]]:
        """First arguments of the methods of `JacoRenderer`, for arm `i`."""
        key = (self.seed, int(self.streams[i]), int(self.episode[i]), int(self.frames[i]))
        return look_of(self.domains[self.domain[i]]), self._data[i], key

    def draw(self, i: int, renderer: JacoRenderer, out: np.ndarray) -> None:
        """Draws what the camera sees of arm `i` into `out`, uint8 [size, size, 3]."""
        renderer.frame(*self.view(i), out)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that changes, as arrays, for exact continuation."""
        mujoco, model = self._mujoco, self._model
        physics = np.empty((self.n, mujoco.mj_stateSize(model, self._physics)))
        for data, row in zip(self._data, physics, strict=True):
            mujoco.mj_getState(model, data, row, self._physics)
        return {**super().state_dict(), "physics": physics}

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        """Restores what `state_dict` gave."""
        super().load_state_dict(arrays)
        for i, row in enumerate(arrays["physics"]):
            self._mujoco.mj_setState(self._model, self._data[i], row, self._physics)
            self._look_at(i)


def action_space(actions: str) -> gymnasium.Space:
    """Of one arm: 'levels' or 'continuous'.

    Raises:
        ConfigError: Neither of them.
    """
    if actions == "levels":
        return gymnasium.spaces.MultiDiscrete([len(LEVELS)] * len(JOINTS))
    if actions == "continuous":
        return gymnasium.spaces.Box(-1.0, 1.0, (len(JOINTS),), np.float32)
    raise ConfigError(
        f"actions is '{actions}', allowed are 'levels' and 'continuous'"
        f"{did_you_mean(actions, ('levels', 'continuous'))}"
    )


class JacoEnv(SimulationEnv):
    """One Jaco arm at its table.

    Description:
        A Kinova Jaco (six joints and three fingers) stands on a table, in gravity compensation. A
        target stands somewhere before it. The hand shall come to the target and stay there.

    Action Space:
        `MultiDiscrete([5] * 9)`: for each joint, speed -1, -1/2, 0, 1/2 or 1 times its largest (36
        degrees/s for the first three joints, 48 for the next three, 1 rad/s for the fingers). With
        `actions="continuous"`: `Box(-1, 1, (9,))`, in the same unit. One action lasts `frame_skip`
        frames of 0.1 s.

    Observation:
        uint8 [size, size, 3], RGB.

    Rewards:
        Each frame `max(0, 1 - d)` where d is half the distance in metres from the middle of the
        fingertips to that of the target, of which x and y count double.

    Termination:
        Truncated after 150 frames (15 s); never terminated.

    Factors of variation:
        desk, object, scene, colour, size, table, surface, backdrop, wallpaper, arm, light, lamp,
        azimuth, elevation, distance, fov, blur, noise, speed, latency (see `envs.jaco.JACO`); an
        episode draws one of the given domains uniformly. `info` holds `factors`, `domain` (index),
        `state` (ground truth, see `JacoSimulation.state`), `joints` (radians), `distance` (metres
        from the nearest fingertip to the target's middle) and `success` (that distance is below 5
        cm).

    Registered ids:
        `darla/Jaco-v0`.

    Args:
        domain: A domain, an id such as 'jaco/B/ball', or several of either.
        size: Height and width of an observation in pixels.
        frame_skip: Frames of 0.1 s per decision.
        actions: 'levels' or 'continuous'.
        render_mode: None or 'rgb_array'.
    """

    def __init__(
        self,
        domain: Domain | str | Sequence[Domain | str] = "jaco/A/ball",
        size: int = 64,
        frame_skip: int = 1,
        actions: Literal["levels", "continuous"] = "levels",
        render_mode: str | None = None,
    ) -> None:
        space = action_space(actions)
        simulation = JacoSimulation(
            parse_domains(JACO, domain), 1, frame_skip, continuous=actions == "continuous"
        )
        super().__init__(simulation, space, shared_renderer(size), size, render_mode)


class JacoVectorEnv(SimulationVectorEnv):
    """`n` arms in one process that share one model and one GL context; same task as `JacoEnv`.

    See `SimulationVectorEnv`; `info` holds `domain` int64 [n], `state` float32 [n, STATE_SIZE],
    `joints` float64 [n, 9], `distance` float64 [n] and `success` bool [n].

    Args:
        domains: Domains of which each episode draws one uniformly.
        num_envs: Number of arms.
        size: Height and width of an observation in pixels.
        frame_skip: Frames of 0.1 s per decision.
        actions: 'levels' or 'continuous'.
        seed: Seed until `reset(seed=...)` gives another.
        render: False leaves observations black.
    """

    simulation: JacoSimulation

    def __init__(
        self,
        domains: Sequence[Domain],
        num_envs: int,
        *,
        size: int = 64,
        frame_skip: int = 1,
        actions: Literal["levels", "continuous"] = "levels",
        seed: int = 0,
        render: bool = True,
    ) -> None:
        space = action_space(actions)
        simulation = JacoSimulation(
            domains, num_envs, frame_skip, continuous=actions == "continuous"
        )
        simulation.seed = seed
        super().__init__(simulation, space, shared_renderer(size) if render else None, size)

    def labels(self) -> dict[str, np.ndarray]:
        """Ground truth for probes, float64 [n], in cm: `target_x` and `target_y`, and `hand_x`,
        `hand_y` and `hand_z`, the middle of the fingertips.
        """  # noqa: D205
        target, hand = 100.0 * self.simulation.target, 100.0 * self.simulation.tips.mean(1)
        return {
            **{f"target_{axis}": target[:, k] for k, axis in enumerate("xy")},
            **{f"hand_{axis}": hand[:, k] for k, axis in enumerate("xyz")},
        }

    def object_maps(self) -> tuple[np.ndarray, np.ndarray]:
        """What an evaluation of the vision needs to know about each pixel of the observations.

        Returns:
            What a pixel shows (index into KINDS, -1 for none of them), int8 [n, size, size]; and
            the same views without target, arm and hand, uint8 [n, size, size, 3].
        """
        assert self._renderer is not None, "object_maps needs render=True"
        kinds = np.empty(self._shape[:3], np.int8)
        empty = np.empty(self._shape, np.uint8)
        for i in range(self.num_envs):
            self._renderer.object_maps(*self.simulation.view(i), kinds[i], empty[i])
        return kinds, empty
