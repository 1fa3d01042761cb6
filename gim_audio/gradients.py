"""Predictions and scores with gradients written by hand, because torch's would copy too much.

In plain torch a joint step takes 18% longer in bf16, 1% in fp32 (tools/bench_step.md).
The tests hold values and gradients against plain versions.

Shapes: R rows (time steps from the last to the first, in each of them all utterances), K steps
ahead, N candidates, C channels of frames, H channels of contexts.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Compare", "Gather", "Predict"]


class Gather(torch.autograd.Function):
    """Frames of a batch by their rows, several sets of them, with one gradient.

    It sorts the rows and adds up in their order, whichever thread comes first. On an H100 at batch
    256 torch's own gradient of `embedding` takes 2.7 times as long, on a CPU a sixth of the time.

    Shape: frames `(B, T, C)`, rows b · T + t of any shapes `(…)` → `(…, C)` each.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """Copy the frames."""
        ctx.save_for_backward(*rows)
        ctx.shape = z.shape
        flat = z.flatten(0, 1)
        return tuple(flat[each] for each in rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Add up the gradients of each frame."""
        found = gradients[0].new_zeros(ctx.shape)
        for rows, gradient in zip(ctx.saved_tensors, gradients, strict=True):
            found.flatten(0, 1).index_put_((rows,), gradient, accumulate=True)
        return found, *(None for _ in gradients)


class Predict(torch.autograd.Function):
    """The predictions W_k c_{t-k} of the frame at t; zeros where t - k lies before the window.

    On a GPU one product makes all. In memory each context has a row of K predictions; those of a
    frame lie one time step further on from k to k, so that both orders are views. On a CPU one
    product for each k, written in place, saves 5% of a step.

    Shape: contexts `(R, H)`, weights `(K, C, H)` → `(R, K, C)`. `batch` rows are one time step.
    """

    @staticmethod
    def forward(ctx: Any, contexts: Tensor, weights: Tensor, batch: int) -> Tensor:
        """Compute in the type of the contexts."""
        rounded = weights.to(contexts.dtype)
        ctx.save_for_backward(contexts, rounded)
        ctx.batch, ctx.dtype = batch, weights.dtype
        rows = len(contexts)
        if contexts.device.type != "cpu":
            by_context, by_frame = _predictions(contexts, weights.shape, batch)
            by_context[rows:].zero_()  # of contexts before the window
            torch.mm(contexts, rounded.flatten(0, 1).T, out=by_context[:rows])
            return by_frame
        predictions = contexts.new_empty(rows, *weights.shape[:2])
        for k, weight in enumerate(rounded):
            earlier = (k + 1) * batch
            predictions[rows - earlier :, k] = 0
            torch.mm(contexts[earlier:], weight.T, out=predictions[: rows - earlier, k])
        return predictions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of the contexts and of the weights."""
        contexts, weights = ctx.saved_tensors
        rows = len(contexts)
        if contexts.device.type != "cpu":
            by_context, by_frame = _predictions(contexts, weights.shape, ctx.batch)
            by_context[:-rows].zero_()  # of frames beyond the window
            by_frame.copy_(gradient)
            given = by_context[:rows]
            of_weights = torch.mm(given.T, contexts).view(weights.shape)
            return torch.mm(given, weights.flatten(0, 1)), of_weights.to(ctx.dtype), None
        of_contexts, of_weights = torch.zeros_like(contexts), torch.empty_like(weights)
        for k, weight in enumerate(weights):
            earlier = (k + 1) * ctx.batch
            given = gradient[: rows - earlier, k]
            torch.mm(given.T, contexts[earlier:], out=of_weights[k])
            of_contexts[earlier:].addmm_(given, weight)
        return of_contexts, of_weights.to(ctx.dtype), None


def _predictions(contexts: Tensor, shape: torch.Size, batch: int) -> tuple[Tensor, Tensor]:
    """Return memory for predictions, by context and by frame.

    Shape: contexts `(R, H)`, `shape` `(K, C, H)` → `(R + K · batch, K · C)` and `(R, K, C)`.
    """
    rows, (steps, channels, _) = len(contexts), shape
    by_context = contexts.new_empty(rows + steps * batch, steps * channels)
    row = steps * channels
    strides = row, batch * row + channels, 1
    return by_context, by_context.as_strided((rows, steps, channels), strides, batch * row)


class Compare(torch.autograd.Function):
    """Scores pᵀ z of each row's candidates, in float32 whatever the type of the operands.

    Shape: predictions `(R, K, C)`, candidates `(R, N, C)` → `(R, K, N)`.
    """

    @staticmethod
    def forward(ctx: Any, predictions: Tensor, candidates: Tensor) -> Tensor:
        """Compute a small product for each row."""
        ctx.save_for_backward(predictions, candidates)
        if _by_kernel(predictions):
            from gim_audio.kernels import compare

            return compare(predictions, candidates)
        return torch.bmm(predictions.float(), candidates.float().transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return both gradients in the type of the operands, which torch would keep in float32."""
        predictions, candidates = ctx.saved_tensors
        if _by_kernel(predictions):
            from gim_audio.kernels import compare_gradients

            return compare_gradients(gradient, predictions, candidates)
        gradient = gradient.to(predictions.dtype)
        of_candidates = None
        if ctx.needs_input_grad[1]:
            of_candidates = torch.bmm(gradient.transpose(1, 2), predictions)
        return torch.bmm(gradient, candidates), of_candidates


def _by_kernel(predictions: Tensor) -> bool:
    """Return whether `gim_audio.kernels` takes these: bf16 on a GPU, and Triton is installed."""
    on_gpu = predictions.device.type == "cuda" and predictions.dtype == torch.bfloat16
    return on_gpu and importlib.util.find_spec("triton") is not None
