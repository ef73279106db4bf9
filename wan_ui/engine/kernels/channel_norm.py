"""The VAE's RMS norm over channels, and the SiLU behind it, in one pass after the sums: bfloat16 in, bfloat16 out.

Formula, for the d channels x of one place of one frame: y = x / max(√(Σ x²), 10⁻¹²) · √d · weight, and y / (1 + e⁻ʸ)
behind it.

Reference (diffusers' WanRMS_norm, then SiLU), in its order: √(Σ x²) in float32 by PyTorch's own kernel, whose order is
kept by calling it; the quotient rounded to bfloat16; × √d, rounded; × weight, rounded; + 0, which makes a −0
positive; back to float32, the exponential as CUDA's `expf` has it, one quotient, to bfloat16.

Layout: hidden (1, d, …) contiguous, so that the places of one channel lie side by side; weight has d numbers,
norms one float32 for each place. One program is PLACES places of CHANNELS channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

PLACES = 1024
CHANNELS = 16
SMALLEST_NORM = 1e-12  # F.normalize's


@triton.jit
def _kernel(
    hidden,
    norms,
    weight,
    out,
    channels,
    places,
    scale,
    smallest,
    SILU: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * PLACES + tl.arange(0, PLACES)
    is_place = place < places
    norm = tl.maximum(tl.load(norms + place, is_place, other=1.0), smallest)
    first = tl.program_id(1) * CHANNELS
    for channel in range(first, tl.minimum(first + CHANNELS, channels)):
        at = tl.cast(channel, tl.int64) * places + place
        value = tl.load(hidden + at, is_place, other=0.0).to(tl.float32)
        normed = tl.math.div_rn(value, norm).to(tl.bfloat16).to(tl.float32)
        scaled = (normed * scale).to(tl.bfloat16).to(tl.float32)
        result = (scaled * tl.load(weight + channel).to(tl.float32)).to(tl.bfloat16).to(tl.float32) + 0.0
        if SILU:
            result = tl.math.div_rn(result, 1.0 + libdevice.exp(-result))
        tl.store(out + at, result.to(tl.bfloat16), is_place)


def channel_norm(hidden: torch.Tensor, weight: torch.Tensor, scale: float, silu: bool) -> torch.Tensor:
    """`kernels.eager_channel_norm`, with its arguments."""
    hidden = hidden.contiguous()
    norms = torch.linalg.vector_norm(hidden, 2, dim=1, keepdim=True, dtype=torch.float32)
    out = torch.empty_like(hidden)
    channels, places = hidden.shape[1], norms.numel()
    grid = triton.cdiv(places, PLACES), triton.cdiv(channels, CHANNELS)
    _kernel[grid](
        hidden, norms, weight, out, channels, places, scale, SMALLEST_NORM, silu, PLACES, CHANNELS, num_warps=4
    )
    return out
