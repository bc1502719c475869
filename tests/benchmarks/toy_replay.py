"""A run of untrained policies on the toy game, and made-up recordings as long as the Lab's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from agents.a3c import A3CPolicy
from agents.actor_critic import ActorCritic
from agents.algorithms import save_policy
from agents.cells import Cell, perception_of
from agents.dqn import QPolicy
from agents.networks import QNetwork
from agents.policy import Actions
from benchmarks.episodes import Facts, Outcome, Recording
from darla.config import AgentsConfig, Config, EnvironmentConfig, RayConfig, TransferConfig
from darla.rundir import RunDirectory
from darla.vision.pretrain import make_dae, make_vae, save_model, seed_weights
from envs.domains import Factor, Suite, World, product
from envs.registry import Simulator, register
from tests.toys import PIXELS, Catch

WORLD = World(
    "catch",
    (Factor("ball", None, "colour of the ball", ("yellow", "cyan", "pink")),),
    state_size=Catch.state_size,
)
SUITE = Suite(
    "catch",
    "a ball falls",
    WORLD,
    d_u=product(WORLD, ball=("yellow", "cyan")),
    d_s=product(WORLD, ball=("yellow", "cyan")),
    d_t=product(WORLD, ball=("pink",)),
)
CELLS = [Cell(*names, 0) for names in (("dqn", "factors"), ("dqn", "darla"), ("a3c", "factors"))]


def make_catch(num_envs, domain, *, size, frame_skip, seed, render):
    return Catch(domain, num_envs, seed=seed, render=render)


def toy_run(folder: Path) -> RunDirectory:
    """Registers the toy game, and makes a run on it with a policy for each of `CELLS`."""
    register(Simulator("test/Catch-v0", make_catch, (SUITE,)))
    run = RunDirectory.open(
        Config(
            name="toy",
            runs=str(folder),
            suite="catch",
            environment=EnvironmentConfig(id="test/Catch-v0", size=PIXELS),
            ray=RayConfig(workers=2, envs_per_worker=2),
            agents=AgentsConfig(
                algorithms=["dqn", "a3c"], perceptions=["factors", "darla", "pixels"], seeds=[0]
            ),
            transfer=TransferConfig(episodes=14, epsilon=0.3),
        )
    )
    for stream, (model, name) in enumerate(
        ((make_dae(run.config), "dae"), (make_vae(run.config), "vision"))
    ):
        seed_weights(model, 0, stream)
        save_model(model, run.vision / f"{name}.safetensors")
    for cell in CELLS:
        perception = perception_of(run, cell.perception, 0)
        generator = torch.Generator().manual_seed(1)
        if cell.algorithm == "dqn":
            network = QNetwork(perception.shape, 3, (8,), generator)
            save_policy(run, cell, QPolicy(network, perception.fingerprint), "")
        else:
            critic = ActorCritic(perception.shape, (3,), (8,), 4, generator)
            save_policy(run, cell, A3CPolicy(Actions((3,)), critic, perception.fingerprint), "")
    return run


def made_up(
    domain: str = "lab/A/hat-can", length: int = 300, choices: tuple[int, ...] = (8,)
) -> Recording:
    """A recording of 64 x 64 pictures, whose first pixels are as bright as the step's number."""
    rng = np.random.default_rng(length)
    grain = rng.normal(0, 2, (64, 64, 1))
    ramp = np.linspace(0, 120, 64)[:, None, None] * np.ones((1, 64, 3))
    frames = np.empty((length, 64, 64, 3), np.uint8)
    for t in range(length):
        frames[t] = np.clip(np.roll(ramp, t, 0) + grain + 40, 0, 255)
        frames[t, :16, :16] = t % 256
    rewards = np.zeros(length)
    rewards[[10, length // 2]] = 1.0, -1.0
    options = sum(choices)
    target = "B" in domain
    outcome = Outcome(return_=0.0, length=length)
    facts = Facts(
        run="made-up",
        suite="lab",
        domain=domain,
        tags=("target", "policy-ood") if target else ("source",),
        factors={"room": "B" if target else "A", "light": 1.0},
        about={"room": "colours", "light": "brightness"},
        algorithm="dqn",
        perception="darla",
        seed=0,
        perception_fingerprint="f" * 16,
        policy_sha256="0" * 64,
        epsilon=0.05,
        transfer_seed=10_000,
        episode=3,
        layout_seed=(1, 0, 3),
        outcome=outcome,
        scored=outcome,
        fps=5.0,
        choices=choices,
        options=tuple(f"option-{i}" for i in range(options)),
        preference="action value" if len(choices) == 1 else "probability",
    )
    starts = np.concatenate([[0], np.cumsum(choices)[:-1]])
    preferences = rng.random((length, options)).astype(np.float32)
    actions = [
        preferences[:, start : start + count].argmax(1)
        for start, count in zip(starts, choices, strict=True)
    ]
    return Recording(
        facts,
        {
            "frames": frames,
            "actions": np.stack(actions, 1),
            "rewards": rewards,
            "returns": rewards.cumsum(),
            "preferences": preferences,
            "latents": rng.normal(float(target), 1, (length, 32)).astype(np.float32),
            "reconstructions": 255 - frames,
        },
    )
