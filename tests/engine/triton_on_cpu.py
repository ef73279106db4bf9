"""The Triton kernels on a CPU, each beside a plain account of the reference's order of operations.

Triton's interpreter computes with NumPy, which differs from a GPU in three ways that are put right here before a
kernel is run: bfloat16 is rounded to nearest even and not cut off, a fused multiply-add rounds once, and a product of
bfloat16 matrices is a product of their values.

`python -m tests.engine.triton_on_cpu` prints one line of JSON: by kernel, the number of differing elements by case.
Usual values go through every width and rank, other ones through one width and one rank; with `--all` through each, and
each rank through all three shapes instead of one. What is built while weights are read (`ahead`) is called before.

It is a process of its own because Triton decides when a kernel is defined whether it is interpreted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter
from triton.language.extra import libdevice
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from wan_ui.engine import kernels
from wan_ui.engine.kernels.adapter import Epilogue, add_adapter
from wan_ui.engine.kernels.ahead import call_each_kernel
from wan_ui.engine.kernels.gated_residual import gated_residual
from wan_ui.engine.kernels.layer_norm import layer_norm
from wan_ui.engine.kernels.rms_norm_rotary import rms_norm_rotary

THREADS, VECTOR, LANES = 128, 4, 32


def fused(one: Any, two: Any, three: Any) -> Any:
    """one × two + three in float32 with one rounding: the product is exact in float64."""
    with np.errstate(all="ignore"):
        return (one.astype(np.float64) * two + three).astype(np.float32)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 as the bits of bfloat16, to nearest even."""
    return torch.from_numpy(np.array(values)).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def as_a_gpu_computes() -> None:
    """Puts the interpreter's bfloat16, fused multiply-add and matrix product right."""
    cast, convert = InterpreterBuilder.cast_impl, InterpreterBuilder.create_fp_to_fp

    def cast_impl(self, source, target):
        kinds = source.dtype.scalar, target.scalar
        if kinds == (tl.float32, tl.bfloat16):
            return TensorHandle(to_bfloat16(source.data), tl.bfloat16)
        if kinds == (tl.bfloat16, tl.float32):
            return TensorHandle(from_bfloat16(source.data), tl.float32)
        return cast(self, source, target)

    def create_fp_to_fp(self, source, target, rounding):
        if {source.dtype.scalar, target.scalar} == {tl.float32, tl.bfloat16}:
            return cast_impl(self, source, target)
        return convert(self, source, target, rounding)

    def create_fma(self, one, two, three):
        return TensorHandle(fused(one.data, two.data, three.data), three.dtype.scalar)

    def create_dot(self, one, two, total, *precision):
        left, right = (from_bfloat16(part.data) for part in (one, two))
        return TensorHandle(left @ right + total.data, total.dtype.scalar)

    for function in (cast_impl, create_fp_to_fp, create_fma, create_dot):
        setattr(interpreter.InterpreterBuilder, function.__name__, function)
    libdevice.fast_dividef = lambda one, two: one / two  # the interpreter has none of CUDA's own functions
    for name in ("create_fp_ext", "create_fp_trunc"):
        setattr(InterpreterBuilder, name, lambda self, source, target: cast_impl(self, source, target))


def threads(row: np.ndarray) -> list[np.ndarray]:
    """What each of 128 threads reads of a row, in its order, side by side: a list of (128,) arrays."""
    return [vector for part in row.reshape(-1, THREADS, VECTOR) for vector in part.T]


def tree(items: list[Any], combine: Callable[[Any, Any], Any]) -> Any:
    """128 threads' items combined as warps do: lane with lane + 16, 8, 4, 2, 1, then warp with warp + 2, 1."""
    warps = [items[start : start + LANES] for start in range(0, THREADS, LANES)]
    for offset in (16, 8, 4, 2, 1):
        warps = [[combine(warp[lane], warp[lane + offset]) for lane in range(offset)] for warp in warps]
    firsts = [warp[0] for warp in warps]
    firsts = [combine(firsts[0], firsts[2]), combine(firsts[1], firsts[3])]
    return combine(firsts[0], firsts[1])


def statistics(row: np.ndarray) -> tuple[Any, Any]:
    """Mean and variance of a float32 row, as PyTorch's CUDA kernel sums them, written thread by thread."""
    return _statistics(row.tobytes())


@lru_cache(maxsize=64)
def _statistics(data: bytes) -> tuple[Any, Any]:
    row, one = np.frombuffer(data, np.float32), np.float32(1)
    mean: Any = np.zeros(THREADS, np.float32)
    squares: Any = np.zeros(THREADS, np.float32)
    count = np.float32(0)
    for value in threads(row):
        count = count + one
        delta = value - mean
        new_mean = fused(delta, one / count, mean)
        squares = fused(delta, value - new_mean, squares)
        mean = new_mean

    def combine(b, a):  # PyTorch's names: b is the thread's own, a comes from the higher one
        (mean_a, squares_a, count_a), (mean_b, squares_b, count_b) = a, b
        delta, total = mean_b - mean_a, count_a + count_b
        share_a, share_b = count_a * (one / total), count_b * (one / total)
        middle = fused(share_a, mean_a, share_b * mean_b)
        return middle, fused(delta * delta * count_a, share_b, squares_a + squares_b), total

    mean, squares, _ = tree([(mean[t], squares[t], count) for t in range(THREADS)], combine)
    return mean, squares / np.float32(row.size)


def sum_of_squares(row: np.ndarray) -> Any:
    sums: Any = np.zeros(THREADS, np.float32)
    for value in threads(row):
        sums = fused(value, value, sums)
    return tree(list(sums), lambda a, b: a + b)


def expected_layer_norm(hidden, weight, bias, scale, shift, eps):
    out = np.empty(hidden.shape[1:], np.float32)
    for index, row in enumerate(hidden[0].float().numpy()):
        mean, variance = statistics(row)
        normed = (np.float32(1) / np.sqrt(variance + np.float32(eps))) * (row - mean)
        if weight is not None:
            normed = fused(weight.numpy(), normed, bias.numpy())
        if scale is not None:
            at = index if scale.shape[1] > 1 else 0
            normed = normed * (np.float32(1) + scale[0, at].numpy()) + shift[0, at].numpy()
        out[index] = normed
    return torch.from_numpy(out).to(torch.bfloat16)[None]


def expected_rms_norm_rotary(hidden, weight, eps, cosines, sines):
    out = np.empty(hidden.shape, np.float32)
    for clip, index in np.ndindex(*hidden.shape[:2]):
        row = hidden[clip, index].float().numpy()
        reciprocal = np.float32(1) / np.sqrt(sum_of_squares(row) / np.float32(row.size) + np.float32(eps))
        out[clip, index] = weight.float().numpy() * (reciprocal * row)
    heads = torch.from_numpy(out).to(torch.bfloat16).unflatten(-1, (-1, kernels.HEAD))
    left, right, cosine, sine = heads[..., 0::2], heads[..., 1::2], cosines[..., 0::2], sines[..., 1::2]
    turned = torch.stack((left * cosine - right * sine, left * sine + right * cosine), dim=-1)
    return turned.to(torch.bfloat16).flatten(-3)


def values(generator: torch.Generator, *shape: int, kind: str) -> torch.Tensor:
    """bfloat16 values: usual ones; with a large mean; of very different sizes; subnormal; with infinities and NaN."""
    usual = torch.randn(*shape, generator=generator)
    if kind == "large mean":
        usual = usual + 300
    if kind == "spread":
        usual = usual * torch.exp2(torch.randint(-40, 40, shape, generator=generator).float())
    if kind == "subnormal":
        usual = usual * 2.0**-130
    result = usual.to(torch.bfloat16)
    if kind == "special":
        result.view(-1)[:: shape[-1] * 2] = float("inf")
        result.view(-1)[1 :: shape[-1] * 3] = float("nan")
        result.view(-1)[2::7] = -0.0
    return result


KINDS = ("usual", "large mean", "spread", "subnormal", "special")


WIDTHS = (512, 1536, 3072, 5120)


def kinds_of(width: int, every: bool) -> tuple[str, ...]:
    """The kinds of values that rows of a width are made of."""
    return KINDS if every or width == WIDTHS[0] else KINDS[:1]


def layer_norm_cases(every: bool) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    for width in WIDTHS:
        for kind in kinds_of(width, every):
            generator = torch.Generator().manual_seed(width)
            hidden = values(generator, 1, 3, width, kind=kind)
            table = torch.randn(1, 3, 6, width, generator=generator)
            weight, bias = torch.randn(2, width, generator=generator)
            per_token = (None, None, table[:, :, 1], table[:, :, 0])
            for name, rest in {
                "plain": (None, None, None, None),
                "affine": (weight, bias, None, None),
                "modulated": (None, None, table[:, 0, 1:2], table[:, 0, 0:1]),
                "a row for each token": per_token,
                "affine and modulated": (weight, bias, *per_token[2:]),
            }.items():
                arguments = (hidden, *rest, 1e-6)
                yield f"{width}, {kind}, {name}", layer_norm(*arguments), expected_layer_norm(*arguments)


def rms_norm_rotary_cases(every: bool) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    for width in WIDTHS:
        for kind in kinds_of(width, every):
            generator = torch.Generator().manual_seed(width)
            hidden = values(generator, 2, 2, width, kind=kind)
            weight = torch.randn(width, generator=generator).to(torch.bfloat16)
            angles = torch.randn(1, 2, 1, kernels.HEAD, generator=generator)
            arguments = (hidden, weight, 1e-6, angles.cos(), angles.sin())
            yield f"{width}, {kind}", rms_norm_rotary(*arguments), expected_rms_norm_rotary(*arguments)


SHAPES = ((3, 48), (130, 512), (128, 640))


def adapter_cases(every: bool) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """The products are of small whole numbers, whose sums are exact in any order; everything else is arbitrary."""
    for number, rank in enumerate((1, 4, 16, 32, 40, 128)):
        for rows, columns in SHAPES if every else SHAPES[number % 3 :: 3]:
            for kind in KINDS if every or rank == 32 else KINDS[:1]:
                generator = torch.Generator().manual_seed(rank)
                base = values(generator, 1, rows, columns, kind=kind)
                residual = values(generator, 1, rows, columns, kind=kind)
                gates = torch.randn(1, rows, 6, columns, generator=generator)
                reduced = torch.randint(-8, 9, (1, rows, rank), generator=generator).to(torch.bfloat16)
                up = torch.randint(-8, 9, (columns, rank), generator=generator).to(torch.bfloat16) / 64
                multiplier = torch.tensor(0.7)
                four = (base, reduced, up, multiplier)
                name = f"rank {rank}, {rows} × {columns}, {kind}"
                yield name, add_adapter(*four, True), kernels.eager_add_adapter(*four)
                if kind != "usual" and rank != 32:
                    continue
                forms = (None, gates[:, :, 2], gates[:, 0, 2:3])
                for gate in forms if every or rank == 32 else (forms[(rank + rows) % 3],):
                    after = (residual, gate)
                    yield (
                        f"{name}, residual, {None if gate is None else tuple(gate.shape)}",
                        add_adapter(*four, True, Epilogue(residual=residual, gate=gate)),
                        kernels.eager_add_adapter_residual(*four, *after),
                    )


def gated_residual_cases(every: bool) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    for rows, columns in SHAPES:
        for kind in KINDS:
            generator = torch.Generator().manual_seed(rows)
            hidden, residual = (values(generator, 1, rows, columns, kind=kind) for _ in range(2))
            gates = torch.randn(1, rows, 6, columns, generator=generator)
            for name, gate in {"a row for each token": gates[:, :, 2], "one row": gates[:, 0, 2:3]}.items():
                arguments = (hidden, residual, gate)
                name = f"{rows} × {columns}, {kind}, {name}"
                yield name, gated_residual(*arguments), kernels.eager_gated_residual(*arguments)


CASES = {
    "layer_norm": layer_norm_cases,
    "rms_norm_rotary": rms_norm_rotary_cases,
    "adapter": adapter_cases,
    "gated_residual": gated_residual_cases,
}


def differing(one: torch.Tensor, other: torch.Tensor) -> int:
    """Elements with other bits; NaN is NaN whatever its payload."""
    assert one.shape == other.shape and one.dtype == other.dtype
    bits = one.contiguous().view(torch.int16) != other.contiguous().view(torch.int16)
    return int((bits & ~(one.isnan() & other.isnan())).sum())


def main(every: bool) -> None:
    as_a_gpu_computes()
    for exact in (True, False):
        call_each_kernel(torch.device("cpu"), WIDTHS[0], 2 * WIDTHS[0], exact)
    counted: dict[str, dict[str, int]] = {}
    with np.errstate(all="ignore"):
        for kernel, cases in CASES.items():
            counted[kernel] = {case: differing(one, other) for case, one, other in cases(every)}
    print(json.dumps(counted))


if __name__ == "__main__":
    main("--all" in sys.argv)
