"""`gim-audio featurize`."""

from typing import Literal

import click

from gim_audio.cli.progress import progress, say


@click.command(
    epilog="Example: gim-audio featurize exp/gim speech.flac features/    "
    "Example: gim-audio featurize mfcc data/test ark,scp:mfcc/feats.ark,mfcc/feats.scp"
)
@click.argument("exp")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.argument("output")
@click.option("--module", type=click.IntRange(1), help="From 1; the last one by default.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the convolutions; bf16 is faster where the processor has it, and differs in the third digit.",
)
@click.option("--allow-pipes", is_flag=True, help="Run the commands in wav.scp.")
def featurize(
    exp: str,
    inputs: tuple[str, ...],
    output: str,
    module: int | None,
    device: str,
    precision: Literal["fp32", "bf16"],
    allow_pipes: bool,
) -> None:
    """Write features of audio. EXP: an experiment, a checkpoint, or mfcc, mfcc13, fbank, random.

    INPUT: audio files, folders, a data directory, or scp:FILE. OUTPUT: a new folder of UTTERANCE.npy, or
    ark,scp:FILE.ark,FILE.scp. Beside them: utt2num_frames, frame_shift, frame_offset and features.json, which
    says what was computed and when each frame is.
    """
    from gim_audio.errors import AudioError
    from gim_audio.featurize import check_output, gather, load_encoder
    from gim_audio.featurize import featurize as run
    from gim_audio.model.devices import keep_freed_memory, pick_device

    check_output(output)
    data = gather(inputs)
    keep_freed_memory()
    encoder = load_encoder(exp, pick_device(device), precision)
    with progress("featurizing", len(data.utterances)) as update:
        failed = run(encoder, data, output, module=module, allow_pipes=allow_pipes, progress=update)
    for reason in failed.values():
        say(f"failed: {reason}")
    good = len(data.utterances) - len(failed)
    if failed:
        raise AudioError(f"{len(failed)} of {len(data.utterances)} utterances failed, {good} are in {output}")
    say(f"{output}: {good} utterances")
