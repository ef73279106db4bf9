"""The kernels as PyTorch operators, so that a compiled graph can call them."""

from __future__ import annotations

import torch

from wan_ui.engine.kernels import verified


@torch.library.custom_op("wan_ui::layer_norm_modulated", mutates_args=())
def layer_norm_modulated(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """A token's layer norm in float32, its modulation, and the rounding to hidden's dtype."""
    return verified("layer_norm")(hidden, weight, bias, scale, shift, eps)


@layer_norm_modulated.register_fake
def _(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


@torch.library.custom_op("wan_ui::rms_norm_rotary", mutates_args=())
def rms_norm_rotary(
    hidden: torch.Tensor, weight: torch.Tensor, eps: float, cosines: torch.Tensor, sines: torch.Tensor
) -> torch.Tensor:
    """RMS norm over all heads and the rotary embedding of queries or keys, (batch, tokens, d)."""
    return verified("rms_norm_rotary")(hidden, weight, eps, cosines, sines)


@rms_norm_rotary.register_fake
def _(
    hidden: torch.Tensor, weight: torch.Tensor, eps: float, cosines: torch.Tensor, sines: torch.Tensor
) -> torch.Tensor:
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


@torch.library.custom_op("wan_ui::reduce_together", mutates_args=())
def reduce_together(hidden: torch.Tensor, downs: list[torch.Tensor]) -> torch.Tensor:
    """The first products of adapters that read the same input, side by side."""
    return verified("reduce_together")(hidden, downs)


@reduce_together.register_fake
def _(hidden: torch.Tensor, downs: list[torch.Tensor]) -> torch.Tensor:
    return hidden.new_empty((*hidden.shape[:-1], sum(down.shape[0] for down in downs)))


@torch.library.custom_op("wan_ui::add_adapter", mutates_args=())
def add_adapter(
    base: torch.Tensor, reduced: torch.Tensor, up: torch.Tensor, multiplier: torch.Tensor, exact: bool = True
) -> torch.Tensor:
    """base + multiplier · (reduced · upᵀ), with PEFT's roundings or, where not exact, with one."""
    return verified("add_adapter", exact)(base, reduced, up, multiplier)


@add_adapter.register_fake
def _(
    base: torch.Tensor, reduced: torch.Tensor, up: torch.Tensor, multiplier: torch.Tensor, exact: bool = True
) -> torch.Tensor:
    dtype = torch.promote_types(base.dtype, reduced.dtype)
    return torch.empty_like(base, dtype=dtype, memory_format=torch.contiguous_format)


@torch.library.custom_op("wan_ui::add_adapter_gelu", mutates_args=())
def add_adapter_gelu(
    base: torch.Tensor, reduced: torch.Tensor, up: torch.Tensor, multiplier: torch.Tensor, exact: bool = True
) -> torch.Tensor:
    """add_adapter, and GELU in its tanh form."""
    return verified("add_adapter_gelu", exact)(base, reduced, up, multiplier)


@add_adapter_gelu.register_fake
def _(
    base: torch.Tensor, reduced: torch.Tensor, up: torch.Tensor, multiplier: torch.Tensor, exact: bool = True
) -> torch.Tensor:
    return torch.empty_like(base, memory_format=torch.contiguous_format)


@torch.library.custom_op("wan_ui::add_adapter_residual", mutates_args=())
def add_adapter_residual(
    base: torch.Tensor,
    reduced: torch.Tensor,
    up: torch.Tensor,
    multiplier: torch.Tensor,
    residual: torch.Tensor,
    gate: torch.Tensor | None,
    exact: bool = True,
) -> torch.Tensor:
    """residual + gate · add_adapter, or without a gate."""
    return verified("add_adapter_residual", exact)(base, reduced, up, multiplier, residual, gate)


@add_adapter_residual.register_fake
def _(
    base: torch.Tensor,
    reduced: torch.Tensor,
    up: torch.Tensor,
    multiplier: torch.Tensor,
    residual: torch.Tensor,
    gate: torch.Tensor | None,
    exact: bool = True,
) -> torch.Tensor:
    return torch.empty_like(base, memory_format=torch.contiguous_format)


@torch.library.custom_op("wan_ui::gated_residual", mutates_args=())
def gated_residual(hidden: torch.Tensor, residual: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """residual + hidden · gate, summed in float32 and rounded to residual's dtype."""
    return verified("gated_residual")(hidden, residual, gate)


@gated_residual.register_fake
def _(hidden: torch.Tensor, residual: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(residual, memory_format=torch.contiguous_format)
