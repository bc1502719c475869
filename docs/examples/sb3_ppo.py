"""Stable-Baselines3's PPO on our frozen vision: `python docs/examples/sb3_ppo.py RUN [DECISIONS]`.

RUN is a run directory with a trained vision; DECISIONS are 200000 unless given.
"""

import sys

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from agents.sb3 import LatentVecEnv
from agents.wrappers import perception_from_run
from darla.rundir import RunDirectory
from envs import make_vector
from envs.registry import suite_of

path, decisions = sys.argv[1], int([*sys.argv, 200_000][2])
config = RunDirectory.load(path).config
sources = suite_of(config).d_s
vector = make_vector(config.environment, sources, num_envs=8, seed=0)
environments = VecMonitor(LatentVecEnv(vector, perception_from_run(path)))
model = PPO(
    "MlpPolicy", environments, n_steps=128, batch_size=256, gamma=0.95, device="cpu", verbose=1
)
model.learn(decisions)
