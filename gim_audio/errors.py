"""Errors that a user can put right: each is one line that names the file and the remedy."""

__all__ = [
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GimAudioError",
    "is_out_of_memory",
]


class GimAudioError(Exception):
    """Root of all errors that the command line prints in one line, with exit status 2."""


class AudioError(GimAudioError):
    """A recording that cannot be decoded, or is too short, cut short or not a number."""


class DataError(GimAudioError):
    """A data directory, alignment or list that contradicts itself or the audio."""


class ConfigError(GimAudioError):
    """A setting that is unknown, of the wrong type or impossible."""


class CheckpointError(GimAudioError):
    """A checkpoint or experiment folder that is missing, damaged or does not fit."""


MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Storage size calculation overflowed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out.

    Python, NumPy, torch and CUDA each have their own words for it.
    """
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(m in str(error) for m in MEMORY)
    )
