"""`gim-audio featurize`."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, cast

import click

from gim_audio.cli.options import (
    COUNT,
    EXPERIMENT,
    JOBS,
    MODULE,
    OUTPUT,
    PRECISION_HELP,
    PRECISIONS,
    RATE,
    command,
)
from gim_audio.cli.progress import Update, progress, say

if TYPE_CHECKING:
    from gim_audio.featurize import EncodingPrecision, ModuleName

SHOWN = 5
"""The number of notes that are shown one by one."""


class Job(click.ParamType[tuple[int, int]]):
    """`3/16`: the third of sixteen."""

    name = "N/M"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return two numbers."""
        from gim_audio.config import count_of

        number, count = (count_of(part) for part in (*str(value).split("/"), "", "")[:2])
        if number is None or not count or str(value).count("/") > 1:
            self.fail(f"{value} is not of the form 3/16, the third of sixteen", param, ctx)
        if not 1 <= number <= count:
            self.fail(f"{value}: jobs are numbered from 1/{count} to {count}/{count}", param, ctx)
        return number, count


@command(
    epilog=(
        "Example: gim-audio featurize exp/gim speech.flac features/    Example: gim-audio featurize"
        " mfcc data/test ark,scp:mfcc/feats.ark,mfcc/feats.scp    Example: sox talk.mp3 -t wav - |"
        " gim-audio featurize exp/gim - ark:- | copy-feats ark:- ark,t:-"
    ),
)
@click.argument("exp", type=EXPERIMENT)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.argument("output", type=OUTPUT)
@click.option(
    "--module",
    "modules",
    type=MODULE,
    multiple=True,
    help=(
        "A number from 1, -1 for the last, or a name such as gru; or several.  [default: the last]"
    ),
)
@click.option(
    "--pool", metavar="HOW", help="mean, mean+std (one vector an utterance), stack:K, subsample:K."
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["npy", "pt", "safetensors"]),
    default="npy",
    show_default=True,
    help="The format of the files in a folder.",
)
@click.option(
    "--compress", is_flag=True, help="A Kaldi archive, as Kaldi does: a byte a number, not exact."
)
@click.option(
    "--pcm", type=RATE, metavar="HZ", help="INPUT - is 16-bit mono samples without a header."
)
@click.option(
    "--check", type=COUNT, metavar="N", help="Featurize N again, each alone, on the CPU in fp32."
)
@click.option("--nj", default=1, show_default=True, type=JOBS, help="Processes; each takes a GPU.")
@click.option("--job", type=Job(), metavar="N/M", help="Only this share; JOB in OUTPUT becomes N.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option(
    "--precision",
    type=PRECISIONS,
    default="fp32",
    show_default=True,
    help=f"{PRECISION_HELP} Features in bf16 differ in the third digit.",
)
@click.option("--allow-pipes", is_flag=True, help="Run the commands in wav.scp.")
def featurize(
    exp: str,
    inputs: tuple[str, ...],
    output: str,
    modules: "tuple[ModuleName, ...]",
    pool: str | None,
    dtype: Literal["float32", "float16"],
    form: Literal["npy", "pt", "safetensors"],
    compress: bool,
    pcm: int | None,
    check: int | None,
    nj: int,
    job: tuple[int, int] | None,
    device: str,
    precision: "EncodingPrecision",
    allow_pipes: bool,
) -> None:
    """Write features of audio.

    EXP: an experiment, a checkpoint, gim-small, or mfcc, mfcc13, fbank, random.

    mfcc+cmvn is mfcc less the mean of each utterance (mfcc13 and fbank likewise).

    INPUT: audio files, folders, a data directory, scp:FILE, ark:FILE (WAVs), or - (one recording on
    standard input).

    OUTPUT: a new folder of UTTERANCE.npy; ark,scp:FILE.ark,FILE.scp; ark:- (standard output);
    ark,t:FILE; FILE.h5, FILE.parquet or FILE.arrow. With it: when each frame is, and what was
    computed.

    The features do not depend on the number of files, on --nj or on interruptions: the same command
    continues a run.
    """
    from gim_audio.devices import decide_precision, keep_freed_memory, pick_device
    from gim_audio.errors import AudioError, ConfigError
    from gim_audio.featurize import (
        BASELINES,
        FRAMES,
        Pooling,
        Target,
        Task,
        gather,
        numbered,
        one_by_one,
        pipe,
        share,
        standard_input,
        wave_archive,
    )
    from gim_audio.featurize import featurize as run

    pooling = Pooling.parse(pool) if pool else FRAMES
    where = pick_device(device)
    shared = nj > 1 and device in {"auto", "cuda"}  # each process has a GPU of its own
    # Once for all processes, and for the run that continues.
    if precision == "auto" and exp not in BASELINES:
        precision = cast("EncodingPrecision", decide_precision(precision, where))
    task = Task(
        exp, modules, pooling, dtype, where.type if shared else str(where), precision, allow_pipes
    )
    target = Target(numbered(output, "JOB", job[0]) if job else output, form, compress)
    keep_freed_memory()
    streams = inputs[0] == "-" or inputs[0].startswith("ark:")
    if streams and (len(inputs) > 1 or job or nj > 1 or check):
        raise ConfigError(
            f"{inputs[0]} is read once, from front to back: one INPUT, no --job, --nj or --check"
        )
    if pcm and inputs[0] != "-":
        raise ConfigError(f"--pcm {pcm}: is for INPUT -")
    if job and target.specifier == output:
        raise ConfigError(
            f"--job {job[0]}/{job[1]}: put JOB into OUTPUT, where the number goes: {output}"
        )
    with progress("featurizing", None) as update:
        show = _in_seconds(update)
        if streams:
            source = (
                standard_input(pcm)
                if inputs[0] == "-"
                else wave_archive(inputs[0].removeprefix("ark:"))
            )
            report = pipe(task, source, target, show)
        else:
            data = gather(inputs)
            data = share(data, *job) if job else data
            if output in {"ark:-", "ark,t:-"}:
                if nj > 1 or check:
                    raise ConfigError(
                        f"{output}: takes one utterance after another: no --nj or --check"
                    )
                report = pipe(task, one_by_one(data, allow_pipes=allow_pipes), target, show)
            else:
                report = run(task, data, target, nj=nj, check=check or 0, progress=show)
    for name, note in list(report.notes.items())[:SHOWN]:
        say(f"note: {name} {note}")
    if (more := len(report.notes) - SHOWN) > 0:
        say(f"note: {more} more utterances are silent or clipped")
    for reason in report.failed.values():
        say(f"failed: {reason}")
    if check:
        say(
            f"check: largest difference {report.check[0]:.2g}, of values up to"
            f" {report.check[1]:.3g}"
            if report.check
            else "check: all utterances are longer than 5 minutes, none was checked"
        )
    written = report.outputs[0] if len(report.outputs) == 1 else target.specifier
    if report.failed:
        count = len(report.failed)
        raise AudioError(
            f"{count} of {count + report.good} utterances failed, {report.good} are in {written}"
        )
    say(f"{written}: {report.good} utterances")


def _in_seconds(update: Update) -> Callable[[float, float | None], None]:
    """Return a display of progress in hours of audio and times real time."""
    started: tuple[float, float] | None = None

    def show(done: float, total: float | None) -> None:
        nonlocal started
        now = time.monotonic()
        started = started or (now, done)
        rate = (done - started[1]) / max(1e-9, now - started[0])
        update(done, f"{done / 3600:.2f} hours, {rate:.0f} times real time", total)

    return show
