"""Vectors of single environments: on the Lab, whose every episode follows from its seed."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from darla.errors import ConfigError, DomainError
from darla.storage import load_tensors, save_tensors
from envs.domains import Domain, Factor, World
from envs.lab import LAB, LabEnv
from envs.registry import get_suite
from envs.single import SEEDS, SingleVectorEnv, draw_episode, vector_of

DOMAINS = get_suite("lab").d_s
LENGTH = 4
COLOURS = World("colours", (Factor("colour", None, "of all", ("red", "blue")),), state_size=1)
RED, BLUE = (COLOURS.domain(colour=name) for name in ("red", "blue"))


class Colours(gymnasium.Env[np.ndarray, Any]):
    """Shows its colour and how often it was stepped; ends after LENGTH."""

    made: list[Colours]

    def __init__(self, domain: Domain, size: int, frame_skip: int) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space: gymnasium.Space = gymnasium.spaces.MultiDiscrete([3, 2])
        self.domain, self.closed = domain, 0
        self.made.append(self)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        self.steps, self.options = 0, options
        return self._frame(), self._info()

    def step(self, action: np.ndarray) -> tuple:
        self.steps += 1
        return self._frame(), action.sum(), self.steps == LENGTH, False, self._info()

    def close(self) -> None:
        self.closed += 1

    def _frame(self) -> np.ndarray:
        frame = np.full(self.observation_space.shape, self.steps, np.uint8)
        frame[..., ("red", "blue").index(self.domain.factors["colour"])] = 200
        return frame

    def _info(self) -> dict[str, Any]:
        words = {"name": "x", "factors": self.domain.factors, "none": None}
        return {"state": np.array([self.steps / LENGTH]), "steps": self.steps, **words}


@pytest.fixture(autouse=True)
def _none_made() -> None:
    Colours.made = []


def colours(n: int = 2, make: Any = Colours, world: World = COLOURS) -> SingleVectorEnv:
    return vector_of(make, world)(n, (RED, BLUE), size=8, frame_skip=1, seed=0, render=True)  # type: ignore[return-value]


def test_sub_environments_are_the_single_ones_reset_as_draw_episode_says() -> None:
    vector = vector_of(LabEnv, LAB)(3, DOMAINS, size=32, frame_skip=60, seed=0, render=True)
    frames, info = vector.reset(seed=4)
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 8, (130, 3))
    trace = [(frames, info)]
    for action in actions:
        frames, *_, info = vector.step(action)
        trace.append((info.get("final_obs", frames), info))
    for i in range(3):
        t = 0
        for episode in range(2):
            number, seed = draw_episode(4, i, episode, len(DOMAINS))
            single = LabEnv(DOMAINS[number], size=32, frame_skip=60)
            frame, inside = single.reset(seed=seed)
            if episode == 0:
                assert (frame == trace[0][0][i]).all()
            ended = False
            while not ended and t < len(actions):
                assert trace[t][1]["domain"][i] == number
                assert trace[t][1]["state"][i] == pytest.approx(inside["state"])
                frame, _, terminated, truncated, inside = single.step(actions[t, i])
                t, ended = t + 1, terminated or truncated
                assert (frame == trace[t][0][i]).all()


def test_episodes_draw_domains_uniformly_and_other_seeds() -> None:
    drawn = np.array([draw_episode(1, i, k, 3) for i in range(30) for k in range(20)])
    assert np.bincount(drawn[:, 0]).min() > 150
    assert len(set(drawn[:, 1])) == 600 and drawn.min() >= 0 and drawn[:, 1].max() < SEEDS


def test_an_end_keeps_the_last_observation_and_its_info() -> None:
    vector = colours()
    _, info = vector.reset()
    assert set(info) == {"domain", "state", "steps"}
    assert info["state"].dtype == np.float32 and info["state"].shape == (2, 1)
    domain = info["domain"]
    for step in range(1, LENGTH):
        _, rewards, *_, info = vector.step(np.array([[2, 1], [0, 1]]))
        assert rewards.tolist() == [3.0, 1.0] and info["steps"].tolist() == [step, step]
        assert "final_obs" not in info
    frames, _, terminated, truncated, info = vector.step(np.zeros((2, 2), int))
    assert terminated.all() and not truncated.any() and info["_final_obs"].all()
    assert info["final_obs"].min() == LENGTH and frames.min() == 0
    assert info["final_info"]["steps"].tolist() == [LENGTH] * 2
    assert info["final_info"]["domain"].tolist() == domain.tolist()
    assert info["steps"].tolist() == [0, 0]


def test_environments_are_made_once_per_domain_and_closed_once() -> None:
    vector = colours()
    for _ in range(20):
        vector.reset(options={"start": "anywhere"})
    assert len(Colours.made) == 4 and Colours.made[-1].options == {"start": "anywhere"}
    vector.close()
    vector.close()
    assert [environment.closed for environment in Colours.made] == [1] * 4


def test_an_environment_that_can_change_its_domain_is_made_once() -> None:
    class Changing(Colours):
        def set_domain(self, domain: Domain) -> None:
            self.domain = domain

    vector = colours(make=Changing)
    seen = set()
    for _ in range(20):
        frames, info = vector.reset()
        seen |= set(info["domain"])
        assert (frames[..., 0].max(axis=(1, 2)) == np.where(info["domain"] == 0, 200, 0)).all()
    assert len(Changing.made) == 2 and seen == {0, 1}


def test_only_those_of_the_mask_begin_anew() -> None:
    vector = colours()
    vector.reset()
    vector.step(np.zeros((2, 2), int))
    _, info = vector.reset(options={"reset_mask": np.array([False, True])})
    assert info["steps"].tolist() == [1, 0]


def test_state_dict_goes_through_a_file_and_continues_exactly(tmp_path) -> None:
    one, two = (
        vector_of(LabEnv, LAB)(2, DOMAINS, size=32, frame_skip=60, seed=seed, render=True)
        for seed in (4, 5)
    )
    rng = np.random.default_rng(1)
    one.reset(seed=4)
    for steps in (0, 70):
        for _ in range(steps):
            one.step(rng.integers(0, 8, 2))
        save_tensors(tmp_path / f"{steps}.safetensors", one.state_dict(), {})
        arrays = {
            k: v.numpy() for k, v in load_tensors(tmp_path / f"{steps}.safetensors")[0].items()
        }
        two.load_state_dict(arrays)
        for _ in range(15):
            actions = rng.integers(0, 8, 2)
            a, b = one.step(actions), two.step(actions)
            assert (a[0] == b[0]).all() and (a[1] == b[1]).all()


def play(vector: SingleVectorEnv, actions: np.ndarray) -> list[tuple]:
    """What each step shows: frames, rewards, ends and domains."""
    steps = [vector.step(action) for action in actions]
    return [
        (frames, rewards, end | cut, info["domain"]) for frames, rewards, end, cut, info in steps
    ]


def assert_equal(one: list[tuple], other: list[tuple]) -> None:
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        for left, right in zip(a, b, strict=True):
            np.testing.assert_array_equal(left, right, err_msg=f"step {step}")


def test_the_same_seed_begins_the_same_sequence_of_episodes_again() -> None:
    vector = vector_of(LabEnv, LAB)(2, DOMAINS, size=32, frame_skip=60, seed=0, render=True)
    actions = np.random.default_rng(0).integers(0, 8, (130, 2))
    first, _ = vector.reset(seed=7)
    played = play(vector, actions)
    assert sum(ended.sum() for _, _, ended, _ in played) >= 2, "no second episode was played"
    again, _ = vector.reset(seed=7)
    assert (first == again).all()
    assert_equal(played, play(vector, actions))
    assert (vector.reset()[0] != first).any(), "without a seed the sequence goes on"


def test_a_reset_ends_retirement_of_those_that_it_is_for() -> None:
    vector, none, ones = colours(3), np.zeros((3, 2), int), np.ones((3, 2), int)
    vector.reset(seed=1)
    vector.retire(np.array([True, True, False]))
    frames, rewards, *_ = vector.step(ones)
    assert not frames[:2].any() and rewards.tolist() == [0.0, 0.0, 2.0]
    vector.reset(options={"reset_mask": np.array([True, False, False])})
    frames, rewards, *_, info = vector.step(ones)
    assert rewards.tolist() == [2.0, 0.0, 2.0] and info["steps"].tolist() == [1, 0, 2]
    assert (frames[0].min(), frames[1].max(), frames[2].min()) == (1, 0, 2)
    vector.reset(seed=1)
    frames, rewards, *_, info = vector.step(none + 1)
    assert rewards.tolist() == [2.0] * 3 and info["steps"].tolist() == [1] * 3
    assert frames.min() == 1


class Bright(Colours):
    """Shows how its episode was asked to begin."""

    def _frame(self) -> np.ndarray:
        frame = super()._frame()
        frame[0] = (self.options or {}).get("glow", 0)
        return frame


def test_a_state_keeps_the_options_of_episodes_that_run_and_of_those_to_come(tmp_path) -> None:
    one, fresh = colours(3, make=Bright), colours(3, make=Bright)
    one.reset(seed=3, options={"glow": 50, "words": ["a", None, True, 0.25]})
    actions = np.random.default_rng(0).integers(0, 2, (3 * LENGTH, 3, 2))
    play(one, actions[:1])
    one.reset(options={"glow": 90, "reset_mask": np.array([False, True, False])})
    play(one, actions[1:2])
    save_tensors(tmp_path / "state", one.state_dict())
    fresh.load_state_dict({k: v.numpy() for k, v in load_tensors(tmp_path / "state")[0].items()})
    played = play(one, actions[2:])
    glows = np.array([frames[:, 0, 0, 0] for frames, *_ in played])
    assert (glows[0].tolist(), glows[-1].tolist()) == ([50, 90, 50], [90, 90, 90])
    assert_equal(played, play(fresh, actions[2:]))


def test_a_state_keeps_who_is_retired() -> None:
    one, fresh = colours(3), colours(3)
    one.reset(seed=3)
    ones = np.ones((2 * LENGTH, 3, 2), int)
    play(one, ones[:1])
    one.retire(np.array([False, True, False]))
    fresh.load_state_dict(one.state_dict())
    played = play(fresh, ones)
    assert not any(frames[1].any() or rewards[1] for frames, rewards, *_ in played)
    assert_equal(play(one, ones), played)
    other = colours(3)
    other.reset(seed=9)
    other.retire(np.ones(3, bool))
    other.load_state_dict(one.state_dict())
    assert other.step(ones[0])[1].tolist() == [2.0, 0.0, 2.0], "nor does one of its own stay"


def test_options_that_a_file_cannot_hold_are_named_when_a_state_is_asked_for() -> None:
    for options in ({"place": np.zeros(2)}, {"place": (1, 2)}, {1: 2}, {"place": float("nan")}):
        vector = colours()
        vector.reset(options=options)
        vector.step(np.zeros((2, 2), int))
        with pytest.raises(ValueError, match="a state can keep only what JSON gives back"):
            vector.state_dict()


def test_what_an_environment_does_to_its_options_is_its_own_affair() -> None:
    class Greedy(Bright):
        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
            told = super().reset(seed=seed, options=dict(options or {}))
            (options or {}).clear()
            return told

    vector = colours(2, make=Greedy)
    frames, _ = vector.reset(options={"glow": 70})
    assert (frames[:, 0] == 70).all()
    *_, (last, *_) = play(vector, np.zeros((LENGTH, 2, 2), int))
    assert (last[:, 0] == 70).all()


def test_a_state_of_before_options_were_kept_goes_on_with_those_that_are_set() -> None:
    one, fresh = colours(2, make=Bright), colours(2, make=Bright)
    for vector in (one, fresh):
        vector.reset(seed=3, options={"glow": 50})
    none = np.zeros((2 * LENGTH, 2, 2), int)
    play(one, none[:2])
    state = one.state_dict()
    fresh.load_state_dict({k: state[k] for k in ("seed", "episode", "steps", "actions")})
    assert_equal(play(one, none), play(fresh, none))


def test_a_state_of_before_the_first_reset_asks_for_one() -> None:
    vector = colours(2)
    vector.reset(seed=3)
    vector.step(np.zeros((2, 2), int))
    vector.load_state_dict(colours(2).state_dict())
    with pytest.raises(ResetNeeded, match=r"sub-environments \[0, 1\]; call reset\(\)"):
        vector.step(np.zeros((2, 2), int))
    assert vector.state_dict()["steps"].tolist() == [0, 0]
    assert vector.reset()[1]["steps"].tolist() == [0, 0]


def test_the_speed_of_a_replay_is_that_of_the_environment_where_it_tells_of_one() -> None:
    class Fast(Colours):
        metadata = {"render_modes": [], "render_fps": 30}

    assert colours(make=Fast).metadata["render_fps"] == 30
    assert "render_fps" not in colours().metadata
    assert colours(make=Fast).metadata["autoreset_mode"] == colours().metadata["autoreset_mode"]
    lab = vector_of(LabEnv, LAB)(1, DOMAINS, size=32, frame_skip=60, seed=0, render=True)
    assert lab.metadata["render_fps"] == 1


def _observes(space: gymnasium.Space) -> Any:
    class Wrong(Colours):
        def __init__(self, domain: Domain, size: int, frame_skip: int) -> None:
            super().__init__(domain, size, frame_skip)
            self.observation_space = space

    return Wrong


def _takes(space: gymnasium.Space) -> Any:
    class Wrong(Colours):
        def __init__(self, domain: Domain, size: int, frame_skip: int) -> None:
            super().__init__(domain, size, frame_skip)
            self.action_space = space

    return Wrong


Box, Discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            _observes(Box(0, 255, (16, 16, 3), np.uint8)),
            "'colours/red' observes.*environment.size=8",
        ),
        (_observes(Box(0, 1, (8, 8, 3), np.float32)), r"allowed is a Box of uint8 \[8, 8, 3\]"),
        (_observes(gymnasium.spaces.Dict()), "allowed is a Box"),
        (_takes(Box(-1, 1, (2,))), "takes actions Box.*allowed are Discrete and MultiDiscrete"),
        (_takes(Discrete(3, start=1)), "counted from 0"),
    ],
)
def test_spaces_that_the_stages_cannot_read_are_named(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        colours(make=make)


def test_a_ground_truth_that_is_not_as_promised_is_named() -> None:
    more = World("colours", COLOURS.factors, state_size=2)
    with pytest.raises(ConfigError, match=r"shape \[1\], world 'colours' promises \[2\]"):
        colours(world=more).reset()


def test_a_ground_truth_must_come_with_every_step() -> None:
    class Forgetful(Colours):
        def _info(self) -> dict[str, Any]:
            return super()._info() if self.steps == 0 else {}

    vector = colours(make=Forgetful)
    vector.reset()
    with pytest.raises(ConfigError, match="give it in `reset` and `step`"):
        vector.step(np.zeros((2, 2), int))


def test_what_only_some_environments_tell_is_nothing_for_the_others() -> None:
    class Proud(Colours):
        def _info(self) -> dict[str, Any]:
            proud = {"medal": np.ones(3), "word": "hurrah"} if self.domain == RED else {"word": 1}
            return {**super()._info(), **proud}

    vector = colours(6, make=Proud)
    _, info = vector.reset()
    red = info["domain"] == 0
    assert red.any() and not red.all()
    assert info["medal"].shape == (6, 3) and (info["medal"] == red[:, None]).all()
    assert "word" not in info


def test_a_domain_of_another_world_is_refused() -> None:
    make = vector_of(Colours, COLOURS)
    for domains, words in ((DOMAINS, "not of world 'colours'"), ((), "at least one domain")):
        with pytest.raises(DomainError, match=words):
            make(1, domains, size=8, frame_skip=1, seed=0, render=True)


def test_what_cannot_be_an_array_is_left_out() -> None:
    class Odd(Colours):
        def _info(self) -> dict[str, Any]:
            late = {"goal": True if self.steps > 1 else None}
            return {**super()._info(), "path": [[1, 2], [3]], **late}

    vector = colours(3, make=Odd)
    _, info = vector.reset()
    assert "path" not in info and "goal" not in info
    for _ in range(2):
        *_, info = vector.step(np.zeros((3, 2), np.int64))
    assert info["goal"].tolist() == [True] * 3


def test_domains_of_other_actions_are_named() -> None:
    class Handy(Colours):
        def __init__(self, domain: Domain, size: int, frame_skip: int) -> None:
            super().__init__(domain, size, frame_skip)
            if domain == BLUE:
                self.action_space = gymnasium.spaces.MultiDiscrete([3, 4])

    vector = colours(6, make=Handy)
    with pytest.raises(ConfigError, match=r"'colours/blue' takes actions MultiDiscrete\(\[3 4\]\)"):
        vector.reset()


def test_a_seed_for_some_is_refused() -> None:
    vector = colours(2)
    vector.reset(seed=1)
    with pytest.raises(ValueError, match="a seed is that of all"):
        vector.reset(seed=2, options={"reset_mask": np.array([True, False])})
    vector.reset(seed=2, options={"reset_mask": np.ones(2, bool)})
