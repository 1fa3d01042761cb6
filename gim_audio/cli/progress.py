"""A progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click

__all__ = ["Update", "progress", "say"]

LINES_EVERY = 30.0
"""Seconds between two plain lines."""


class Update(Protocol):
    """Takes how much is done, and what to show beside it."""

    def __call__(self, done: float, detail: str = "", total: float | None = None) -> None:
        """Show it; `total` where it became known only now."""


def say(message: str) -> None:
    """One line for the user, on standard error: standard output belongs to results."""
    # Names of files may not be UTF-8.
    click.echo(message.encode(errors="backslashreplace").decode(), err=True)


@contextmanager
def progress(what: str, total: float | None) -> Iterator[Update]:
    """Show how far `what` is; `total` may be unknown."""
    if not sys.stderr.isatty():
        yield _PlainLines(what, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, detail="")
        yield lambda done, detail="", total=total: bar.update(
            task, completed=done, detail=detail, total=total
        )


class _PlainLines:
    """A line now and then, none before the first is due."""

    def __init__(self, what: str, total: float | None) -> None:
        self.what, self.total = what, total
        self.last = time.monotonic()

    def __call__(self, done: float, detail: str = "", total: float | None = None) -> None:
        self.total = total or self.total
        now = time.monotonic()
        if now - self.last >= LINES_EVERY:
            share = f" {done / self.total:.0%}" if self.total else f" {done:.0f}"
            say(f"{self.what}{share} {detail}".rstrip())
            self.last = now
