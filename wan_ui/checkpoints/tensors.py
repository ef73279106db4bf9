"""Reads tensors of a single checkpoint file one at a time, dequantized, under the names of diffusers' models.

The formulas: fp8 with a scale is `fp8.to(float32) * scale.to(float32)` and then one rounding to the wanted dtype, as
the trainer computes it; fp8 without a scale, and all other numbers, are cast; GGUF blocks are dequantized in float32 by
the `gguf` package and then cast.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open

from wan_ui.checkpoints.headers import FileHeader
from wan_ui.checkpoints.key_maps import TensorSource
from wan_ui.checkpoints.quantization import Quantization
from wan_ui.errors import CheckpointUnsupported

if TYPE_CHECKING:
    import numpy.typing as npt

HOST = torch.device("cpu")
GGUF_BYTES_AT_ONCE = 4 << 20  # bytes of packed blocks that a thread dequantizes at a time; 8 times that in float32
GGUF_THREADS = min(8, os.cpu_count() or 1)  # numpy releases the GIL while it computes


class TensorReader:
    """Tensors of one open file. Use it in a `with`; what it returns stays valid afterwards.

    `sources` says where the tensor of each name is. A tensor that needs no conversion may still lie in the file's
    pages, so that host memory is taken only as far as it is read.
    """

    def __init__(self, header: FileHeader, quantization: Quantization, sources: Mapping[str, TensorSource]) -> None:
        self._header = header
        self._quantization = quantization
        self._sources = sources
        self._file: Any = None
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> TensorReader:
        if self._header.kind == "safetensors":
            self._file = safe_open(self._header.path, framework="pt")
        else:
            self._threads = ThreadPoolExecutor(GGUF_THREADS, "gguf")
        return self

    def __exit__(self, *error: object) -> None:
        self._file = None
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def read(self, name: str, dtype: torch.dtype, device: torch.device = HOST) -> torch.Tensor:
        """A tensor's numbers in a dtype on a device; its shape is the file's, or the part's of a joined tensor."""
        source = self._sources[name]
        if self._header.kind == "gguf":
            return self._read_gguf(source.name).to(device=device, dtype=dtype)
        packed, scale = self.read_packed(name)
        return dequantize(packed.to(device), None if scale is None else scale.to(device), dtype)

    def read_packed(self, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A tensor of a safetensors file as it is stored, and its scale (0-d float32) where it has one."""
        source = self._sources[name]
        packed = self._part(self._file.get_tensor(source.name), source)
        scale_name = self._quantization.scales.get(source.name)
        if scale_name is None:
            return packed, None
        return packed, self._file.get_tensor(scale_name).to(torch.float32).reshape(())

    def _part(self, tensor: torch.Tensor, source: TensorSource) -> torch.Tensor:
        return tensor if source.of == 1 else tensor.chunk(source.of)[source.part]

    def _read_gguf(self, name: str) -> torch.Tensor:
        entry = self._header.tensors[name]
        dequantize_blocks = gguf_dequantizer(self._header.name)
        values = np.empty(entry.shape, dtype=np.float32)
        flat = values.reshape(-1)
        packed = np.memmap(self._header.path, mode="r", offset=entry.start, shape=(entry.end - entry.start,))
        block_values, block_bytes = gguf_block(self._header.name, entry.dtype)
        step = max(1, GGUF_BYTES_AT_ONCE // block_bytes)

        def dequantize_from(block: int) -> None:
            chunk = np.array(packed[block * block_bytes : (block + step) * block_bytes])
            dequantized = dequantize_blocks(chunk, entry.dtype)
            flat[block * block_values : block * block_values + dequantized.size] = dequantized

        starts = range(0, len(packed) // block_bytes, step)
        for _ in map(dequantize_from, starts) if self._threads is None else self._threads.map(dequantize_from, starts):
            pass  # raises what a thread raised
        return torch.from_numpy(values)


def dequantize(packed: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """`packed × scale` in float32, rounded once to `dtype`; without a scale a cast."""
    if scale is None:
        return packed.to(dtype)
    return (packed.to(torch.float32) * scale).to(dtype)


def gguf_dequantizer(shown: str) -> Callable[[npt.NDArray[np.uint8], str], npt.NDArray[np.float32]]:
    """The `gguf` package's dequantizer, for packed bytes and a type's name. Raises CheckpointUnsupported without it."""
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError as error:
        raise CheckpointUnsupported(
            f"{shown} is a GGUF file, which needs the package gguf: pip install 'wan-ui[gguf]'.",
            file=shown,
            format="GGUF",
        ) from error

    def dequantize_blocks(packed: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = quants.dequantize(packed, GGMLQuantizationType[kind])
        return values.reshape(-1)

    return dequantize_blocks


def gguf_block(shown: str, kind: str) -> tuple[int, int]:
    """The values in a block of a ggml type and the block's bytes."""
    from wan_ui.checkpoints.gguf_files import BLOCKS

    for name, values, size in BLOCKS.values():
        if name == kind:
            return values, size
    raise CheckpointUnsupported(f"{shown} holds numbers of the type {kind}.", file=shown, format=kind)
