"""Layer norm with modulation, in one pass over a token: bfloat16 in, bfloat16 out.

Formula, for a token x of d channels: y = (x − mean(x)) / √(var(x) + ε), y · weight + bias where the norm has them,
then y · (1 + scale) + shift where the block modulates it.

Reference (diffusers' FP32LayerNorm and Wan's block), in its order: x to float32; mean and variance in the order of
`order.py`; 1/√ by the GPU's instruction; (x − mean) rounded, × 1/√ rounded; weight × that + bias as one fused
multiply-add; 1 + scale rounded, × rounded, + shift rounded; to bfloat16. It writes and reads the float32 row in
between; here only x is read and the result is written.

Layout: hidden (rows, d) contiguous, weight and bias (d,) float32, scale and shift (rows or 1, d) float32 with a stride
between rows of 0 where all rows share one. One program is one row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from wan_ui.engine.kernels.order import SPAN, THREADS, lanes_of_vector, tree_welford, welford_step


@triton.jit
def _kernel(
    hidden,
    weight,
    bias,
    scale,
    shift,
    out,
    epsilon,
    scale_stride,
    shift_stride,
    WIDTH: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    hidden += row * WIDTH
    out += row * WIDTH
    mean = tl.zeros((THREADS,), tl.float32)
    squares = tl.zeros((THREADS,), tl.float32)
    for part in tl.static_range(WIDTH // SPAN):
        values = tl.load(hidden + part * SPAN + tl.arange(0, SPAN)).to(tl.float32)
        first, second, third, fourth = lanes_of_vector(values)
        mean, squares = welford_step(first, mean, squares, 1.0 / (part * 4 + 1))
        mean, squares = welford_step(second, mean, squares, 1.0 / (part * 4 + 2))
        mean, squares = welford_step(third, mean, squares, 1.0 / (part * 4 + 3))
        mean, squares = welford_step(fourth, mean, squares, 1.0 / (part * 4 + 4))
    mean, squares = tree_welford(mean, squares, WIDTH // THREADS)
    reciprocal = tl.rsqrt(tl.math.div_rn(squares, tl.full((), WIDTH, tl.float32)) + epsilon)
    for part in tl.static_range(WIDTH // SPAN):
        channels = part * SPAN + tl.arange(0, SPAN)
        values = tl.load(hidden + channels).to(tl.float32)
        normed = reciprocal * (values - mean)
        if HAS_WEIGHT:
            normed = tl.fma(tl.load(weight + channels), normed, tl.load(bias + channels))
        if HAS_SCALE:
            factor = 1.0 + tl.load(scale + row * scale_stride + channels)
            normed = normed * factor + tl.load(shift + row * shift_stride + channels)
        tl.store(out + channels, normed.to(out.dtype.element_ty))


def layer_norm(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """hidden (…, rows, d); scale and shift (…, rows or 1, d), or None; weight and bias (d,), or None."""
    width = hidden.shape[-1]
    hidden = hidden.contiguous()
    out = torch.empty_like(hidden)
    _kernel[(hidden.numel() // width,)](
        hidden,
        weight if weight is not None else hidden,
        bias if bias is not None else hidden,
        scale if scale is not None else hidden,
        shift if shift is not None else hidden,
        out,
        eps,
        row_stride(scale),
        row_stride(shift),
        WIDTH=width,
        HAS_WEIGHT=weight is not None,
        HAS_SCALE=scale is not None,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return out


def row_stride(table: torch.Tensor | None) -> int:
    """Elements between the rows of a modulation (1, rows, d); 0 where one row serves all tokens."""
    return 0 if table is None or table.shape[-2] == 1 else table.stride(-2)
