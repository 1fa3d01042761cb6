"""`gim-audio evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gim_audio.cli.options import (
    PATH,
    SHIFT,
    command,
)
from gim_audio.cli.progress import say
from gim_audio.cli.tasks import SHIFT_HELP, TASKS, ask, shared_options, show


@command(
    epilog=(
        "Example: gim-audio evaluate exp/gim --train packed/train --test packed/test --out"
        " exp/gim/results/gim"
    ),
)
@shared_options
@click.option("--out", required=True, type=PATH, help="A folder, with one JSON file a result.")
@click.option(
    "--tasks",
    default="phones,speakers",
    show_default=True,
    help=f"Separated by commas, of {', '.join(TASKS)}.",
)
@click.option(
    "--protocols",
    default="strict,ref",
    show_default=True,
    help="The protocols of phones and speakers.",
)
@click.option(
    "--shifts",
    default="1",
    show_default=True,
    help=f"Of the labels, separated by commas. {SHIFT_HELP}",
)
@click.option(
    "--speaker-train",
    type=PATH,
    help="Training data of speakers and verification.  [default: TRAIN]",
)
@click.option("--speaker-test", type=PATH, help="The same.  [default: TEST]")
def evaluate(
    exp: str,
    out: Path,
    tasks: str,
    protocols: str,
    shifts: str,
    speaker_train: Path | None,
    speaker_test: Path | None,
    **settings: Any,
) -> None:
    """Evaluate frozen features on several tasks, from one encoding of the audio.

    See `gim-audio probe`.

    EXP: an experiment, a checkpoint, gim-small, or a baseline: mfcc, mfcc13 (without deltas), fbank
    (log mel energies), also with +cmvn (less the utterance's mean) or +cmvn-speaker; random.
    """
    from gim_audio.files import absent, new_folder
    from gim_audio.probes import write_result

    absent(out)
    asked = _listed("--tasks", tasks, TASKS), _listed("--protocols", protocols, ("strict", "ref"))
    try:
        moved = [SHIFT(shift) for shift in shifts.split(",")]
    except click.BadParameter as error:
        raise click.UsageError(
            f"--shifts {shifts}: whole numbers from -1000 to 1000, separated by commas"
        ) from error
    with new_folder(out) as folder:
        for result, encoder, train, test, seconds in ask(
            exp, *asked, moved, speaker_train=speaker_train, speaker_test=speaker_test, **settings
        ):
            shift = (
                f"-shift{result.settings['shift']}"
                if len(moved) > 1 and "shift" in result.settings
                else ""
            )
            file = folder / f"{result.task}-{result.protocol}{shift}.json"
            write_result(file, result, exp, encoder, train, test, seconds)
            show(exp, result)
    say(f"wrote {out}")


def _listed(option: str, given: str, known: Sequence[str]) -> list[str]:
    names = given.split(",")
    for name in names:
        if name not in known:
            raise click.UsageError(f"{option} {given}: {name} is none of {', '.join(known)}")
    return names
