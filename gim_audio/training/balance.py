"""The division of modules among processes, by the time that each of them takes here."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gim_audio.config import Config
from gim_audio.model.sampling import RandomNumbers
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.training.schedule import Phase
from gim_audio.training.step import type_of_products

__all__ = ["balance", "measure"]


def balance(costs: Sequence[float], parts: int) -> list[tuple[int, int]]:
    """Cut a list into consecutive pieces so that the dearest costs as little as it can.

    Returns:
        Where each piece starts and stops.
    """
    best: dict[tuple[int, int], tuple[float, list[tuple[int, int]]]] = {(0, 0): (0.0, [])}
    for used in range(1, parts + 1):
        for stop in range(1, len(costs) + 1):
            options = [
                (
                    max(best[used - 1, start][0], sum(costs[start:stop])),
                    [*best[used - 1, start][1], (start, stop)],
                )
                for start in range(stop)
                if (used - 1, start) in best
            ]
            if options:
                best[used, stop] = min(options)
    return best[parts, len(costs)][1]


def measure(
    model: GreedyInfoMax,
    phase: Phase,
    config: Config,
    x: Tensor,
    targets: Mapping[int, Tensor] | None = None,
) -> list[float]:
    """Return the seconds of each module that a phase runs.

    The second of two passes, with gradients where it learns.
    """
    costs: list[float] = []
    for _ in range(2):
        costs, started = [], time.perf_counter()
        walk = model.greedy_losses(
            x,
            RandomNumbers(0),
            type_of_products(config),
            first=phase.first,
            last=phase.last,
            frozen=phase.frozen,
            targets=targets,
        )
        for number, score, _handed in walk:
            if score is not None:
                score().loss.backward()  # type: ignore[no-untyped-call]
                model.stack[number - 1].zero_grad(set_to_none=True)
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            costs.append(time.perf_counter() - started)
            started = time.perf_counter()
    return costs
