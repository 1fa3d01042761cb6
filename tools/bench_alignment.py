"""Measure how good and how fast forced alignment is.

Against the exact times of the built-in corpus, and on real speech.

    python tools/bench_alignment.py [--hours 0.4] [--real DATA --labels CTM] [--nj 2] [--out
    tools/bench_alignment.md]

DATA is a data directory of read English with transcripts; CTM holds labels that somebody else
made.
"""

import argparse
import tempfile
import time
from pathlib import Path

from bench import table, write_page

from gim_audio.alignment import TOLERANCES, Agreement, agreement, align
from gim_audio.corpora.espeak import VARIANTS
from gim_audio.corpora.synthetic import make
from gim_audio.kaldi import DataDir
from gim_audio.phones import Alignment, read_alignments, read_ctm


def row(name: str, found: Agreement) -> list[str]:
    """The heads of the table."""
    near = [
        f"{share:.1%} / {met:.1%}" for share, met in zip(found.boundaries, found.met, strict=True)
    ]
    frames = f"{found.frames:.1%} / {found.frames_moved:.1%}"
    return [
        name,
        str(found.utterances),
        frames,
        f"{found.phones:.1%}",
        f"{1000 * found.later:+.1f}",
        *near,
    ]


def aligned(data: DataDir, out: Path, nj: int) -> tuple[dict[str, Alignment], str]:
    """The alignment of a data directory, and a sentence about it."""
    started = time.perf_counter()
    failed = align(data, out, nj=nj)
    took = time.perf_counter() - started
    found = read_ctm(out)
    seconds = sum(float(one.ends[-1]) for one in found.values())
    return (
        found,
        (
            f"{len(found)} of {len(found) + len(failed)} utterances aligned, "
            f"{seconds / took:.0f} times faster than real time with {nj} processes"
        ),
    )


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=0.4)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--nj", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    rows, said = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder / "spoken", hours=options.hours, speakers=len(VARIANTS), seed=1)
        data, truth = DataDir.read(folder / "spoken"), read_ctm(folder / "spoken/phones.ctm")
        found, sentence = aligned(data, folder / "spoken.ctm", options.nj)
        said.append(f"- The built-in corpus, {len(VARIANTS)} voices: {sentence}.")
        rows.append(row("built-in, all voices", agreement(truth, found)))
        voices = {}
        for speaker in sorted(set(data.speakers.values())):
            own = {name: one for name, one in found.items() if data.speakers[name] == speaker}
            if own:
                voices[speaker] = agreement(truth, own)
        ranked = sorted(voices, key=lambda speaker: voices[speaker].met[2])
        for name, speaker in (
            ("best", ranked[-1]),
            ("median", ranked[len(ranked) // 2]),
            ("worst", ranked[0]),
        ):
            rows.append(
                row(f"built-in, {name} voice ({VARIANTS[int(speaker[3:])]})", voices[speaker])
            )
        if options.real and options.labels:
            found, sentence = aligned(DataDir.read(options.real), folder / "real.ctm", options.nj)
            said.append(f"- Real speech, against {options.labels.name}: {sentence}.")
            rows.append(row("real speech", agreement(read_alignments(options.labels), found)))
    near = [f"within {1000 * tolerance:.0f} ms" for tolerance in TOLERANCES]
    write_page(
        options.out,
        "Forced alignment",
        "`gim-audio data align` against the exact times of the built-in corpus, and against another"
        " aligner's labels. Frames: share that agrees, as it is / with the median lag taken out."
        " Boundaries: of all of the first / of those where the same two phones meet in both (the"
        " dictionary's pronunciation is not always the speaker's).\n",
        "\n".join(said) + "\n",
        table(["what", "utterances", "frames", "phones in both", "later by, ms", *near], rows),
    )


if __name__ == "__main__":
    main()
