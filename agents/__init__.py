"""Learning to act: reinforcement-learning algorithms on a perception, with Ray actors as workers."""
