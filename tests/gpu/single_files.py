"""Transformers of full size with random numbers, as people have them: folders, and bf16, fp8_scaled and GGUF files.

The numbers are parts of one pool for each format, so that a file is written about as fast as the disk takes it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch

from tests.checkpoints.published_files import header_bytes, transformer_shapes
from wan_ui.checkpoints.gguf_files import BLOCKS, DEFAULT_ALIGNMENT, MAGIC, STRING
from wan_ui.checkpoints.modules import expected_shapes

Precision = Literal["bf16", "fp8_scaled"]
GgufType = Literal["Q8_0", "Q4_K"]
FP8 = torch.float8_e4m3fn
POOL = 1 << 28  # random numbers, of which every tensor takes a part; the largest has 157 million
STRIDE = 104_729  # numbers between the parts of two tensors
SPREAD = 0.02  # standard deviation of the weights
SHARD = 5_000_000_000  # bytes of one file of a folder, as the hub has them
GGUF_VERSION = 3
Shape = tuple[int, ...]
Listed = dict[str, tuple[str, Shape]]  # dtype and shape by name


def is_quantized(name: str, shape: Shape) -> bool:
    """Whether a published file keeps a tensor in fewer bits: the linear layers of the blocks."""
    return name.startswith("blocks.") and name.endswith(".weight") and len(shape) == 2


@dataclass(frozen=True)
class Pool:
    """Random bytes of a format that holds `values` numbers in a block of `size` bytes."""

    data: npt.NDArray[np.uint8]
    values: int
    size: int

    def part(self, start: int, count: int) -> memoryview:
        """The bytes of `count` numbers from about the number `start` on."""
        blocks, needed = len(self.data) // self.size, count // self.values
        first = start // self.values % (blocks - needed + 1)
        return self.data[first * self.size : (first + needed) * self.size].data


def _pools(dtypes: Iterable[str], seed: int) -> dict[str, Pool]:
    """A pool for each format that is named."""
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(seed))
    return {dtype: _pool(dtype, pool, seed) for dtype in set(dtypes)}


def _pool(dtype: str, numbers: torch.Tensor, seed: int) -> Pool:
    if dtype == "BF16":
        return Pool((numbers * SPREAD).to(torch.bfloat16).view(torch.uint8).numpy(), 1, 2)
    if dtype == "F8_E4M3":
        return Pool(numbers.to(FP8).view(torch.uint8).numpy(), 1, 1)
    if dtype == "F32":
        return Pool((numbers * SPREAD).view(torch.uint8).numpy(), 1, 4)
    values, size = next((values, size) for name, values, size in BLOCKS.values() if name == dtype)
    blocks = np.random.default_rng(seed).integers(0, 256, (POOL // values, size), dtype=np.uint8)
    scales = 1 if dtype == "Q8_0" else 2  # float16 numbers at the start of a block: a scale, and for Q4_K a smallest
    blocks[:, : 2 * scales] = np.full(scales, SPREAD / 64, np.float16).view(np.uint8)
    return Pool(blocks.reshape(-1), values, size)


def _starts(seed: int) -> Iterator[int]:
    at = seed * STRIDE * 7
    while True:
        yield at % (POOL // 2)
        at += STRIDE


def write_safetensors(path: Path, config: Mapping[str, Any], precision: Precision, seed: int) -> None:
    """A transformer under Wan's own names. fp8_scaled in the older form: one `scale_weight` a layer, and a marker."""
    listed: Listed = {}
    for name, shape in transformer_shapes(config).items():
        packed = precision == "fp8_scaled" and is_quantized(name, shape)
        listed[name] = ("F8_E4M3" if packed else "BF16", shape)
        if packed:
            listed[name.removesuffix("weight") + "scale_weight"] = ("F32", ())
    if precision == "fp8_scaled":
        listed["scaled_fp8"] = ("F8_E4M3", (0,))
    pools = _pools({dtype for dtype, shape in listed.values() if shape}, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header_bytes(listed))
        _write_numbers(file, listed, pools, seed)


def write_folder(folder: Path, config: Mapping[str, Any], seed: int, shard: int = SHARD) -> None:
    """A transformer in diffusers' layout in bf16: its config, its index, and files of at most `shard` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    shards: list[Listed] = [{}]
    size = 0
    for name, shape in expected_shapes("transformer", config).items():
        length = 2 * math.prod(shape)
        if size + length > shard and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = ("BF16", shape)
        size += length
    pools, files = _pools({"BF16"}, seed), {}
    for number, listed in enumerate(shards, 1):
        name = f"diffusion_pytorch_model-{number:05}-of-{len(shards):05}.safetensors"
        files.update(dict.fromkeys(listed, name))
        with (folder / name).open("wb") as file:
            file.write(header_bytes(listed, {"format": "pt"}))
            _write_numbers(file, listed, pools, seed + number)
    index = {"metadata": {}, "weight_map": files}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _write_numbers(file: BinaryIO, listed: Listed, pools: Mapping[str, Pool], seed: int) -> None:
    for (dtype, shape), start in zip(listed.values(), _starts(seed), strict=False):
        if dtype == "F32" and not shape:
            file.write(np.float32(SPREAD).tobytes())
        else:
            file.write(pools[dtype].part(start, math.prod(shape)))


def write_gguf(path: Path, config: Mapping[str, Any], kind: GgufType, seed: int) -> None:
    """A transformer under Wan's own names with all its matrices in one ggml type, and all else in float32."""
    listed = {name: (kind if len(shape) == 2 else "F32", shape) for name, shape in transformer_shapes(config).items()}
    pools = _pools({"F32", kind}, seed)
    parts = [
        pools[dtype].part(start, math.prod(shape))
        for (dtype, shape), start in zip(listed.values(), _starts(seed), strict=False)
    ]
    numbers = {name: number for number, (name, _, _) in BLOCKS.items()}
    header = MAGIC + struct.pack("<IQQ", GGUF_VERSION, len(listed), 1)
    header += _text("general.architecture") + struct.pack("<I", STRING) + _text("wan")
    offset = 0
    for (name, (dtype, shape)), part in zip(listed.items(), parts, strict=True):
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        header += _text(name) + dimensions + struct.pack("<IQ", numbers[dtype], offset)
        offset += len(part) + -len(part) % DEFAULT_ALIGNMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header + bytes(-len(header) % DEFAULT_ALIGNMENT))
        for part in parts:
            file.write(part)
            file.write(bytes(-len(part) % DEFAULT_ALIGNMENT))


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()
