"""Kernels for NVIDIA GPUs, in Triton, where a library's are several times slower.

A row's scores are a product of eleven vectors by twelve: cuBLAS has no kernel for that, and takes
5.9 times as long for scores and gradients on an H100 at batch 64 in bf16 (tools/bench_gpu.md, the
last table). They run on a CPU too with TRITON_INTERPRET=1, as the tests do.

Shapes: R rows, K predictions and N candidates in each, C channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["compare", "compare_gradients"]


@triton.jit
def _compare(
    p,
    z,
    scores,
    p_row,
    p_step,
    z_row,
    K,
    N,
    C,
    BK: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    k, n = tl.arange(0, BK)[:, None], tl.arange(0, BN)[:, None]
    found = tl.zeros((BK, BN), dtype=tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)[None, :]
        p_block = tl.load(p + row * p_row + k * p_step + c, mask=(k < K) & (c < C), other=0.0)
        z_block = tl.load(z + row * z_row + n * C + c, mask=(n < N) & (c < C), other=0.0)
        found += tl.dot(p_block, tl.trans(z_block))
    n = tl.arange(0, BN)[None, :]
    tl.store(scores + row * K * N + k * N + n, found, mask=(k < K) & (n < N))


@triton.jit
def _gradients(
    g,
    p,
    z,
    of_p,
    of_z,
    p_row,
    p_step,
    z_row,
    K,
    N,
    C,
    BK: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    k, n = tl.arange(0, BK)[:, None], tl.arange(0, BN)
    inside = (k < K) & (n[None, :] < N)
    g_block = tl.load(g + row * K * N + k * N + n[None, :], mask=inside, other=0.0)
    g_block = g_block.to(p.dtype.element_ty)
    n = n[:, None]
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)[None, :]
        p_place, z_place = row * p_row + k * p_step + c, row * z_row + n * C + c
        p_mask, z_mask = (k < K) & (c < C), (n < N) & (c < C)
        p_block = tl.load(p + p_place, mask=p_mask, other=0.0)
        z_block = tl.load(z + z_place, mask=z_mask, other=0.0)
        by_p = tl.dot(g_block, z_block).to(of_p.dtype.element_ty)
        by_z = tl.dot(tl.trans(g_block), p_block).to(of_z.dtype.element_ty)
        tl.store(of_p + row * K * C + k * C + c, by_p, mask=p_mask)
        tl.store(of_z + row * N * C + n * C + c, by_z, mask=z_mask)


def compare(predictions: Tensor, candidates: Tensor) -> Tensor:
    """Return the scores pᵀ z of each row's candidates, added up in float32.

    Shape: `(R, K, C)`, `(R, N, C)` → `(R, K, N)`, float32. Channels are contiguous.
    """
    (rows, steps, channels), number = predictions.shape, candidates.shape[1]
    scores = predictions.new_empty(rows, steps, number, dtype=torch.float32)
    sizes = steps, number, channels
    _compare[(rows,)](
        predictions,
        candidates,
        scores,
        *_strides(predictions, candidates),
        *sizes,
        *_blocks(*sizes),
    )
    return scores


def compare_gradients(
    gradient: Tensor, predictions: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of predictions and candidates, given that of the scores.

    Shape: `(R, K, N)`, `(R, K, C)`, `(R, N, C)` → `(R, K, C)`, `(R, N, C)`.
    """
    (rows, steps, channels), number = predictions.shape, candidates.shape[1]
    of_predictions = predictions.new_empty(predictions.shape)
    of_candidates = candidates.new_empty(candidates.shape)
    sizes = steps, number, channels
    _gradients[(rows,)](
        gradient.contiguous(),
        predictions,
        candidates,
        of_predictions,
        of_candidates,
        *_strides(predictions, candidates),
        *sizes,
        *_blocks(*sizes),
    )
    return of_predictions, of_candidates


def _strides(predictions: Tensor, candidates: Tensor) -> tuple[int, int, int]:
    row, step, _ = predictions.stride()
    return row, step, candidates.stride(0)


def _blocks(steps: int, number: int, channels: int) -> tuple[int, int, int]:
    """Return powers of two, of at least 16, that the matrix units take and registers hold."""
    k, n = (max(16, triton.next_power_of_2(size)) for size in (steps, number))
    most = max(16, 8192 // max(k, n))
    return k, n, min(most, max(16, triton.next_power_of_2(channels)))
