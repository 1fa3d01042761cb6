"""Greedy training: the loop, its state, and a watch over its health."""

from gim_audio.training.run import train

__all__ = ["train"]
