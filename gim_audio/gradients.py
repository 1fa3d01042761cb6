"""Predictions and scores with gradients written by hand, because torch's would copy too much.

In plain torch a joint step takes 18% longer in bf16, 1% in fp32 (tools/bench_step.md).
The tests hold values and gradients against plain versions.

Shapes: R rows (frames in order of time, then of utterance), K steps ahead, N candidates, C channels
of frames, H channels of contexts.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Compare", "Predict"]


class Predict(torch.autograd.Function):
    """The predictions W_k c_{t-k} of the frame at t; zeros where t - k lies before the window.

    Each step is one product, written to and read from its place: nothing is padded or copied.

    Shape: contexts `(R, H)`, weights `(K, C, H)` → `(R, K, C)`. `batch` rows are one time step.
    """

    @staticmethod
    def forward(ctx: Any, contexts: Tensor, weights: Tensor, batch: int) -> Tensor:
        """Compute in the type of the contexts."""
        rounded = weights.to(contexts.dtype)
        ctx.save_for_backward(contexts, rounded)
        ctx.batch, ctx.dtype = batch, weights.dtype
        rows = len(contexts)
        predictions = contexts.new_empty(rows, *weights.shape[:2])
        for k, weight in enumerate(rounded):
            later = (k + 1) * batch
            predictions[:later, k] = 0
            torch.mm(contexts[: rows - later], weight.T, out=predictions[later:, k])
        return predictions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of the contexts and of the weights."""
        contexts, weights = ctx.saved_tensors
        rows = len(contexts)
        of_contexts, of_weights = torch.zeros_like(contexts), torch.empty_like(weights)
        for k, weight in enumerate(weights):
            later = (k + 1) * ctx.batch
            torch.mm(gradient[later:, k].T, contexts[: rows - later], out=of_weights[k])
            of_contexts[: rows - later].addmm_(gradient[later:, k], weight)
        return of_contexts, of_weights.to(ctx.dtype), None


class Compare(torch.autograd.Function):
    """Scores pᵀ z of each row's candidates, in float32 whatever the type of the operands.

    Shape: predictions `(R, K, C)`, candidates `(R, N, C)` → `(R, K, N)`.
    """

    @staticmethod
    def forward(ctx: Any, predictions: Tensor, candidates: Tensor) -> Tensor:
        """Compute a small product for each row."""
        ctx.save_for_backward(predictions, candidates)
        return torch.bmm(predictions.float(), candidates.float().transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return both gradients in the type of the operands, which torch would keep in float32."""
        predictions, candidates = ctx.saved_tensors
        gradient = gradient.to(predictions.dtype)
        of_candidates = None
        if ctx.needs_input_grad[1]:
            of_candidates = torch.bmm(gradient.transpose(1, 2), predictions)
        return torch.bmm(gradient, candidates), of_candidates
