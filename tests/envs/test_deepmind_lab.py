"""The adapter of DeepMind Lab on a double that is as strict as the engine."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from darla.config import Config, EnvironmentConfig, load_config
from darla.errors import ConfigError, DependencyError, DomainError
from envs import make_vector
from envs.collect import explore
from envs.deepmind_lab import (
    ACTIONS,
    CONJUNCTIONS,
    LEVEL_NAMES,
    LEVELS,
    PINNED,
    TABLE,
    TEST,
    TRAIN,
    DeepMindLabEnv,
)
from envs.domains import ENCODER_OOD, POLICY_OOD
from envs.registry import get_suite, suite_of
from tests.envs.deepmind_lab_double import Lab

FORWARD, TURN_LEFT = ACTIONS.index("forward"), ACTIONS.index("turn-left")
RGB = ["RGB_INTERLEAVED"]
TRAIN_LEVEL = LEVEL_NAMES["train"]
ENVIRONMENT = EnvironmentConfig(id="darla/DeepMindLab-v0", size=84)


# -- the double keeps what was observed on the engine ----------------------------------------------


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (TypeError, {"observations": tuple(RGB)}),
        (ValueError, {"observations": ["RGB_INTERLEAVD"]}),
        (TypeError, {"config": {"width": 84}}),
        (TypeError, {"renderer": None}),
        (RuntimeError, {"config": {"width": "86"}}),
        (RuntimeError, {"level": LEVEL_NAMES["test"]}),
        (RuntimeError, {"level": "no/such/level"}),
    ],
)
def test_the_double_refuses_what_the_engine_refuses(error: type[Exception], given: dict) -> None:
    with pytest.raises(error):
        Lab(**{"level": TRAIN_LEVEL, "observations": RGB, **given})


def test_the_double_minds_the_status_as_the_engine_does() -> None:
    lab = Lab(TRAIN_LEVEL, RGB)
    assert len(lab.action_spec()) == 7
    for call in (lab.observations, lab.events, lambda: lab.step(TABLE[0])):
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(ValueError, match="int64"):
        lab.reset(seed=np.int64(1))
    assert lab.reset(seed=1) is True
    assert lab.observations()["RGB_INTERLEAVED"].shape == (240, 320, 3)
    lab.step(TABLE[TURN_LEFT], num_steps=4000)
    assert not lab.is_running() and lab.num_steps() == 4000 and lab.events() == []
    for call in (lab.observations, lambda: lab.step(TABLE[0])):
        with pytest.raises(RuntimeError):
            call()
    assert lab.reset(seed=1) and lab.close() is True and lab.close() is False
    with pytest.raises(SystemExit):
        lab.reset()


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (TypeError, [0] * 7),
        (ValueError, np.zeros(7, np.int64)),
        (ValueError, np.zeros((1, 7), np.intc)),
    ],
)
def test_the_double_takes_intc_of_seven_only(error: type[Exception], action: object) -> None:
    lab = Lab(TRAIN_LEVEL, RGB)
    lab.reset(seed=0)
    with pytest.raises(error):
        lab.step(action)


def test_the_double_ignores_strides_as_the_engine_does() -> None:
    lab = Lab(TRAIN_LEVEL, ["DEBUG.POS.TRANS", "DEBUG.POS.ROT"])
    lab.reset(seed=0)
    before = lab.observations()["DEBUG.POS.ROT"][1]
    spread = np.zeros(14, np.intc)
    spread[1::2] = 10
    lab.step(spread[::2], num_steps=60)
    assert lab.observations()["DEBUG.POS.ROT"][1] == before
    lab.step(np.array([10, 0, 0, 0, 0, 0, 0], np.intc), num_steps=60)
    assert lab.observations()["DEBUG.POS.ROT"][1] == pytest.approx(before - 63.4)


def test_the_first_episode_of_the_double_is_another_as_in_the_engine() -> None:
    frames = []
    lab = Lab(TRAIN_LEVEL, RGB)
    for _ in range(3):
        lab.reset(seed=5)
        frames.append(lab.observations()["RGB_INTERLEAVED"])
    assert (frames[0] != frames[1]).any() and (frames[1] == frames[2]).all()


# -- the adapter -----------------------------------------------------------------------------------


def test_a_missing_engine_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepmind_lab", None)
    with pytest.raises(DependencyError, match="build its wheel with Bazel"):
        DeepMindLabEnv()
    with pytest.raises(DependencyError, match="no registry has it"):
        make_vector(ENVIRONMENT, PINNED, 1, seed=0)


def test_sizes_that_the_engine_cannot_draw_are_refused_with_those_that_it_can(engine) -> None:
    with pytest.raises(ConfigError, match="is 86.*environment.size=84 or 88"):
        DeepMindLabEnv(size=86)


@pytest.mark.parametrize(
    "domain", ["dmlab/any/any", "dmlab/A/hat-can/level=test", "dmlab/A/hat-can/level=train"]
)
def test_a_domain_that_no_level_plays_is_refused(engine, domain: str) -> None:
    with pytest.raises(DomainError, match="no level of DeepMind Lab plays"):
        DeepMindLabEnv(domain)


def test_actions_are_rows_that_the_engine_reads_right(engine) -> None:
    assert TABLE.shape == (len(ACTIONS), 7) and TABLE.dtype == np.intc
    assert all(TABLE[i].flags.c_contiguous for i in range(len(ACTIONS)))
    env = DeepMindLabEnv()
    _, start = env.reset(seed=0)
    env.step(np.int64(TURN_LEFT))
    *_, info = env.step(np.int64(TURN_LEFT))
    degrees = np.degrees(info["pose"][2] - start["pose"][2])
    assert degrees == pytest.approx(2 * 12 * 14 * 6.34 / 60)
    *_, info = env.step(np.int64(ACTIONS.index("strafe-left")))
    assert info["velocity"] == pytest.approx([0.0, 3.2, 0.0])


def test_the_picture_has_no_display_of_health_and_clock(engine) -> None:
    env = DeepMindLabEnv("dmlab/A/hat-can")
    frame, _ = env.reset(seed=0)
    assert frame.shape == (84, 84, 3) and frame.dtype == np.uint8
    assert not (frame[-4:] == 255).all(axis=2).any()


def test_the_tenth_pick_up_terminates_and_the_clock_truncates(engine, monkeypatch) -> None:
    env = DeepMindLabEnv("dmlab/A/hat-can")
    env.reset(seed=0)
    for _ in range(299):
        _, _, terminated, truncated, _ = env.step(np.int64(TURN_LEFT))
        assert not terminated and not truncated
    last, _, terminated, truncated, _ = env.step(np.int64(TURN_LEFT))
    assert truncated and not terminated
    assert last.shape == (84, 84, 3)
    with pytest.raises(ResetNeeded):
        env.step(np.int64(0))

    monkeypatch.setattr("tests.envs.deepmind_lab_double.REACH", 2000.0)
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(np.int64(FORWARD))
    assert (reward, terminated, truncated) == (0.0, False, False), "ten hats and ten cans"
    _, _, terminated, truncated, _ = env.step(np.int64(FORWARD))
    assert terminated and not truncated


def test_the_last_frame_stands_for_the_one_that_the_engine_does_not_give(engine) -> None:
    engine.ends_after, whole = 36, engine.ends_after
    try:
        env = DeepMindLabEnv()
        env.reset(seed=3)
        frames = [env.step(np.int64(TURN_LEFT))[0] for _ in range(3)]
    finally:
        engine.ends_after = whole
    assert (frames[0] != frames[1]).any()
    assert (frames[1] == frames[2]).all()


def test_nothing_is_asked_of_a_closed_engine(engine) -> None:
    env = DeepMindLabEnv()
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.reset()
    with pytest.raises(ResetNeeded):
        env.step(np.int64(0))


def test_an_episode_follows_from_its_seed_even_the_first_of_an_engine(engine) -> None:
    one, other = DeepMindLabEnv(), DeepMindLabEnv()
    first, _ = one.reset(seed=7)
    again, _ = one.reset(seed=7)
    elsewhere, _ = other.reset(seed=7)
    assert (first == again).all() and (first == elsewhere).all()
    following, _ = one.reset()
    assert (following != first).any()
    assert (other.reset()[0] == following).all()


def test_each_pinned_domain_shows_its_room_and_pair(engine) -> None:
    env = DeepMindLabEnv(size=64)
    for domain in PINNED:
        env.set_domain(domain)
        frame, info = env.reset(seed=1)
        assert info["factors"] == domain.factors
        red, green, _ = frame[0, 0].astype(int)
        assert (green > red) == (domain.factors["room"] == "A")
        bad, good = str(domain.factors["pair"]).split("-")
        assert set(env._lab._kinds) == {bad, good}


def test_an_engine_that_plays_another_conjunction_is_found_out(engine, monkeypatch) -> None:
    env = DeepMindLabEnv("dmlab/B/hat-can")
    monkeypatch.setattr(
        engine, "reset", lambda self, episode=-1, seed=None, r=engine.reset: r(self, 1, seed)
    )
    with pytest.raises(DependencyError, match="asked for episode 2 and plays 1"):
        env.reset(seed=0)


ENGINE = """
package.preload['factories.rooms.collect_good_objects_factory'] = function()
  return {createLevelApi = function(kwargs)
    given = kwargs
    local api = {}
    function api:start(episode, seed) started = {me = self, episode = episode, seed = seed} end
    function api:customObservationSpec() return {{name = 'VEL.TRANS'}} end
    function api:customObservation(name) return 'of the engine: ' .. name end
    return api
  end}
end
package.preload['dmlab.system.tensor'] = function()
  return {DoubleTensor = function(values) return values end}
end
"""
"""The part of the engine's Lua that our level stands on, observed where it matters."""


@pytest.fixture
def level():
    """Our level and what the engine saw of it, in the engine's version of Lua."""
    lua = pytest.importorskip("lupa.lua51").LuaRuntime()
    lua.execute(ENGINE)
    api = lua.execute((LEVELS / f"{LEVEL_NAMES['pinned']}.lua").read_text())
    return api, lua.globals()


def test_the_pinned_level_plays_the_conjunction_of_the_episodes_number(level) -> None:
    api, engine = level
    assert engine.given.episodeLengthSeconds == 60
    for episode in (0, 1, 2, 3, 7, 4):
        room, pair = list(CONJUNCTIONS)[episode % len(CONJUNCTIONS)]
        api.start(api, episode, 17)
        (config,) = engine.given.configs.values()
        assert dict(config.pickups) == dict(zip("AB", pair.split("-"), strict=True))
        assert config.replaceWallAndFloor == (room == "B")
        number = api.customObservation(api, "DARLA.CONJUNCTION")
        assert list(number.values()) == [episode % len(CONJUNCTIONS)]


def test_the_pinned_level_leaves_the_rest_to_the_engine(level) -> None:
    api, engine = level
    api.start(api, 5, 17)
    started = engine.started
    assert (started.episode, started.seed) == (5, 17)
    started.me.mark = "the same table"
    assert api.mark == "the same table"
    assert api.customObservation(api, "VEL.TRANS") == "of the engine: VEL.TRANS"
    specs = [dict(spec) for spec in api.customObservationSpec(api).values()]
    assert [spec["name"] for spec in specs] == ["VEL.TRANS", "DARLA.CONJUNCTION"]
    assert (specs[1]["type"], list(specs[1]["shape"].values())) == ("Doubles", [1])


# -- the world -------------------------------------------------------------------------------------


def test_the_suite_plays_the_papers_levels_and_its_target_is_no_new_look() -> None:
    suite = get_suite("deepmind-lab")
    assert (suite.d_u, suite.d_s, suite.d_t) == (PINNED, (TRAIN,), (TEST,))
    assert POLICY_OOD in suite.tags(TEST) and ENCODER_OOD not in suite.tags(TEST)
    pinned = get_suite("deepmind-lab-pinned")
    assert len(pinned.d_s) == 3 and pinned.tags(pinned.d_t[0])[-1] == POLICY_OOD


def test_a_vector_keeps_one_engine_for_all_pinned_domains(engine) -> None:
    before = engine.open
    vector = make_vector(ENVIRONMENT, PINNED, 2, seed=0)
    _, info = vector.reset(seed=0)
    seen = set(info["domain"])
    for _ in range(12):
        seen |= set(vector.reset()[1]["domain"])
    assert seen == {0, 1, 2, 3}
    assert engine.open == before + 2
    vector.close()
    assert engine.open == before


def test_stage_1_collects_every_pinned_domain(engine) -> None:
    config = Config.model_validate(
        {"name": "x", "suite": "deepmind-lab", "environment": ENVIRONMENT, "frames": {"segment": 2}}
    )
    pictures, labels = explore(config, suite_of(config).d_u, "validation", 0, 96)
    assert pictures.shape == (96, 84, 84, 3)
    assert set(labels) == {"domain"} and set(labels["domain"]) == {0, 1, 2, 3}


def test_the_shipped_configuration_names_this_world() -> None:
    config = load_config("deepmind-lab")
    assert config.environment.id == "darla/DeepMindLab-v0" and config.environment.size % 4 == 0
    assert suite_of(config) is get_suite("deepmind-lab")
    assert Path(LEVELS / "collect_good_objects.lua").is_file()


def test_the_gymnasium_id_makes_one_and_many(engine) -> None:
    single = gymnasium.make("darla/DeepMindLab-v0", domain="dmlab/B/hat-can/level=test")
    assert single.reset(seed=0)[0].shape == (84, 84, 3)
    many = gymnasium.make_vec("darla/DeepMindLab-v0", 2, domain=["dmlab/A/hat-can"], size=64)
    assert many.reset(seed=0)[0].shape == (2, 64, 64, 3)
