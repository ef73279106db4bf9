"""Reads a LoRA file of any format as one form per module of diffusers' Wan transformer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open

from wan_ui.errors import LoraInvalid, LoraMismatch
from wan_ui.lora.layers import SINGLE, Change, ModuleInfo, find_layers, target_name
from wan_ui.lora.shapes import Dimensions, layer_problem
from wan_ui.text import one_line

_EIGHT_BIT = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True, eq=False)
class LowRank:
    """W + m · scale · up @ down; down [rank, in…], up [out, rank(, 1…)], as stored in the file.

    m is the LoRA scale of the request; `scale` is alpha / rank, exactly 1 without alpha.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class Dora:
    """W' = W + m · scale · up @ down, then each output's row rescaled to the length magnitude [out].

    Never merged into the weights. Source: Liu et al. 2024, "DoRA", equation 5.
    """

    down: torch.Tensor
    up: torch.Tensor
    magnitude: torch.Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class Kron:
    """W + m · scale · kron(w1, w2), both float32 and two-dimensional (LyCORIS' LoKr)."""

    w1: torch.Tensor
    w2: torch.Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class Hadamard:
    """W + m · scale · w1 ∘ w2, both float32 and of the weight's shape (LyCORIS' LoHa; Hyeon-Woo et al. 2022)."""

    w1: torch.Tensor
    w2: torch.Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class Full:
    """Parameter + m · change, of the parameter's own shape."""

    change: torch.Tensor


@dataclass(frozen=True, eq=False)
class BiasDelta:
    """Bias + m · change, [out]."""

    change: torch.Tensor


Part = LowRank | Dora | Kron | Hadamard | Full | BiasDelta


@dataclass(frozen=True, eq=False)
class Converted:
    """A file's changes for one slot. `left_out` counts changes of modules that the transformer does not have.

    `modules`: the change of a linear layer's weight under its diffusers module name ("blocks.0.attn1.to_q"), any
    other change under its parameter's full name ("blocks.0.attn1.to_q.bias", "blocks.0.norm2.weight",
    "blocks.0.scale_shift_table"). `dropped`: (key, why) of tensors that change nothing. `slots`: the slots that the
    tensors' names state, ("single",) when they state none.
    """

    modules: Mapping[str, Part]
    dropped: tuple[tuple[str, str], ...]
    slots: tuple[str, ...]
    left_out: int = 0


def convert(path: Path, slot: str, sizes: Dimensions | None = None) -> Converted:
    """Reads a LoRA file's changes for "single", "high" or "low"; the other slot's tensors are not read.

    With a transformer's `sizes`, changes of layers that it does not have, or has in another shape, are left out.

    A file whose tensor names state no slot serves any. Raises LoraInvalid when it is not valid, LoraMismatch when it
    holds nothing for the slot or nothing for Wan at all, LoraNotFound when it cannot be opened.
    """
    layers = find_layers(path)
    slots = layers.slots or (SINGLE,)
    changes = [change for change in layers.changes if change.info.slot in (slot, SINGLE)]
    if not layers.changes:
        kind = layers.unsupported
        effect = f"it is of the type {kind}, which is not supported" if kind else "it would do nothing"
        raise LoraMismatch(f"None of the LoRA's layers exist in the Wan models: {effect}.", fits=[])
    if not changes:
        raise LoraMismatch(f"The LoRA is made for {' and '.join(slots)}; it holds nothing for {slot}.")
    left_out: list[tuple[str, str]] = []
    fitting: list[Change] = []
    for change in changes:
        problem = None if sizes is None else layer_problem(change.info, sizes)
        if problem is None:
            fitting.append(change)
        else:
            left_out.append((target_name(change.info.module, change.info.kind), problem))
    modules: dict[str, Part] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for change in fitting:
                part = _part(change, file.get_tensor)
                if isinstance(part, Hadamard) and sizes is not None:  # a convolution's may be flat
                    shape = sizes.shape(change.info.module) or part.w1.shape
                    part = Hadamard(part.w1.reshape(shape), part.w2.reshape(shape), part.scale)
                modules[target_name(change.info.module, change.info.kind)] = part
    except SafetensorError as error:
        raise LoraInvalid("Not a valid safetensors file: its tensors cannot be read.") from error
    return Converted(MappingProxyType(modules), (*left_out, *layers.dropped), slots, len(left_out))


def delta(part: Part) -> torch.Tensor:
    """What is added to the parameter at LoRA scale 1: float32, of the parameter's shape.

    Raises LoraInvalid for DoRA, which is no addition.
    """
    match part:
        case LowRank(down, up, scale):
            product = up.float().flatten(1) @ down.float().flatten(1)
            return _scaled(product, scale).reshape(up.shape[0], *down.shape[1:])
        case Kron(w1, w2, scale):
            return _scaled(torch.kron(w1, w2), scale)
        case Hadamard(w1, w2, scale):
            return _scaled(w1 * w2, scale)
        case Full(change) | BiasDelta(change):
            return change.float()
        case Dora():
            raise LoraInvalid("A DoRA cannot be merged into the weights.")


def _scaled(product: torch.Tensor, scale: float) -> torch.Tensor:
    return product if scale == 1 else product.mul_(scale)


def _part(change: Change, read: Callable[[str], torch.Tensor]) -> Part:
    info = change.info
    tensors = {role: _number(read(key), info.module) for role, key in change.keys.items() if role != "alpha"}
    match info.kind:
        case "lora":
            return LowRank(tensors["down"], tensors["up"], _scale(info))
        case "dora":
            return Dora(tensors["down"], tensors["up"], tensors["magnitude"].flatten(), _scale(info))
        case "lokr":
            return Kron(_factor(tensors, "lokr_w1"), _factor(tensors, "lokr_w2"), _scale(info))
        case "loha":
            return Hadamard(_loha_factor(tensors, 1), _loha_factor(tensors, 2), _scale(info))
        case "bias":
            if "up_bias" in tensors:  # PEFT's lora_bias: the up layer's own bias, scaled as its output is
                return BiasDelta(_scaled(tensors["up_bias"].float().clone(), _scale(info)))
            return BiasDelta(tensors["diff_b"])
        case "full":
            return Full(tensors["down"])
        case "diff":
            return Full(tensors["diff"].reshape(info.shape))


def _number(tensor: torch.Tensor, module: str) -> torch.Tensor:
    """A tensor that torch can compute with: 8-bit floats as float32, anything else untouched."""
    if tensor.dtype in _EIGHT_BIT:
        tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise LoraInvalid(
            f"The LoRA holds infinite values or NaN in {one_line(module)}: its training diverged. Use an earlier save.",
            module=module,
        )
    return tensor


def _factor(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name in tensors:
        return tensors[name].float()
    return tensors[f"{name}_a"].float() @ tensors[f"{name}_b"].float()


def _loha_factor(tensors: Mapping[str, torch.Tensor], number: int) -> torch.Tensor:
    """One factor of a LoHa, float32: a · b, or with a Tucker core t, summed over
    i and j: t[i, j, k…] · b[j, r] · a[i, p] -> [p, r, k…] (out, in, kernel).
    """
    a, b = tensors[f"hada_w{number}_a"].float(), tensors[f"hada_w{number}_b"].float()
    core = tensors.get(f"hada_t{number}")
    return a @ b if core is None else torch.einsum("ij...,jr,ip->pr...", core.float(), b, a)


def _scale(info: ModuleInfo) -> float:
    """alpha / rank; 1 where there is no alpha, or no rank (a LoKr of two full factors, whose alpha may be infinite)."""
    if info.alpha is None or info.rank is None:
        return 1.0
    scale = info.alpha / info.rank
    if not math.isfinite(scale):
        raise LoraInvalid(f"The LoRA's alpha of {info.module} is infinite or not a number.", module=info.module)
    return scale
