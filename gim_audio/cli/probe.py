"""`gim-audio probe …` and `gim-audio evaluate`."""

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
    SHIFT,
    command,
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

    EXP: an experiment, a checkpoint, gim-small, or a baseline: mfcc, mfcc13 (without deltas), fbank (log mel energies),
    also with +cmvn (less the utterance's mean) or +cmvn-speaker; random. Intervals are over speakers. `gim-audio
    evaluate` runs several tasks on one encoding.
    """
    from gim_audio.files import absent
    from gim_audio.probes import write_result

    absent(out)
    for result, encoder, train, test, seconds in _ask(exp, [task], [protocol], [shift], **settings):
        write_result(out, result, exp, encoder, train, test, seconds)
        _show(exp, result)


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
        for result, encoder, train, test, seconds in _ask(
            exp, *asked, moved, speaker_train=speaker_train, speaker_test=speaker_test, **settings
        ):
            shift = (
                f"-shift{result.settings['shift']}"
                if len(moved) > 1 and "shift" in result.settings
                else ""
            )
            file = folder / f"{result.task}-{result.protocol}{shift}.json"
            write_result(file, result, exp, encoder, train, test, seconds)
            _show(exp, result)
    say(f"wrote {out}")


def _listed(option: str, given: str, known: Sequence[str]) -> list[str]:
    names = given.split(",")
    for name in names:
        if name not in known:
            raise click.UsageError(f"{option} {given}: {name} is none of {', '.join(known)}")
    return names


def _ask(
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


def _show(exp: str, result: "Result") -> None:
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

    assert data.path
    return labels_of(data, read_ctm(data.path / "phones.ctm"))


def chosen(encoder: "Encoder", modules: str) -> list[int]:
    """Return the numbers of the modules that `--module` names."""
    if modules == "all":
        return list(range(1, len(encoder.modules) + 1))
    if modules == "last":
        return [len(encoder.modules)]
    return [encoder.pick(MODULE(modules))]
