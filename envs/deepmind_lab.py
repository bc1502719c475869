"""The real DeepMind Lab: an adapter for the Python package `deepmind_lab`, which users build.

The paper's task is played on the engine's own levels `rooms_collect_good_objects_{train,test}`
(1707.08475, section 4). They draw room and pair by themselves, so that D_U, which needs to know
what it shows, comes from a level of ours on the same factory, `levels/collect_good_objects.lua`.
docs/deepmind_lab.md tells how to get the package, and every habit of the engine that is met here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import VectorEnv

from darla.errors import ConfigError, DependencyError, DomainError
from envs.domains import Domain, Factor, World, parse_domains
from envs.lab import ACTIONS, FPS
from envs.simulation import decisions_per_second
from envs.single import SEEDS, SingleVectorEnv

REMEDY = (
    "the Python package 'deepmind_lab' is missing, and no registry has it: build its wheel with "
    "Bazel from https://github.com/google-deepmind/lab and pip install that "
    "(docs/deepmind_lab.md)"
)
LEVELS = Path(__file__).with_name("levels")

#: The level of each value of the factor `level`.
LEVEL_NAMES = {
    "pinned": "collect_good_objects",
    "train": "contributed/dmlab30/rooms_collect_good_objects_train",
    "test": "contributed/dmlab30/rooms_collect_good_objects_test",
}
#: Room and pair by the number of an episode of `levels/collect_good_objects.lua`.
CONJUNCTIONS = (("A", "hat-can"), ("A", "cake-balloon"), ("B", "hat-can"), ("B", "cake-balloon"))
CONJUNCTION = "DARLA.CONJUNCTION"
CLOCK = "FRAMES_REMAINING_AT_60"
OBSERVATIONS = [
    "RGB_INTERLEAVED",
    "DEBUG.POS.TRANS",
    "DEBUG.POS.ROT",
    "VEL.TRANS",
    CLOCK,
]

#: Mouse pixels per frame: 89 degrees a second.
TURN = 14
#: What the engine takes, a row for each action of the Lab: look right and down, strafe
#: right, move forward, fire, jump, crouch.
TABLE = np.array(
    [
        (0, 0, 0, 1, 0, 0, 0),
        (0, 0, 0, -1, 0, 0, 0),
        (0, 0, -1, 0, 0, 0, 0),
        (0, 0, 1, 0, 0, 0, 0),
        (-TURN, 0, 0, 0, 0, 0, 0),
        (TURN, 0, 0, 0, 0, 0, 0),
        (-TURN, 0, 0, 1, 0, 0, 0),
        (TURN, 0, 0, 1, 0, 0, 0),
    ],
    np.intc,
)
#: Units of the engine in a metre, as in `envs.lab`.
UNITS = 100.0
#: Frames by which the engine's clock may be off when it says how many are left.
CLOCK_SLACK = 6

DMLAB = World(
    "dmlab",
    (
        Factor("room", None, "colours of walls and floor together", ("A", "B", "any")),
        Factor(
            "pair", None, "which two kinds of objects lie there", ("hat-can", "cake-balloon", "any")
        ),
        Factor(
            "level",
            "pinned",
            "pinned: ours, which is told room and pair; train, test: the engine's own",
            tuple(LEVEL_NAMES),
            visible=False,
        ),
    ),
)
PINNED = tuple(DMLAB.domain(room=room, pair=pair) for room, pair in CONJUNCTIONS)
#: The engine's training level, which draws one of the three source conjunctions for each episode.
TRAIN = DMLAB.domain(room="any", pair="any", level="train")
#: The engine's held-out level.
TEST = DMLAB.domain(room="B", pair="hat-can", level="test")


def import_deepmind_lab() -> Any:
    """Imports the engine.

    Returns:
        The module `deepmind_lab`.

    Raises:
        DependencyError: It is not installed, or does not load; the message says what to do.
    """
    try:
        import deepmind_lab
    except ModuleNotFoundError as error:
        raise DependencyError(REMEDY) from error
    except ImportError as error:
        raise DependencyError(
            f"the Python package 'deepmind_lab' does not load: {error}"
        ) from error
    return deepmind_lab


class DeepMindLabEnv(gymnasium.Env[np.ndarray, np.int64]):
    """DeepMind Lab's `rooms_collect_good_objects`.

    Description:
        An open room of 10 x 9 cells holds 20 objects of one pair, ten of each kind. The agent walks
        into objects to pick them up. Two kinds are good and two bad; which, it must learn.

    Action Space:
        `Discrete(8)`: forward, back, strafe-left, strafe-right, turn-left, turn-right,
            forward-left, forward-right.
        One action lasts `frame_skip` frames of 1/60 s; turning is 89 degrees a second.

    Observation:
        uint8 [size, size, 3], RGB, without the engine's display of health, clock and score. The
        engine gives no observation once an episode has ended: the last one of an episode is the one
        before its last decision.

    Rewards:
        can +1, balloon +1, hat -1, cake -1.

    Termination:
        Terminated 0.2 s after the 10th pick-up of any kind. Truncated after 60 s. The engine tells
        both alike, so that an end is a truncation where at most a decision and 0.1 s were left.

    Factors of variation:
        room, pair and level (see `DMLAB`). `info` holds `factors`; `pose`, float64 [3], x and y in
        metres of 100 units and heading in radians; and `velocity`, float64 [3], metres a second
        relative to the agent.

    Registered ids:
        `darla/DeepMindLab-v0`.

    Args:
        domain: A domain or an id such as 'dmlab/A/hat-can'.
        size: Height and width of an observation in pixels, a multiple of 4.
        frame_skip: Frames per decision.
        render_mode: None or 'rgb_array'.
        renderer: 'software' (OSMesa) or 'hardware' (EGL), as the engine was built.

    Raises:
        DependencyError: The engine is missing.
        ConfigError: The size is not a multiple of 4.
        DomainError: Room and pair are not those of the level.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        domain: Domain | str = "dmlab/A/hat-can",
        size: int = 84,
        frame_skip: int = 12,
        render_mode: str | None = None,
        renderer: str = "software",
    ) -> None:
        if size % 4:
            below = size - size % 4
            raise ConfigError(
                f"environment.size is {size}, DeepMind Lab draws multiples of 4; type "
                f"environment.size={below} or {below + 4}"
            )
        self._module = import_deepmind_lab()
        self.metadata = {**self.metadata, "render_fps": decisions_per_second(FPS, frame_skip)}
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self._size, self._frame_skip, self._renderer = size, frame_skip, renderer
        self._lab: Any = None
        self._seen: dict[str, np.ndarray] = {}
        self._closed = False
        self._level = ""
        self.set_domain(DMLAB.parse(domain) if isinstance(domain, str) else domain)

    def set_domain(self, domain: Domain) -> None:
        """Plays this domain from the next `reset` on; another level needs another engine.

        Raises:
            DomainError: Room and pair are not those of the level.
        """
        if domain not in (*PINNED, TRAIN, TEST):
            raise DomainError(
                f"no level of DeepMind Lab plays '{domain}'; there are "
                f"{', '.join(known.id for known in (*PINNED, TRAIN, TEST))}"
            )
        level = str(domain.factors["level"])
        if level != self._level:
            self._release()
        self._domain, self._level = domain, level

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; without a seed the next of the sequence that the last seed began.

        Raises:
            DependencyError: The engine does not play the conjunction that it was asked for.
        """
        if self._closed:
            raise ClosedEnvironmentError("this DeepMind Lab is closed; make another environment")
        super().reset(seed=seed)
        if self._lab is None:
            self._lab = self._engine()
        pinned = self._level == "pinned"
        number = PINNED.index(self._domain) if pinned else -1
        self._lab.reset(episode=number, seed=int(self.np_random.integers(SEEDS)))
        self._seen = self._lab.observations()
        if pinned and int(self._seen[CONJUNCTION][0]) != number:
            raise DependencyError(
                f"DeepMind Lab was asked for episode {number} and plays "
                f"{int(self._seen[CONJUNCTION][0])}: this build does not tell its levels the number"
            )
        return self._frame(), self._info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One decision; see the class."""
        if self._lab is None or not self._lab.is_running():
            raise ResetNeeded("no episode of DeepMind Lab is running; call reset()")
        left = float(self._seen[CLOCK][0])
        reward = self._lab.step(TABLE[action], num_steps=self._frame_skip)
        running = self._lab.is_running()
        if running:
            self._seen = self._lab.observations()
        truncated = not running and left <= self._frame_skip + CLOCK_SLACK
        return self._frame(), reward, not (running or truncated), truncated, self._info()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The current picture in render mode 'rgb_array'."""
        return self._frame() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Ends the engine; a second time does nothing."""
        self._release()
        self._closed = True

    def _engine(self) -> Any:
        """Starts the engine on the level.

        One episode is thrown away: the first of an engine differs from later ones of the same seed.
        """
        size = str(self._size)
        config = {"width": size, "height": size, "minimalUI": "true"}
        observations = list(OBSERVATIONS)
        if self._level == "pinned":
            config["levelDirectory"] = str(LEVELS)
            observations.append(CONJUNCTION)
        if self._level == "test":
            config["allowHoldOutLevels"] = "true"
        lab = self._module.Lab(
            LEVEL_NAMES[self._level], observations, config=config, renderer=self._renderer
        )
        lab.reset(episode=0, seed=0)
        lab.step(TABLE[0], num_steps=1)
        return lab

    def _release(self) -> None:
        if self._lab is not None:
            self._lab.close()
        self._lab = None

    def _frame(self) -> np.ndarray:
        return self._seen["RGB_INTERLEAVED"]

    def _info(self) -> dict[str, Any]:
        x, y, _ = self._seen["DEBUG.POS.TRANS"] / UNITS
        yaw = math.radians(self._seen["DEBUG.POS.ROT"][1])
        return {
            "factors": self._domain.factors,
            "pose": np.array([x, y, yaw]),
            "velocity": self._seen["VEL.TRANS"] / UNITS,
        }


def make_dmlab_vector(
    num_envs: int = 1, domain: Any = "dmlab/A/hat-can", seed: int | None = None, **kwargs: Any
) -> VectorEnv:
    """Entry point of `gymnasium.make_vec("darla/DeepMindLab-v0", num_envs, domain=...)`.

    Each sub-environment holds one engine at a time; other arguments as of `SingleVectorEnv`.
    """
    from envs import given_or_random

    kwargs = {"size": 84, "frame_skip": 12, "seed": given_or_random(seed), **kwargs}
    return SingleVectorEnv(DeepMindLabEnv, DMLAB, num_envs, parse_domains(DMLAB, domain), **kwargs)
