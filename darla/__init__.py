"""DARLA: learn to see, learn to act, transfer zero-shot."""

__version__ = "0.1.0"
