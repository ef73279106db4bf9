"""The order in which PyTorch's CUDA kernels for layer norm and RMS norm sum a row, as Triton functions.

PyTorch gives each row to one block of 4 warps of 32 threads. Thread t reads vectors of 4 neighbouring values: those at
4 t, 4 (t + 128), 4 (t + 256) and so on, and takes their values into its running sum one after the other. Then the 32
sums of each warp are combined as a tree: lane l with lane l + 16, then l + 8, 4, 2, 1. Then the 4 warps: warp w with
warp w + 2, then warp 0 with warp 1. Sums in float32 round after each step, so this order decides their last bits.

Multiplications whose product is added at once are fused (`fma`, one rounding), as NVIDIA's compiler does with PyTorch's
source. Triton's own fusion is turned off where these functions are used, so that no other one is added.
"""

from __future__ import annotations

import triton
import triton.language as tl

THREADS = tl.constexpr(128)
SPAN = tl.constexpr(512)  # values that the 128 threads read at once; a row is a multiple of this


@triton.jit
def lanes_of_vector(values):
    """(512,) values as the four (128,) that each thread takes in turn."""
    pairs = tl.reshape(values, (THREADS, 2, 2))
    even, odd = tl.split(pairs)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def add(one, other):
    """How two plain sums are combined."""
    return one + other


@triton.jit
def combine(mean_a, squares_a, count_a, mean_b, squares_b, count_b):
    """How the mean, sum of squared deviations and count of a lower (a) and a higher (b) thread are combined.

    The lower one's share of the mean is a rounded product, the higher one's is fused with the addition. Both counts are
    always equal here, so that each share, count × (1 / total), is ½ exactly: only subnormal means are rounded.
    """
    delta = mean_b - mean_a
    total = count_a + count_b
    reciprocal = tl.math.div_rn(tl.full(total.shape, 1.0, tl.float32), total)
    share_a = count_a * reciprocal
    share_b = count_b * reciprocal
    mean = tl.fma(share_b, mean_b, share_a * mean_a)
    return mean, tl.fma(delta * delta * count_b, share_a, squares_a + squares_b), total


@triton.jit
def by_bits(items):
    """(128,) items by thread, with an axis for each bit of the thread's number: the warp's two, the lane's five."""
    return tl.reshape(items, (2, 2, 2, 2, 2, 2, 2))


@triton.jit
def tree_sum(sums):
    """The sum of 128 threads' sums: lanes 16 apart, 8, 4, 2, 1, then warps 2 apart, 1. Each level adds pairs."""
    sums = by_bits(sums)
    for _ in tl.static_range(5):
        sums = tl.reduce(sums, 2, add)
    return tl.reduce(tl.reduce(sums, 0, add), 0, add)


@triton.jit
def welford_step(value, mean, squares, reciprocal):
    """One more value into a running mean and sum of squared deviations; `reciprocal` is 1 / the new count."""
    delta = value - mean
    new_mean = tl.fma(delta, reciprocal, mean)
    return new_mean, tl.fma(delta, value - new_mean, squares)


@triton.jit
def tree_welford(mean, squares, COUNT: tl.constexpr):
    """The mean and the squared deviations of 128 threads' `COUNT` values each."""
    items = by_bits(mean), by_bits(squares), by_bits(tl.full((THREADS,), COUNT, tl.float32))
    for _ in tl.static_range(5):
        items = tl.reduce(items, 2, combine)
    items = tl.reduce(tl.reduce(items, 0, combine), 0, combine)
    return items[0], items[1]
