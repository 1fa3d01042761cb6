"""Tables and sentences about one experiment; cells are plain text."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gim_audio.report.paper_results import SOURCE, TABLE
from gim_audio.report.results import Experiment, Probe
from gim_audio.report.verdicts import baseline_name, baselines

__all__ = ["TASKS", "Table", "cell", "comparison", "facts", "measured", "published"]


@dataclass(frozen=True)
class Table:
    """A caption, a head and rows."""

    caption: str
    head: list[str]
    rows: list[list[str]]


TASKS = ("phones", "speakers")
ABX_MODES = ("within", "across")


def measured(experiment: Experiment) -> list[Table]:
    """All that evaluations of an experiment found."""
    found = (
        results(experiment),
        abx(experiment),
        beyond_accuracy(experiment),
        slowness(experiment),
    )
    return [table for table in found if table]


def results(experiment: Experiment) -> Table:
    """Accuracy of every module, trained and at initialisation, then the baselines."""
    head = ["features"]
    for task in TASKS:
        head += [f"{task} %", "95% interval", f"{task} %, untrained"]
    trained = {task: experiment.probe(task, "trained") for task in TASKS}
    random = {task: experiment.probe(task, "random") for task in TASKS}
    names = next(
        ([(r["module"], r["name"]) for r in probe.modules] for probe in trained.values() if probe),
        [],
    )
    rows = []
    for module, name in names:
        row = [f"module {module}: {name}"]
        for task in TASKS:
            row += [*_cells(trained[task], module), _cells(random[task], module)[0]]
        rows.append(row)
    measured = [baselines(experiment, task) for task in TASKS]
    for kind in dict.fromkeys(kind for found in measured for kind in found):
        cells = (cell for found in measured for cell in (*_cells(found.get(kind), 1), ""))
        rows.append([str(baseline_name(kind)), *cells])
    chance = [
        f"{p.record['counts']['majority']:.1%}".rstrip("%") if p else "" for p in trained.values()
    ]
    rows.append(
        ["always the most frequent class", *(cell for value in chance for cell in (value, "", ""))]
    )
    said = "; ".join(
        f"{task}: {probe.record['protocol']} protocol"
        + (f", label shift {shift}" if shift is not None else "")
        for task, probe in trained.items()
        if probe
        for shift in [probe.record["settings"].get("shift")]
    )
    return Table(f"Accuracy of linear probes, measured ({said})", head, rows)


def _cells(probe: Probe | None, module: int) -> tuple[str, str]:
    row = next((row for row in probe.modules if row["module"] == module), None) if probe else None
    if row is None:
        return "", ""
    interval = (
        "{:.1f} to {:.1f}".format(*(100 * edge for edge in row["interval"]))
        if row["interval"]
        else ""
    )
    return f"{100 * row['accuracy']:.1f}", interval


def cell(row: dict[str, Any]) -> str:
    """Accuracy and interval in per cent."""
    interval = (
        " ({:.1f} to {:.1f})".format(*(100 * edge for edge in row["interval"]))
        if row["interval"]
        else ""
    )
    return f"{100 * row['accuracy']:.1f}{interval}"


def abx(experiment: Experiment) -> Table | None:
    """ABX errors of every module, trained and at initialisation, then the baselines.

    None where nobody measured.
    """
    trained, random = experiment.probe("abx", "trained"), experiment.probe("abx", "random")
    if trained is None:
        return None
    untrained = {row["module"]: row for row in random.modules} if random else {}
    rows = [
        [
            f"module {row['module']}: {row['name']}",
            *_abx_cells(row, untrained.get(row["module"], {})),
        ]
        for row in trained.modules
    ]
    rows += [
        [str(baseline_name(kind)), *_abx_cells(probe.modules[0], {})]
        for kind, probe in baselines(experiment, "abx").items()
    ]
    head = ["features"]
    for mode in ABX_MODES:
        head += [f"{mode} speakers %", "95% interval", f"{mode} speakers %, untrained"]
    return Table(
        "ABX error between triphones, measured (50 is chance, lower is better)", head, rows
    )


def _abx_cells(row: dict[str, Any], untrained: dict[str, Any]) -> list[str]:
    cells = []
    for mode in ABX_MODES:
        score, first = row[mode], untrained.get(mode)
        interval = score["interval"] if score else None
        cells += [
            f"{100 * score['error']:.1f}" if score else "",
            "{:.1f} to {:.1f}".format(*(100 * edge for edge in interval)) if interval else "",
            f"{100 * first['error']:.1f}" if first else "",
        ]
    return cells


def beyond_accuracy(experiment: Experiment) -> Table | None:
    """Equal error rate of speaker verification, phones of k-means units, phones read by CTC."""
    columns = [
        (task, key, name)
        for task, key, name in (
            ("verification", "eer", "verification EER %"),
            ("units", "pnmi", "units PNMI %"),
            ("units", "phone_purity", "units' phone purity %"),
            ("units", "cluster_purity", "units' cluster purity %"),
            ("per", "per", "phone error rate %"),
        )
        if experiment.probe(task, "trained")
    ]
    if not columns:
        return None
    rows: dict[str, list[str]] = {}
    kinds = dict.fromkeys(kind for task, _, _ in columns for kind in baselines(experiment, task))
    for kind, beside in (
        ("trained", ""),
        ("random", ", untrained"),
        *((kind, "") for kind in kinds),
    ):
        for column, (task, key, _) in enumerate(columns):
            probe = experiment.probe(task, kind)
            for row in probe.modules if probe else []:
                name = baseline_name(kind) or f"module {row['module']}: {row['name']}{beside}"
                interval = row["interval"] if key in {"eer", "pnmi", "per"} else None
                shown = f"{100 * row[key]:.1f}"
                shown += (
                    " ({:.1f} to {:.1f})".format(*(100 * edge for edge in interval))
                    if interval
                    else ""
                )
                rows.setdefault(name, [""] * len(columns))[column] = shown
    head = ["features", *(name for _, _, name in columns)]
    return Table(
        "Verification, units and phones in order, measured",
        head,
        [[name, *cells] for name, cells in rows.items()],
    )


def slowness(experiment: Experiment) -> Table | None:
    """Autocorrelation of every module, trained and at initialisation.

    None where nobody measured.
    """
    trained, random = (experiment.probe("slowness", kind) for kind in ("trained", "random"))
    if trained is None:
        return None
    untrained = {row["module"]: row["autocorrelation"] for row in random.modules} if random else {}
    lags = trained.record["settings"]["lags"].split()
    lines = []
    for row in trained.modules:
        pairs = zip(
            row["autocorrelation"], untrained.get(row["module"], [None] * len(lags)), strict=True
        )
        lines.append(
            [f"module {row['module']}: {row['name']}", *(_beside(*pair) for pair in pairs)]
        )
    for kind, probe in baselines(experiment, "slowness").items():
        lines.append(
            [
                str(baseline_name(kind)),
                *(_beside(value, None) for value in probe.modules[0]["autocorrelation"]),
            ]
        )
    head = ["features", *(f"{10 * int(lag)} ms" for lag in lags)]
    return Table(
        "Autocorrelation over time, measured (at initialisation in brackets): 1 stands still",
        head,
        lines,
    )


def _beside(value: float | None, untrained: float | None) -> str:
    shown = "" if value is None else f"{value:.2f}"
    return shown + ("" if untrained is None else f" ({untrained:.2f})")


def comparison(experiments: Sequence[Experiment]) -> Table:
    """Experiments side by side: accuracy of each module, and what training took."""
    rows: dict[str, list[str]] = {}
    for column, experiment in enumerate(experiments):
        for task in TASKS:
            probe = experiment.probe(task, "trained")
            for row in probe.modules if probe else []:
                cells = rows.setdefault(
                    f"{task} %, module {row['module']}", [""] * len(experiments)
                )
                cells[column] = cell(row)
        for name, value in _training(experiment).items():
            rows.setdefault(f"training: {name}", [""] * len(experiments))[column] = value
    head = ["", *(experiment.path.name for experiment in experiments)]
    return Table(
        "Side by side, measured", head, [[name, *cells] for name, cells in sorted(rows.items())]
    )


def _training(experiment: Experiment) -> dict[str, str]:
    if not experiment.metrics:
        return {}
    seconds = [row["seconds"] for row in experiment.metrics]
    found = {
        "steps": str(experiment.metrics[-1]["step"]),
        "time": f"{sum(seconds) / 60:.1f} min, {median(seconds):.2f} s a step",
    }
    if peaks := [row["peak_bytes"] for row in experiment.metrics if "peak_bytes" in row]:
        found["memory"] = f"{max(peaks) / 1e9:.2f} GB at most, libraries included"
    return found


def published() -> Table:
    """The literature's numbers, marked as such."""
    rows = [
        [name, f"{phones:.1f}", f"{speakers:.1f}"] for name, (phones, speakers) in TABLE.items()
    ]
    return Table(
        f"Published, not measured here: {SOURCE}", ["features", "phones %", "speakers %"], rows
    )


def facts(experiment: Experiment) -> Table:
    """Settings and provenance, a line each."""
    rows = []
    for start in experiment.starts:
        rows.append([f"training from step {start['from_step']}: command", start["command"]])
        rows.append([f"training from step {start['from_step']}: where", _where(start)])
    rows += [[f"training: {name}", value] for name, value in _training(experiment).items()]
    for (command, where), probes in _by_command(experiment.probes).items():
        names = [f"{probe.task}, {probe.kind}" for probe in probes]
        for name, probe in zip(names, probes, strict=True):
            settings = {**probe.record["settings"], **probe.record["counts"]}
            shown = ", ".join(f"{key} {_short(value)}" for key, value in settings.items())
            rows.append([name, f"{probe.record['protocol']} protocol: {shown}"])
        rows.append([f"{names[0]}: command", command])
        rows.append([f"{names[0]}: where", where])
        corpora = {
            name: value
            for probe in probes
            for name, value in (probe.record.get("corpora") or {}).items()
        }
        if corpora:
            shown = ", ".join(f"{name} {value[:12]}" for name, value in corpora.items())
            rows.append([f"{names[0]}: fingerprints", shown])
    return Table("Settings and provenance", ["what", "value"], rows)


def _by_command(probes: Sequence[Probe]) -> dict[tuple[str, str], list[Probe]]:
    """Return the results of one command together.

    There is where it ran, what encoding took, and what it would take in each epoch.
    """
    found: dict[tuple[str, str], list[Probe]] = {}
    for probe in probes:
        record = probe.record
        where, seconds = _where(record["provenance"]), record.get("seconds") or {}
        if seconds:
            train, test, whole = (
                seconds[name] for name in ("encoding train", "encoding test", "all")
            )
            where += (
                f"; {whole:.0f} s, {train + test:.0f} of them encoding, once, in"
                f" {record['precision']} ({20 * train + test:.0f} s, were training encoded anew in"
                " each of the published 20 epochs)"
            )
        found.setdefault((record["provenance"]["command"], where), []).append(probe)
    return found


def _where(record: dict[str, Any]) -> str:
    return f"{record['commit']}, {record['date']}, {record['hardware']}, torch {record['torch']}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
