"""Single checkpoint files of full size with random numbers, as people download them: bf16 and fp8_scaled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tests.checkpoints.published_files import header_bytes, transformer_shapes

Precision = Literal["bf16", "fp8_scaled"]
FP8 = torch.float8_e4m3fn
POOL = 1 << 28  # random numbers, of which every tensor takes a part; the largest has 71 million
STRIDE = 104_729  # numbers between the parts of two tensors
SPREAD = 0.02  # standard deviation of the weights
Shape = tuple[int, ...]


def is_quantized(name: str, shape: Shape) -> bool:
    """Whether a published file keeps a tensor in fewer bits: the linear layers of the blocks."""
    return name.startswith("blocks.") and name.endswith(".weight") and len(shape) == 2


def _starts(seed: int) -> Iterator[int]:
    at = seed * STRIDE * 7
    while True:
        yield at % (POOL // 2)
        at += STRIDE


def write_safetensors(path: Path, config: Mapping[str, Any], precision: Precision, seed: int) -> None:
    """A transformer under Wan's own names. fp8_scaled in the older form: one `scale_weight` a layer, and a marker."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, generator=generator)
    stored = {
        "BF16": (pool * SPREAD).to(torch.bfloat16).view(torch.uint8).numpy(),
        "F8_E4M3": pool.to(FP8).view(torch.uint8).numpy() if precision == "fp8_scaled" else np.empty(0, np.uint8),
    }
    listed: dict[str, tuple[str, Shape]] = {}
    for name, shape in transformer_shapes(config).items():
        packed = precision == "fp8_scaled" and is_quantized(name, shape)
        listed[name] = ("F8_E4M3" if packed else "BF16", shape)
        if packed:
            listed[name.removesuffix("weight") + "scale_weight"] = ("F32", ())
    if precision == "fp8_scaled":
        listed["scaled_fp8"] = ("F8_E4M3", (0,))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header_bytes(listed))
        for (dtype, shape), start in zip(listed.values(), _starts(seed), strict=False):
            if dtype == "F32":
                file.write(np.float32(SPREAD).tobytes())
            else:
                width = 2 if dtype == "BF16" else 1
                file.write(stored[dtype][start * width : (start + math.prod(shape)) * width].data)
