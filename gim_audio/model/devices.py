"""Where a model runs, and with what memory."""

import ctypes
import os
from pathlib import Path

import torch
from torch import Tensor

from gim_audio.errors import ConfigError

__all__ = [
    "free_bytes",
    "give_back_freed_memory",
    "keep_freed_memory",
    "peak_bytes",
    "pick_device",
    "send",
    "set_precision",
]


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one; under torchrun, the one of this process.

    Raises:
        ConfigError: the device is unknown or not here.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name} cannot be used here ({reason})") from error
    return device


def set_precision(name: str, device: torch.device) -> None:
    """Let a GPU round products to TF32 if that was asked for, and only then (torch lets convolutions by itself).

    Raises:
        ConfigError: `tf32` on another device.
    """
    if name == "tf32" and device.type != "cuda":
        raise ConfigError(f"precision tf32 is for NVIDIA GPUs, not for {device.type}: take fp32 or bf16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """From the CPU to a device. A GPU takes pinned memory when it comes to it, and nobody waits."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def free_bytes(device: torch.device) -> int:
    """Memory that a GPU has left; 0 where torch cannot tell."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def peak_bytes(device: torch.device) -> int:
    """Most memory that this process has held: of a GPU what torch allocated, else what was resident (0: unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])  # getrusage would count the parent's
    except (OSError, IndexError):
        return 0


def give_back_freed_memory() -> None:
    """What was freed before, such as the weights of modules that do not run: see `keep_freed_memory`."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: asking the kernel anew for each activation costs a step up to half its time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # <malloc.h>
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_arena_max, 1)  # what one thread freed is there for another
