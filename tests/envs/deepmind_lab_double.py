"""A double of the Python package `deepmind_lab` that is as strict as the engine, and as odd.

Its game is a rough copy of rooms_collect_good_objects: enough to see that the adapter plays it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

SPEC = (
    ("LOOK_LEFT_RIGHT_PIXELS_PER_FRAME", -512, 512),
    ("LOOK_DOWN_UP_PIXELS_PER_FRAME", -512, 512),
    ("STRAFE_LEFT_RIGHT", -1, 1),
    ("MOVE_BACK_FORWARD", -1, 1),
    ("FIRE", 0, 1),
    ("JUMP", 0, 1),
    ("CROUCH", 0, 1),
)
ROOMS = {"A": ((60, 160, 60), (220, 140, 40)), "B": ((190, 40, 40), (40, 60, 200))}
KINDS = {
    "hat": (-1, (58, 31, 255)),
    "can": (1, (241, 255, 30)),
    "cake": (-1, (36, 255, 174)),
    "balloon": (1, (255, 12, 154)),
}
RELEASED = "contributed/dmlab30/rooms_collect_good_objects_"
PINNED = [("A", "hat-can"), ("A", "cake-balloon"), ("B", "hat-can"), ("B", "cake-balloon")]
DRAWN = {
    "train": [("A", "hat-can"), ("A", "cake-balloon"), ("B", "cake-balloon")],
    "test": [("B", "hat-can")],
}
SPEED = 320.0
GRID = 150.0
REACH = 45.0
FRAMES = 3600
PICKUPS = 10
END_DELAY = 12


class Lab:
    """One engine. `ends_after` is no part of the engine: an earlier end of the clock."""

    open = 0
    ends_after = FRAMES

    def __init__(
        self,
        level: str,
        observations: list[str],
        config: dict[str, str] = {},  # noqa: B006, as the engine has it
        renderer: str = "software",
        level_cache: Any = None,
        temp_folder: str | None = None,
    ) -> None:
        if type(observations) is not list:
            raise TypeError("argument 2 must be list")
        if type(config) is not dict or not all(type(v) is str for v in config.values()):
            raise TypeError("bad argument type for built-in operation")
        if type(renderer) is not str:
            raise TypeError("argument 4 must be str, not None")
        self._size(config)
        self._level(level, config)
        known = [
            "RGB_INTERLEAVED", "VEL.TRANS", "VEL.ROT", "DEBUG.POS.TRANS", "DEBUG.POS.ROT",
            "FRAMES_REMAINING_AT_60", *(["DARLA.CONJUNCTION"] if self._pinned else []),
        ]  # fmt: skip
        for name in observations:
            if name not in known:
                raise ValueError(f"Unknown observation '{name}'.")
        self._names = observations
        self._status = "new"
        self._episode, self._episodes_played = 0, 0
        Lab.open += 1

    def _size(self, config: dict[str, str]) -> None:
        self._width, self._height = (
            int(config.get(k, d)) for k, d in (("width", 320), ("height", 240))
        )
        if self._width % 4 or self._height % 4 or min(self._width, self._height) < 4:
            raise RuntimeError("width and height must be positive multiples of 4")
        self._hud = config.get("minimalUI") != "true"

    def _level(self, level: str, config: dict[str, str]) -> None:
        self._pinned = "levelDirectory" in config
        if self._pinned:
            if not (Path(config["levelDirectory"]) / f"{level}.lua").is_file():
                raise RuntimeError(f"Level not found: {level}")
            self._conjunctions = PINNED
        elif level.removeprefix(RELEASED) in DRAWN and level.startswith(RELEASED):
            self._conjunctions = DRAWN[level.removeprefix(RELEASED)]
            if level.endswith("_test") and config.get("allowHoldOutLevels") != "true":
                raise RuntimeError("This level must only be used during evaluation.")
        else:
            raise RuntimeError(f"Level not found: {level}")

    def action_spec(self) -> list[dict[str, Any]]:
        return [{"min": low, "max": high, "name": name} for name, low, high in SPEC]

    def is_running(self) -> bool:
        return self._status == "running"

    def num_steps(self) -> int:
        return self._steps

    def close(self) -> bool:
        if self._status == "closed":
            return False
        self._status = "closed"
        Lab.open -= 1
        return True

    def reset(self, episode: int = -1, seed: int | None = None) -> bool:
        if self._status == "closed":
            raise SystemExit("segmentation fault")
        if seed is not None and type(seed) is not int:
            raise ValueError(f"'seed' must be int or None, was '{type(seed).__name__}'.")
        if seed is not None and not -(2**31) <= seed < 2**31:
            raise OverflowError("Python int too large to convert to C int")
        self._episode = episode if episode >= 0 else self._episode
        # The first episode of an engine is another than later ones of the same seed.
        rng = np.random.default_rng([abs(seed or 0), int(self._episodes_played == 0)])
        number = self._episode % 4 if self._pinned else rng.integers(len(self._conjunctions))
        self._number = int(number)
        room, pair = self._conjunctions[self._number]
        self._colours = ROOMS[room]
        cells = rng.permutation(90)[:21]
        places = np.stack([cells % 10, cells // 10], axis=1) * GRID
        self._objects = places[:20].astype(float)
        self._kinds = [pair.split("-")[i // 10] for i in range(20)]
        self._present = np.ones(20, bool)
        self._position, self._yaw = places[20].astype(float), float(rng.uniform(-180, 180))
        self._velocity = np.zeros(3)
        self._steps, self._frames, self._picked, self._end = 0, 0, 0, self.ends_after
        self._status = "running"
        self._episode += 1
        self._episodes_played += 1
        return True

    def step(self, action: np.ndarray, num_steps: int = 1) -> float:
        if type(action) is not np.ndarray:
            raise TypeError("argument 1 must be numpy.ndarray")
        if self._status != "running":
            raise RuntimeError("Environment in wrong status to advance.")
        if action.shape != (7,):
            raise ValueError("action must have shape (7)")
        if action.dtype != np.intc:
            raise ValueError("action must have dtype np.intc")
        # Strides are ignored: what lies there in memory is taken, whatever was meant.
        raw = (np.ctypeslib.ctypes.c_int * 7).from_address(action.ctypes.data)
        self._steps += num_steps
        reward = 0.0
        for _ in range(num_steps):
            if self._status == "running":
                reward += self._frame(list(raw))
        return reward

    def _frame(self, action: list[int]) -> float:
        look, _, strafe, forward, *_ = action
        self._yaw -= look * 6.34 / 60
        yaw = math.radians(self._yaw)
        ahead = np.array([math.cos(yaw), math.sin(yaw)])
        right = np.array([ahead[1], -ahead[0]])
        move = SPEED / 60 * (forward * ahead + strafe * right)
        self._velocity = np.array([forward * SPEED, -strafe * SPEED, 0.0])
        self._position = np.clip(self._position + move, -60, [10 * GRID - 90, 9 * GRID - 90])
        self._frames += 1
        reward = 0.0
        near = np.linalg.norm(self._objects - self._position, axis=1) < REACH
        for index in np.flatnonzero(near & self._present):
            self._present[index] = False
            self._picked += 1
            reward += KINDS[self._kinds[index]][0]
            if self._picked == PICKUPS:
                self._end = min(self._end, self._frames + END_DELAY)
        if self._frames >= self._end:
            self._status = "ended"
        return reward

    def events(self) -> list[tuple[str, list[Any]]]:
        if self._status == "new":
            raise RuntimeError("Environment in wrong status for call to events()")
        return []

    def observations(self) -> dict[str, np.ndarray]:
        if self._status != "running":
            raise RuntimeError("Environment in wrong status for call to observations()")
        every = {
            "VEL.TRANS": self._velocity.copy(),
            "VEL.ROT": np.zeros(3),
            "DEBUG.POS.TRANS": np.array([*self._position, 50.0]),
            "DEBUG.POS.ROT": np.array([0.0, self._yaw, 0.0]),
            "FRAMES_REMAINING_AT_60": np.array([float(self.ends_after - self._frames)]),
            "DARLA.CONJUNCTION": np.array([float(self._number)]),
        }
        return {n: self._draw() if n == "RGB_INTERLEAVED" else every[n] for n in self._names}

    def _draw(self) -> np.ndarray:
        picture = np.empty((self._height, self._width, 3), np.uint8)
        wall, floor = self._colours
        picture[: self._height // 2], picture[self._height // 2 :] = wall, floor
        offsets = self._objects - self._position
        bearings = np.degrees(np.arctan2(offsets[:, 1], offsets[:, 0])) - self._yaw
        bearings = (bearings + 180) % 360 - 180
        for index in np.argsort(-np.linalg.norm(offsets, axis=1)):
            if self._present[index] and abs(bearings[index]) < 45:
                half = max(1, int(self._width * 15 / (1 + np.linalg.norm(offsets[index]))))
                column = int(self._width / 2 * (1 - bearings[index] / 45))
                rows = slice(max(0, self._height // 2 - half), self._height // 2 + half)
                columns = slice(max(0, column - half), max(0, column + half))
                picture[rows, columns] = KINDS[self._kinds[index]][1]
        if self._hud:
            picture[-8:, :16] = 255
        return picture
