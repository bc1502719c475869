"""Frames and steps of the worlds, beside MiniWorld and dm_control."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contenders import SIZE, Measure, warmed_up

OBJECTS = 20


def lab_frames() -> Measure:
    """Frames of the Lab at random poses, all 20 objects in the room."""
    from envs.lab import DEPTH, OBJECTS, WIDTH, LabSimulation, shared_renderer
    from envs.registry import get_suite

    assert OBJECTS == globals()["OBJECTS"], "the peer must show as many objects"
    rooms = 16
    renderer = shared_renderer(SIZE)
    simulation = LabSimulation(get_suite("lab").d_u, rooms, frame_skip=12)
    rng = np.random.default_rng(0)
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    for room in range(rooms):
        simulation.begin(room)

    def work() -> int:
        for room in range(rooms):
            simulation.pose[room] = rng.uniform(
                (0.4, 0.4, -np.pi), (WIDTH - 0.4, DEPTH - 0.4, np.pi)
            )
            simulation.draw(room, renderer, out)
        return rooms

    return warmed_up(work)


def lab_steps() -> Measure:
    """Whole steps of the Lab's vector environment, with random actions and automatic resets."""
    from darla.config import EnvironmentConfig
    from envs import make_vector
    from envs.registry import get_suite

    rooms = 16
    vector = make_vector(EnvironmentConfig(size=SIZE), get_suite("lab").d_u, rooms, seed=0)
    rng = np.random.default_rng(0)
    vector.reset(seed=0)

    def work() -> int:
        vector.step(rng.integers(8, size=rooms))
        return rooms

    return warmed_up(work)


def _miniworld(objects: int) -> Any:
    import pyglet

    pyglet.options["headless"] = True
    from miniworld.envs.pickupobjects import PickupObjects

    environment = PickupObjects(num_objs=objects, obs_width=SIZE, obs_height=SIZE)
    environment.reset(seed=0)
    return environment


def miniworld_frames(objects: int = OBJECTS) -> Measure:
    """Frames of MiniWorld's PickupObjects at random poses."""
    environment = _miniworld(objects)
    rng = np.random.default_rng(0)
    agent, size = environment.agent, environment.size

    def work() -> int:
        x, z, heading = rng.uniform((0.4, 0.4, -np.pi), (size - 0.4, size - 0.4, np.pi))
        agent.pos, agent.dir = np.array([x, 0.0, z]), heading
        environment.render_obs()
        return 1

    return warmed_up(work)


def miniworld_steps(objects: int = OBJECTS) -> Measure:
    """Whole steps of MiniWorld's PickupObjects, with random actions and resets."""
    environment = _miniworld(objects)
    rng = np.random.default_rng(0)

    def work() -> int:
        *_, terminated, truncated, _ = environment.step(int(rng.integers(5)))
        if terminated or truncated:
            environment.reset()
        return 1

    return warmed_up(work)


def jaco_steps() -> Measure:
    """Whole steps of the Jaco's vector environment, with random actions and automatic resets."""
    from darla.config import EnvironmentConfig
    from envs import make_vector
    from envs.registry import get_suite

    arms = 16
    environment = EnvironmentConfig(id="darla/Jaco-v0", size=SIZE, frame_skip=1)
    vector = make_vector(environment, get_suite("jaco").d_u, arms, seed=0)
    rng = np.random.default_rng(0)
    vector.reset(seed=0)

    def work() -> int:
        vector.step(rng.integers(5, size=(arms, 9)))
        return arms

    return warmed_up(work)


def dm_control_steps() -> Measure:
    """Whole steps of dm_control's Jaco reaching task with pixels, actions at random, and resets.

    It is `reach_site_vision` with pictures as large as ours. Its decision lasts 0.04 s in 20 steps
    of the physics, ours 0.1 s in as many.
    """
    from envs.rendering import choose_backend

    choose_backend()
    from dm_control import manipulation

    environment = manipulation.load("reach_site_vision", seed=0)
    camera = environment.task.task_observables["front_close"]
    camera.height = camera.width = SIZE
    actions = environment.action_spec()
    rng = np.random.default_rng(0)
    environment.reset()

    def work() -> int:
        if environment.step(rng.uniform(actions.minimum, actions.maximum)).last():
            environment.reset()
        return 1

    return warmed_up(work)
