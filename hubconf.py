"""Entries for torch.hub and s3prl.

Torch.hub.load(FOLDER, "gim_audio", "exp/gim", source="local").
"""

dependencies = ["torch", "numpy", "safetensors", "pydantic", "yaml", "soundfile", "soxr"]

from gim_audio.featurize import load as gim_audio  # noqa: E402, F401
from gim_audio.featurize.s3prl import gim_upstream  # noqa: E402, F401
