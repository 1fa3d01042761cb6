"""The work that a step gives to its device, on meta tensors, which have no numbers.

Whatever is not on a CPU takes the path of a GPU. A number that the host wants to read cannot be
had, and nothing can be computed on the CPU without being seen.
"""

import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import OBJECTIVES, targets_for_all
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gim_audio.config import load
from gim_audio.model import sampling
from gim_audio.model.build import build_model
from gim_audio.model.contexts import GRUContext
from gim_audio.model.objectives import infonce
from gim_audio.packed import Crops
from gim_audio.training.distribution import LostProcessError, talking
from gim_audio.training.feed import Feed
from gim_audio.training.step import Step


class Dispatched(TorchDispatchMode):
    """Counts operations, but for views, and remembers the devices of all tensors."""

    def __init__(self):
        super().__init__()
        self.operations, self.devices = Counter(), set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        returned = function._schema.returns
        view = any(r.alias_info and not r.alias_info.is_write for r in returned)
        self.operations[str(function)] += not view
        for tensor in tree_leaves((arguments, keywords, made)):
            if isinstance(tensor, torch.Tensor):
                self.devices.add(tensor.device.type)
        return made


def without_recurrence(self, z, state=(), **_):
    """Stands for the GRU, whose operations a library counts on each device in its own way."""
    return (z[..., : self.width] * self.gru.weight_hh_l0[0]).to(z.dtype), state


@pytest.fixture
def dispatched(monkeypatch):
    """Run a step once to warm up and once to see what it does."""

    def run(device, batch, *settings, targets_of=lambda model, x: {}):
        config = load(None, ["model.channels=16", "model.context.hidden=8", *settings])
        monkeypatch.setattr(GRUContext, "forward", without_recurrence)
        with torch.device(device):
            model = build_model(config.model, config.objectives)
        step = Step.joint(model, config)
        x = model.standardise(torch.randn(batch, 20480, device=device))
        targets = targets_of(model, x)
        step(x, torch.tensor(0, device=device), targets)
        with Dispatched() as seen:
            index = torch.zeros((), dtype=torch.int64, device=device)
            step(x, index, targets)
        return seen

    yield run
    infonce._share.cache_clear()
    sampling._backward.cache_clear()


class Cast(TorchFunctionMode):
    """Casts the operands of products, as autocast does, which knows nothing of meta tensors."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function in {torch.conv2d, torch.nn.functional.linear}:
            cast = [a.bfloat16() if isinstance(a, torch.Tensor) else a for a in arguments]
            return function(*cast, **(keywords or {}))
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["batch", "exact", "utterance", "pool"])
def test_a_step_stays_on_its_device(dispatched, monkeypatch, kind, precision):
    """The number of operations is small, and the same at any batch."""
    cast = Cast if precision == "bf16" else contextlib.nullcontext
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: cast())
    seen = [dispatched("meta", batch, f"objective.negatives.kind={kind}") for batch in (2, 64)]
    assert [each.devices for each in seen] == [{"meta"}, {"meta"}]
    counts = [sum(each.operations.values()) for each in seen]
    assert counts[0] == counts[1] <= (350 if kind == "batch" else 470)


@pytest.mark.parametrize("kind", [kind for kind in OBJECTIVES if kind != "infonce"])
def test_other_objectives_stay_there_too(dispatched, monkeypatch, kind):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())

    def targets(model, x):
        with torch.device("meta"):
            return targets_for_all(model, x)

    seen = dispatched("meta", 2, f"objective={OBJECTIVES[kind]}", targets_of=targets)
    assert seen.devices == {"meta"}


def test_a_batch_is_read_while_the_last_one_is_learnt_from(corpus):
    crops = Crops(corpus, crop=4000, hop=160, batch=3, seed=1)
    plain = Feed(crops, torch.device("cpu"), "never")
    ahead = Feed(crops, torch.device("cpu"), "never")
    ahead._reader = ThreadPoolExecutor(1)
    for step in (0, 1, 2, 7, 8, 3):  # a run may resume anywhere
        assert torch.equal(ahead(step), plain(step))
        assert ahead._coming[0] == step + 1


def test_memory_that_is_short_is_no_lost_process():
    def fail(error):
        with talking():
            raise error

    with pytest.raises(torch.OutOfMemoryError):
        fail(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(LostProcessError, match="connection reset"):
        fail(RuntimeError("connection reset"))
