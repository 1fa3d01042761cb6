"""Where a model runs, and with what memory."""

import ctypes

import torch

from gim_audio.errors import ConfigError

__all__ = ["keep_freed_memory", "pick_device"]


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        ConfigError: the device is unknown or not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name} cannot be used here ({reason})") from error
    return device


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: asking the kernel anew for each activation costs a step up to half its time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        m_trim_threshold, m_mmap_max = -1, -4  # <malloc.h>
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
