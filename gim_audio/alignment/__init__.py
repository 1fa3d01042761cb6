"""Phones and their times from transcripts, by forced alignment.

A measure says how well two alignments agree.
"""

from gim_audio.alignment.agreement import TOLERANCES, Agreement, agreement
from gim_audio.alignment.run import align

__all__ = ["TOLERANCES", "Agreement", "agreement", "align"]
