"""Processes that share a job, and go when the one that started them goes."""

import ctypes
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

from gim_audio.errors import GimAudioError

__all__ = ["workers"]

_PDEATHSIG = 1  # <sys/prctl.h>


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Some processes. When the block is left by an error, what has begun is finished and nothing else is.

    Raises:
        GimAudioError: one of them was killed.
    """
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise GimAudioError(
                "one of the processes was killed, for want of memory perhaps: the same command goes on where it was"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)  # and its death is ours
