"""The style of figures."""

from typing import Any

__all__ = ["INK", "MFCC", "MUTED", "STYLE", "TRAINED"]

INK, MUTED, TRAINED, MFCC = "#222222", "#8a8a8a", "#0b6e99", "#c8651b"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "legend.frameon": False,
}
