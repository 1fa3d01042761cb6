"""ABX beside zerospeech-libriabx2: the same errors from the same features, and the time of each.

    python tools/bench_abx.py DATA [--features mfcc] [--out tools/bench_abx.md]

DATA is a data directory with phones.ctm. `pip install zerospeech-libriabx2` first (it compiles with
Cython).
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from bench import table, write_page
from zrc_abx2.eval_ABX import EvalABX, EvalArgs

from gim_audio.abx import Item, abx, items_of
from gim_audio.featurize import Encoder, load_encoder, waveforms
from gim_audio.kaldi import DataDir
from gim_audio.phones import labels_of, read_ctm

ALL = 10**6
"""A number above that of the tokens: nothing is left to chance."""


def theirs(
    encoder: Encoder, data: DataDir, items: list[Item], folder: Path
) -> tuple[dict[str, float], float]:
    """Errors and seconds, without encoding."""
    for name, waveform in waveforms(data, encoder, allow_pipes=False):
        np.save(folder / f"{name}.npy", encoder.encode(waveform)[-1])
    grid = encoder.geometries[-1]
    hop = grid.hop / encoder.rate
    # It takes frame i to be centred on (i + 1/2) hops.
    earlier = grid.centre / encoder.rate - hop / 2
    lines = [
        f"{i.utterance} {i.onset - earlier:.9f} {i.offset - earlier:.9f} {i.phone}"
        f" {' '.join(i.context)} {i.speaker}"
        for i in items
    ]
    (folder / "all.item").write_text(
        "\n".join(["#file onset offset phone before after speaker", *lines]) + "\n"
    )
    arguments = EvalArgs(
        path_data=str(folder),
        path_item_file=str(folder / "all.item"),
        feature_size=hop,
        context_mode="within",
        max_size_group=ALL,
        max_x_across=ALL,
    )
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        rows = EvalABX().eval_abx(arguments)
    return {row["abx-s-condition"]: row["score"] for row in rows}, time.perf_counter() - started


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--features", default="mfcc")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    data, encoder = DataDir.read(options.data), load_encoder(options.features)
    items = items_of(labels_of(data, read_ctm(options.data / "phones.ctm")), data.speakers)
    last = len(encoder.module_names)

    started = time.perf_counter()
    for _, waveform in waveforms(data, encoder, allow_pipes=False):
        encoder.encode(waveform)
    encoding = time.perf_counter() - started
    started = time.perf_counter()
    (row,), _ = abx(encoder, data, items, modules=[last], most=ALL, most_speakers=ALL)
    ours = time.perf_counter() - started - encoding
    with tempfile.TemporaryDirectory() as temporary:
        errors, seconds = theirs(encoder, data, items, Path(temporary))
    rows = [
        [mode, f"{row[mode]['comparisons']:,}", f"{row[mode]['error']:.6f}", f"{errors[mode]:.6f}"]
        for mode in ("within", "across")
    ]
    write_page(
        options.out,
        "ABX",
        f"Errors of {encoder.name} on {len(items)} triphones of {len(data.utterances)} utterances,"
        " all comparisons.\n",
        table(["speakers", "comparisons", "gim-audio", "zerospeech-libriabx2"], rows),
        f"Without encoding: {ours:.2f} s against {seconds:.2f} s, {seconds / ours:.1f} times as"
        " fast.\n",
    )


if __name__ == "__main__":
    main()
