"""What a part of a block adds to its hidden states, times its gate, in one pass: bfloat16 in, bfloat16 out.

Formula, for a token: out = residual + hidden · gate.

Reference (Wan's block), in its order: hidden · gate in float32, rounded; residual in float32 + that, rounded; to
bfloat16. It writes and reads three float32 copies on the way; here two rows are read and one is written. Where the
layer before has an adapter, the adapter's own kernel does this.

Layout: hidden, residual and out (rows, d) contiguous; gate (rows or 1, d) float32 with a stride between rows of 0 where
all rows share one. One program is a part of one row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from wan_ui.engine.kernels.layer_norm import row_stride

WIDTH = 512  # channels of one program: four for each of its 128 threads


@triton.jit
def _kernel(hidden, residual, gate, out, columns, gate_stride, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < columns
    place = row * columns + column
    change = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
    change = change * tl.load(gate + row * gate_stride + column, mask=inside, other=0.0)
    total = tl.load(residual + place, mask=inside, other=0.0).to(tl.float32) + change
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


def gated_residual(hidden: torch.Tensor, residual: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """hidden and residual (…, rows, d), gate (…, rows or 1, d) float32; a result like residual."""
    columns = hidden.shape[-1]
    hidden, residual = hidden.contiguous(), residual.contiguous()
    out = torch.empty_like(residual)
    _kernel[(hidden.numel() // columns, triton.cdiv(columns, WIDTH))](
        hidden, residual, gate, out, columns, row_stride(gate), WIDTH=WIDTH, num_warps=4, enable_fp_fusion=False
    )
    return out
