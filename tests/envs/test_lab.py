"""The rules of the Lab, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from darla.errors import DomainError
from envs import lab
from envs.domains import product
from envs.lab import (
    ACTIONS,
    DEPTH,
    EPISODE_FRAMES,
    LAB,
    PICKUPS,
    SPACING,
    WALL_MARGIN,
    WIDTH,
    LabEnv,
    LabSimulation,
    LabVectorEnv,
    look_of,
)
from envs.lab_scene import KINDS, OBJECT_COLOURS, PROFILES, lathe
from envs.registry import get_suite

SOURCES = get_suite("lab").d_s
FORWARD, LEFT, TURN_LEFT = (ACTIONS.index(name) for name in ("forward", "strafe-left", "turn-left"))


def simulation(domain: str = "lab/A/hat-can", frame_skip: int = 12) -> LabSimulation:
    rooms = LabSimulation([LAB.parse(domain)], 1, frame_skip)
    rooms.begin(0)
    return rooms


def alone(rooms: LabSimulation, x: float, y: float, heading: float, *objects: tuple) -> None:
    """Puts the agent somewhere with only the given (x, y, kind) around."""
    rooms.pose[0] = (x, y, heading)
    rooms.present[0] = False
    for i, (ox, oy, kind) in enumerate(objects):
        rooms.objects[0, i] = (ox, oy)
        rooms.kinds[0, i] = KINDS.index(kind)
        rooms.present[0, i] = True


def test_layout_takes_21_distinct_cells_with_ten_objects_of_each_kind() -> None:
    rooms = LabSimulation(SOURCES, 50, 12)
    for i in range(50):
        rooms.begin(i)
        places = np.vstack([rooms.objects[i], rooms.pose[i, None, :2]])
        cells = places / SPACING - 0.5
        assert np.allclose(cells, cells.round())
        assert len({tuple(cell) for cell in cells.round().astype(int)}) == 21
        assert places.min() > 0 and places[:, 0].max() < WIDTH and places[:, 1].max() < DEPTH
        pair = SOURCES[rooms.domain[i]].factors["pair"]
        names = [KINDS[kind] for kind in rooms.kinds[i]]
        assert sorted(set(names)) == sorted(str(pair).split("-"))
        assert names.count(names[0]) == 10


def test_episodes_draw_the_domains_uniformly() -> None:
    rooms = LabSimulation(SOURCES, 600, 12)
    for i in range(600):
        rooms.begin(i)
    counts = np.bincount(rooms.domain, minlength=3)
    assert counts.min() > 150


def test_a_layout_follows_from_seed_stream_and_episode_not_from_actions() -> None:
    one, two = (LabVectorEnv(SOURCES, 2, render=False) for _ in range(2))
    for env, action in ((one, 0), (two, 4)):
        env.reset(seed=9)
        for _ in range(310):
            env.step(np.full(2, action))
    assert (one.simulation.episode == 1).all()
    assert (one.simulation.objects == two.simulation.objects).all()
    one.reset(seed=10)
    assert (one.simulation.objects != two.simulation.objects).any()


def test_walking_covers_a_cell_in_047_seconds_and_turning_90_degrees_a_second() -> None:
    rooms = simulation(frame_skip=28)
    alone(rooms, 5.0, 5.0, 0.0)
    rooms.advance(0, FORWARD)
    assert rooms.pose[0, 0] == pytest.approx(5.0 + SPACING, abs=0.06)
    rooms.advance(0, LEFT)
    assert rooms.pose[0, 1] == pytest.approx(5.0 + SPACING, abs=0.06)
    rooms = simulation(frame_skip=60)
    alone(rooms, 5.0, 5.0, 0.0)
    rooms.advance(0, TURN_LEFT)
    assert rooms.pose[0].tolist() == pytest.approx([5.0, 5.0, math.pi / 2])


def test_walls_stop_the_agent() -> None:
    rooms = simulation()
    alone(rooms, 1.0, 5.0, math.pi)
    for _ in range(5):
        rooms.advance(0, FORWARD)
    assert rooms.pose[0, 0] == pytest.approx(WALL_MARGIN)
    assert rooms.clearance()[0] == pytest.approx(WALL_MARGIN)


@pytest.mark.parametrize(
    ("kind", "reward"), [("hat", -1.0), ("can", 1.0), ("cake", -1.0), ("balloon", 1.0)]
)
def test_walking_into_an_object_pays_once_and_removes_it(kind: str, reward: float) -> None:
    rooms = simulation()
    alone(rooms, 5.0, 5.0, 0.0, (5.9, 5.0, kind), (5.9, 6.0, kind))
    assert rooms.advance(0, FORWARD) == (reward, False, False)
    assert rooms.present[0].sum() == 1
    assert rooms.advance(0, FORWARD)[0] == 0.0


def test_the_episode_ends_02_seconds_after_the_tenth_pick_up() -> None:
    rooms = simulation()
    rooms.picked[0] = PICKUPS - 1
    # The can lies within reach after the first of twelve frames.
    alone(rooms, 5.0, 5.0, 0.0, (5.49, 5.0, "can"), (5.9, 5.0, "hat"), (6.5, 5.0, "hat"))
    assert rooms.advance(0, FORWARD) == (0.0, False, False)  # +1 and, within the delay, -1
    assert rooms.end_frame[0] == 13
    reward, terminated, truncated = rooms.advance(0, FORWARD)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert rooms.frames[0] == 13
    assert rooms.present[0].sum() == 1


def test_the_episode_is_truncated_after_60_seconds() -> None:
    rooms = simulation()
    alone(rooms, 5.0, 5.0, 0.0)
    ends = [rooms.advance(0, TURN_LEFT)[1:] for _ in range(300)]
    assert ends[:-1] == [(False, False)] * 299
    assert ends[-1] == (False, True)
    assert rooms.frames[0] == EPISODE_FRAMES


def test_state_tells_the_nearest_objects_in_view() -> None:
    rooms = simulation()
    ahead, behind = (8.0, 5.0, "can"), (3.0, 5.0, "can")
    alone(rooms, 5.0, 5.0, 0.0, ahead, (7.0, 5.5, "hat"), behind, (9.0, 6.0, "can"))
    state = rooms.state()[0]
    bearing, distance = math.atan2(0.5, 2), math.hypot(2, 0.5)
    assert state[:3] == pytest.approx([1.0, bearing / math.radians(35), 1 / (1 + distance)])
    assert state[3:6] == pytest.approx([0, 0, 0])
    assert state[6:9] == pytest.approx([1.0, 0.0, 1 / 4])
    assert state[9] == 1.0
    assert state[24:26].tolist() == [1.0, 0.0]
    kind, bearing, distance = rooms.nearest()
    assert (kind[0], distance[0]) == (KINDS.index("hat"), pytest.approx(math.hypot(2, 0.5)))
    assert bearing[0] == pytest.approx(math.degrees(math.atan2(0.5, 2)))


def test_autoreset_keeps_the_last_frame_and_the_ended_domain() -> None:
    env = LabVectorEnv(SOURCES, 3)
    env.reset(seed=2)
    for _ in range(299):
        *_, info = env.step(np.full(3, TURN_LEFT))
        assert "final_obs" not in info
    before = env.simulation.domain.copy()
    frames, _, terminated, truncated, info = env.step(np.full(3, TURN_LEFT))
    assert truncated.all() and not terminated.any()
    assert info["_final_obs"].all()
    assert (info["final_info"]["domain"] == before).all()
    assert (info["final_obs"] != frames).any(axis=(1, 2, 3)).all()
    assert (env.simulation.frames == 0).all()


def test_state_dict_continues_exactly() -> None:
    one, two = (LabVectorEnv(SOURCES, 2) for _ in range(2))
    rng = np.random.default_rng(1)
    one.reset(seed=4)
    for _ in range(20):
        one.step(rng.integers(0, 8, 2))
    two.reset(seed=0)
    two.load_state_dict(one.state_dict())
    for _ in range(300):
        actions = rng.integers(0, 8, 2)
        a, b = one.step(actions), two.step(actions)
        assert (a[0] == b[0]).all() and (a[1] == b[1]).all()


def test_exploration_starts_see_more_than_walls() -> None:
    env = LabVectorEnv(SOURCES, 64, render=False)
    _, info = env.reset(seed=0, options={"start": "anywhere"})
    assert (info["clearance"] >= 2.5).all()
    assert 10 <= env.simulation.present.sum(1).min() < env.simulation.present.sum(1).max() <= 20


def test_renderers_of_several_sizes_do_not_disturb_each_other() -> None:
    small, large = (LabVectorEnv(SOURCES, 2, size=size) for size in (32, 64))
    before, _ = small.reset(seed=0)
    large.reset(seed=0)
    frames, *_ = small.reset(seed=0)
    assert (frames == before).all()


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_recognised_from_four_metres(kind: str) -> None:
    pair = "hat-can" if kind in ("hat", "can") else "cake-balloon"
    for room in "AB":
        env = LabVectorEnv([LAB.domain(room=room, pair=pair)], 1)
        env.reset(seed=0)
        alone(env.simulation, 5.0, 5.0, 0.0, (9.0, 5.0, kind))
        kinds, background = env.object_maps()
        mask = kinds[0] == KINDS.index(kind)
        assert mask.sum() >= 20
        frame = env._frames()[0].astype(int)
        assert (frame[~mask] == background[0][~mask]).all()
        contrast = np.abs(frame[mask] - background[0][mask]).sum(-1)
        assert contrast.mean() > 100
        colour = np.array(OBJECT_COLOURS["original"][kind])
        shades = frame[mask] @ colour / np.linalg.norm(colour) / np.linalg.norm(frame[mask], axis=1)
        assert np.median(shades) > 0.98, "lighting changes the brightness, not the hue"


@pytest.mark.parametrize("kind", KINDS)
def test_lathe_makes_closed_outward_meshes(kind: str) -> None:
    vertices, faces = lathe(PROFILES[kind], 12)
    edges = {tuple(face[[i, (i + 1) % 3]]) for face in faces for i in range(3)}
    assert len(edges) == 3 * len(faces)
    assert all((b, a) in edges for a, b in edges)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    assert volume > 0


def test_a_domain_of_another_world_is_refused() -> None:
    with pytest.raises(DomainError, match="at least one domain"):
        LabSimulation([], 1, 12)


def test_the_tenth_pickup_ends_the_episode_no_later_than_the_clock():
    rooms = simulation()
    rooms.picked[0], rooms.frames[0] = PICKUPS - 1, EPISODE_FRAMES - 5
    alone(rooms, 5.0, 5.0, 0.0, (5.49, 5.0, "can"))
    assert rooms.advance(0, FORWARD) == (1.0, True, False)
    assert rooms.frames[0] == EPISODE_FRAMES


def test_strafing_is_to_the_side_of_any_heading():
    rooms = simulation()
    alone(rooms, 5.0, 5.0, math.pi / 2)
    rooms.advance(0, LEFT)
    assert rooms.pose[0, :2] == pytest.approx([5.0 - 0.64, 5.0])


def test_bearings_are_measured_over_the_shorter_way():
    rooms = simulation()
    alone(rooms, 5.0, 5.0, 3.1, (5.0 + 2 * math.cos(-3.1), 5.0 + 2 * math.sin(-3.1), "can"))
    kind, bearing, distance = rooms.nearest()
    assert (
        kind[0] >= 0
        and bearing[0] == pytest.approx(math.degrees(2 * math.pi - 6.2))
        and distance[0] == pytest.approx(2.0)
    )


def test_nothing_lies_within_reach_at_a_start_anywhere():
    env = LabVectorEnv(SOURCES, 200, render=False)
    env.reset(seed=0, options={"start": "anywhere"})
    _, distance = env.simulation.relative()
    assert distance[env.simulation.present].min() > lab.PICKUP_RADIUS


def test_an_episode_ends_within_a_long_decision():
    rooms = simulation(frame_skip=60)
    rooms.picked[0] = PICKUPS - 1
    # The hat comes within reach in frame 13, when the delay of twelve frames is over.
    alone(rooms, 5.0, 5.0, 0.0, (5.49, 5.0, "can"), (6.17, 5.0, "hat"))
    assert rooms.advance(0, FORWARD) == (1.0, True, False)
    assert (rooms.frames[0], rooms.present[0].sum()) == (13, 1)
    assert rooms.pose[0, 0] == pytest.approx(5.0 + 13 * 3.2 / 60)


def test_starts_anywhere_may_leave_ten_objects():
    env = LabVectorEnv(SOURCES, 300, render=False)
    env.reset(seed=0, options={"start": "anywhere"})
    assert (env.simulation.present.sum(1) == 10).mean() > 0.04


def test_only_sub_environments_of_the_mask_are_reset():
    vector = LabVectorEnv(SOURCES, 3, render=False)
    vector.reset(seed=0)
    vector.step(np.full(3, FORWARD))
    with pytest.raises(ValueError, match="'start'] is 'anywere', allowed is 'cell' or 'anywhere'"):
        vector.reset(options={"start": "anywere"})
    with pytest.raises(ValueError, match="a seed is that of all"):
        vector.reset(seed=9, options={"reset_mask": np.array([False, True, False])})
    vector.reset(options={"reset_mask": np.array([False, True, False])})
    assert vector.simulation.frames.tolist() == [12, 0, 12]
    assert vector.simulation.episode.tolist() == [0, 1, 0]


def test_domains_are_canonically_the_same_where_they_look_and_play_the_same():
    walls, floors = ("room", "green", "red", "teal"), ("room", "orange", "blue")
    pairs, lights = ("hat-can", "cake-balloon"), (1.0, 0.6)
    domains = product(LAB, room=("A", "B"), pair=pairs, walls=walls, floor=floors, light=lights)
    kinds = {(look_of(domain), domain.factors["pair"]) for domain in domains}
    assert len({LAB.canonical_values(domain) for domain in domains}) == len(kinds) == 24
    both = {(LAB.canonical_values(d), look_of(d), d.factors["pair"]) for d in domains}
    assert len(both) == 24


def test_a_stream_is_one_of_a_seed():
    room = LabEnv(render_mode=None)
    for _ in range(2):  # before the first reset, and after it
        with pytest.raises(ValueError, match=r"\['stream'\] is 1 without a seed.*give both"):
            room.reset(options={"stream": 1})
        room.reset(seed=4, options={"stream": 1})
    other = LabVectorEnv(SOURCES[:1], 2, render=False)
    other.reset(seed=4)
    assert (room.simulation.objects[0] == other.simulation.objects[1]).all()
    room.reset()
    assert room.simulation.streams[0] == 1, "the next of the same sequence"
