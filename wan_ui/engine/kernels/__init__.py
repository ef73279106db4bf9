"""Kernels in Triton for the passes between large products, each with the bits of eager PyTorch or unused.

Each operation stands here twice: as eager PyTorch computes it, and as a kernel from its own file. An operation runs as
its kernel where Triton is, on a CUDA GPU, for shapes that the kernel was written for; the first time that it meets a
shape, both are computed and compared bit for bit. Where one bit differs the operation stays with PyTorch, and the log
says so once.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F

log = logging.getLogger(__name__)

ROW_MULTIPLE = 512  # values that 128 threads read at once; PyTorch's order of summation is known for such widths
HEAD = 128  # channels of one of Wan's attention heads
ROWS_AT_ONCE = 4096
MANY_TOKENS = 2048
NAMES = (
    "layer_norm",
    "rms_norm_rotary",
    "reduce_together",
    "add_adapter",
    "add_adapter_gelu",
    "add_adapter_residual",
    "gated_residual",
    "channel_norm",
    "padded_convolution",
)
Operation = Callable[..., torch.Tensor]


class Verified:
    """An operation that runs as a kernel where it was seen to have the bits of `eager`, and else as `eager`.

    `load` imports the kernel. `fits` tells from the arguments whether the kernel was written for them. `exact` is False
    for a kernel that rounds less often than eager; it is not compared then.
    """

    def __init__(
        self, name: str, load: Callable[[], Operation], eager: Operation, fits: Callable[..., bool], exact: bool = True
    ) -> None:
        self.name = name
        self.refused: str | None = None
        self._load, self._eager, self._fits, self._exact = load, eager, fits, exact
        self._kernel: Operation | None = None
        self._proven: set[tuple[Any, ...]] = set()

    def __call__(self, *arguments: Any) -> torch.Tensor:
        """The result of the kernel where it fits and holds its promise, else of the eager operation."""
        if self.refused is not None or not self._fits(*arguments):
            return self._eager(*arguments)
        try:
            kernel = self._kernel or self._load()
            result = kernel(*arguments)
        except torch.OutOfMemoryError:
            raise
        except build_errors() as error:
            return self._refuse(f"it does not run here: {type(error).__name__}: {error}", arguments)
        self._kernel = kernel
        if self._exact:
            case = tuple(_described(argument) for argument in arguments)
            if case not in self._proven:
                try:
                    is_same = same_bits(result, self._eager(*arguments))
                except torch.OutOfMemoryError:  # no room for both: the next call may have it
                    del result
                    return self._eager(*arguments)
                if not is_same:
                    return self._refuse("its bits differ from PyTorch's", arguments)
                self._proven.add(case)
        return result

    def build(self, *arguments: Any) -> None:
        """Runs the kernel once so that it is built, without a comparison. Raises what the kernel raises."""
        self._kernel = self._kernel or self._load()
        self._kernel(*arguments)

    def _refuse(self, reason: str, arguments: tuple[Any, ...]) -> torch.Tensor:
        self.refused = reason
        log.warning("the kernel for %s is not used: %s", self.name, reason)
        return self._eager(*arguments)


def build_errors() -> tuple[type[Exception], ...]:
    """What is raised where a kernel cannot be imported, built or run.

    Triton has errors of its own for its compiler, for ptxas and for a GPU with too little shared memory; a C compiler
    that fails, as one without Python's headers does, is a CalledProcessError, and one that is not there an OSError.
    """
    errors = (ImportError, RuntimeError, TypeError, ValueError, AttributeError, OSError, subprocess.SubprocessError)
    try:
        from triton.errors import TritonError
    except ImportError:
        return errors
    return *errors, TritonError


def _described(argument: Any) -> Any:
    """What of an argument decides how it is computed: a tensor's shape, strides and dtype, a number itself."""
    if isinstance(argument, torch.Tensor):
        return argument.shape, argument.stride(), argument.dtype, argument.device
    return tuple(_described(part) for part in argument) if isinstance(argument, (list, tuple)) else argument


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal bit for bit, which NaN with itself is and 0 with −0 is not."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.contiguous().view(integers), other.contiguous().view(integers))


def eager_layer_norm(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """diffusers' FP32LayerNorm with the modulation that Wan's block applies to it."""
    normed = F.layer_norm(hidden.float(), hidden.shape[-1:], weight, bias, eps)
    if scale is not None and shift is not None:
        normed = normed * (1 + scale) + shift
    return normed.to(hidden.dtype)


def eager_rms_norm_rotary(
    hidden: torch.Tensor, weight: torch.Tensor, eps: float, cosines: torch.Tensor, sines: torch.Tensor
) -> torch.Tensor:
    """Wan's norm of queries and keys, and its rotary embedding; the result is in hidden's shape."""
    normed = F.rms_norm(hidden, hidden.shape[-1:], weight, eps)
    heads = normed.view(*normed.shape[:-1], -1, cosines.shape[-1])
    left, right = heads[..., 0::2], heads[..., 1::2]
    cosine, sine = cosines[..., 0::2], sines[..., 1::2]
    out = torch.empty_like(heads)
    out[..., 0::2] = left * cosine - right * sine
    out[..., 1::2] = left * sine + right * cosine
    return out.flatten(-2)


def eager_add_adapter(
    base: torch.Tensor, reduced: torch.Tensor, up: torch.Tensor, multiplier: torch.Tensor
) -> torch.Tensor:
    """PEFT's plain LoRA from its second product on, with the multiplier in a float32 tensor.

    The product is scaled in float32 some rows at a time, so that no float32 copy of the whole is needed.
    """
    change = F.linear(reduced, up)
    if change.dtype is torch.float32:
        return base + change.mul_(multiplier)
    for rows in torch.split(change.flatten(0, -2), ROWS_AT_ONCE):
        rows.copy_(rows.float().mul_(multiplier))
    return change.add_(base) if change.dtype == base.dtype else base + change


def eager_add_adapter_gelu(
    base: torch.Tensor, reduced: torch.Tensor, up: torch.Tensor, multiplier: torch.Tensor
) -> torch.Tensor:
    """The adapter of the feed-forward's first layer, and the GELU behind it."""
    return F.gelu(eager_add_adapter(base, reduced, up, multiplier), approximate="tanh")


def eager_add_adapter_residual(
    base: torch.Tensor,
    reduced: torch.Tensor,
    up: torch.Tensor,
    multiplier: torch.Tensor,
    residual: torch.Tensor,
    gate: torch.Tensor | None,
) -> torch.Tensor:
    """The adapter of a block's last layer in a part, its gate, and the addition to what the part began with."""
    change = eager_add_adapter(base, reduced, up, multiplier)
    if gate is None:
        return residual + change
    return (residual.float() + change * gate).to(residual.dtype)


def eager_gated_residual(hidden: torch.Tensor, residual: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """What Wan's block does with the result of a part that has no adapter: its gate, and the addition."""
    return (residual.float() + hidden * gate).to(residual.dtype)


def eager_reduce_together(hidden: torch.Tensor, downs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The first products of adapters that read the same input, side by side: (…, the sum of their ranks)."""
    return torch.cat([F.linear(hidden, down) for down in downs], dim=-1)


def reduce_together(hidden: torch.Tensor, downs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The same as one product, which reads the input once.

    PyTorch's product sums over the input's channels in one order whatever the number of its columns, for as many tokens
    as a clip has; of few tokens it splits the sum.
    """
    return F.linear(hidden, torch.cat(tuple(downs)))


def eager_channel_norm(hidden: torch.Tensor, weight: torch.Tensor, scale: float, silu: bool) -> torch.Tensor:
    """diffusers' WanRMS_norm over the channels, (clips, channels, …), and SiLU behind it where `silu`."""
    values = hidden.float() if hidden.dtype in (torch.float16, torch.bfloat16) else hidden
    normed = F.normalize(values, dim=1).to(hidden.dtype) * scale * weight + 0.0
    return F.silu(normed) if silu else normed


def eager_padded_convolution(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, int, int],
    padding: tuple[int, ...],
) -> torch.Tensor:
    """diffusers' WanCausalConv3d from its padding on: the input is padded in a copy, `padding` as for F.pad."""
    return F.conv3d(F.pad(hidden, padding), weight, bias, stride)


def padded_convolution(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, int, int],
    padding: tuple[int, ...],
) -> torch.Tensor:
    """The same with the zeros around each frame left to cuDNN, which takes the same kernel for it."""
    left, _, top, _, before, _ = padding
    if before:
        hidden = F.pad(hidden, (0, 0, 0, 0, before, 0))
    return F.conv3d(hidden, weight, bias, stride, (0, top, left))


def _bfloat16(*tensors: torch.Tensor) -> bool:
    return all(tensor.is_cuda and tensor.dtype is torch.bfloat16 for tensor in tensors)


def _table(table: torch.Tensor | None, hidden: torch.Tensor) -> bool:
    """Whether a modulation is absent, or one float32 row for all tokens of one clip, or one for each."""
    if table is None:
        return True
    rows = table.shape[-2] if table.ndim >= 2 else 0
    one_clip = hidden.ndim == 3 and hidden.shape[0] == 1 and table.numel() == rows * hidden.shape[-1]
    return table.dtype is torch.float32 and one_clip and rows in (1, hidden.shape[1]) and table.stride(-1) == 1


def _fits_layer_norm(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    eps: float,
) -> bool:
    affine = (weight is None) == (bias is None) and (weight is None or weight.dtype is torch.float32)
    tables = (scale is None) == (shift is None) and _table(scale, hidden) and _table(shift, hidden)
    return _bfloat16(hidden) and hidden.shape[-1] % ROW_MULTIPLE == 0 and affine and tables


def _fits_rotary(
    hidden: torch.Tensor, weight: torch.Tensor, eps: float, cosines: torch.Tensor, sines: torch.Tensor
) -> bool:
    angles = cosines.shape == sines.shape and cosines.shape == (1, hidden.shape[1], 1, HEAD)
    float32 = cosines.dtype is torch.float32 and sines.dtype is torch.float32
    return _bfloat16(hidden, weight) and hidden.shape[-1] % ROW_MULTIPLE == 0 and angles and float32


def _fits_adapter(
    base: torch.Tensor, reduced: torch.Tensor, up: torch.Tensor, multiplier: torch.Tensor, *rest: torch.Tensor | None
) -> bool:
    residual, gate = rest if rest else (None, None)
    aside = residual is None or (_bfloat16(residual) and residual.shape == base.shape and _table(gate, residual))
    return _bfloat16(base, reduced, up) and multiplier.dtype is torch.float32 and multiplier.is_cuda and aside


def _fits_gated(hidden: torch.Tensor, residual: torch.Tensor, gate: torch.Tensor) -> bool:
    return _bfloat16(hidden, residual) and residual.shape == hidden.shape and _table(gate, residual)


def _fits_together(hidden: torch.Tensor, downs: Sequence[torch.Tensor]) -> bool:
    """A product with one column, or with columns that are no multiple of 4, is another kernel with other sums."""
    columns = all(down.shape[0] % 4 == 0 for down in downs)
    return _bfloat16(hidden, *downs) and columns and hidden.numel() >= MANY_TOKENS * hidden.shape[-1]


def _fits_channel_norm(hidden: torch.Tensor, weight: torch.Tensor, scale: float, silu: bool) -> bool:
    return _bfloat16(hidden, weight) and hidden.ndim == 5 and hidden.shape[0] == 1


def _fits_convolution(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, int, int],
    padding: tuple[int, ...],
) -> bool:
    left, right, top, bottom, _, after = padding
    return _bfloat16(hidden, weight) and left == right and top == bottom and after == 0


def _imported(module: str, name: str) -> Operation:
    operation: Operation = getattr(import_module(f"wan_ui.engine.kernels.{module}"), name)
    return operation


def _adapter_kernel(exact: bool, gelu: bool = False) -> Operation:
    module = import_module("wan_ui.engine.kernels.adapter")

    def run(
        base: torch.Tensor,
        reduced: torch.Tensor,
        up: torch.Tensor,
        multiplier: torch.Tensor,
        residual: torch.Tensor | None = None,
        gate: torch.Tensor | None = None,
    ) -> torch.Tensor:
        after = module.Epilogue(gelu, residual, gate)
        added: torch.Tensor = module.add_adapter(base, reduced, up, multiplier, exact, after)
        return added

    return run


def verified(name: str, exact: bool = True) -> Verified:
    """The operation of a name, with its kernel; `exact` as for the arithmetic of the blocks. The same at each call."""
    return _verified(name, exact)


@cache
def _verified(name: str, exact: bool) -> Verified:
    adapters: dict[str, tuple[Callable[[], Operation], Operation]] = {
        "add_adapter": (partial(_adapter_kernel, exact), eager_add_adapter),
        "add_adapter_gelu": (partial(_adapter_kernel, exact, gelu=True), eager_add_adapter_gelu),
        "add_adapter_residual": (partial(_adapter_kernel, exact), eager_add_adapter_residual),
    }
    others: dict[str, tuple[Operation, Callable[..., bool]]] = {
        "gated_residual": (eager_gated_residual, _fits_gated),
        "layer_norm": (eager_layer_norm, _fits_layer_norm),
        "rms_norm_rotary": (eager_rms_norm_rotary, _fits_rotary),
        "channel_norm": (eager_channel_norm, _fits_channel_norm),
    }
    if name == "reduce_together":
        return Verified(name, lambda: reduce_together, eager_reduce_together, _fits_together)
    if name == "padded_convolution":
        return Verified(name, lambda: padded_convolution, eager_padded_convolution, _fits_convolution)
    if name in others:
        return Verified(name, partial(_imported, name, name), *others[name])
    load, eager = adapters[name]
    return Verified(name, load, eager, _fits_adapter, exact)


@cache
def check(device: torch.device) -> None:
    """Builds a small kernel and runs it. Raises one of `build_errors` where Triton or a C compiler is missing."""
    few = torch.zeros(1, 1, ROW_MULTIPLE, device=device, dtype=torch.bfloat16)
    _imported("gated_residual", "gated_residual")(few, few, few.float())


def states() -> dict[str, str]:
    """For reports: each operation that was refused so far, with the reason."""
    operations = [(name, verified(name, exact)) for name in NAMES for exact in (False, True)]
    return {name: operation.refused for name, operation in operations if operation.refused is not None}
