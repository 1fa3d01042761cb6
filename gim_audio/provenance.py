"""The origin of a number: command, commit, hardware, versions."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

__all__ = ["commit", "hardware", "provenance"]


def commit() -> str:
    """Return the commit of the checkout that holds this package, else its version.

    `-dirty` is added where files differ.
    """
    folder = Path(__file__).resolve().parent.parent
    described = _output(
        "git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"
    )
    return (
        described
        if (folder / ".git").exists() and described
        else f"gim-audio {version('gim-audio')}"
    )


def hardware() -> str:
    """Processor, usable cores and, where there is one, the GPU."""
    cores = len(os.sched_getaffinity(0))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        model = platform.machine()
    gpu = ""
    torch = sys.modules.get("torch")  # only a command that used torch can have used a GPU
    if torch is not None and torch.cuda.is_available():
        gpu = f", {torch.cuda.get_device_name()}"
    return f"{model}, {cores} cores{gpu}"


def provenance() -> dict[str, str]:
    """Return the facts that are written beside every measured number."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": hardware(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""
