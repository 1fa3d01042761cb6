"""Where a model runs."""

import torch

from gim_audio.errors import ConfigError

__all__ = ["pick_device"]


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        ConfigError: the device is unknown or not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name} cannot be used here ({reason})") from error
    return device
