"""The processes of a run: one, several that share each batch, or several that each have modules.

Processes are torchrun's, and talk by torch.distributed. Nothing but activations and reports passes
between modules, and only forward.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from gim_audio.config import Config, InfoNCEConfig, count_of
from gim_audio.devices import pick_device
from gim_audio.errors import ConfigError, GimAudioError
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.training.data_parallel import DataParallel
from gim_audio.training.distribution import Distribution
from gim_audio.training.module_parallel import ModuleParallel

__all__ = ["join"]


@contextmanager
def join(config: Config, model: GreedyInfoMax) -> Iterator[Distribution]:
    """Take this process's part in the run.

    Raises:
        ConfigError: Processes and `training.parallel` do not fit together.
        LostProcessError: Another process is gone. Only one of the processes that are left raises
            it, the others exit.
    """
    kind, clip = config.training.parallel, config.training.clip
    size = os.environ.get("WORLD_SIZE", "1")
    started = count_of(size)
    if started is None:
        raise ConfigError(f"WORLD_SIZE is {size}: torchrun sets it to the number of processes")
    if kind == "none":
        if started > 1:
            raise ConfigError(
                f"torchrun started {started} processes: say training.parallel=data or =modules"
            )
        yield Distribution(clip)
        return
    if "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"training.parallel={kind} needs several processes: torchrun --nproc-per-node 2 -m"
            " gim_audio train …"
        )
    device = pick_device(config.training.device)
    if device.type == "cuda":
        own = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(device.index if device.index is not None else own)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=10))
        # A group that may wait while one process computes a cache or measures for hours.
        group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        patient = group if isinstance(group, dist.ProcessGroup) else None
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch's DistError
        raise ConfigError(
            f"the processes cannot meet ({' '.join(str(error).split())[:200]}): torchrun sets RANK,"
            " WORLD_SIZE, MASTER_ADDR and a MASTER_PORT that is free"
        ) from error
    try:
        if kind == "data":  # labels have no negatives: their losses are means over all processes
            own = all(
                isinstance(each, InfoNCEConfig) and each.negatives.ranks == "own"
                for each in config.objectives
            )
            negatives: Literal["all", "own"] = "own" if own else "all"
            yield DataParallel(negatives, clip, patient)
        else:
            yield ModuleParallel(model, config, patient)
    except GimAudioError as error:
        if _said_already():  # one line is enough
            raise SystemExit(2) from error
        raise
    else:
        dist.destroy_process_group()


def _said_already() -> bool:
    """Return whether another process has said that one is gone, by the store where all have met."""
    key = f"gim-audio/said/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined] # it is documented
            address, port, is_master=False, timeout=timedelta(seconds=5)
        )
        return store.add(key, 1) > 1
    except (ValueError, RuntimeError):  # the process that kept it is the one that is gone
        return False
