"""The page of the ladder: changes, minutes, results, and which changes were kept."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

from gim_audio.files import write_text
from gim_audio.intervals import Estimate, difference
from gim_audio.provenance import provenance

__all__ = ["write_page"]

BASELINES = ("mfcc", "mfcc+cmvn", "fbank+cmvn")
TESTS = (
    ("phones", "accuracy", "phones %"),
    ("per", "per", "phone errors %"),
    ("verification", "eer", "EER %"),
)


def record(folder: Path, name: str, task: str) -> dict[str, Any] | None:
    """Return the result of a task, as `gim-audio evaluate` wrote it."""
    files = sorted((folder / "results" / name).glob(f"{task}-*.json"))
    found: dict[str, Any] | None = json.loads(files[0].read_text()) if files else None
    return found


def estimate(row: dict[str, Any], key: str) -> Estimate:
    """Return a figure of a module."""
    return Estimate(row[key], row[key], row["interval"], row["halves"])


def shown(row: dict[str, Any] | None, key: str) -> str:
    """Return a figure in percent, with its interval where there are enough speakers."""
    if row is None:
        return ""
    figure = f"{100 * row[key]:.1f}"
    if not row["interval"]:
        return figure
    low, high = row["interval"]
    return f"{figure} ({100 * low:.1f} to {100 * high:.1f})"


def change(new: dict[str, Any], old: dict[str, Any]) -> str:
    """Return by how many points a rung exceeds another, and half the width of the interval."""
    one, other = (estimate(r["modules"][-1], "accuracy") for r in (new, old))
    points = f"{100 * (one.value - other.value):+.1f}"
    if not one.halves:  # too few speakers
        return points
    return f"{points} ± {100 * difference(one, other, len(new['speakers'])):.1f}"


def seeds(exp: Path, name: str) -> list[Path]:
    """Return the folders of a rung's runs that were probed."""
    found = [folder for folder in exp.glob(f"{name}-*") if folder.name[len(name) + 1 :].isdigit()]
    return sorted(folder for folder in found if record(folder, "valid", "phones"))


def row_of(exp: Path, name: str, rungs: dict[str, dict[str, Any]]) -> list[str]:
    """Return the cells of a rung: figures of all seeds, and what changed against `from`."""
    rung, runs = rungs[name], seeds(exp, name)
    built_on = any(other.get("from") == name for other in rungs.values())
    cells = [name, rung.get("from", ""), rung["change"]]
    if not runs:
        return [*cells, "", "not run", "", ""]
    records = [record(run, "valid", "phones") for run in runs]
    values = [100 * r["modules"][-1]["accuracy"] for r in records if r]
    spent = [json.loads((run / "minutes.json").read_text())["minutes"] for run in runs]
    known = [minutes for minutes in spent if minutes is not None]
    figure = f"{mean(values):.1f}"
    if len(values) > 1:
        figure += f" ({', '.join(f'{value:.1f}' for value in values)})"
    beside = ""
    below = {run.name.rpartition("-")[2]: run for run in seeds(exp, rung.get("from", "-"))}
    same = [(run, below[s]) for run in runs if (s := run.name.rpartition("-")[2]) in below]
    if same:
        new, old = (record(run, "valid", "phones") for run in same[0])
        assert new is not None  # noqa: S101 - `seeds` has looked
        assert old is not None  # noqa: S101
        beside = change(new, old)
    took = f"{mean(known):.1f}" if known else "resumed"
    return [*cells, took, figure, beside, "yes" if built_on else ""]


def tested(exp: Path, name: str) -> list[str] | None:
    """Return the cells of a rung or baseline on the test list, None where it was not tested."""
    folder = exp / name
    cells = [name]
    for task, key, _ in TESTS:
        found = record(folder, "test", task)
        if found is None:
            return None
        row = found["modules"][-1]
        cells.append(shown(row, key))
    abx = folder / "results/abx.json"
    if abx.exists():
        row = json.loads(abx.read_text())["modules"][-1]
        cells += [shown(row[key], "error") for key in ("within", "across")]
    return cells


def table(head: list[str], lines: list[list[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def write_page(exp: Path, rungs: dict[str, dict[str, Any]], minutes: float, out: Path) -> None:
    """Write the page."""
    where = provenance()
    found = [record(run, "valid", "phones") for name in rungs for run in seeds(exp, name)]
    commits = sorted({one["provenance"]["commit"] for one in found if one})
    made = f" Rungs were probed at {', '.join(commits)}." if commits else ""
    parts = [
        "# The ladder",
        (
            f"Written by `recipes/ladder/run.sh`; {where['commit']}, {where['date']},"
            f" {where['hardware']}, torch {where['torch']}.{made}"
        ),
        (
            f"Each rung learns for about {minutes:g} minutes of one core, clustering included,"
            " unless its change says otherwise, and differs by one change from the rung `from`."
            " Phones are named by a linear probe of its last module (strict protocol, 60,000"
            " frames), fitted on four fifths of the speakers"
            " of the CPC authors' training list and tried on the others: these choose, and the test"
            " list decides nothing. Differences are paired by speaker, with 95% intervals"
            " (delete-half jackknife); they do not hold the chance of the seed."
        ),
        table(
            ["rung", "from", "change", "minutes", "phones %", "against `from`", "built on"],
            [row_of(exp, name, rungs) for name in rungs],
        ),
    ]
    below = []
    for name in BASELINES:
        found = record(exp / name, "valid", "phones")
        if found:
            below.append([name, f"{100 * found['modules'][-1]['accuracy']:.1f}"])
    if below:
        parts += ["Baselines on the speakers that choose:", table(["features", "phones %"], below)]
    names = [*BASELINES, *(run.name for name in rungs for run in seeds(exp, name))]
    lines = [cells for name in names if (cells := tested(exp, name))]
    if lines:
        head = ["features", *(title for *_, title in TESTS), "ABX within %", "ABX across %"]
        parts += ["On speakers of the test list, whom nothing was chosen on:", table(head, lines)]
    write_text(out, "\n\n".join(parts) + "\n")
