"""RLlib's PPO on our frozen vision: `python docs/examples/rllib_ppo.py RUN [ITERATIONS]`.

RUN is a run directory with a trained vision; ITERATIONS of 1024 decisions are 200 unless given.
"""

import sys
from pathlib import Path

from ray.rllib.algorithms.ppo import PPOConfig

from agents.rllib import FrozenVision
from darla.rundir import RunDirectory
from envs.registry import suite_of

path, iterations = Path(sys.argv[1]).resolve(), int([*sys.argv, 200][2])
run = RunDirectory.load(path).config
config = (
    PPOConfig()
    .environment(
        "envs:darla/Lab-v0",  # importing `envs` registers the id, on every runner
        env_config={
            "domain": suite_of(run).d_s,
            "size": run.environment.size,
            "frame_skip": run.environment.frame_skip,
        },
    )
    .env_runners(
        num_env_runners=1,
        num_envs_per_env_runner=8,
        env_to_module_connector=lambda env, spaces, device: FrozenVision(path),
    )
    .training(train_batch_size_per_learner=1024, minibatch_size=256, gamma=0.95)
)
algorithm = config.build_algo()
for _ in range(iterations):
    result = algorithm.train()
    print(result["env_runners"].get("episode_return_mean", "no episode has ended yet"))
algorithm.stop()
