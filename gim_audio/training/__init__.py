"""Greedy training: runs, their checkpoints, and a watch over their health."""

from gim_audio.training.run import train

__all__ = ["train"]
