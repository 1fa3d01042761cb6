"""Compare the strict probe with an independent search, and with itself.

    python tools/bench_probe.py TRAIN TEST [--frames 4000] [--shift 1] [--out tools/bench_probe.md]

TRAIN and TEST are data directories with phones.ctm. For five sets of features, the penalty that the
probe chooses is set beside that of scikit-learn's GridSearchCV over the same penalties, with the
same held-out utterances, every fit from zero in double precision. Then the probe is run again, with
the same number of threads and with another.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from bench import apart, table, write_page

from gim_audio.cli.tasks import alignments
from gim_audio.featurize import load_encoder
from gim_audio.kaldi import DataDir
from gim_audio.probes import FrameSample, Subject, evaluate
from gim_audio.probes.frames import Examples
from gim_audio.probes.solvers import PENALTIES, logistic_regression, whiten

FEATURES = {"mfcc": 1, "mfcc13": 1, "mfcc+cmvn": 1, "fbank+cmvn": 1, "gim-small": 6}
"""Names of features, with the module of each."""


def examples(name: str, folder: Path, frames: int, shift: int) -> Examples:
    """Return labelled frames of a data directory."""
    encoder = load_encoder(name)
    data = DataDir.read(folder)
    subject = Subject(encoder, [FEATURES[name]])
    sample = FrameSample(
        subject, (data, alignments(data)), shifts=[shift], most_frames=frames, seed=0
    )
    evaluate(subject, [sample])
    return sample.examples(shift)


def probe(name: str, train: Path, test: Path, frames: int, shift: int) -> dict[str, float]:
    """Return the probe's choice and its accuracy on the test set."""
    learnt, tried = examples(name, train, frames, shift), examples(name, test, 10**9, shift)
    classifier = logistic_regression(learnt.features[0], learnt.labels, learnt.held_out)
    right = float((classifier.predict(tried.features[0]) == tried.labels).mean())
    return {
        "penalty": classifier.note["penalty"],
        "held out": classifier.note["held_out"],
        "test": right,
    }


def search(name: str, train: Path, frames: int, shift: int) -> dict[str, float]:
    """Return the choice of scikit-learn alone."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit

    learnt = examples(name, train, frames, shift)
    mean, transform = whiten(learnt.features[0])
    white = ((learnt.features[0] - mean) @ transform).astype(np.float64)
    fitted = int((~learnt.held_out).sum())
    found = GridSearchCV(
        LogisticRegression(tol=1e-6, max_iter=5000),
        {"C": [1 / (penalty * fitted) for penalty in PENALTIES]},
        scoring="accuracy",
        cv=PredefinedSplit(np.where(learnt.held_out, 0, -1)),
        refit=False,
    ).fit(white, learnt.labels)
    return {"penalty": PENALTIES[found.best_index_], "held out": float(found.best_score_)}


def main() -> None:
    """Measure every set of features and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--frames", type=int, default=4_000)
    parser.add_argument("--shift", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--search", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(
            json.dumps(
                probe(options.measure, options.train, options.test, options.frames, options.shift)
            )
        )
        return
    if options.search:
        print(json.dumps(search(options.search, options.train, options.frames, options.shift)))
        return
    given = (
        options.train.resolve(),
        options.test.resolve(),
        "--frames",
        options.frames,
        "--shift",
        options.shift,
    )
    rows = []
    for name in FEATURES:
        runs = []
        for threads in ("1", "1", "2"):
            os.environ["OMP_NUM_THREADS"] = threads
            runs.append(apart(__file__, *given, "--measure", name))
        independent = apart(__file__, *given, "--search", name)
        first, again, other = runs
        rows.append(
            [
                name,
                f"{first['penalty']:g}",
                f"{independent['penalty']:g}",
                f"{100 * first['held out']:.2f}",
                f"{100 * independent['held out']:.2f}",
                f"{100 * first['test']:.2f}",
                "the same" if first == again else "differs",
                f"{100 * (other['test'] - first['test']):+.2f}",
            ]
        )
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    write_page(
        options.out,
        "The strict probe",
        f"Phones from at most {options.frames:,} training frames, label shift {options.shift};"
        " accuracies in per cent. `held out` is the accuracy on a fifth of the training speakers,"
        " by which the penalty is chosen.\n",
        table(
            [
                "features",
                "penalty",
                "of an independent search",
                "held out",
                "of an independent search",
                "test",
                "the same command again",
                "test, two threads instead of one",
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
