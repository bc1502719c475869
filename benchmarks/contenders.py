"""What `benchmarks.throughput` times: our hot paths and the same work by other libraries.

A contender is a function without arguments that prepares everything, warm-up included, and returns
a `Measure`. It runs in a process of its own; libraries are imported there and nowhere else.
"""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from darla.config import (
    AgentsConfig,
    Config,
    DQNConfig,
    OptimisationConfig,
    RayConfig,
    VAEConfig,
    VisionConfig,
)
from darla.rundir import RunDirectory

if TYPE_CHECKING:
    import torch

    from darla.perception import Perception
    from darla.vision.networks import VAE
    from darla.vision.training import Trainer

Precision = Literal["auto", "float32", "bfloat16"]
Measure = Callable[[float], float]
"""Works for about so many seconds and returns units of work per second."""
Contender = Callable[[], Measure]

SIZE = 64
OBJECTS = 20
BATCH = 100
PICTURES = 2_000
ELBO_STEPS = 40
WORKERS, ENVS_PER_WORKER = 2, 8
WARMUP = 2_000
EPSILON = 0.05
LATENTS, NEIGHBOURS = 32, 11


def rate(work: Callable[[], int], seconds: float) -> float:
    """Repeats `work`, which returns the units it did, for `seconds`; returns units per second."""
    began = now = time.perf_counter()
    done = 0
    while now - began < seconds:
        done += work()
        now = time.perf_counter()
    return done / (now - began)


# -- env -------------------------------------------------------------------------------------------


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

    rate(work, 0.5)
    return functools.partial(rate, work)


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

    rate(work, 0.5)
    return functools.partial(rate, work)


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

    rate(work, 0.5)
    return functools.partial(rate, work)


def miniworld_steps(objects: int = OBJECTS) -> Measure:
    """Whole steps of MiniWorld's PickupObjects, with random actions and resets."""
    environment = _miniworld(objects)
    rng = np.random.default_rng(0)

    def work() -> int:
        *_, terminated, truncated, _ = environment.step(int(rng.integers(5)))
        if terminated or truncated:
            environment.reset()
        return 1

    rate(work, 0.5)
    return functools.partial(rate, work)


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

    rate(work, 0.5)
    return functools.partial(rate, work)


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

    rate(work, 0.5)
    return functools.partial(rate, work)


# -- vision ----------------------------------------------------------------------------------------


def _pictures() -> torch.Tensor:
    """Coloured blocks, uint8 [PICTURES, SIZE, SIZE, 3]: speed does not depend on what they show."""
    import torch

    blocks = np.random.default_rng(0).integers(0, 256, (PICTURES, 8, 8, 3), np.uint8)
    return torch.from_numpy(blocks.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2))


def _vae(seed: int = 0) -> VAE:
    import torch

    from darla.vision.networks import VAE

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VAE(SIZE)


def _trainer(reconstruction: str, precision: Precision) -> Trainer:
    import torch

    from darla.vision.losses import DAEReconstruction, PixelReconstruction
    from darla.vision.networks import DAE
    from darla.vision.training import Trainer, VAEObjective

    term = PixelReconstruction() if reconstruction == "pixel" else DAEReconstruction(DAE(SIZE))
    defaults = VAEConfig()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return Trainer(
        VAEObjective(_vae(), term, defaults.beta, defaults.decoder),
        _pictures(),
        OptimisationConfig(images=10**9, batch=BATCH, learning_rate=1e-4),
        VisionConfig(precision=precision, parts=threads),
    )


def vae_images(reconstruction: str = "pixel", precision: Precision = "float32") -> Measure:
    """Images through training steps of our beta-VAE, exactly as `darla pretrain` takes them.

    Args:
        reconstruction: 'pixel' or 'dae'.
        precision: 'float32', 'bfloat16' or 'auto'.
    """
    trainer = _trainer(reconstruction, precision)

    def work() -> int:
        trainer.step()
        return BATCH

    for _ in range(3):
        work()
    return functools.partial(rate, work)


def _pythae_model() -> Any:
    from pythae.models import BetaVAE, BetaVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    vae = _vae()

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, pictures: torch.Tensor) -> ModelOutput:
            mean, log_variance = self.vae.encode(pictures)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, latents: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.vae.decode(latents)[0])

    config = BetaVAEConfig(
        input_dim=(3, SIZE, SIZE),
        latent_dim=vae.posterior.out_features // 2,
        reconstruction_loss="mse",
        beta=VAEConfig().beta,
    )
    return BetaVAE(config, encoder=Encoder(), decoder=Decoder())


def pythae_trainer_images() -> Measure:
    """Images through pythae's own trainer and loader, with our networks: what its user gets."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    pictures = (_pictures()[: 5 * BATCH].permute(0, 3, 1, 2).float() / 255.0).contiguous()
    trainer = BaseTrainer(
        _pythae_model(),
        BaseDataset(pictures, torch.zeros(len(pictures))),
        training_config=BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            no_cuda=True,
        ),
    )
    trainer.prepare_training()

    def work() -> int:
        trainer.train_step(epoch=1)
        return len(pictures)

    work()
    return functools.partial(rate, work)


def pythae_step_images() -> Measure:
    """Images through pythae's model alone: batches ready in memory, no loader, no trainer."""
    import torch

    pictures = (_pictures()[:BATCH].permute(0, 3, 1, 2).float() / 255.0).contiguous()
    model = _pythae_model().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-4)

    def work() -> int:
        optimiser.zero_grad()
        model({"data": pictures}).loss.backward()
        optimiser.step()
        return BATCH

    for _ in range(3):
        work()
    return functools.partial(rate, work)


def elbo_agreement() -> tuple[list[float], list[float]]:
    """Trains our beta-VAE and pythae's from equal weights on equal batches and equal noise.

    Returns:
        Losses per image of ours and of pythae's, in nats up to a constant, before each step.
    """
    import torch

    from darla.vision.evaluation import to_float
    from darla.vision.losses import PixelReconstruction
    from darla.vision.training import VAEObjective, make_optimiser

    pictures = _pictures()
    ours, theirs = VAEObjective(_vae(), PixelReconstruction(), VAEConfig().beta), _pythae_model()
    optimisation = OptimisationConfig(images=1, batch=BATCH, learning_rate=1e-4)
    our_optimiser = make_optimiser(ours.model, optimisation)
    their_optimiser = torch.optim.Adam(theirs.parameters(), optimisation.learning_rate)
    losses: tuple[list[float], list[float]] = ([], [])
    for step in range(ELBO_STEPS):
        start = step * BATCH % PICTURES
        batch = to_float(pictures[start : start + BATCH])
        noise = ours.draw(BATCH, SIZE, torch.Generator().manual_seed(step))
        our_loss, _ = ours.loss(batch, *noise)
        torch.manual_seed(step)  # pythae draws from the global generator
        their_loss = theirs({"data": batch}).loss
        for loss, optimiser in ((our_loss, our_optimiser), (their_loss, their_optimiser)):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses[0].append(our_loss.item())
        losses[1].append(their_loss.item())
    return losses


# -- agents ----------------------------------------------------------------------------------------


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
    trainer = TRAINERS[algorithm](config, cell, pool, _perception(config), sources)

    def work() -> int:
        before = trainer.decisions
        trainer.launch()
        trainer.learn()
        trainer.receive()
        return trainer.decisions - before

    while trainer.decisions < 2 * WARMUP:
        work()
    measure = functools.partial(rate, work)
    measure.cluster = stack  # type: ignore[attr-defined]  # lives as long as the measure
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
    measure = functools.partial(rate, work)
    measure.cluster = stack  # type: ignore[attr-defined]  # lives as long as the measure
    return measure


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

    rate(work, 0.5)
    return functools.partial(rate, work)


# -- ec --------------------------------------------------------------------------------------------


def _memories(entries: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys with their values, and queries near some of them."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((entries, LATENTS)).astype(np.float32)
    noise = 0.3 * rng.standard_normal((batch, LATENTS)).astype(np.float32)
    queries = keys[rng.integers(entries, size=batch)] + noise
    return keys, rng.standard_normal(entries).astype(np.float32), queries


def ec_lookups(entries: int, batch: int) -> Measure:
    """Values looked up in a table of episodic control.

    Args:
        entries: Entries of the table.
        batch: Keys that are looked up at once.
    """
    from agents.episodic_control import Table, fingerprints

    keys, values, queries = _memories(entries, batch)
    table = Table(LATENTS, entries)
    table.write(keys, fingerprints(keys), values)
    marks = fingerprints(queries)

    def work() -> int:
        table.look_up(queries, marks, NEIGHBOURS)
        return batch

    rate(work, 0.5)
    return functools.partial(rate, work)


def faiss_lookups(entries: int, batch: int) -> Measure:
    """The same means by FAISS alone, with its index for exact search."""
    import faiss

    keys, values, queries = _memories(entries, batch)
    index = faiss.IndexFlatL2(LATENTS)
    index.add(keys)

    def work() -> int:
        values[index.search(queries, NEIGHBOURS)[1]].mean(1)
        return batch

    rate(work, 0.5)
    return functools.partial(rate, work)
