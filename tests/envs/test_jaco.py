"""The Jaco task: what it pays, how it moves, what it shows, and that all of it is repeatable."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from darla.config import EnvironmentConfig
from darla.errors import ConfigError, DomainError
from envs.domains import ENCODER_OOD, POLICY_OOD, Domain, product
from envs.jaco import (
    EPISODE_FRAMES,
    EXPLORED,
    HAND_DOWN,
    HAND_HIGH,
    HAND_LOW,
    HOME,
    JACO,
    LEVELS,
    REACHED,
    SPREAD,
    STAND_IN,
    STATE_SIZE,
    TARGET_HIGH,
    TARGET_LOW,
    JacoSimulation,
    JacoVectorEnv,
    look_of,
    settings_of,
)
from envs.jaco_scene import APART, JOINTS, KINDS, MAX_SPEED, shared_model
from envs.registry import get_suite

SOURCES = get_suite("jaco").d_s
STILL = int(np.flatnonzero(LEVELS == 0)[0])


def arms(n: int = 1, domain: str = "jaco/A/ball", **options: bool) -> JacoSimulation:
    simulation = JacoSimulation([JACO.parse(domain)], n, 1, **options)
    for i in range(n):
        simulation.begin(i)
    return simulation


def chase(simulation: JacoSimulation, i: int) -> np.ndarray:
    """Speeds that lead the fingertips straight to the target, by damped least squares."""
    import mujoco

    data, model = simulation._data[i], shared_model()
    mujoco.mj_comPos(model, data)
    one, jacobian = np.zeros((3, len(JOINTS))), np.zeros((3, len(JOINTS)))
    for tip in simulation._tips:
        mujoco.mj_jacSite(model, data, one, None, tip)
        jacobian += one / 3
    way = 2.0 * (simulation.target[i] - simulation.tips[i].mean(0))
    wanted = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 0.01 * np.eye(3), way)
    shares = wanted / MAX_SPEED
    shares[6:] = 1.0 if simulation.tips[i].std(0).sum() > 0.03 else 0.0  # close the hand
    return shares / max(1.0, np.abs(shares[:6]).max())


def play(policy: object, seed: int, n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Returns and whether the target was reached, of one episode of `n` arms."""
    vector = JacoVectorEnv(SOURCES, n, render=False, actions="continuous")
    vector.reset(seed=seed)
    rng = np.random.default_rng(seed)
    returns, reached = np.zeros(n), np.zeros(n, bool)
    for _ in range(EPISODE_FRAMES):
        if policy is None:
            actions = rng.choice(LEVELS, (n, len(JOINTS)))
        else:
            actions = np.stack([chase(vector.simulation, i) for i in range(n)])
        _, rewards, terminated, truncated, info = vector.step(actions)
        returns += rewards
        reached |= info.get("final_info", info)["success"]
    assert truncated.all() and not terminated.any()
    return returns, reached


def test_a_scripted_controller_reaches_the_target_and_a_random_one_does_not() -> None:
    returns, reached = play(chase, seed=1)
    assert returns.min() > 100
    assert reached.mean() > 0.6
    random, by_chance = play(None, seed=1)
    assert random.mean() < returns.mean() - 20
    assert by_chance.mean() < reached.mean() - 0.3


def test_the_reward_weighs_x_and_y_double() -> None:
    simulation = arms()
    for way, reward in (
        ((0.0, 0.0, 0.0), 1.0),
        ((0.3, 0.0, 0.0), 0.7),
        ((0.0, -0.3, 0.0), 0.7),
        ((0.0, 0.0, 0.3), 0.85),
        ((0.3, 0.4, 0.0), 0.5),
        ((2.0, 0.0, 0.0), 0.0),
    ):
        simulation.tips[0] = simulation.target[0] + way
        assert simulation.reward(0) == pytest.approx(reward)


def test_success_is_a_fingertip_within_five_centimetres() -> None:
    simulation = arms()
    for nearest, success in ((REACHED - 0.001, True), (REACHED + 0.001, False)):
        simulation.tips[0] = simulation.target[0] + 0.3
        simulation.tips[0, 1] = simulation.target[0] + (0.0, nearest, 0.0)
        info = simulation.info()
        assert info["distance"][0] == pytest.approx(nearest)
        assert info["success"][0] == success


def test_episodes_start_free_of_contact_with_hand_and_target_where_they_belong() -> None:
    simulation = arms(40)
    middle = simulation.tips.mean(1)
    assert (middle >= HAND_LOW).all() and (middle <= HAND_HIGH).all()
    assert (simulation.target[:, :2] >= TARGET_LOW).all()
    assert (simulation.target[:, :2] <= TARGET_HIGH).all()
    for i, data in enumerate(simulation._data):
        assert data.ncon == 0
        assert data.site_xpos[simulation._wrist, 2] - middle[i, 2] >= HAND_DOWN
    assert len({tuple(joints) for joints in simulation.joints}) == 40


def test_exploration_shows_the_hand_near_the_target_and_far_from_it() -> None:
    vector = JacoVectorEnv(SOURCES, 60, render=False)
    _, info = vector.reset(seed=0, options={"start": "anywhere"})
    near = info["distance"] < 0.15
    assert 0.25 < near.mean() < 0.75
    assert info["distance"].max() > 0.35
    assert (vector.simulation.tips.mean(1)[:, 2] < 0.1).mean() > 0.1
    assert all(data.ncon == 0 for data in vector.simulation._data)


@pytest.mark.parametrize(("level", "share"), [(0, -1.0), (1, -0.5), (2, 0.0), (3, 0.5), (4, 1.0)])
def test_a_level_is_a_share_of_the_largest_speed(level: int, share: float) -> None:
    simulation = arms()
    action = np.full(len(JOINTS), STILL)
    action[0] = level
    simulation.advance(0, action)  # the servo gets up to speed
    before = simulation.joints[0].copy()
    for _ in range(3):
        simulation.advance(0, action)
    turned = math.degrees(simulation.joints[0, 0] - before[0])
    assert turned == pytest.approx(3 * 3.6 * share, abs=0.25)
    assert np.abs(simulation.joints[0, 1:] - before[1:]).max() < 0.01


def test_the_physics_at_this_time_step_agrees_with_a_step_of_one_millisecond() -> None:
    import mujoco

    model, simulation = shared_model(), arms()
    data = simulation._data[0]
    ends = []
    for timestep in (model.opt.timestep, 0.001):
        coarse = model.opt.timestep
        fresh = mujoco.MjData(model)
        fresh.qpos[:] = data.qpos
        model.opt.timestep = timestep
        fresh.ctrl[:] = 0.5 * np.array(MAX_SPEED)
        mujoco.mj_step(model, fresh, round(1.0 / timestep))
        model.opt.timestep = coarse
        ends.append(fresh.qpos.copy())
    assert np.abs(ends[0] - ends[1]).max() < 0.005


def test_bodies_that_are_not_looked_at_for_contacts_never_come_near() -> None:
    import mujoco

    model, simulation, rng = shared_model(), arms(), np.random.default_rng(0)
    data, low, span = mujoco.MjData(model), simulation._low, simulation._span
    pairs = [
        (one, other)
        for names in APART
        for one, other in itertools.product(*(geoms_of(model, name) for name in names))
    ]
    nearest = 1.0
    for pose in range(1_000):
        share = rng.random(len(JOINTS))
        # Motors press fingers a little beyond the ends of their ranges.
        data.qpos[:] = low + span * (share if pose % 2 else 1.04 * share.round() - 0.02)
        mujoco.mj_kinematics(model, data)
        for pair in pairs:
            nearest = min(nearest, mujoco.mj_geomDistance(model, data, *pair, 1.0, None))
    assert nearest > 0.005


def geoms_of(model: Any, body: str) -> list[int]:
    first, count = model.body(f"jaco/{body}").geomadr[0], model.body(f"jaco/{body}").geomnum[0]
    return list(range(first, first + count))


def test_speed_and_latency_change_how_it_moves() -> None:
    usual, slow, fast, late = (
        arms(domain=f"jaco/A/ball{shift}")
        for shift in ("", "/speed=0.5", "/speed=1.5", "/latency=2")
    )
    action = np.full(len(JOINTS), STILL)
    action[0] = 4
    for simulation in (usual, slow, fast, late):
        before = simulation.joints[0, 0]
        for _ in range(6):
            simulation.advance(0, action)
        simulation.joints[0, 0] -= before
    assert slow.joints[0, 0] == pytest.approx(usual.joints[0, 0] / 2, abs=0.02)
    assert fast.joints[0, 0] == pytest.approx(usual.joints[0, 0] * 1.5, abs=0.03)
    assert usual.joints[0, 0] - late.joints[0, 0] == pytest.approx(math.radians(7.2), abs=0.02)
    assert late.pending[0, 0, 0] == 1.0


@pytest.mark.parametrize(("start", "scale"), [("hanging", 1.0), ("anywhere", EXPLORED)])
def test_an_arm_starts_near_home(start: str, scale: float) -> None:
    simulation, limits = arms(), shared_model().jnt_range
    angles = []
    for _ in range(100):
        simulation.begin(0, start)
        angles.append(simulation.joints[0].copy())
    away = np.abs(np.degrees(angles)[:, :6] - HOME)
    assert (away < scale * np.array(SPREAD)).all() and away.mean(0).min() > 10.0
    limited = np.ptp(limits, axis=1) > 0
    assert (np.array(angles) > limits[:, 0])[:, limited].all()
    assert (np.array(angles) < limits[:, 1])[:, limited].all()


def test_no_arm_leans_backward_at_the_start() -> None:
    # One that does looks the same to a small picture, and its joints move the hand the other way.
    simulation, elbow = arms(), shared_model().body("jaco/b_3").id
    for _ in range(100):
        simulation.begin(0)
        hand = simulation.tips[0].mean(0)[:2]
        ahead = simulation._data[0].xpos[elbow, :2] @ hand / np.linalg.norm(hand)
        assert ahead > -0.04


def test_the_episode_is_truncated_after_150_frames() -> None:
    simulation = arms()
    action = np.full(len(JOINTS), STILL)
    ends = [simulation.advance(0, action)[1:] for _ in range(EPISODE_FRAMES)]
    assert ends == [(False, False)] * (EPISODE_FRAMES - 1) + [(False, True)]


def test_state_tells_where_hand_and_target_are() -> None:
    simulation = arms(3)
    state = simulation.state()
    assert state.shape == (3, STATE_SIZE) and state.dtype == np.float32
    assert np.abs(state).max() <= 1.0
    assert state[:, :6] ** 2 + state[:, 6:12] ** 2 == pytest.approx(np.ones((3, 6)))
    middle = simulation.tips.mean(1)
    assert state[:, 15:18] == pytest.approx(middle - 0.3, abs=1e-6)
    assert state[:, 18:20] == pytest.approx(simulation.target[:, :2] - 0.3, abs=1e-6)
    assert state[:, 20:23] == pytest.approx(simulation.target - middle, abs=1e-6)


def test_continuous_actions_equal_levels() -> None:
    levels, shares = arms(), arms(continuous=True)
    action = np.random.default_rng(0).integers(0, 5, len(JOINTS))
    for _ in range(3):
        assert levels.advance(0, action) == shares.advance(0, LEVELS[action])
    assert (levels.joints == shares.joints).all()
    assert gymnasium.make("darla/Jaco-v0", actions="continuous").action_space.shape == (9,)
    with pytest.raises(ConfigError, match="did you mean 'levels'"):
        gymnasium.make("darla/Jaco-v0", actions="level")


def test_check_env_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("darla/Jaco-v0", render_mode="rgb_array").unwrapped)


def test_vector_equals_single() -> None:
    domains = ["jaco/A/ball", "jaco/B/cube/noise=5/latency=1"]
    actions = np.random.default_rng(0).integers(0, 5, (EPISODE_FRAMES + 5, 3, 9))
    vector = gymnasium.make_vec("darla/Jaco-v0", num_envs=3, domain=domains)
    first, _ = vector.reset(seed=11)
    trace = [vector.step(action) for action in actions]
    for i in range(3):
        env = gymnasium.make("darla/Jaco-v0", domain=domains).unwrapped
        frame, _ = env.reset(seed=11, options={"stream": i})
        assert (frame == first[i]).all()
        for action, (frames, rewards, _, truncated, infos) in zip(actions, trace, strict=True):
            frame, reward, _, cut, info = env.step(action[i])
            assert (reward, cut) == (rewards[i], truncated[i])
            if cut:
                assert (frame == infos["final_obs"][i]).all()
                assert (info["state"] == infos["final_info"]["state"][i]).all()
                frame, info = env.reset()
            assert (frame == frames[i]).all()
            assert (info["state"] == infos["state"][i]).all()


def test_state_dict_continues_exactly() -> None:
    domains = [*SOURCES, JACO.parse("jaco/A/cube/noise=5/latency=1")]
    one, two = (JacoVectorEnv(domains, 3) for _ in range(2))
    rng = np.random.default_rng(1)
    one.reset(seed=4)
    for _ in range(20):
        one.step(rng.integers(0, 5, (3, 9)))
    two.reset(seed=0)
    two.load_state_dict({name: array.copy() for name, array in one.state_dict().items()})
    for _ in range(EPISODE_FRAMES):
        actions = rng.integers(0, 5, (3, 9))
        a, b = one.step(actions), two.step(actions)
        assert (a[0] == b[0]).all() and (a[1] == b[1]).all()


DIGEST = """
import hashlib, numpy as np, gymnasium, envs
vector = gymnasium.make_vec("darla/Jaco-v0", num_envs=2, domain=["jaco/A/ball", "jaco/B/cube"])
digest, rng = hashlib.sha256(), np.random.default_rng(5)
frames, info = vector.reset(seed=5)
for _ in range(20):
    digest.update(frames.tobytes() + info["state"].tobytes())
    frames, *_, info = vector.step(rng.integers(0, 5, (2, 9)))
print(digest.hexdigest())
"""


def test_same_seed_same_frames_across_processes() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.strip()) == 64


ALL = {domain.id: domain for n in ("jaco-looks", "jaco-real") for domain in get_suite(n).domains}


@pytest.mark.parametrize("domain", ALL.values(), ids=ALL)
def test_every_domain_looks_unlike_the_others(domain: Domain) -> None:
    vector = envs.make_vector(
        EnvironmentConfig(id="darla/Jaco-v0", frame_skip=1), (domain,), 2, seed=3
    )
    frames, info = vector.reset(seed=3)
    assert frames.std() > 5
    assert np.abs(info["state"]).max() <= 1.0
    for other in ALL.values():
        if other != domain:
            assert look_of(other) != look_of(domain)


@pytest.mark.parametrize("shape", ["ball", "cube", "can"])
@pytest.mark.parametrize("desk", ["A", "B"])
def test_target_and_hand_are_seen(desk: str, shape: str) -> None:
    vector = JacoVectorEnv([JACO.domain(desk=desk, object=shape)], 12)
    frames, _ = vector.reset(seed=0)
    kinds, background = vector.object_maps()
    target, hand = (kinds == KINDS.index(name) for name in (shape, "hand"))
    assert np.median(target.sum((1, 2))) >= 30
    assert np.median(hand.sum((1, 2))) >= 60
    assert set(np.unique(kinds).tolist()) <= {-1, KINDS.index(shape), KINDS.index("hand")}
    contrast = np.abs(frames.astype(int) - background).sum(-1)
    assert contrast[target].mean() > 100 and contrast[hand].mean() > 250
    untouched = contrast == 0
    # An autoencoder draws what stands out; what a joint does to the hand is seen from the arm.
    arm = ~(untouched | target | hand)
    assert np.median(arm.sum((1, 2))) >= 150 and contrast[arm].mean() > 150
    assert untouched.mean() > 0.7 and not (untouched & (target | hand)).mean() > 0.01


def test_renderers_of_several_sizes_do_not_disturb_each_other() -> None:
    domains = [JACO.parse("jaco/A/ball"), JACO.parse("jaco/B/cube")]
    small = JacoVectorEnv(domains[:1], 2, size=32)
    large = JacoVectorEnv(domains[1:], 2, size=64)
    before, _ = small.reset(seed=0)
    large.reset(seed=0)
    assert (small._frames() == before).all()


def test_labels_are_in_centimetres() -> None:
    vector = JacoVectorEnv(SOURCES, 4, render=False)
    vector.reset(seed=0)
    labels = vector.labels()
    assert list(labels) == ["target_x", "target_y", "hand_x", "hand_y", "hand_z"]
    assert labels["target_x"] == pytest.approx(100 * vector.simulation.target[:, 0])
    assert labels["hand_z"].min() >= 100 * HAND_LOW[2]


def test_the_suites_hold_out_what_they_say() -> None:
    suite, real = get_suite("jaco"), get_suite("jaco-real")
    (target,) = suite.d_t
    assert target.id == "jaco/B/ball" and POLICY_OOD in suite.tags(target)
    assert [domain.id for domain in real.d_t] == [
        "jaco/A/ball/scene=stand-in",
        "jaco/A/cube/scene=stand-in",
    ]
    assert set(STAND_IN) == {factor.name for factor in JACO.factors} - {"desk", "object", "scene"}
    for domain in real.d_t:
        assert ENCODER_OOD in real.tags(domain)
        settings = settings_of(domain)
        for source in real.d_u:
            assert all(settings[name] != settings_of(source)[name] for name in STAND_IN)
            assert look_of(domain).table != look_of(source).table
            assert look_of(domain).backdrop != look_of(source).backdrop
    with pytest.raises(DomainError, match="not of world 'jaco'"):
        JacoSimulation(get_suite("lab").d_s, 1, 1)


def test_rewards_of_skipped_frames_are_summed():
    single, triple = arms(), JacoSimulation([JACO.parse("jaco/A/ball")], 1, 3)
    triple.begin(0)
    action = np.random.default_rng(0).integers(0, 5, len(JOINTS))
    rewards = [single.advance(0, action)[0] for _ in range(3)]
    assert triple.advance(0, action)[0] == pytest.approx(sum(rewards))


def test_the_last_decision_is_cut_at_the_end_of_the_episode():
    arm = JacoSimulation([JACO.parse("jaco/A/ball")], 1, 60)
    arm.begin(0)
    ends = [arm.advance(0, np.full(len(JOINTS), STILL))[2] for _ in range(3)]
    assert ends == [False, False, True] and arm.frames[0] == 150


def test_actions_beyond_one_are_clipped_at_any_speed():
    fast, usual = (arms(domain="jaco/A/ball/speed=0.5", continuous=True) for _ in range(2))
    for _ in range(3):
        fast.advance(0, np.full(len(JOINTS), 7.0))
        usual.advance(0, np.ones(len(JOINTS)))
    assert (fast.joints == usual.joints).all()


def test_latency_does_not_reach_into_the_next_episode():
    late = arms(domain="jaco/A/ball/latency=2")
    late.advance(0, np.full(len(JOINTS), 4))
    late.begin(0)
    assert not late.pending.any()


def test_the_state_of_fingers_spans_their_range():
    arm = arms()
    for share, value in ((0.0, -1.0), (0.5, 0.0), (1.0, 1.0)):
        arm.joints[0, 6:] = arm._low[6:] + share * arm._span[6:]
        assert arm.state()[0, 12:15] == pytest.approx(np.full(3, value), abs=1e-6)


def test_an_automatic_reset_starts_as_the_last_reset_asked():
    vector = JacoVectorEnv(SOURCES, 2, render=False)
    begun, begin = [], vector.simulation.begin
    vector.simulation.begin = lambda i, start: (begun.append(start), begin(i, start))
    vector.reset(seed=0, options={"start": "anywhere"})
    vector.simulation.frames[:] = 149
    vector.step(np.full((2, 9), STILL))
    assert begun == ["anywhere"] * 4


def test_domains_are_canonically_the_same_where_they_look_and_move_the_same():
    domains = product(
        JACO,
        desk=("A", "B"),
        object=("ball", "cube"),
        scene=("simulated", "stand-in"),
        colour=("own", "red", "blue"),
        table=("desk", "oak", "slate"),
        surface=("desk", "wood", "plain"),
        backdrop=("desk", "umber"),
        latency=(0, 1),
    )
    known = {
        (JACO.canonical_values(d), look_of(d), settings_of(d)["speed"], settings_of(d)["latency"])
        for d in domains
    }
    assert len({own[0] for own in known}) == len({own[1:] for own in known}) == len(known)
    assert len(known) == 2 * 2 * 2 * 2 * 2 * 2 + 2  # target twice, ..., and the stand-ins


@pytest.mark.parametrize("latency", [0.4, 1.5, 3.999])
def test_a_latency_that_is_not_whole_is_refused(latency):
    with pytest.raises(DomainError, match="'latency' is .*, allowed is a whole number from 0 to 4"):
        JACO.domain(desk="A", object="ball", latency=latency)
    with pytest.raises(DomainError, match="allowed is a whole number from 0 to 4"):
        JACO.parse(f"jaco/A/ball/latency={latency}")
