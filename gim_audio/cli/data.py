"""`gim-audio data …` and `gim-audio pack`."""

import os
from pathlib import Path
from typing import Literal

import click

from gim_audio.cli.options import COUNT, JOBS, PATH, RATE, SEED, Finite, Group, command
from gim_audio.cli.progress import progress, say


@click.group(cls=Group)
def data() -> None:
    """Make, check, label and split Kaldi data directories."""


@data.command(
    epilog="Example: gim-audio data librispeech corpora data/dev --subset dev-clean-2 --download",
)
@click.argument("corpus", type=PATH)
@click.argument("out", metavar="DATA", type=PATH)
@click.option("--subset", required=True, help="train-clean-100, dev-clean, train-clean-5, …")
@click.option(
    "--utterances", type=PATH, help="A file that lists the utterances to keep, one a line."
)
@click.option(
    "--download", is_flag=True, help="Download the subset into CORPUS first where it is missing."
)
@click.option("--mirror", help="A mirror to download from.  [default: www.openslr.org/resources]")
def librispeech(
    corpus: Path,
    out: Path,
    subset: str,
    utterances: Path | None,
    download: bool,
    mirror: str | None,
) -> None:
    """A LibriSpeech tree in its own layout to a data directory.

    CORPUS is the folder that holds LibriSpeech/.
    """
    from gim_audio.corpora import librispeech as corpora
    from gim_audio.errors import DataError
    from gim_audio.files import absent, new_folder, read_text

    absent(out)
    if download and corpora.find(corpus, subset) is None:
        if subset not in corpora.SUBSETS:
            raise DataError(
                f"no subset {subset} to download: choose one of {', '.join(corpora.SUBSETS)}"
            )
        with progress(f"downloading {subset}", 1) as update:
            corpora.download(
                corpus,
                subset,
                mirror=mirror or corpora.MIRROR,
                progress=lambda done, total: update(
                    done / max(done, total), f"{done / 1e6:.0f} MB"
                ),
            )
    listed = read_text(utterances).split() if utterances else None
    found = corpora.read_tree(corpus, subset, listed)
    with new_folder(out) as folder:
        found.write(folder)
    of = f" of {len(listed)} listed" if listed is not None else ""
    text = "" if found.text else ", without text: not all of them have transcripts"
    say(
        f"{out}: {len(found.utterances)}{of} utterances, {len(set(found.speakers.values()))}"
        f" speakers{text}"
    )


@data.command(
    epilog="Example: gim-audio data synthetic data/toy --hours 0.5 --speakers 24 --seed 1"
)
@click.argument("out", metavar="DATA", type=PATH)
@click.option("--hours", required=True, type=Finite(0, 100_000, min_open=True))
@click.option("--speakers", required=True, type=COUNT)
@click.option("--seed", default=1, show_default=True, type=SEED)
def synthetic(out: Path, hours: float, speakers: int, seed: int) -> None:
    """Make the built-in spoken corpus, with exact phone times; the same bytes for the same seed."""
    from gim_audio.corpora.synthetic import make

    with progress("speaking", hours) as update:
        make(out, hours=hours, speakers=speakers, seed=seed, progress=update)
    say(f"{out}: {hours} hours, {speakers} speakers")


@data.command(epilog="Example: gim-audio data check data/train --fix")
@click.argument("path", metavar="DATA", type=PATH)
@click.option(
    "--fix", "mend", is_flag=True, help="Sort, and drop what cannot be used; keeps the old files."
)
def check(path: Path, mend: bool) -> None:
    """List everything that is wrong with a data directory."""
    from gim_audio.errors import DataError
    from gim_audio.kaldi import DataDir, fix
    from gim_audio.kaldi import check as find_problems

    problems = find_problems(path)
    for problem in problems:
        click.echo(problem)
    if problems and not mend:
        raise DataError(f"{path}: {len(problems)} problems: --fix mends what can be mended")
    if problems:
        for line in fix(path):
            say(line)
    found = DataDir.read(path)
    say(
        f"{path}: {len(found.utterances)} utterances, {len(set(found.speakers.values()))} speakers,"
        " nothing wrong"
    )


@data.command(epilog="Example: gim-audio data labels data/train converted_aligned_phones.txt")
@click.argument("path", metavar="DATA", type=PATH)
@click.argument("alignments", type=PATH)
def labels(path: Path, alignments: Path) -> None:
    """Take phone labels from ALIGNMENTS to DATA/phones.ctm.

    ALIGNMENTS: a CTM, the CPC authors' text format, or a folder of TextGrids as the Montreal Forced
    Aligner writes it.
    """
    from gim_audio.kaldi import DataDir
    from gim_audio.phones import labels_of, read_alignments, write_ctm

    found = DataDir.read(path)
    labelled = labels_of(found, read_alignments(alignments))
    write_ctm(path / "phones.ctm", labelled)
    say(f"{path}/phones.ctm: {len(labelled)} of {len(found.utterances)} utterances have labels")


@data.command(epilog="Example: gim-audio data align data/train --nj 4")
@click.argument("path", metavar="DATA", type=PATH)
@click.option("--out", type=PATH, help="The CTM to write.  [default: DATA/phones.ctm]")
@click.option("--nj", default=1, show_default=True, type=JOBS, help="Processes.")
@click.option("--allow-pipes", is_flag=True, help="Run the commands in wav.scp.")
def align(path: Path, out: Path | None, nj: int, allow_pipes: bool) -> None:
    """Find the phones of read English by forced alignment of DATA/text.

    They are written to DATA/phones.ctm, in true time.

    Utterances that cannot be decoded or whose transcript does not fit are listed and left out. The
    same command continues an interrupted run. Words that the dictionary lacks are pronounced by
    eSpeak NG.
    """
    from gim_audio.alignment import align as run
    from gim_audio.kaldi import DataDir

    found, target = DataDir.read(path), out or path / "phones.ctm"
    with progress("aligning", len(found.utterances)) as update:
        failed = run(found, target, nj=nj, allow_pipes=allow_pipes, progress=update)
    for name, reason in failed.items():
        say(f"left out {name}: {reason}")
    say(
        f"{target}: {len(found.utterances) - len(failed)} of {len(found.utterances)} utterances are"
        " aligned"
    )


@data.command(epilog="Example: gim-audio data agreement truth.ctm aligned.ctm")
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
def agreement(first: Path, second: Path) -> None:
    """Compare the phones and boundaries of SECOND with those of FIRST.

    Both may have any format that `data labels` takes.
    """
    from gim_audio.alignment import TOLERANCES
    from gim_audio.alignment import agreement as compare
    from gim_audio.phones import read_alignments

    found = compare(read_alignments(first), read_alignments(second))
    click.echo(f"utterances in both        {found.utterances}")
    click.echo(f"phones in both            {found.phones:.1%}")
    click.echo(f"boundaries are later by   {1000 * found.later:+.1f} ms at the median")
    click.echo(
        f"frames that agree         {found.frames:.1%}, {found.frames_moved:.1%} once that is"
        " taken out"
    )
    for tolerance, share, met in zip(TOLERANCES, found.boundaries, found.met, strict=True):
        click.echo(
            f"boundaries within {1000 * tolerance:.0f} ms   {share:.1%} of all, {met:.1%} of those"
            " in both"
        )


@data.command(
    epilog="Example: gim-audio data split data/all data/train data/test --by utterances --share 0.8"
)
@click.argument("path", metavar="DATA", type=PATH)
@click.argument("first", type=PATH)
@click.argument("rest", type=PATH)
@click.option("--by", type=click.Choice(["utterances", "speakers", "time"]), required=True)
@click.option(
    "--share", default=0.75, show_default=True, type=Finite(0, 1, min_open=True, max_open=True)
)
@click.option("--seed", default=0, show_default=True, type=SEED)
def split(
    path: Path,
    first: Path,
    rest: Path,
    by: Literal["utterances", "speakers", "time"],
    share: float,
    seed: int,
) -> None:
    """Split a data directory and its labels in two: FIRST gets about SHARE of the data.

    By utterances, every speaker is in both parts; by speakers, in one; by time, each utterance is
    cut into two segments.
    """
    from gim_audio.files import absent, new_folder
    from gim_audio.kaldi import DataDir
    from gim_audio.kaldi import split as cut
    from gim_audio.phones import labels_of, labels_of_part, read_ctm, write_ctm

    if os.path.realpath(first) == os.path.realpath(rest):
        raise click.UsageError(f"{first} is named twice: the two parts need two folders")
    absent(first)
    absent(rest)
    found = DataDir.read(path)
    labels = path / "phones.ctm"
    known = labels_of(found, read_ctm(labels)) if labels.exists() else {}
    for out, part in zip((first, rest), cut(found, by, share, seed), strict=True):
        labelled = labels_of_part(part, found, known)
        with new_folder(out) as folder:
            part.write(folder)
            if labelled:
                write_ctm(folder / "phones.ctm", labelled)
        say(
            f"{out}: {len(part.utterances)} utterances, {len(set(part.speakers.values()))} speakers"
        )


@data.command(epilog="Example: gim-audio data combine data/both data/first data/second")
@click.argument("out", type=PATH)
@click.argument("paths", metavar="DATA...", nargs=-1, required=True, type=PATH)
def combine(out: Path, paths: tuple[Path, ...]) -> None:
    """Put several data directories together in OUT, labels included where all of them have some."""
    from gim_audio.files import absent, new_folder
    from gim_audio.kaldi import DataDir
    from gim_audio.kaldi import combine as join
    from gim_audio.phones import labels_of, read_ctm, write_ctm

    absent(out)
    parts = [DataDir.read(path) for path in paths]
    joined = join(parts)
    labels = [path / "phones.ctm" for path in paths]
    with new_folder(out) as folder:
        joined.write(folder)
        if all(file.exists() for file in labels):
            known = (
                labels_of(part, read_ctm(file)) for part, file in zip(parts, labels, strict=True)
            )
            write_ctm(
                folder / "phones.ctm",
                {name: phones for part in known for name, phones in part.items()},
            )
    say(
        f"{out}: {len(joined.utterances)} utterances, {len(set(joined.speakers.values()))} speakers"
    )


@command(epilog="Example: gim-audio pack data/train packed/train --nj 4")
@click.argument("path", metavar="DATA", type=PATH)
@click.argument("packed", type=PATH)
@click.option("--nj", default=1, show_default=True, type=JOBS, help="Processes.")
@click.option("--rate", default=16000, show_default=True, type=RATE, help="Hz.")
@click.option("--allow-pipes", is_flag=True, help="Run the commands in wav.scp.")
@click.option(
    "--skip-bad", is_flag=True, help="Leave out utterances that cannot be decoded, and list them."
)
def pack(path: Path, packed: Path, nj: int, rate: int, allow_pipes: bool, skip_bad: bool) -> None:
    """Decode a data directory once, into a packed corpus that training reads in place."""
    from gim_audio.kaldi import DataDir
    from gim_audio.packed import PackedCorpus
    from gim_audio.packed import pack as run

    found = DataDir.read(path)
    with progress("packing", len(found.utterances)) as update:
        failed = run(
            found,
            packed,
            rate=rate,
            nj=nj,
            allow_pipes=allow_pipes,
            skip_bad=skip_bad,
            progress=update,
        )
    for name, reason in failed.items():
        say(f"left out {name}: {reason}")
    corpus = PackedCorpus(packed)
    hours = corpus.samples.sum() / corpus.rate / 3600
    say(
        f"{packed}: {len(corpus)} utterances, {hours:.2f} hours"
        + (f"; {len(failed)} left out" if failed else "")
    )
