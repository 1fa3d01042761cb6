"""Kaldi's formats: data directories in, feature archives out."""

from gim_audio.kaldi.archive import parse_wspecifier, read_scp
from gim_audio.kaldi.check import check
from gim_audio.kaldi.combine import combine
from gim_audio.kaldi.datadir import DataDir
from gim_audio.kaldi.fix import fix
from gim_audio.kaldi.recordings import identity, locate, read_wave
from gim_audio.kaldi.split import split
from gim_audio.kaldi.tables import (
    Segment,
    read_table,
    seconds_of,
    speakers_to_utterances,
    write_table,
)

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
    "speakers_to_utterances",
    "split",
    "write_table",
]
