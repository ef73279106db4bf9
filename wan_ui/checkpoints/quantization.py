"""How the weights of a checkpoint file are stored: which are fp8, with which scale, and what cannot be read.

Decided from the header; it needs no torch. The formula is the trainer's (AI Toolkit 0.13, `comfy_quant_import.py`):
`fp8.to(float32) * scale.to(float32)`, then one rounding to the model's dtype. `scale_input` and `input_scale` belong to
activations and are never multiplied into a weight.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from wan_ui.checkpoints.headers import FileHeader, read_small
from wan_ui.errors import CheckpointInvalid, CheckpointUnsupported
from wan_ui.lora.safetensors_header import TensorEntry

Precision = Literal["fp32", "bf16", "fp16", "fp8_scaled", "fp8", "gguf"]

FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
FLOATS: Mapping[str, Precision] = MappingProxyType({"F64": "fp32", "F32": "fp32", "BF16": "bf16", "F16": "fp16"})
READABLE_FORMATS = frozenset({"float8_e4m3fn", "float8_e5m2"})
LONGEST_MARKER = 4096  # bytes of a layer's `comfy_quant`, which is JSON

_MARKER = re.compile(r"(?:.*\.)?scaled_fp8")
_SCALES = (".scale_weight", ".weight_scale")
_OF_ACTIVATIONS = (".scale_input", ".input_scale")
_FOREIGN_SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        ".weight_scale_2": "nvfp4",
        ".absmax": "bitsandbytes 4 bit",
        ".quant_map": "bitsandbytes 4 bit",
        ".weight_format": "bitsandbytes 8 bit",
        ".SCB": "bitsandbytes 8 bit",
        ".qweight": "SVDQuant or GPTQ",
        ".qzeros": "GPTQ",
        ".smooth_factor": "SVDQuant",
        ".weight_scale_inv": "block-wise fp8",
    }
)


@dataclass(frozen=True)
class Quantization:
    """How a file's weights are stored. `scales` holds, by the name of an fp8 weight, the name of its scale."""

    precision: Precision
    label: str
    weights: frozenset[str]
    scales: Mapping[str, str]


def read_quantization(header: FileHeader) -> Quantization:
    """Which tensors of the file are weights, and how they are stored.

    Raises CheckpointUnsupported, by the format's name, for one that is not read, and CheckpointInvalid where a scaled
    file lacks the scale of an fp8 weight, or holds one that belongs to no weight.
    """
    if header.kind == "gguf":
        return Quantization("gguf", gguf_label(header.tensors), frozenset(header.tensors), MappingProxyType({}))
    _check_formats(header)
    weights, scales = set(), {}
    for name, entry in header.tensors.items():
        suffix = next((ending for ending in _SCALES if name.endswith(ending)), None)
        if suffix is not None:
            scales[name.removesuffix(suffix) + ".weight"] = _checked_scale(header, name, entry)
        elif not (name.endswith((*_OF_ACTIVATIONS, ".comfy_quant")) or _MARKER.fullmatch(name)):
            weights.add(name)
    scaled = bool(scales) or any(_MARKER.fullmatch(name) for name in header.tensors)
    for name in scales:
        if name not in header.tensors or header.tensors[name].dtype not in FP8:
            raise CheckpointInvalid(
                f"{header.name} has a scale for {name}, which is no fp8 weight: the file is damaged or was made in an "
                "unknown way.",
                file=header.name,
                tensor=name,
            )
    if scaled:
        for name in sorted(weights):
            if header.tensors[name].dtype in FP8 and name not in scales:
                raise CheckpointInvalid(
                    f"{header.name} is an fp8_scaled file without the scale of {name}: the weight is unknown. "
                    "Download it again.",
                    file=header.name,
                    tensor=name,
                )
    precision = _precision(header.tensors, weights, scaled)
    return Quantization(precision, _LABELS[precision], frozenset(weights), MappingProxyType(scales))


_LABELS: Mapping[Precision, str] = MappingProxyType(
    {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "fp8_scaled": "fp8_scaled", "fp8": "fp8", "gguf": "GGUF"}
)


def gguf_label(tensors: Mapping[str, TensorEntry]) -> str:
    """`GGUF Q4_K`: the quantized type that holds most of a GGUF file's numbers."""
    quantized = {name: entry for name, entry in tensors.items() if entry.dtype not in FLOATS}
    return f"GGUF {_most_bytes(quantized or tensors)}"


def gguf_bits(label: str) -> int:
    """Bits per number that a label such as `GGUF Q4_K` names."""
    digits = re.search(r"(\d+)", label)
    return int(digits[1]) if digits is not None else 0


def _checked_scale(header: FileHeader, name: str, entry: TensorEntry) -> str:
    """The name of a scale of the whole tensor. Raises CheckpointUnsupported for scales of rows or blocks."""
    if math.prod(entry.shape) != 1 or entry.dtype not in FLOATS:
        raise CheckpointUnsupported(
            f"{header.name} has scales per row or block ({name}), which cannot be read. Use the bf16, fp16 or "
            "fp8_scaled file of the same model.",
            file=header.name,
            format="block-wise scales",
        )
    return name


def _check_formats(header: FileHeader) -> None:
    """Raises CheckpointUnsupported for any number format that is not read."""
    for name, entry in header.tensors.items():
        foreign = next((what for ending, what in _FOREIGN_SUFFIXES.items() if name.endswith(ending)), None)
        if foreign is not None:
            raise _unsupported(header, foreign)
        if name.endswith(".comfy_quant"):
            _check_conf(header, _marker(header, name, entry))
        elif entry.dtype in ("I8", "U8") and name.endswith(".weight"):
            raise _unsupported(header, "int8")
    listed = header.metadata.get("_quantization_metadata")
    if listed is not None:
        for conf in _layers(header, str(listed)):
            _check_conf(header, conf)


def _marker(header: FileHeader, name: str, entry: TensorEntry) -> object:
    """A layer's `comfy_quant`, parsed."""
    if entry.end - entry.start > LONGEST_MARKER:
        raise _unsupported(header, "an unknown quantization")
    try:
        return json.loads(read_small(header, name).decode("utf-8"))
    except (ValueError, RecursionError):
        raise _unsupported(header, "an unknown quantization") from None


def _layers(header: FileHeader, text: str) -> list[object]:
    try:
        listed = json.loads(text)
        return list(listed["layers"].values())
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise _unsupported(header, "an unknown quantization") from None


def _check_conf(header: FileHeader, conf: object) -> None:
    wanted = conf.get("format") if isinstance(conf, dict) else None
    if wanted not in READABLE_FORMATS or (isinstance(conf, dict) and conf.get("convrot")):
        raise _unsupported(header, wanted if isinstance(wanted, str) else "an unknown quantization")


def _unsupported(header: FileHeader, what: str) -> CheckpointUnsupported:
    shown = what if len(what) <= 40 else "an unknown quantization"
    return CheckpointUnsupported(
        f"{header.name} is quantized as {shown}, which cannot be read. Use the bf16, fp16, fp8_scaled or GGUF file of "
        "the same model.",
        file=header.name,
        format=shown,
    )


def _precision(tensors: Mapping[str, TensorEntry], weights: set[str], scaled: bool) -> Precision:
    kept = {name: tensors[name] for name in weights}
    if any(entry.dtype in FP8 for entry in kept.values()):
        return "fp8_scaled" if scaled else "fp8"
    return FLOATS.get(_most_bytes(kept), "fp32")


def _most_bytes(tensors: Mapping[str, TensorEntry]) -> str:
    """The dtype that most bytes of these tensors have."""
    counted: Counter[str] = Counter()
    for entry in tensors.values():
        counted[entry.dtype] += entry.end - entry.start
    return counted.most_common(1)[0][0] if counted else ""
