"""Learning to act: reinforcement learning on a perception, with Ray actors as workers."""
