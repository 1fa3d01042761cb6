"""The Triton kernels, by Triton's interpreter on a CPU: the very code that a GPU compiles.

The interpreter of Triton 3.8 multiplies bfloat16 wrongly: float16 stands in for it.
"""

import os
import subprocess
import sys

import pytest

CHECK = """
import torch
from gim_audio import kernels

torch.manual_seed(0)
for rows, steps, number, channels, batch in [(3, 12, 11, 512, 2), (5, 1, 5, 40, 1), (4, 17, 33, 96, 3)]:
    for dtype, error in ((torch.float32, 1e-6), (torch.float16, 2e-3)):
        # As `Predict` returns them: a frame's predictions are not next to each other.
        memory = torch.randn(rows + steps * batch, steps * channels).to(dtype)
        strides = steps * channels, batch * steps * channels + channels, 1
        p = memory.as_strided((rows, steps, channels), strides, batch * steps * channels)
        z, g = torch.randn(rows, number, channels).to(dtype), torch.randn(rows, steps, number)
        p64, z64 = p.double().requires_grad_(), z.double().requires_grad_()
        wanted = torch.einsum("rkc,rnc->rkn", p64, z64)
        wanted.backward(g.double())
        found = [kernels.compare(p, z), *kernels.compare_gradients(g, p, z)]
        assert [f.dtype for f in found] == [torch.float32, dtype, dtype]
        for f, w in zip(found, [wanted.detach(), p64.grad, z64.grad], strict=True):
            assert (f.double() - w).norm() < (error if f.dtype == dtype else 1e-6) * w.norm()
"""


def test_they_compute_products_and_their_gradients():
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
