"""`gim-audio probe …`, `gim-audio abx` and `gim-audio report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gim_audio.cli.progress import progress, say

if TYPE_CHECKING:
    from gim_audio.featurize import Encoder
    from gim_audio.kaldi import DataDir
    from gim_audio.phones import Alignment

PATH = click.Path(path_type=Path)

MAIN = ("accuracy", "eer", "pnmi")
"""A task's figure, which has the interval."""
BESIDE = {"phone_purity": "phone purity", "cluster_purity": "cluster purity"}
"""Figures without one."""


@click.command(
    epilog="Example: gim-audio probe phones exp/gim --train packed/train --test packed/test --out phones.json"
)
@click.argument("task", type=click.Choice(["phones", "speakers", "verification", "units"]))
@click.argument("exp")
@click.option("--train", required=True, type=PATH, help="A data directory; for phones and units with phones.ctm.")
@click.option("--test", required=True, type=PATH, help="The same.")
@click.option("--out", required=True, type=PATH, help="The results, as JSON.")
@click.option("--module", "modules", default="all", show_default=True, help="A number from 1, or all.")
@click.option(
    "--protocol",
    type=click.Choice(["ref", "strict"]),
    default="strict",
    show_default=True,
    help="Of phones and speakers. ref: as published. strict: logistic regression to convergence.",
)
@click.option(
    "--shift",
    default=1,
    show_default=True,
    help="Phone labels are later by this many steps of 10 ms: 2 is the published code's, 1 is centred for labels on "
    "Kaldi's windows, 0 for labels in true time.",
)
@click.option(
    "--frames",
    default=400_000,
    show_default=True,
    type=click.IntRange(1),
    help="Most to train phones or units on; they take 11 kB each for the published model.",
)
@click.option("--units", default=100, show_default=True, type=click.IntRange(2), help="Clusters.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--device", default="auto", show_default=True)
@click.option("--allow-pipes", is_flag=True, help="Run the commands in wav.scp.")
def probe(
    task: str,
    exp: str,
    train: Path,
    test: Path,
    out: Path,
    modules: str,
    protocol: Literal["ref", "strict"],
    shift: int,
    frames: int,
    units: int,
    seed: int,
    device: str,
    allow_pipes: bool,
) -> None:
    """Ask frozen features about phones or speakers.

    \b
    phones        a linear classifier of frames
    speakers      a linear classifier of utterances
    verification  equal error rate of mean features' cosines with enrolled speakers (TRAIN)
    units         how much k-means clusters say about phones

    EXP: an experiment, a checkpoint, or mfcc, fbank, random. All modules are asked from one encoding of the audio.
    Intervals are by bootstrap over speakers.
    """  # noqa: D301
    from gim_audio import probes
    from gim_audio.featurize import load_encoder
    from gim_audio.files import absent
    from gim_audio.kaldi import DataDir
    from gim_audio.model.devices import keep_freed_memory, pick_device

    absent(out)
    keep_freed_memory()
    sets = DataDir.read(train), DataDir.read(test)
    encoder = load_encoder(exp, pick_device(device))
    common: dict[str, Any] = {"modules": _chosen(encoder, modules), "allow_pipes": allow_pipes}
    with progress(f"{task}: encoding", sum(len(data.utterances) for data in sets)) as update:
        common["progress"] = update
        if task in {"phones", "units"}:
            labelled = [(data, _alignments(data)) for data in sets]
            common |= {"shift": shift, "most_frames": frames, "seed": seed}
        if task == "phones":
            result = probes.probe_phones(encoder, *labelled, protocol=protocol, **common)
        elif task == "units":
            result = probes.probe_units(encoder, *labelled, units=units, **common)
        elif task == "speakers":
            result = probes.probe_speakers(encoder, *sets, protocol=protocol, seed=seed, **common)
        else:
            result = probes.probe_verification(encoder, *sets, **common)
    probes.write_result(out, result, exp, encoder, train, test)
    shifted = f", label shift {shift}" if "shift" in result.settings else ""
    majority = f"; majority {result.counts['majority']:.1%}" if "majority" in result.counts else ""
    say(f"{task}, {exp}, {result.protocol}{shifted}{majority}")
    for row in result.modules:
        interval = "({:.1%} to {:.1%})".format(*row["interval"]) if row["interval"] else "(one speaker: no interval)"
        figures = [f"{row[key]:.1%}  {interval}" for key in MAIN if key in row]
        figures += [f"{name} {row[key]:.1%}" for key, name in BESIDE.items() if key in row]
        warning = "" if row.get("converged", True) else "  not converged"
        click.echo(f"{row['module']} {row['name']:12} {'  '.join(figures)}{warning}")


def _alignments(data: "DataDir") -> "dict[str, Alignment]":
    from gim_audio.phones import labels_of, read_ctm

    assert data.path  # noqa: S101 - it was read from there
    return labels_of(data, read_ctm(data.path / "phones.ctm"))


@click.command(epilog="Example: gim-audio abx exp/gim packed/test --out abx.json")
@click.argument("exp")
@click.argument("path", metavar="DATA", type=PATH)
@click.option("--out", required=True, type=PATH, help="The results, as JSON.")
@click.option(
    "--items", type=PATH, help="An item file, as libri-light has it.  [default: all phones of DATA/phones.ctm]"
)
@click.option("--module", "modules", default="all", show_default=True, help="A number from 1, or all.")
@click.option(
    "--most", default=10, show_default=True, type=click.IntRange(2), help="Tokens of a phone, context, speaker."
)
@click.option("--most-speakers", default=5, show_default=True, type=click.IntRange(1), help="Of X, across speakers.")
@click.option("--utterances", type=click.IntRange(1), help="Of more, so many by chance.  [default: all]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of those that are taken.")
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
    """How often a phone is nearer to another phone than to itself, said again: 50% is chance, 0% is perfect.

    EXP: an experiment, a checkpoint, or mfcc, fbank, random. Tokens are phones between the same neighbours, within and
    across speakers; angles, dynamic time warping. Intervals are by bootstrap over speakers. Features lie in a temporary
    folder meanwhile: 4 GB an hour of speech for all modules of the published model.
    """
    from gim_audio.abx import abx as compare
    from gim_audio.abx import items_of, read_items
    from gim_audio.featurize import load_encoder
    from gim_audio.files import absent
    from gim_audio.kaldi import DataDir
    from gim_audio.model.devices import keep_freed_memory, pick_device
    from gim_audio.probes import Result, write_result

    absent(out)
    keep_freed_memory()
    data, where = DataDir.read(path), pick_device(device)
    tokens = read_items(items) if items else items_of(_alignments(data), data.speakers)
    encoder = load_encoder(exp, where)
    with progress("abx: encoding", len(data.utterances)) as update:
        rows = compare(
            encoder,
            data,
            tokens,
            modules=_chosen(encoder, modules),
            most=most,
            most_speakers=most_speakers,
            most_utterances=utterances,
            seed=seed,
            device=where,
            allow_pipes=allow_pipes,
            progress=update,
        )
    settings: dict[str, int | float | str] = {"seed": seed, "most": most, "most_speakers": most_speakers}
    if items:
        settings["items"] = str(items)
    if utterances:
        settings["most_utterances"] = utterances
    counts: dict[str, int | float] = {
        "items": len(tokens),
        "utterances": len(data.utterances),
        "speakers": len(set(data.speakers.values())),
    }
    write_result(out, Result("abx", "triphone", rows, counts, settings), exp, encoder, None, path)
    say(f"abx, {exp}: error within and across speakers; {len(tokens)} tokens")
    for row in rows:
        click.echo(
            f"{row['module']} {row['name']:12} " + "   ".join(_error(row[mode]) for mode in ("within", "across"))
        )


def _error(score: "dict[str, Any] | None") -> str:
    if score is None:
        return "nothing to compare"
    interval = " ({:.1%} to {:.1%})".format(*score["interval"]) if score["interval"] else ""
    return f"{score['error']:.1%}{interval}"


def _chosen(encoder: "Encoder", modules: str) -> list[int]:
    """What `--module` says."""
    from gim_audio.errors import ConfigError
    from gim_audio.featurize import pick_module

    if modules == "all":
        return list(range(1, len(encoder.modules) + 1))
    if not modules.isdigit():
        raise ConfigError(f"--module {modules}: a number, or all")
    return [pick_module(encoder, int(modules))]


@click.command(epilog="Example: gim-audio report exp/gim --out exp/gim/report.html --markdown RESULTS.md")
@click.argument("experiments", metavar="EXP...", nargs=-1, required=True, type=PATH)
@click.option("--out", required=True, type=PATH, help="One HTML file; its figures are also written beside it as PNGs.")
@click.option("--markdown", type=PATH, help="The tables, as Markdown.")
@click.option("--title", default="gim-audio", show_default=True)
def report(experiments: tuple[Path, ...], out: Path, markdown: Path | None, title: str) -> None:
    """Tables and figures of experiments: metrics.jsonl, and the probes' results in EXP/results/*.json."""
    from gim_audio.report import write_report

    for file in write_report(list(experiments), out, markdown, title):
        say(f"wrote {file}")
