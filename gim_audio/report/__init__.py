"""Results and metrics to tables, figures and one self-contained page."""

from gim_audio.report.page import write_report

__all__ = ["write_report"]
