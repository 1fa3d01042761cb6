"""Signals that ask a run to save, or to stop: it does so after a step."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

__all__ = ["Interrupts"]


class Interrupts:
    """Within its block, Ctrl-C and SIGTERM ask to save and stop, SIGUSR1 to save and continue.

    A second Ctrl-C stops at once (torchrun repeats the first one within the same second).

    Attributes:
        stop: the signal that asked to stop, or None.
        save: True where a checkpoint was asked for.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.save = False
        self._since = 0.0

    def __enter__(self) -> Self:
        # Only the main thread may handle signals.
        if threading.current_thread() is threading.main_thread():
            asked = {
                signal.SIGINT: self._stop,
                signal.SIGTERM: self._stop,
                signal.SIGUSR1: self._save,
            }
            self._before = {
                number: signal.signal(number, handler) for number, handler in asked.items()
            }
        else:
            self._before = {}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop is not None and time.monotonic() - self._since > 1:
            self.leave()
        self.stop, self._since = number, time.monotonic()

    def _save(self, _number: int, _frame: FrameType | None) -> None:
        self.save = True

    def leave_if_asked(self) -> None:
        """Do what `leave` does, if somebody has asked for it."""
        if self.stop is not None:
            self.leave()

    def leave(self) -> None:
        """Stop as the signal would have.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM, with the usual status.
        """
        if self.stop == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
