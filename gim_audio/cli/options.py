"""Types of options and arguments: numbers with bounds, paths in UTF-8.

Commands refuse an option that is given twice.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import click

__all__ = [
    "COUNT",
    "EXPERIMENT",
    "JOBS",
    "MODULE",
    "OUTPUT",
    "PATH",
    "PRECISIONS",
    "PRECISION_HELP",
    "RATE",
    "SEED",
    "SHIFT",
    "Finite",
    "Group",
    "command",
]

COUNT = click.IntRange(1, 2**31 - 1)
JOBS = click.IntRange(1, 1024)
RATE = click.IntRange(1, 2_000_000)
SEED = click.IntRange(0, 2**32 - 1)
SHIFT = click.IntRange(-1000, 1000)

PRECISIONS = click.Choice(["auto", "fp32", "bf16", "bf16-emulated"])
PRECISION_HELP = (
    "Precision of a network's products. auto: bf16 where the processor or GPU computes it faster"
    " than fp32. bf16 is refused where it is slower, unless it is called bf16-emulated."
)


class _Utf8(click.ParamType[Any]):
    """A name in UTF-8.

    Other names can be opened, but not written into a table, a configuration or a report.
    """

    def __init__(self, name: str, kind: type) -> None:
        self.name, self._kind = name, kind

    def convert(self, value: object, param: Any, ctx: Any) -> Any:  # noqa: ARG002
        """Return the name as the kind that was asked for."""
        try:
            str(value).encode()
        except UnicodeEncodeError as error:
            shown = str(value).encode(errors="backslashreplace").decode()
            raise click.ClickException(
                f"{shown}: a name that is not UTF-8: choose another"
            ) from error
        return self._kind(value)


class _Module(click.ParamType[Any]):
    """A module: its number from 1, from the end where negative, or its name."""

    name = "module"

    def convert(self, value: object, param: Any, ctx: Any) -> int | str:  # noqa: ARG002
        """Return the number, or the name as it is: only a model knows its names."""
        from gim_audio.config import count_of

        text = str(value)
        number = count_of(text.removeprefix("-"))
        return text if number is None else -number if text.startswith("-") else number


MODULE = _Module()
PATH = _Utf8("path", Path)
EXPERIMENT = _Utf8("experiment", str)
OUTPUT = _Utf8("output", str)


class Finite(click.FloatRange):
    """A range that neither infinity nor what is no number falls into, though they compare so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number", param, ctx)
        return found


class Command(click.Command):
    """Refuses an option that is given twice, where click would take the last without a word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command`."""
        given = self.make_parser(ctx).parse_args(list(args))[2]
        for option in given:
            if (
                isinstance(option, click.Option)
                and not option.multiple
                and (times := given.count(option)) > 1
            ):
                raise click.UsageError(
                    f"{option.opts[-1]} is given {times} times: once is enough", ctx
                )
        return super().parse_args(ctx, args)


command = partial(click.command, cls=Command)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
