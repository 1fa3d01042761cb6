"""Processes that share a job, and go when the one that started them goes."""

import ctypes
import signal
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from gim_audio.errors import GimAudioError

__all__ = ["each"]

Job = TypeVar("Job", bound=tuple[Any, ...])
Result = TypeVar("Result")

_PDEATHSIG = 1  # <sys/prctl.h>


def each(
    function: Callable[..., Result], jobs: Iterable[Job], count: int
) -> Generator[tuple[Job, Result]]:
    """Call a function with each job's arguments, in several processes.

    Yield each job and its result as soon as it is done.

    One process is this one: a script that asks for no more needs no guard of its main part. When
    the iterator is closed or left by an error, what has begun is finished and nothing else is:
    close it.

    Args:
        function: Something that can be pickled by name.
        jobs: The arguments of each call.
        count: The number of processes.

    Raises:
        GimAudioError: A process was killed.
    """
    if count == 1:
        for job in jobs:
            yield job, function(*job)
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin) as pool:
        try:
            futures = {pool.submit(function, *job): job for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise GimAudioError(
                "one of the processes was killed, for want of memory perhaps: the same command goes"
                " on where it was"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)  # and its death is ours
