"""The contract that every registered simulator keeps, on the domains of its suites.

A simulator whose package is missing plays on its double.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv

import envs
from darla.config import EnvironmentConfig
from darla.errors import ConfigError
from darla.storage import load_tensors, save_tensors
from envs.digest import frame_digest
from envs.domains import Domain
from envs.registry import simulators
from envs.single import SingleVectorEnv, draw_episode

ROOT = Path(__file__).parents[2]
SIMULATORS = {id: simulator for id, simulator in simulators().items() if id.startswith("darla/")}
IDS = tuple(SIMULATORS)
PER_SIMULATOR = 24
SEED = 11
LIMIT = 2_000
"""Decisions after which an episode must have ended."""
LONG = {id: 8 if id == "darla/Jaco-v0" else 75 for id in IDS}
"""Decisions of 60 frames that are more than an episode."""


def domains_of(id: str) -> list[Domain]:
    """Every domain of the suites; evenly chosen ones where there are many."""
    every = list(dict.fromkeys(d for suite in SIMULATORS[id].suites for d in suite.domains))
    chosen = np.unique(np.linspace(0, len(every) - 1, min(PER_SIMULATOR, len(every))).astype(int))
    return [every[i] for i in chosen]


DOMAINS = [pytest.param(id, domain, id=f"{id}-{domain}") for id in IDS for domain in domains_of(id)]


@pytest.fixture(autouse=True)
def _doubles(engine: type) -> None:
    """Lets DeepMind Lab be its double."""


def make(id: str, domains: list[Domain], n: int, **options: Any) -> VectorEnv:
    environment = EnvironmentConfig(id=id, **options)
    return envs.make_vector(environment, domains, n, seed=SEED)


def actions_of(vector: VectorEnv, steps: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        envs.draw_actions(vector.single_action_space, vector.num_envs, rng) for _ in range(steps)
    ]


def mixed(id: str) -> list[Domain]:
    """Two domains of D_U, of which each episode draws one."""
    return list(SIMULATORS[id].suites[0].d_u[:2])


@pytest.mark.parametrize("id", IDS)
def test_check_env_is_silent(id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(id, render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize(("id", "domain"), DOMAINS)
def test_every_domain_starts_and_steps(id: str, domain: Domain) -> None:
    vector = make(id, [domain], 2)
    state_size = SIMULATORS[id].suites[0].world.state_size
    frames, info = vector.reset(seed=3)
    for action in actions_of(vector, 2):
        assert vector.observation_space.contains(frames) and frames.dtype == np.uint8
        assert frames.shape == (2, 64, 64, 3)
        assert frames.std() > 5, "the picture is empty"
        assert info["domain"].tolist() == [0, 0]
        if state_size:
            assert info["state"].dtype == np.float32 and info["state"].shape == (2, state_size)
            assert np.abs(info["state"]).max() <= 1.0
        frames, rewards, terminated, truncated, info = vector.step(action)
        assert rewards.shape == terminated.shape == truncated.shape == (2,)
        assert terminated.dtype == truncated.dtype == bool
    vector.close()


@pytest.mark.parametrize(("id", "domain"), DOMAINS)
def test_info_holds_the_factors_of_the_domain(id: str, domain: Domain) -> None:
    single = gymnasium.make(id, domain=domain.id).unwrapped
    _, info = single.reset(seed=0)
    assert info["factors"] == domain.factors
    single.close()


def _single(vector: VectorEnv, id: str, domains: list[Domain], i: int) -> tuple[Any, Any, Any]:
    """The single form of a sub-environment, and what its first reset gives."""
    if isinstance(vector, SingleVectorEnv):
        number, seed = draw_episode(SEED, i, 0, len(domains))
        single = gymnasium.make(id, domain=domains[number], size=64).unwrapped
        return single, *single.reset(seed=seed)
    single = gymnasium.make(id, domain=domains, size=64).unwrapped
    return single, *single.reset(seed=SEED, options={"stream": i})


@pytest.mark.parametrize("id", IDS)
def test_vector_equals_single(id: str) -> None:
    domains = mixed(id)
    vector = gymnasium.make_vec(id, num_envs=3, domain=domains, size=64)
    assert vector.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    frames, info = vector.reset(seed=SEED)
    trace = [(frames, np.zeros(3), info)]
    actions = actions_of(vector, 30)
    for action in actions:
        frames, rewards, _, _, info = vector.step(action)
        trace.append((frames, rewards, info))
    for i in range(3):
        single, frame, own = _single(vector, id, domains, i)
        for t, (frames, _, info) in enumerate(trace):
            assert (frame == frames[i]).all()
            assert own["factors"] == domains[info["domain"][i]].factors
            for key in info.keys() & own.keys() - {"domain"}:
                assert (own[key] == info[key][i]).all(), key
            if t < len(actions):
                frame, reward, _, _, own = single.step(actions[t][i])
                assert reward == pytest.approx(trace[t + 1][1][i])
        single.close()


@pytest.mark.parametrize("id", IDS)
def test_an_episode_does_not_depend_on_how_many_are_beside_it(id: str) -> None:
    few, many = (make(id, mixed(id), n) for n in (1, 3))
    frames, others = few.reset(seed=SEED)[0], many.reset(seed=SEED)[0]
    for action in actions_of(many, 5):
        assert (frames[0] == others[0]).all()
        frames, others = few.step(action[:1])[0], many.step(action)[0]


@pytest.mark.parametrize("id", IDS)
def test_the_retired_stand_still_and_the_others_do_not_notice(id: str) -> None:
    some, all_ = (make(id, mixed(id), 3, frame_skip=60) for _ in range(2))
    some.reset(seed=SEED)
    all_.reset(seed=SEED)
    retired = np.array([False, True, False])
    some.retire(retired)  # type: ignore[attr-defined]
    for action in actions_of(some, 40):
        frames, rewards, terminated, truncated, info = some.step(action)
        others, their_rewards, *ends, their_info = all_.step(action)
        assert (frames[~retired] == others[~retired]).all()
        assert rewards[~retired] == pytest.approx(their_rewards[~retired])
        assert info["domain"][~retired].tolist() == their_info["domain"][~retired].tolist()
        assert ((terminated | truncated) == ((ends[0] | ends[1]) & ~retired)).all()
        assert not frames[1].any()
        assert rewards[1] == 0.0
    first, others = some.reset(seed=SEED)[0], all_.reset(seed=SEED)[0]
    assert (first == others).all()
    steps, rewarded = [], 0.0
    for action in actions_of(some, LONG[id] // 3):
        frames, rewards, *_ = some.step(action)
        others, their_rewards, *_ = all_.step(action)
        assert (frames == others).all() and rewards == pytest.approx(their_rewards)
        steps.append(frames[1])
        rewarded += abs(rewards[1])
    assert any((frame != first[1]).any() for frame in steps), "what was retired moves again"
    assert rewarded > 0


@pytest.mark.parametrize("id", IDS)
def test_an_end_gives_the_last_observation_and_the_first_of_the_next(id: str) -> None:
    vector = make(id, mixed(id), 1, frame_skip=60)
    vector.reset(seed=SEED)
    before = None
    for action in actions_of(vector, LIMIT):
        frames, _, terminated, truncated, info = vector.step(action)
        if terminated[0] or truncated[0]:
            break
        assert "final_obs" not in info
        before = info["domain"].copy()
    else:
        pytest.fail(f"no episode ended within {LIMIT} decisions")
    assert info["_final_obs"].tolist() == [True]
    assert info["final_obs"][0].shape == frames[0].shape
    assert (info["final_obs"][0] != frames[0]).any()
    assert info["final_info"]["domain"].tolist() == before.tolist()
    assert vector.step(action)[0].shape == frames.shape


@pytest.mark.parametrize("id", IDS)
def test_a_saved_state_continues(id: str) -> None:
    one, other = (make(id, mixed(id), 2) for _ in range(2))
    one.reset(seed=SEED)
    other.reset(seed=SEED + 1)
    for action in actions_of(one, 10):
        one.step(action)
    other.load_state_dict(one.state_dict())  # type: ignore[attr-defined]
    for action in actions_of(one, 10, seed=1):
        a, b = one.step(action), other.step(action)
        assert (a[0] == b[0]).all() and a[1] == pytest.approx(b[1])


def through_a_file(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    save_tensors(path, arrays)
    return {name: tensor.numpy() for name, tensor in load_tensors(path)[0].items()}


def trace(vector: VectorEnv, actions: list[np.ndarray]) -> list[Any]:
    played = []
    for action in actions:
        frames, rewards, terminated, truncated, info = vector.step(action)
        state = info.get("state", info["domain"])
        played.append([frames, rewards, terminated, truncated, info["domain"], state])
    return played


def assert_equal_traces(one: list[Any], other: list[Any]) -> None:
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        for left, right in zip(a, b, strict=True):
            np.testing.assert_array_equal(left, right, err_msg=f"step {step}")


@pytest.mark.parametrize("id", IDS)
def test_a_saved_state_holds_the_options_of_the_last_reset_and_who_is_retired(
    id: str, tmp_path: Path
) -> None:
    one, fresh = (make(id, mixed(id), 3, frame_skip=60) for _ in range(2))
    one.reset(seed=SEED, options={"start": "anywhere"})
    one.retire(np.array([False, True, False]))  # type: ignore[attr-defined]
    actions = actions_of(one, LONG[id])
    trace(one, actions[:2])
    fresh.load_state_dict(through_a_file(tmp_path / "state", one.state_dict()))  # type: ignore[attr-defined]
    played = trace(one, actions[2:])
    assert sum((step[2] | step[3]).sum() for step in played) >= 2, "no automatic reset was seen"
    assert_equal_traces(played, trace(fresh, actions[2:]))


@pytest.mark.parametrize("id", IDS)
def test_a_state_of_before_options_and_retirement_were_saved_still_loads(id: str) -> None:
    one, fresh = (make(id, mixed(id), 2, frame_skip=60) for _ in range(2))
    one.reset(seed=SEED)
    actions = actions_of(one, LONG[id])
    trace(one, actions[:2])
    new = {"anywhere", "retired", "options"}
    state = one.state_dict()  # type: ignore[attr-defined]
    assert len(new & state.keys()) == 2
    fresh.load_state_dict({k: v for k, v in state.items() if k not in new})  # type: ignore[attr-defined]
    assert_equal_traces(trace(one, actions[2:]), trace(fresh, actions[2:]))


@pytest.mark.parametrize("id", IDS)
def test_a_step_before_a_reset_is_refused(id: str) -> None:
    vector, single = make(id, mixed(id), 3), gymnasium.make(id).unwrapped
    (action,) = actions_of(vector, 1)
    with pytest.raises(ResetNeeded, match=r"reset\(\)"):
        single.step(action[0])
    with pytest.raises(ResetNeeded, match=r"in the sub-environments \[0, 1, 2\]; call reset\(\)"):
        vector.step(action)
    first = np.array([True, False, False])
    vector.reset(options={"reset_mask": first})
    with pytest.raises(ResetNeeded, match=r"\[1, 2\]"):
        vector.step(action)
    vector.retire(~first)  # type: ignore[attr-defined]
    assert vector.step(action)[0][0].any()
    other = make(id, mixed(id), 3)
    other.load_state_dict(vector.state_dict())  # type: ignore[attr-defined]
    other.step(action)
    other.reset(options={"reset_mask": np.array([True, True, False])})
    other.step(action)
    new = make(id, mixed(id), 3)
    other.load_state_dict(new.state_dict())  # type: ignore[attr-defined]
    with pytest.raises(ResetNeeded, match=r"\[0, 1, 2\]"):
        other.step(action)


@pytest.mark.parametrize(
    ("id", "frame_skip", "fps"),
    [
        ("darla/Lab-v0", 12, 5),
        ("darla/Lab-v0", 60, 1),
        ("darla/Lab-v0", 8, 7.5),
        ("darla/Jaco-v0", 1, 10),
        ("darla/Jaco-v0", 4, 2.5),
        ("darla/DeepMindLab-v0", 12, 5),
        ("darla/DeepMindLab-v0", 60, 1),
    ],
)
def test_metadata_tell_how_many_decisions_a_second_has(
    id: str, frame_skip: int, fps: float
) -> None:
    vector = make(id, mixed(id), 1, frame_skip=frame_skip)
    single = gymnasium.make(id, frame_skip=frame_skip, render_mode="rgb_array").unwrapped
    usual = gymnasium.make_vec(id, num_envs=1, vectorization_mode="vector_entry_point")
    for environment in (vector, single):
        told = environment.metadata["render_fps"]
        assert told == fps and isinstance(told, type(fps))
    assert single.metadata["render_modes"] == ["rgb_array"]
    assert vector.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert usual.metadata["render_fps"] == (10 if "Jaco" in id else 5), "each has its own"


DIGEST = """
import sys
from tests.envs import deepmind_lab_double
sys.modules["deepmind_lab"] = deepmind_lab_double
from darla.config import EnvironmentConfig
from envs.digest import draw_actions, frame_digest
from envs.registry import get_simulator
for id in {ids}:
    print(id, frame_digest(EnvironmentConfig(id=id), get_simulator(id).suites[0].d_u[0], seed=5))
"""


def test_same_seed_same_frames_across_processes() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", DIGEST.format(ids=IDS)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    elsewhere = dict(line.split() for line in ran.stdout.splitlines())
    assert set(elsewhere) == set(IDS)
    for id in IDS:
        first, second = SIMULATORS[id].suites[0].d_u[:2]
        environment = EnvironmentConfig(id=id)
        here = frame_digest(environment, first, seed=5)
        assert here == elsewhere[id] and len(here) == 64
        assert frame_digest(environment, first, seed=6) != here
        assert frame_digest(environment, first, seed=5, decisions=21) != here
        assert frame_digest(environment, second, seed=5) != here


def test_an_unknown_environment_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'darla/Lab-v0'"):
        envs.make_vector(EnvironmentConfig(id="darla/Lab-v1"), (), 1, seed=0)


@pytest.mark.parametrize("id", IDS)
def test_closing_twice_is_harmless(id: str) -> None:
    single, vector = gymnasium.make(id), make(id, mixed(id), 2)
    single.reset(seed=0)
    vector.reset(seed=0)
    for _ in range(2):
        single.close()
        vector.close()
