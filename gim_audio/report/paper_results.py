"""Numbers of the literature, to set beside ours: cited, never measured here.

LibriSpeech train-clean-100 with the split of the CPC authors, 41 phones and 251 speakers; Löwe,
O'Connor and Veeling, "Putting An End to End-to-End", NeurIPS 2019 (arXiv 1905.11786).
"""

__all__ = ["SOURCE", "SPEAKERS_BY_MODULE", "TABLE"]

SOURCE = "Löwe et al., NeurIPS 2019, LibriSpeech train-clean-100"

TABLE = {
    "random initialisation": (27.6, 1.9),
    "MFCC": (39.7, 17.6),
    "supervised": (77.7, 98.9),
    "greedy supervised": (73.4, 98.7),
    "CPC": (64.9, 99.6),
    "Greedy InfoMax": (62.5, 99.4),
}
"""Accuracy in per cent: phones, speakers."""

SPEAKERS_BY_MODULE = {
    "Greedy InfoMax": (24.3, 90.1, 98.0, 98.7, 99.1, 99.4),
    "CPC": (36.5, 88.6, 96.9, 98.5, 99.4, 99.6),
    "supervised": (23.6, 44.4, 84.1, 92.8, 95.2, 98.9),
    "greedy supervised": (45.5, 96.1, 97.6, 98.3, 98.2, 98.7),
}
"""Read off the authors' figure."""
