"""Four operations whose gradients are written by hand, because torch's would copy, pad or wait too much.

Each is what its docstring's formula says and no more; the tests hold values and gradients against plain versions.
"""

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Compare", "Gather", "Predict", "Recurrence", "recur"]


class Gather(torch.autograd.Function):
    """Some of the frames.

    Shape: z `(batch, frames, channels)`, rows `(n,)` numbered b · frames + t → `(n, channels)`.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, rows: Tensor) -> Tensor:
        """The copy of all frames in order lives for this call alone."""
        ctx.save_for_backward(rows)
        ctx.shape = z.shape
        return F.embedding(rows, z.flatten(0, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Summed where a frame was taken twice; an embedding's gradient, unlike indexing's, repeats exactly.

        Convolutions want it in their own layout, `(batch, channels, frames)`.
        """
        (rows,) = ctx.saved_tensors
        batch, frames, _ = ctx.shape
        dense = torch.ops.aten.embedding_dense_backward(gradient, rows, batch * frames, -1, False)
        return dense.view(ctx.shape).transpose(1, 2).contiguous().transpose(1, 2), None


class Predict(torch.autograd.Function):
    """W_k c_{t-k} for every target t and step k; zeros where t - k lies before the window.

    Each step is one product, written to and read from its place: nothing is padded, stacked or copied.

    Shape: contexts `(rows, width)`, heads `(steps, channels, width)` → `(rows, steps, channels)`.
    """

    @staticmethod
    def forward(ctx: Any, contexts: Tensor, heads: Tensor, batch: int) -> Tensor:
        """`batch` rows later is one time step later."""
        weights = heads.to(contexts.dtype)
        ctx.save_for_backward(contexts, weights)
        ctx.batch, ctx.dtype = batch, heads.dtype
        rows = len(contexts)
        predictions = contexts.new_empty(rows, *heads.shape[:2])
        for k, weight in enumerate(weights):
            later = (k + 1) * batch
            predictions[:later, k] = 0
            torch.mm(contexts[: rows - later], weight.T, out=predictions[later:, k])
        return predictions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of the contexts and of the heads."""
        contexts, weights = ctx.saved_tensors
        rows = len(contexts)
        of_contexts, of_heads = torch.zeros_like(contexts), torch.empty_like(weights)
        for k, weight in enumerate(weights):
            later = (k + 1) * ctx.batch
            torch.mm(gradient[later:, k].T, contexts[: rows - later], out=of_heads[k])
            of_contexts[: rows - later].addmm_(gradient[later:, k], weight)
        return of_contexts, of_heads.to(ctx.dtype), None


class Compare(torch.autograd.Function):
    """Scores p_kᵀ z of each target's candidates, in float32 whatever the precision of the operands.

    Shape: predictions `(rows, steps, channels)`, candidates `(rows, n, channels)` → `(rows, steps, n)`.
    """

    @staticmethod
    def forward(ctx: Any, predictions: Tensor, candidates: Tensor) -> Tensor:
        """A small product for each target."""
        ctx.save_for_backward(predictions, candidates)
        return torch.bmm(predictions.float(), candidates.float().transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """Both in the layout of what they are gradients of."""
        predictions, candidates = ctx.saved_tensors
        gradient = gradient.to(predictions.dtype)
        of_candidates = torch.bmm(gradient.transpose(1, 2), predictions) if ctx.needs_input_grad[1] else None
        return torch.bmm(gradient, candidates), of_candidates


def recur(inputs: Tensor, first: Tensor, weight: Tensor, bias: Tensor, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The steps of a GRU whose inputs are projected already; on a CPU a few times faster than torch's own.

    h_t = n + u (h_{t-1} - n) with n = tanh(x_n + r (W_n h_{t-1} + b_n)).

    Shape: inputs `(frames, batch, 3 hidden)`, for the gates r and u and the candidate n in torch's order; first
    `(batch, hidden)` → states `(frames, batch, hidden)`, and gates and products W h + b in the inputs' shape where they
    are to be kept; else all steps write to the same place.
    """
    hidden, kept = first.shape[1], len(inputs) if keep else 1
    gates, products = (inputs.new_empty(kept, *inputs.shape[1:]) for _ in range(2))
    states = inputs.new_empty(*inputs.shape[:2], hidden)

    def steps(x: Tensor, begin: int, end: int) -> Iterable[Tensor]:
        part = x[..., begin * hidden : end * hidden]
        return part.unbind() if len(x) == len(inputs) else repeat(part[0])

    of_inputs = steps(inputs, 0, 2), steps(inputs, 2, 3)
    of_products = steps(products, 0, 3), steps(products, 0, 2), steps(products, 2, 3)
    of_gates = steps(gates, 0, 2), steps(gates, 0, 1), steps(gates, 1, 2), steps(gates, 2, 3)
    h, transposed = first, weight.T
    for x_ru, x_n, product, p_ru, p_n, ru, r, u, n, state in zip(
        *of_inputs, *of_products, *of_gates, states.unbind(), strict=False
    ):
        torch.addmm(bias, h, transposed, out=product)
        torch.add(x_ru, p_ru, out=ru).sigmoid_()
        torch.addcmul(x_n, r, p_n, out=n).tanh_()
        h = torch.lerp(n, h, u, out=state)
    return states, gates, products


class Recurrence(torch.autograd.Function):
    """`recur` with gradients.

    What a step back needs from forward is prepared for all steps at once, which leaves it a product and three small
    operations; in float32.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, first: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """See `recur`."""
        states, gates, products = recur(inputs, first, weight, bias, keep=True)
        ctx.save_for_backward(gates, products[..., 2 * first.shape[1] :], first, states, weight)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The gradient of the products W h + b is the state's own times a factor that is known beforehand."""
        gates, lifted, first, states, weight = ctx.saved_tensors
        (frames, batch, hidden), previous = states.shape, torch.cat([first[None], states[:-1]])
        r, u, n = gates.chunk(3, dim=2)
        candidate = (1 - u) * (1 - n * n)
        factors = torch.stack([candidate * lifted * r * (1 - r), (previous - n) * u * (1 - u), candidate * r], dim=2)
        of_products, of_states = torch.empty_like(factors), torch.empty_like(states)
        carried = torch.zeros_like(first)
        for t in reversed(range(frames)):
            total = torch.add(carried, gradient[t], out=of_states[t])
            step = torch.mul(factors[t], total[:, None], out=of_products[t])
            carried = torch.addmm(total * u[t], step.view(batch, -1), weight)
        flat = of_products.view(-1, 3 * hidden)
        of_inputs = torch.cat([of_products[:, :, :2].flatten(2), of_states * candidate], dim=2)
        return of_inputs, carried, flat.T @ previous.view(-1, hidden), flat.sum(0)
