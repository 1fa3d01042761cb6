"""Sentences about an experiment that rest on a test.

Against its initialisation, and against the best baseline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gim_audio.intervals import Estimate, difference
from gim_audio.report.results import Experiment, Probe

__all__ = ["baseline_name", "baselines", "compared", "strongest", "verdicts"]

FEATURES = {"mfcc13": "MFCC", "mfcc": "MFCC with deltas", "fbank": "80 log mel energies"}
NORMALISED = {"": "", "+cmvn": ", CMVN by utterance", "+cmvn-speaker": ", CMVN by speaker"}


@dataclass(frozen=True)
class Measure:
    """One figure of a task.

    Attributes:
        task: The task, as results have it.
        key: The name of the figure in a row; for ABX, that of the score.
        title: The beginning of a sentence.
        sign: 1 where more is better, -1 for errors.
    """

    task: str
    key: str
    title: str
    sign: int = 1

    def of(self, row: dict[str, Any]) -> Estimate | None:
        """Return the figure as it was estimated; None where it was not measured."""
        found = row[self.key] if self.task == "abx" else row
        if found is None:
            return None
        value = found["error" if self.task == "abx" else self.key]
        halves, of_pairs = found.get("halves") or [], found.get("pair_halves") or []
        return Estimate(value, value, found["interval"], halves, found.get("slack", 0.0), of_pairs)


MEASURES = (
    Measure("phones", "accuracy", "Phones"),
    Measure("speakers", "accuracy", "Speakers"),
    Measure("per", "per", "Phone error rate", -1),
    Measure("units", "pnmi", "Units (PNMI)"),
    Measure("verification", "eer", "Verification (equal error rate)", -1),
    Measure("abx", "within", "ABX error within speakers", -1),
    Measure("abx", "across", "ABX error across speakers", -1),
)


def baseline_name(kind: str) -> str | None:
    """Return what a table calls a kind of results such as `mfcc+cmvn ±4`.

    None where it is no baseline.
    """
    name, _, stacked = kind.partition(" ±")
    features, plus, normalised = name.partition("+")
    if features not in FEATURES or plus + normalised not in NORMALISED:
        return None
    beside = f", with {stacked} frames on either side" if stacked else ""
    return f"{FEATURES[features]}{NORMALISED[plus + normalised]}{beside}"


def baselines(experiment: Experiment, task: str, protocol: str | None = None) -> dict[str, Probe]:
    """Return the results of all baselines that were measured as the experiment was.

    They are by kind, in a fixed order.
    """
    kinds = {probe.kind for probe in (*experiment.probes, *experiment.baselines)}
    if task in {
        "speakers",
        "verification",
    }:  # whose means over an utterance are what CMVN takes away
        kinds = {kind for kind in kinds if "+cmvn" not in kind}
    order = [f"{features}{suffix}" for features in FEATURES for suffix in NORMALISED]
    known = sorted(
        (kind for kind in kinds if baseline_name(kind)),
        key=lambda k: ("±" in k, order.index(k.split(" ")[0])),
    )
    return {kind: probe for kind in known if (probe := experiment.probe(task, kind, protocol))}


def strongest(experiment: Experiment, task: str, protocol: str | None = None) -> Probe | None:
    """Return the baseline with the best figure on the test set, which favours the baseline.

    None without baselines.
    """
    measure = next(m for m in MEASURES if m.task == task)
    return _strongest(measure, list(baselines(experiment, task, protocol).values()))


def verdicts(experiment: Experiment) -> list[str]:
    """Return a sentence for each figure and each of: its own initialisation, the best baseline."""
    sentences = []
    for measure in MEASURES:
        trained = experiment.probe(measure.task, "trained")
        if trained is None or measure.of(trained.chosen) is None:
            continue
        others = list(baselines(experiment, measure.task).values())
        against = []
        random = experiment.probe(measure.task, "random")
        if random:
            against.append((random, f"its own initialisation, {_module(random)}"))
        if best := _strongest(measure, others):
            which = (
                f", the best of {len(others)} baselines on the test set" if len(others) > 1 else ""
            )
            against.append((best, f"{baseline_name(best.kind)}{which}"))
        sentences += [
            f"{measure.title}: {_module(trained)} {compared(measure, trained, *pair)}"
            for pair in against
        ]
        compared_ = [(trained, ""), *([(random, "its own initialisation, ")] if random else [])]
        compared_ += [(other, f"{baseline_name(other.kind)}, ") for other in others]
        sentences += [
            f"{measure.title}: {text}"
            for probe, whose in compared_
            for text in _warnings(probe, whose)
        ]
    return sentences


def compared(measure: Measure, ours: Probe, theirs: Probe, name: str) -> str:
    """Return what a paired test says of two results."""
    one, other = measure.of(ours.chosen), measure.of(theirs.chosen)
    if one is None or other is None:
        return f"cannot be compared with {name}: nothing was measured there."
    change = 100 * (one.value - other.value)
    figures = f"({100 * one.value:.1f}%, {100 * other.value:.1f}%: {change:+.1f} points"
    if not ours.tested or not theirs.tested:
        return f"is not compared with {name} {figures}; no test: results of an older version)."
    if ours.speakers != theirs.speakers:
        return f"is not compared with {name} {figures}; no test: the test speakers differ)."
    if not one.halves or not other.halves:
        return f"is not compared with {name} {figures}; no test: too few speakers)."
    reach = 100 * difference(one, other, len(ours.speakers))
    verb = "is not shown to differ from"
    if abs(change) > reach:
        verb = "is better than" if measure.sign * change > 0 else "is worse than"
    return (
        f"{verb} {name} {figures}, 95% interval {change - reach:+.1f} to {change + reach:+.1f};"
        f" delete-half jackknife, paired over {len(ours.speakers)} speakers)."
    )


def _strongest(measure: Measure, probes: Sequence[Probe]) -> Probe | None:
    tested = [probe for probe in probes if probe.tested] or probes
    known = [(figure.value, probe) for probe in tested if (figure := measure.of(probe.chosen))]
    return max(known, key=lambda pair: measure.sign * pair[0])[1] if known else None


def _module(probe: Probe) -> str:
    """Name the module that is compared, and say how it was chosen."""
    row = probe.chosen
    if len(probe.modules) == 1:
        return f"module {row['module']} ({row['name']})"
    how = "the best on held-out training speakers" if "held_out" in row else "the last one"
    if probe.task == "speakers" and "held_out" in row:
        how = "the best on held-out training utterances"
    return f"module {row['module']} ({row['name']}, {how})"


def _warnings(probe: Probe, whose: str) -> list[str]:
    slow = [str(row["module"]) for row in probe.modules if not row.get("converged", True)]
    found = (
        [f"{whose}the regression on modules {', '.join(slow)} stopped before it converged."]
        if slow
        else []
    )
    default = {row["module"]: row["not_chosen"] for row in probe.modules if "not_chosen" in row}
    return found + [
        f"{whose}the penalty of module {module} was not chosen but is the default: {reason}."
        for module, reason in default.items()
    ]
