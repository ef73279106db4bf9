"""RMS norm of queries or keys and their rotary embedding, in one pass over a token: bfloat16 in, bfloat16 out.

Formula, for a token x of d channels: y = x / √(mean(x²) + ε) · weight, and then for each pair of neighbouring channels
(y₁, y₂) of a head of 128: (y₁ cos − y₂ sin, y₁ sin + y₂ cos), the angles shared by all heads of a token.

Reference (PyTorch's fused RMS norm, then Wan's attention), in its order: x² summed in float32 in the order of
`order.py`, each square fused with its addition; 1/√ by the GPU's instruction; (1/√ × x) rounded, × weight rounded, to
bfloat16; back to float32, two products rounded each, their difference or sum rounded, to bfloat16.

Layout: hidden (rows, d) contiguous, weight (d,) bfloat16; cosines and sines (rows, 128) float32 with each angle twice,
of which the cosine is taken from the even and the sine from the odd places. One program is one row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from wan_ui.engine.kernels.order import SPAN, THREADS, lanes_of_vector, tree_sum


@triton.jit(do_not_specialize=["rows_per_clip"])
def _kernel(
    hidden,
    weight,
    cosines,
    sines,
    out,
    epsilon,
    rows_per_clip,
    WIDTH: tl.constexpr,
    HEAD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    hidden += row * WIDTH
    out += row * WIDTH
    cosines += (row % rows_per_clip) * HEAD
    sines += (row % rows_per_clip) * HEAD
    sums = tl.zeros((THREADS,), tl.float32)
    for part in tl.static_range(WIDTH // SPAN):
        values = tl.load(hidden + part * SPAN + tl.arange(0, SPAN)).to(tl.float32)
        first, second, third, fourth = lanes_of_vector(values)
        sums = tl.fma(first, first, sums)
        sums = tl.fma(second, second, sums)
        sums = tl.fma(third, third, sums)
        sums = tl.fma(fourth, fourth, sums)
    square = tree_sum(sums)
    reciprocal = tl.rsqrt(tl.math.div_rn(square, tl.full((), WIDTH, tl.float32)) + epsilon)
    angles = tl.arange(0, SPAN) % HEAD  # a span is four whole heads, so every span has the same angles
    cosine, _ = tl.split(tl.reshape(tl.load(cosines + angles), (SPAN // 2, 2)))
    _, sine = tl.split(tl.reshape(tl.load(sines + angles), (SPAN // 2, 2)))
    for part in tl.static_range(WIDTH // SPAN):
        channels = part * SPAN + tl.arange(0, SPAN)
        values = tl.load(hidden + channels).to(tl.float32)
        normed = (tl.load(weight + channels).to(tl.float32) * (reciprocal * values)).to(out.dtype.element_ty)
        left, right = tl.split(tl.reshape(normed.to(tl.float32), (SPAN // 2, 2)))
        turned = tl.join(left * cosine - right * sine, left * sine + right * cosine)
        tl.store(out + channels, tl.reshape(turned, (SPAN,)).to(out.dtype.element_ty))


def rms_norm_rotary(
    hidden: torch.Tensor, weight: torch.Tensor, eps: float, cosines: torch.Tensor, sines: torch.Tensor
) -> torch.Tensor:
    """hidden (batch, tokens, d), cosines and sines (1, tokens, 1, 128). The result is (batch, tokens, d)."""
    width = hidden.shape[-1]
    hidden = hidden.contiguous()
    out = torch.empty_like(hidden)
    _kernel[(hidden.numel() // width,)](
        hidden,
        weight,
        cosines.contiguous(),
        sines.contiguous(),
        out,
        eps,
        hidden.shape[-2],
        WIDTH=width,
        HEAD=cosines.shape[-1],
        num_warps=4,
        enable_fp_fusion=False,
    )
    return out
