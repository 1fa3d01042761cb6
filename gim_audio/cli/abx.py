"""`gim-audio abx`."""

from pathlib import Path
from typing import Any

import click

from gim_audio.cli.options import COUNT, EXPERIMENT, PATH, SEED, command
from gim_audio.cli.progress import progress, say
from gim_audio.cli.tasks import alignments, chosen


@command(epilog="Example: gim-audio abx exp/gim packed/test --out abx.json")
@click.argument("exp", type=EXPERIMENT)
@click.argument("path", metavar="DATA", type=PATH)
@click.option("--out", required=True, type=PATH, help="The results, as JSON.")
@click.option(
    "--items",
    type=PATH,
    help="An item file, as libri-light has it.  [default: all phones of DATA/phones.ctm]",
)
@click.option(
    "--module",
    "modules",
    default="all",
    show_default=True,
    help="A number from 1, a name, last, or all.",
)
@click.option(
    "--most",
    default=10,
    show_default=True,
    type=click.IntRange(2, 2**31 - 1),
    help="Tokens of a phone, context, speaker.",
)
@click.option(
    "--most-speakers",
    default=5,
    show_default=True,
    type=COUNT,
    help="The most speakers of X for one A, across speakers.",
)
@click.option(
    "--utterances", type=COUNT, help="The most utterances, drawn by chance.  [default: all]"
)
@click.option(
    "--seed", default=0, show_default=True, type=SEED, help="The seed of what is drawn by chance."
)
@click.option("--device", default="auto", show_default=True)
@click.option("--allow-pipes", is_flag=True, help="Run the commands in wav.scp.")
def abx(
    exp: str,
    path: Path,
    out: Path,
    items: Path | None,
    modules: str,
    most: int,
    most_speakers: int,
    utterances: int | None,
    seed: int,
    device: str,
    allow_pipes: bool,
) -> None:
    """Measure how often a phone is nearer to another phone than to itself, said again.

    50% is chance, 0% perfect.

    EXP: an experiment, a checkpoint, gim-small, or mfcc, mfcc13, fbank, also with +cmvn; random.
    Tokens are phones between the same neighbours, within and across speakers; angles, dynamic time
    warping. Intervals resample speakers. Features lie in a temporary folder meanwhile: 4 GB an hour
    of speech for all modules of the published model.
    """
    from gim_audio.abx import abx as compare
    from gim_audio.abx import items_of, read_items
    from gim_audio.devices import arithmetic, keep_freed_memory, pick_device
    from gim_audio.featurize import load_encoder
    from gim_audio.files import absent
    from gim_audio.kaldi import DataDir
    from gim_audio.probes import Result, write_result

    absent(out)
    keep_freed_memory()
    data, where = DataDir.read(path), pick_device(device)
    tokens = read_items(items) if items else items_of(alignments(data), data.speakers)
    encoder = load_encoder(exp, where)
    with arithmetic(tf32=False), progress("abx: encoding", len(data.utterances)) as update:
        rows, speakers = compare(
            encoder,
            data,
            tokens,
            modules=chosen(encoder, modules),
            most=most,
            most_speakers=most_speakers,
            most_utterances=utterances,
            seed=seed,
            device=where,
            allow_pipes=allow_pipes,
            progress=update,
        )
    settings: dict[str, int | float | str] = {
        "seed": seed,
        "most": most,
        "most_speakers": most_speakers,
    }
    if items:
        settings["items"] = str(items)
    if utterances:
        settings["most_utterances"] = utterances
    counts: dict[str, int | float] = {
        "items": len(tokens),
        "utterances": len(data.utterances),
        "speakers": len(set(data.speakers.values())),
    }
    write_result(
        out, Result("abx", "triphone", rows, counts, settings, speakers), exp, encoder, None, path
    )
    say(f"abx, {exp}: error within and across speakers; {len(tokens)} tokens")
    for row in rows:
        click.echo(
            f"{row['module']} {row['name']:12} "
            + "   ".join(_error(row[mode]) for mode in ("within", "across"))
        )


def _error(score: "dict[str, Any] | None") -> str:
    if score is None:
        return "nothing to compare"
    interval = " ({:.1%} to {:.1%})".format(*score["interval"]) if score["interval"] else ""
    return f"{score['error']:.1%}{interval}"
