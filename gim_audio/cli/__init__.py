"""The command line: each command is options and one call; errors are one line and exit status 2."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from gim_audio.errors import GimAudioError, is_out_of_memory

__all__ = ["main"]

LONGEST = 600
"""Letters of an error."""

COMMANDS = {
    "data": "gim_audio.cli.data:data",
    "pack": "gim_audio.cli.data:pack",
    "train": "gim_audio.cli.train:train",
    "featurize": "gim_audio.cli.featurize:featurize",
    "probe": "gim_audio.cli.probe:probe",
    "evaluate": "gim_audio.cli.evaluate:evaluate",
    "abx": "gim_audio.cli.abx:abx",
    "import": "gim_audio.cli.exchange:import_",
    "export": "gim_audio.cli.exchange:export",
    "info": "gim_audio.cli.info:info",
    "draw": "gim_audio.cli.draw:draw",
    "report": "gim_audio.cli.report:report",
}


class LazyGroup(click.Group):
    """Imports a command's file only when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order in which people use them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101
        return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="gim-audio")
def cli() -> None:
    """Speech representations by greedy, gradient-isolated learning, from audio to results.

    \b
    gim-audio data synthetic data/toy --hours 0.1 --speakers 4
    gim-audio pack data/toy packed/toy
    gim-audio train conf.yaml --data packed/toy --out exp/toy
    gim-audio featurize exp/toy speech.wav features/
    """  # noqa: D301


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: what a person can put right is one line on standard error and status 2."""
    try:
        cli.main(arguments, prog_name="gim-audio", standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "gim-audio"
        _fail(f"{error.format_message().rstrip('.')}: see `{command} --help`")
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush
        sys.exit(2)
    except (GimAudioError, click.ClickException) as error:
        _fail(str(error))
        sys.exit(2)
    except UnicodeError as error:
        _fail(f"a file or a name that should be text is not UTF-8: {error}")
        sys.exit(2)
    except OSError as error:
        _fail(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or "it was refused"
        _fail(f"the memory is not enough ({reason}): take smaller batches, crops or models")
        sys.exit(2)


def _fail(message: str) -> None:
    from gim_audio.cli.progress import say

    line = " ".join(message.split())
    half = LONGEST // 2  # what is wrong stands first, the remedy last
    say(
        f"gim-audio: {line}"
        if len(line) <= LONGEST
        else f"gim-audio: {line[:half]} … {line[-half:]}"
    )
