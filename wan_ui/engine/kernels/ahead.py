"""Builds the kernels of a transformer's blocks while its weights are read.

Triton builds a kernel at its first call, in a second or several; the weights of a first video take longer to read. The
arguments here are as those of a clip in all that a kernel is built for: dtypes, widths, and which of the optional ones
there are. The number of tokens is none of that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

from wan_ui.engine.kernels import HEAD, ROW_MULTIPLE, build_errors, verified

log = logging.getLogger(__name__)

TOKENS = 8
RANK = 32  # of most LoRAs; another multiple of 16 up to it has the same kernel
EPSILON = 1e-6


_BUILDER = ThreadPoolExecutor(1, thread_name_prefix="kernels")


@contextmanager
def built_ahead(device: torch.device, width: int, ffn_width: int, exact: bool) -> Iterator[None]:
    """Builds the kernels for blocks of these widths in a second thread meanwhile, and waits for them at the end.

    After an error or a cancel it does not wait: the thread, which uses only tensors of its own, completes its build
    before it starts another one.
    """
    building = _BUILDER.submit(_build, device, width, ffn_width, exact)
    try:
        yield
        building.result()
    finally:
        building.cancel()  # where it has not begun


@cache
def _build(device: torch.device, width: int, ffn_width: int, exact: bool) -> None:
    if width % ROW_MULTIPLE:
        return
    try:
        with torch.cuda.device(device):
            call_each_kernel(device, width, ffn_width, exact)
    except build_errors() as error:
        log.info("kernels are not built ahead: %s: %s", type(error).__name__, error)  # and their first use says why


def call_each_kernel(device: torch.device, width: int, ffn_width: int, exact: bool) -> None:
    """Calls each kernel of a block once, on a few tokens. Raises what they raise."""

    def zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.zeros(*shape, device=device, dtype=dtype)

    hidden, reduced, wide = zeros(1, TOKENS, width), zeros(1, TOKENS, RANK), zeros(1, TOKENS, ffn_width)
    row, angles = zeros(1, 1, width, dtype=torch.float32), zeros(1, TOKENS, 1, HEAD, dtype=torch.float32)
    multiplier = zeros(1, dtype=torch.float32)[0]
    build_adapter = verified("add_adapter", exact).build
    build_residual = verified("add_adapter_residual", exact).build
    verified("layer_norm").build(hidden, None, None, row, row, EPSILON)
    verified("rms_norm_rotary").build(hidden, zeros(width), EPSILON, angles, angles)
    build_adapter(hidden, reduced, zeros(width, RANK), multiplier)
    build_residual(hidden, reduced, zeros(width, RANK), multiplier, hidden, row)
    verified("layer_norm").build(hidden, row[0, 0], row[0, 0], None, None, EPSILON)
    build_residual(hidden, reduced, zeros(width, RANK), multiplier, hidden, None)
    verified("add_adapter_gelu", exact).build(wide, reduced, zeros(ffn_width, RANK), multiplier)
    verified("gated_residual").build(hidden, hidden, row)
