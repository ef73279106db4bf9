"""A LoRA's second product, its multiplier and its addition to the base layer's result, and what the block does next.

Formula, for a token: out = base + multiplier · (reduced · upᵀ), with `reduced` = x · downᵀ of rank r. Then, where the
block goes on so: gelu(out); or residual + out · gate; or residual + out.

Reference (PEFT's plain LoRA), in its order: the product summed over r in float32 by the matrix unit, 16 terms at a
time from the first, rounded to bfloat16; × multiplier in float32, rounded to bfloat16; + base in float32, rounded to
bfloat16. GELU in its tanh form is computed in float32 as PyTorch does, x + 0.044715 x³ as one fused multiply-add, and
rounded to bfloat16. The gated residual multiplies and adds in float32, each rounded, and ends in bfloat16.
`EXACT` keeps the first two roundings to bfloat16; without it the whole sum is rounded once.

Layout: base, out and residual (rows, n) contiguous; reduced (rows, r) contiguous; up (n, r) contiguous; gate (rows or
1, n) float32 with a stride between rows; multiplier one float32. One program is one tile of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from wan_ui.engine.kernels.layer_norm import row_stride

TILE = (64, 64, 4)  # rows and columns of the result that one program computes, and its warps
RANK_STEP = 32  # two steps of the matrix unit


@triton.jit
def gelu_tanh(value):
    """PyTorch's GELU in its tanh form, float32: ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))).

    tanh(y) is 1 − 2 / (e^(2|y|) + 1) with y's sign, as CUDA computes it for |y| ≥ 0.6. Below, CUDA takes a polynomial;
    of the 65,536 values of bfloat16 none comes out different for that, in a third of the instructions.
    """
    cube = value * value * value
    inner = 0.7978845608028654 * tl.fma(cube, 0.044715, value)
    growth = tl.exp2(tl.abs(inner) * 2.885390081777927)
    tanh = tl.fma(-2.0, libdevice.fast_dividef(1.0, growth + 1.0), 1.0)
    return 0.5 * value * (1.0 + tl.where(inner < 0.0, -tanh, tanh))


@triton.jit(do_not_specialize=["rows"])
def _kernel(
    base,
    reduced,
    up,
    multiplier,
    residual,
    gate,
    out,
    rows,
    columns,
    rank,
    gate_stride,
    EXACT: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
    STEPS: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    places = row[:, None] * columns + column[None, :]
    values = tl.load(base + places, mask=inside, other=0.0)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(STEPS):
        term = step * RANK + tl.arange(0, RANK)
        left = tl.load(reduced + row[:, None] * rank + term, mask=(row[:, None] < rows) & (term < rank), other=0.0)
        right = tl.load(
            up + column[None, :] * rank + term[:, None],
            mask=(column[None, :] < columns) & (term[:, None] < rank),
            other=0.0,
        )
        total = tl.dot(left, right, total)
    factor = tl.load(multiplier)
    dtype: tl.constexpr = out.dtype.element_ty
    if EXACT:
        change = (total.to(dtype).to(tl.float32) * factor).to(dtype).to(tl.float32)
    else:
        change = total * factor
    result = values.to(tl.float32) + change
    if EXACT:
        result = result.to(dtype).to(tl.float32)
    if GELU:
        result = gelu_tanh(result)
    if RESIDUAL:
        before = tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            result = result * tl.load(gate + row[:, None] * gate_stride + column[None, :], mask=inside, other=0.0)
        result = before + result
    tl.store(out + places, result.to(dtype), mask=inside)


@dataclass(frozen=True)
class Epilogue:
    """What follows an adapter in its block: GELU, or the addition to the residual, times a gate or not."""

    gelu: bool = False
    residual: torch.Tensor | None = None
    gate: torch.Tensor | None = None


NOTHING = Epilogue()


def add_adapter(
    base: torch.Tensor,
    reduced: torch.Tensor,
    up: torch.Tensor,
    multiplier: torch.Tensor,
    exact: bool,
    epilogue: Epilogue = NOTHING,
    tile: tuple[int, int, int] = TILE,
) -> torch.Tensor:
    """base (…, rows, n), reduced (…, rows, r), up (n, r), multiplier 0-dim float32; a result like base."""
    residual, gate = epilogue.residual, epilogue.gate
    columns, rank = up.shape
    base, reduced, up = base.contiguous(), reduced.contiguous(), up.contiguous()
    rows = base.numel() // columns
    out = torch.empty_like(base)
    _kernel[(triton.cdiv(columns, tile[1]), triton.cdiv(rows, tile[0]))](
        base,
        reduced,
        up,
        multiplier,
        residual.contiguous() if residual is not None else base,
        gate if gate is not None else base,
        out,
        rows,
        columns,
        rank,
        row_stride(gate),
        EXACT=exact,
        GELU=epilogue.gelu,
        RESIDUAL=residual is not None,
        GATED=gate is not None,
        ROWS=tile[0],
        COLUMNS=tile[1],
        RANK=RANK_STEP,
        STEPS=triton.cdiv(rank, RANK_STEP),
        num_warps=tile[2],
        enable_fp_fusion=False,
    )
    return out
