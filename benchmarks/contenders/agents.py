"""Decisions of the algorithms, beside Stable-Baselines3 and RLlib."""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contenders import Measure, rate, warmed_up
from darla.config import AgentsConfig, Config, DQNConfig, RayConfig
from darla.rundir import RunDirectory

if TYPE_CHECKING:
    import torch

    from agents.trainer import Trainer
    from darla.perception import Perception

WORKERS, ENVS_PER_WORKER = 2, 8
WARMUP = 2_000
EPSILON = 0.05


def _experiment(folder: str) -> Config:
    """A training that never ends, in the state after its warm-up."""
    return Config(
        name="throughput",
        runs=folder,
        ray=RayConfig(workers=WORKERS, envs_per_worker=ENVS_PER_WORKER),
        agents=AgentsConfig(
            decisions=10**9,
            evaluate_every=10**9,
            dqn=DQNConfig(epsilon_start=EPSILON, epsilon_end=EPSILON, warmup=WARMUP),
        ),
    )


def _perception(config: Config) -> Perception:
    """The encoder of the `darla` architecture, untrained: as fast as a trained one."""
    from darla.perception import load_perception

    return load_perception("random", RunDirectory.open(config), 0, state_size=0)


def decisions(algorithm: str = "dqn", workers: int = WORKERS) -> Measure:
    """Decisions of an algorithm of ours: Ray workers, and the learner in this process.

    Args:
        algorithm: Name of the algorithm.
        workers: Number of Ray workers.
    """
    trainer, cluster = _training(algorithm, workers)

    def work() -> int:
        before = trainer.decisions
        trainer.launch()
        trainer.learn()
        trainer.receive()
        return trainer.decisions - before

    while trainer.decisions < 2 * WARMUP:
        work()
    return _measure(work, cluster)


def scoring(workers: int = WORKERS) -> Measure:
    """Decisions of a policy that is scored: Ray workers alone, nothing learns.

    Args:
        workers: Number of Ray workers.
    """
    trainer, cluster = _training("dqn", workers)
    play = functools.partial(
        trainer.pool.evaluate,
        trainer.policy,
        trainer.perception,
        [(trainer.evaluation_domains, 2 * workers * ENVS_PER_WORKER)],
        epsilon=EPSILON,
        seed=0,
    )

    def work() -> int:
        return sum(episode.length for episode in play()[0])

    work()
    return _measure(work, cluster)


def _training(algorithm: str, workers: int) -> tuple[Trainer, ExitStack]:
    """Begins a training that never ends; returns it, and what closes its workers and cluster."""
    import torch

    from agents.algorithms import TRAINERS
    from agents.cells import Cell
    from agents.pool import WorkerPool
    from darla.cluster import ray_session
    from envs import make_vector
    from envs.registry import suite_of

    torch.set_num_threads(1)
    config = _experiment(tempfile.mkdtemp())
    ray = config.ray.model_copy(update={"workers": workers})
    stack = ExitStack()
    stack.enter_context(ray_session(ray))
    factory = functools.partial(make_vector, config.environment)
    pool = stack.enter_context(WorkerPool(ray, factory))
    cell, sources = Cell(algorithm, "random", 0), suite_of(config).d_s
    return TRAINERS[algorithm](config, cell, pool, _perception(config), sources), stack


def _measure(work: Callable[[], int], cluster: ExitStack) -> Measure:
    """Returns the rate of `work` as a measure that keeps its cluster alive."""
    measure = functools.partial(rate, work)
    measure.cluster = cluster  # type: ignore[attr-defined]
    return measure


def dqn_sb3() -> Measure:
    """Decisions of Stable-Baselines3's DQN on the same latents, encoded in batches."""
    from stable_baselines3 import DQN

    config = _experiment(tempfile.mkdtemp())
    settings = config.agents.dqn
    environments = WORKERS * ENVS_PER_WORKER
    model = DQN(
        "MlpPolicy",
        _sb3_environments(config),
        learning_rate=settings.learning_rate,
        buffer_size=settings.replay,
        learning_starts=WARMUP,
        batch_size=settings.batch,
        gamma=settings.discount,
        n_steps=settings.n_step,
        train_freq=(1, "step"),
        gradient_steps=environments // settings.decisions_per_update,
        target_update_interval=settings.target_period * settings.decisions_per_update,
        exploration_initial_eps=EPSILON,
        exploration_final_eps=EPSILON,
        max_grad_norm=settings.gradient_norm or math.inf,
        policy_kwargs={"net_arch": list(settings.hidden)},
        device="cpu",
        seed=0,
    )
    return _sb3_measure(model)


def a2c_sb3() -> Measure:
    """Decisions of Stable-Baselines3's A2C on the same latents, with A3C's shared layers."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from torch import nn

    from agents.networks import perceptron

    config = _experiment(tempfile.mkdtemp())
    settings = config.agents.a3c

    class Shared(BaseFeaturesExtractor):
        """The hidden layers that policy and value share."""

        def __init__(self, space: Any) -> None:
            layers, width = perceptron(space.shape, settings.hidden)
            super().__init__(space, width)
            self.layers = nn.Sequential(*layers)
            for layer in self.layers:
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()

        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return self.layers(latents)

    model = A2C(
        "MlpPolicy",
        _sb3_environments(config),
        learning_rate=settings.learning_rate,
        n_steps=settings.n_step,
        gamma=settings.discount,
        ent_coef=settings.entropy,
        vf_coef=settings.value_weight,
        max_grad_norm=settings.gradient_norm or math.inf,
        use_rms_prop=settings.optimiser == "rmsprop",
        policy_kwargs={"net_arch": [], "features_extractor_class": Shared},
        device="cpu",
        seed=0,
    )
    return _sb3_measure(model)


def _sb3_environments(config: Config) -> Any:
    """As many environments as our workers step, in one process."""
    from agents.sb3 import LatentVecEnv
    from envs import make_vector
    from envs.registry import suite_of

    sources = suite_of(config).d_s
    vector = make_vector(config.environment, sources, WORKERS * ENVS_PER_WORKER, seed=0)
    return LatentVecEnv(vector, _perception(config))


def _sb3_measure(model: Any) -> Measure:
    """Decisions per second of a Stable-Baselines3 model, after a warm-up."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Until(BaseCallback):
        """Ends the training at a time."""

        deadline = 0.0

        def _on_step(self) -> bool:
            return time.perf_counter() < self.deadline

    until = Until()

    def measure(seconds: float) -> float:
        before, began = model.num_timesteps, time.perf_counter()
        until.deadline = began + seconds
        model.learn(10**9, callback=until, reset_num_timesteps=False)
        return (model.num_timesteps - before) / (time.perf_counter() - began)

    model.learn(2 * WARMUP)
    return measure


def _vector_of_rooms(config: Config, count: int, wrappers: Sequence[Any] = ()) -> Any:
    """Gymnasium's own vector of single rooms, each behind `wrappers`, in mode NEXT_STEP."""
    import gymnasium

    from envs.registry import suite_of

    return gymnasium.make_vec(
        f"envs:{config.environment.id}",
        count,
        "sync",
        wrappers=wrappers,
        domain=suite_of(config).d_s,
        size=config.environment.size,
        frame_skip=config.environment.frame_skip,
    )


def dqn_rllib() -> Measure:
    """Decisions of RLlib's DQN on the same latents, encoded in batches.

    RLlib samples in this process and reads latents from a vector wrapper: with two runners, or with
    our connector instead, it was slower. Its episodes need autoreset mode NEXT_STEP.
    """
    from ray import tune
    from ray.rllib.algorithms.dqn import DQNConfig as RLlibDQNConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    from agents.wrappers import VectorLatentObservation
    from darla.cluster import ray_session

    config = _experiment(tempfile.mkdtemp())
    settings, perception = config.agents.dqn, _perception(config)
    stack = ExitStack()
    stack.enter_context(ray_session(config.ray))
    tune.register_env(
        "latents",
        lambda context: VectorLatentObservation(
            _vector_of_rooms(config, context["num_envs"]), perception
        ),
    )
    algorithm = (
        RLlibDQNConfig()
        .environment("latents")
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=ENVS_PER_WORKER,
            gym_env_vectorize_mode="vector_entry_point",
            rollout_fragment_length=settings.decisions_per_update,
        )
        .training(
            lr=settings.learning_rate,
            train_batch_size=settings.batch,
            gamma=settings.discount,
            n_step=settings.n_step,
            double_q=settings.double,
            dueling=False,
            epsilon=EPSILON,
            grad_clip=settings.gradient_norm,  # type: ignore[arg-type]  # float, says its doc
            num_steps_sampled_before_learning_starts=WARMUP,
            target_network_update_freq=settings.target_period * settings.decisions_per_update,
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": settings.replay},
            training_intensity=settings.batch / settings.decisions_per_update,
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=list(settings.hidden), fcnet_activation="relu"
            )
        )
        .reporting(min_sample_timesteps_per_iteration=256)
        .build_algo()
    )
    stack.callback(algorithm.stop)
    decisions = 0

    def work() -> int:
        nonlocal decisions
        before = decisions
        decisions = algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"]
        return decisions - before

    while decisions < 2 * WARMUP:
        work()
    return _measure(work, stack)


def latent_steps(batched: bool = True) -> Measure:
    """Steps of a few rooms with random actions, behind our wrappers.

    Args:
        batched: Whether all rooms are encoded at once, or each behind a wrapper of its own.
    """
    from agents.wrappers import LatentObservation, VectorLatentObservation

    config = _experiment(tempfile.mkdtemp())
    perception = _perception(config)
    if batched:
        vector = VectorLatentObservation(_vector_of_rooms(config, ENVS_PER_WORKER), perception)
    else:
        wrapper = functools.partial(LatentObservation, perception=perception)
        vector = _vector_of_rooms(config, ENVS_PER_WORKER, [wrapper])
    rng = np.random.default_rng(0)
    vector.reset(seed=0)

    def work() -> int:
        vector.step(rng.integers(8, size=ENVS_PER_WORKER))
        return ENVS_PER_WORKER

    return warmed_up(work)
