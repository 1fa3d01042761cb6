"""Kaldi's formats: data directories in, feature archives out."""

from gim_audio.kaldi.archive import parse_wspecifier, read_scp
from gim_audio.kaldi.check import check, fix
from gim_audio.kaldi.combine import combine
from gim_audio.kaldi.datadir import DataDir, Segment, identity, locate, read_table, read_wave, seconds_of, write_table
from gim_audio.kaldi.split import split

__all__ = [
    "DataDir",
    "Segment",
    "check",
    "combine",
    "fix",
    "identity",
    "locate",
    "parse_wspecifier",
    "read_scp",
    "read_table",
    "read_wave",
    "seconds_of",
    "split",
    "write_table",
]
