"""The devices that run a model, their precision and their memory."""

import ctypes
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gim_audio.config import Precision
from gim_audio.errors import ConfigError

__all__ = [
    "arithmetic",
    "bf16_speed",
    "decide_precision",
    "free_bytes",
    "give_back_freed_memory",
    "keep_freed_memory",
    "peak_bytes",
    "pick_device",
    "read_later",
    "send",
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


@contextmanager
def arithmetic(*, tf32: bool) -> Iterator[None]:
    """Let GPUs round products to TF32, or not, and compute the same bits each time, in a block.

    Torch rounds convolutions by default, and may choose algorithms that add up in another order
    each time.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, convolutions.deterministic
    products.allow_tf32 = convolutions.allow_tf32 = tf32
    convolutions.deterministic = True
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32, convolutions.deterministic = before


def decide_precision(name: Precision, device: torch.device) -> Literal["fp32", "tf32", "bf16"]:
    """Decide on a precision.

    Args:
        name: The precision that was asked for: see `TrainingConfig.precision`.
        device: The device that computes.

    Returns:
        The precision to compute in.

    Raises:
        ConfigError: `tf32` on a device that is no GPU, or `bf16` on one that computes it more
            slowly than fp32.
    """
    if name == "tf32" and device.type != "cuda":
        raise ConfigError(
            f"precision tf32 is for NVIDIA GPUs, not for {device.type}: take fp32 or bf16"
        )
    if name == "bf16-emulated":
        return "bf16"
    if name == "auto":
        return "bf16" if bf16_speed(device) > 1 else "fp32"
    if name == "bf16" and (speed := bf16_speed(device)) <= 1:
        what, slow = f"{device.type} device", ""
        if device.type == "cpu":
            what, slow = "processor", f" and takes {1 / speed:.1f} times as long as in fp32"
        raise ConfigError(
            f"precision bf16: this {what} has no bf16 arithmetic{slow}: "
            "start with fp32 or auto; bf16-emulated computes in bf16 all the same"
        )
    return name


@functools.cache
def bf16_speed(device: torch.device) -> float:
    """Return how many times as fast as in fp32 a matrix product is in bf16.

    On a CPU a product is timed: where the instructions exist the ratio is 2 to 6, where oneDNN has
    to emulate them 0.4 (AVX-512 without BF16), and where torch does, 0.01 (AVX2).
    """
    if device.type != "cpu":  # not timed: Ampere brought bf16
        return (
            2.0
            if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
            else 0.5
        )
    full = torch.ones(512, 512)
    half = full.bfloat16()
    return _seconds(lambda: full @ full) / _seconds(lambda: half @ half)


def _seconds(product: Callable[[], Tensor]) -> float:
    """Return the least of a few times, after one that prepares."""
    product()
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        product()
        taken.append(time.perf_counter() - started)
    return min(taken)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor to a device.

    A GPU takes pinned memory of the CPU when it comes to it, and nobody waits.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def read_later(tensor: Tensor) -> Callable[[], list[float]]:
    """Return a function that returns the numbers of a tensor, and waits for them if it has to.

    A GPU sends them when it has come so far. Shape: `(n,)`.
    """
    if tensor.device.type != "cuda":
        return tensor.tolist
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
    sent.record()

    def read() -> list[float]:
        sent.synchronize()
        numbers: list[float] = host.tolist()
        return numbers

    return read


def free_bytes(device: torch.device) -> int:
    """Memory that a GPU has left; 0 where torch cannot tell."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def peak_bytes(device: torch.device) -> int:
    """Most memory that this process has held.

    Of a GPU what torch allocated, else what was resident (0: unknown).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        # getrusage would count the parent's.
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return 0


def give_back_freed_memory() -> None:
    """Give back what was freed before, such as the weights of modules that do not run.

    See `keep_freed_memory`.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed.

    Asking the kernel again for each activation costs a step up to half its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # <malloc.h>
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_arena_max, 1)  # what one thread freed can serve another
