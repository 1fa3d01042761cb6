"""`gim-audio probe`."""

from pathlib import Path
from typing import Any

import click

from gim_audio.cli.options import PATH, SHIFT, command
from gim_audio.cli.tasks import SHIFT_HELP, TASKS, ask, shared_options, show


@command(
    epilog=(
        "Example: gim-audio probe phones exp/gim --train packed/train --test packed/test --out"
        " phones.json"
    ),
)
@click.argument("task", type=click.Choice(TASKS))
@shared_options
@click.option("--out", required=True, type=PATH, help="The results, as JSON.")
@click.option(
    "--protocol",
    type=click.Choice(["ref", "strict"]),
    default="strict",
    show_default=True,
    help=(
        "The protocol of phones and speakers: ref as published, strict logistic regression to"
        " convergence."
    ),
)
@click.option("--shift", default=1, show_default=True, type=SHIFT, help=SHIFT_HELP)
def probe(task: str, exp: str, out: Path, protocol: str, shift: int, **settings: Any) -> None:
    """Evaluate frozen features on one task.

    \b
    phones        a linear classifier of frames
    speakers      a linear classifier of utterances
    verification  equal error rate of mean features' cosines with enrolled speakers (TRAIN)
    units         how much k-means clusters say about phones
    per           phone error rate of a CTC network, a convolution of 8 frames, on the last module
    cka           how alike modules are: linear centred kernel alignment
    slowness      autocorrelation over time

    EXP: an experiment, a checkpoint, gim-small, or a baseline: mfcc, mfcc13 (without deltas), fbank
    (log mel energies), also with +cmvn (less the utterance's mean) or +cmvn-speaker; random.
    Intervals resample speakers. `gim-audio evaluate` runs several tasks on one encoding.
    """  # noqa: D301
    from gim_audio.files import absent
    from gim_audio.probes import write_result

    absent(out)
    for result, encoder, train, test, seconds in ask(exp, [task], [protocol], [shift], **settings):
        write_result(out, result, exp, encoder, train, test, seconds)
        show(exp, result)
