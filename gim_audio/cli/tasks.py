"""The tasks on frozen features that `gim-audio probe` and `gim-audio evaluate` share."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from gim_audio.cli.options import (
    COUNT,
    EXPERIMENT,
    MODULE,
    PATH,
    PRECISION_HELP,
    PRECISIONS,
    SEED,
)
from gim_audio.cli.progress import progress, say

if TYPE_CHECKING:
    from gim_audio.featurize import Encoder, EncodingPrecision
    from gim_audio.kaldi import DataDir
    from gim_audio.phones import Alignment
    from gim_audio.probes import Evaluation, Protocol, Result, Subject


TASKS = ("phones", "speakers", "verification", "units", "per", "cka", "slowness")
WITH_PHONES = {"phones", "units", "per"}

MAIN = ("accuracy", "eer", "pnmi", "per")
"""A task's figure, which has the interval."""
BESIDE = {
    "pnmi_uncorrected": "uncorrected",
    "phone_purity": "phone purity",
    "cluster_purity": "cluster purity",
}
"""Figures without one."""


def shared_options(command: Any) -> Any:
    """Add the options that `probe` and `evaluate` share."""
    options = [
        click.argument("exp", type=EXPERIMENT),
        click.option(
            "--train",
            required=True,
            type=PATH,
            help="A data directory; for phones, units and per with phones.ctm.",
        ),
        click.option("--test", required=True, type=PATH, help="The same."),
        click.option(
            "--module",
            "modules",
            default="all",
            show_default=True,
            help="A number from 1, a name, last, or all.",
        ),
        click.option(
            "--layers", is_flag=True, help="Each layer counts as a module, also inside modules."
        ),
        click.option(
            "--precision",
            type=PRECISIONS,
            default="fp32",
            show_default=True,
            help=f"{PRECISION_HELP} Baselines are always computed in fp32.",
        ),
        click.option(
            "--frames",
            default=400_000,
            show_default=True,
            type=COUNT,
            help="Most to train phones or units on; they take 11 kB each for the published model.",
        ),
        click.option(
            "--stack",
            default=0,
            show_default=True,
            type=click.IntRange(0, 1000),
            help=(
                "Stack each frame with N neighbours on either side, to compare features of equal"
                " temporal context."
            ),
        ),
        click.option(
            "--units",
            default=100,
            show_default=True,
            type=click.IntRange(2, 65536),
            help="Clusters.",
        ),
        click.option("--seed", default=0, show_default=True, type=SEED),
        click.option("--device", default="auto", show_default=True),
        click.option("--allow-pipes", is_flag=True, help="Run the commands in wav.scp."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


SHIFT_HELP = (
    "Phone labels are later by this many steps of 10 ms: 2 is the published code's, 1 is centred"
    " for labels on Kaldi's windows, 0 for labels in true time."
)


def ask(
    exp: str,
    tasks: Sequence[str],
    protocols: Sequence[str],
    shifts: Sequence[int],
    *,
    train: Path,
    test: Path,
    modules: str,
    stack: int,
    device: str,
    layers: bool,
    precision: "EncodingPrecision",
    allow_pipes: bool,
    speaker_train: Path | None = None,
    speaker_test: Path | None = None,
    **settings: Any,
) -> "list[tuple[Result, Any, Path, Path, dict[str, float]]]":
    """Results, each with the encoder, its sets and what the pass took."""
    from gim_audio.devices import keep_freed_memory, pick_device
    from gim_audio.featurize import BASELINES, Featurizer, load_encoder
    from gim_audio.kaldi import DataDir
    from gim_audio.probes import Subject
    from gim_audio.probes import evaluate as run

    keep_freed_memory()
    of_speakers = speaker_train or train, speaker_test or test
    places = [train, test, *of_speakers]
    sets = {path: DataDir.read(path) for path in dict.fromkeys(places)}
    encoder = load_encoder(exp, pick_device(device), precision if exp not in BASELINES else "fp32")
    if layers and isinstance(encoder, Featurizer):
        encoder = encoder.by_layer()
    subject = Subject(encoder, chosen(encoder, modules), stack)
    evaluations = _evaluations(
        subject,
        tasks,
        cast("Sequence[Protocol]", protocols),
        shifts,
        [sets[path] for path in places],
        **settings,
    )
    wanted = {id(data): data for e in evaluations for data in (e.train, e.test) if data is not None}
    with progress("encoding", sum(len(data.utterances) for data in wanted.values())) as update:
        found = run(subject, evaluations, allow_pipes=allow_pipes, progress=update)
    seconds = {
        "encoding train": found.encoding["train"],
        "encoding test": found.encoding["test"],
        "all": found.seconds,
    }
    return [
        (
            (result, encoder, *of_speakers, seconds)
            if result.task in {"speakers", "verification"}
            else (result, encoder, train, test, seconds)
        )
        for result in found.results
    ]


def _evaluations(
    subject: "Subject",
    tasks: Sequence[str],
    protocols: "Sequence[Protocol]",
    shifts: Sequence[int],
    sets: "Sequence[DataDir]",
    *,
    frames: int,
    units: int,
    seed: int,
) -> "list[Evaluation]":
    """Return the evaluations of some tasks."""
    from gim_audio import probes

    train, test, known, tried = sets
    found: list[Evaluation] = []
    labelled = (
        [(data, alignments(data)) for data in (train, test)] if WITH_PHONES & set(tasks) else []
    )
    if {"phones", "units"} & set(tasks):
        sample = probes.FrameSample(
            subject, labelled[0], shifts=shifts, most_frames=frames, seed=seed
        )
        found.append(sample)
    for task in tasks:
        if task == "phones":
            found.append(probes.PhoneProbe(sample, labelled[1], protocols))
        elif task == "units":
            found.append(probes.UnitProbe(sample, labelled[1], units))
        elif task == "per":
            found.append(probes.PhoneErrorRate(subject, *labelled, seed=seed))
        elif task == "speakers":
            found.append(probes.SpeakerProbe(subject, known, tried, protocols=protocols, seed=seed))
        elif task == "verification":
            found.append(probes.VerificationProbe(subject, known, tried))
        elif task == "cka":
            found.append(probes.AlikenessProbe(subject, test))
        else:
            found.append(probes.SlownessProbe(subject, test))
    return found


def show(exp: str, result: "Result") -> None:
    """Print a result: a line for each module."""
    shifted = f", label shift {result.settings['shift']}" if "shift" in result.settings else ""
    majority = f"; majority {result.counts['majority']:.1%}" if "majority" in result.counts else ""
    say(f"{result.task}, {exp}, {result.protocol}{shifted}{majority}")
    for row in result.modules:
        figures = []
        for key in (key for key in MAIN if key in row):
            interval = (
                "({:.1%} to {:.1%})".format(*row["interval"])
                if row["interval"]
                else "(too few speakers for an interval)"
            )
            figures.append(f"{row[key]:.1%}  {interval}")
        figures += [f"{name} {row[key]:.1%}" for key, name in BESIDE.items() if key in row]
        figures += [
            " ".join("-" if value is None else f"{value:.2f}" for value in row[key])
            for key in ("cka", "autocorrelation")
            if key in row
        ]
        warning = "" if row.get("converged", True) else "  not converged"
        if reason := row.get("not_chosen"):
            warning += f"  penalty not chosen: {reason}"
        click.echo(f"{row['module']} {row['name']:12} {'  '.join(figures)}{warning}")


def alignments(data: "DataDir") -> "dict[str, Alignment]":
    """Return the alignments of a data directory's utterances, from its phones.ctm."""
    from gim_audio.phones import labels_of, read_ctm

    assert data.path  # noqa: S101 - it was read from there
    return labels_of(data, read_ctm(data.path / "phones.ctm"))


def chosen(encoder: "Encoder", modules: str) -> list[int]:
    """Return the numbers of the modules that `--module` names."""
    if modules == "all":
        return list(range(1, len(encoder.module_names) + 1))
    if modules == "last":
        return [len(encoder.module_names)]
    return [encoder.pick(MODULE(modules))]
