"""`gim-audio abx`, `gim-audio draw` and `gim-audio report`."""

from pathlib import Path
from typing import Any

import click

from gim_audio.cli.options import COUNT, EXPERIMENT, PATH, SEED, SHIFT, command
from gim_audio.cli.probe import alignments, chosen
from gim_audio.cli.progress import progress, say


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
    warping. Intervals are over speakers. Features lie in a temporary folder meanwhile: 4 GB an hour
    of speech for all modules of the published model.
    """
    from gim_audio.abx import abx as compare
    from gim_audio.abx import items_of, read_items
    from gim_audio.devices import keep_freed_memory, pick_device, rounding_to_tf32
    from gim_audio.featurize import load_encoder
    from gim_audio.files import absent
    from gim_audio.kaldi import DataDir
    from gim_audio.probes import Result, write_result

    absent(out)
    keep_freed_memory()
    data, where = DataDir.read(path), pick_device(device)
    tokens = read_items(items) if items else items_of(alignments(data), data.speakers)
    encoder = load_encoder(exp, where)
    with rounding_to_tf32(False), progress("abx: encoding", len(data.utterances)) as update:
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


@command(epilog="Example: gim-audio draw exp/gim packed/test --out exp/gim/figures")
@click.argument("exp", type=EXPERIMENT)
@click.argument("path", metavar="DATA", type=PATH)
@click.option("--out", required=True, type=PATH, help="A folder; EXP/figures is shown in reports.")
@click.option(
    "--module",
    "modules",
    default="last",
    show_default=True,
    help="The module on the map: a number from 1, a name, or last.",
)
@click.option("--utterance", help="The utterance to draw.  [default: the first of DATA]")
@click.option(
    "--shift",
    default=1,
    show_default=True,
    type=SHIFT,
    help="The shift of phone labels: see `gim-audio probe`.",
)
@click.option("--layers", is_flag=True, help="Each layer counts as a module, also inside modules.")
def draw(
    exp: str, path: Path, out: Path, modules: str, utterance: str | None, shift: int, layers: bool
) -> None:
    """Draw features of an utterance, and t-SNE maps of phones and speakers.

    The utterance is drawn as waveform, spectrogram and activations on one time axis.

    The maps show frames of common phones (of DATA/phones.ctm, where that is) and mean windows of
    some speakers.
    """
    from gim_audio.errors import DataError
    from gim_audio.featurize import Featurizer, load_encoder
    from gim_audio.files import absent, new_folder
    from gim_audio.kaldi import DataDir
    from gim_audio.report.pictures import draw_map, draw_utterance

    absent(out)
    data = DataDir.read(path)
    known = alignments(data) if (path / "phones.ctm").exists() else {}
    encoder = load_encoder(exp)
    if layers and isinstance(encoder, Featurizer):
        encoder = encoder.by_layer()
    name = utterance or data.utterances[0]
    (_, waveform), *_ = data.select([name]).waveforms(encoder.rate)
    if isinstance(waveform, Exception):
        raise DataError(f"{name}: {waveform}")
    figures = {
        "utterance": draw_utterance(encoder, waveform, name, known.get(name)),
        "map": draw_map(encoder, data, known, chosen(encoder, modules)[-1], shift=shift),
    }
    with new_folder(out) as folder:
        for file, figure in figures.items():
            figure.savefig(folder / f"{file}.png", dpi=130)
    say(f"wrote {out}/utterance.png and {out}/map.png")


@command(epilog="Example: gim-audio report exp/gim --out exp/gim/report.html --markdown RESULTS.md")
@click.argument("experiments", metavar="EXP...", nargs=-1, required=True, type=PATH)
@click.option(
    "--out",
    required=True,
    type=PATH,
    help="One HTML file; its figures are also written beside it as PNGs.",
)
@click.option("--markdown", type=PATH, help="The tables, as Markdown.")
@click.option("--title", default="gim-audio", show_default=True)
def report(experiments: tuple[Path, ...], out: Path, markdown: Path | None, title: str) -> None:
    """Tables and figures of experiments.

    Metrics.jsonl, and the probes' results in EXP/results/*.json.
    """
    from gim_audio.errors import ConfigError
    from gim_audio.report import write_report

    # Other files of an experiment have other endings: none of them is overwritten.
    for option, name, suffixes in (
        ("--out", out, (".html", ".htm")),
        ("--markdown", markdown, (".md",)),
    ):
        if name and (name.suffix.lower() not in suffixes or name.is_dir()):
            raise ConfigError(f"{option} {name}: name a file that ends in {suffixes[0]}")
    for file in write_report(list(experiments), out, markdown, title):
        say(f"wrote {file}")
