"""Reads the header of a GGUF file within fixed bounds; it needs neither the `gguf` package nor torch.

The layout, little-endian: the magic `GGUF`, u32 version, u64 tensor count, u64 metadata count; each metadata entry is a
string key, a u32 type and a value; each tensor entry is a string name, a u32 number of dimensions, that many u64
dimensions (fastest first), a u32 type and a u64 offset from the start of the data, which begins at the next multiple of
`general.alignment`. A string is a u64 length and UTF-8 bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import BinaryIO

from wan_ui.lora.safetensors_header import TensorEntry

MAGIC = b"GGUF"
LARGEST_HEADER = 64 << 20  # bytes; a text encoder's vocabulary takes about 8 MiB
MOST_TENSORS = 8192
MOST_METADATA = 1024
LONGEST_NAME = 256  # bytes of a tensor's name or a metadata key
LONGEST_STRING = 1 << 20  # bytes of a metadata string
MOST_ITEMS = 1 << 20  # of a metadata array; UMT5's vocabulary has 256,384
MOST_DIMENSIONS = 5  # ggml stores four; the patch embedding is put back with five
DEFAULT_ALIGNMENT = 32
LARGEST_ALIGNMENT = 1 << 16

STRING, ARRAY = 8, 9
_SCALARS: Mapping[int, str] = MappingProxyType(
    {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
)

BLOCKS: Mapping[int, tuple[str, int, int]] = MappingProxyType(
    {
        0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2),
    }
)  # fmt: skip
"""By ggml's type number: its name, the values in a block and the bytes of a block."""


class GgufError(ValueError):
    """What is wrong with a GGUF file, as a sentence without its name."""


@dataclass(frozen=True)
class GgufArray:
    """An array in the metadata: the type of its items, how many there are, and where the first one starts."""

    item_type: int
    count: int
    start: int


@dataclass(frozen=True)
class GgufHeader:
    """Tensors by name (shapes slowest dimension first, as torch has them), scalar metadata, and arrays by position."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str | int | float | bool]
    arrays: Mapping[str, GgufArray]


class _Reader:
    """Reads values from a file, never past `LARGEST_HEADER` or its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._buffer = file.read(min(size, LARGEST_HEADER))
        self._whole = len(self._buffer) == size
        self.position = 0

    def take(self, length: int) -> bytes:
        """The next `length` bytes. Raises GgufError."""
        end = self.position + length
        if end > len(self._buffer):
            if self._whole:
                raise GgufError("The file ends inside its header: the download is incomplete. Download it again.")
            raise GgufError("Its header is larger than any GGUF file of a Wan model has.")
        start, self.position = self.position, end
        return self._buffer[start:end]

    def number(self, code: str) -> int:
        """One little-endian integer."""
        value: int = self.unpack(code)
        return value

    def unpack(self, code: str) -> int:
        """One little-endian number of a struct code."""
        value: int = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]
        return value

    def string(self, longest: int) -> str:
        """A length and UTF-8 text. Raises GgufError."""
        length = self.number("Q")
        if length > longest:
            raise GgufError("A name or text in its header is longer than any that is needed.")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise GgufError("A text in its header is not UTF-8.") from None

    def skip_items(self, item_type: int, count: int) -> None:
        """Passes over an array's items."""
        if item_type == STRING:
            for _ in range(count):
                length = self.number("Q")
                if length > LONGEST_STRING:
                    raise GgufError("A text in its header is longer than any that is needed.")
                self.take(length)
        else:
            self.take(count * struct.calcsize("<" + _SCALARS[item_type]))


def parse_header(file: BinaryIO, size: int) -> GgufHeader:
    """The header of a GGUF file of `size` bytes, read from its start. Raises GgufError."""
    reader = _Reader(file, size)
    if reader.take(4) != MAGIC:
        raise GgufError("It does not begin as a GGUF file does.")
    version = reader.number("I")
    if version not in (2, 3):
        raise GgufError(f"It is GGUF version {version}; versions 2 and 3 can be read.")
    tensor_count, metadata_count = reader.number("Q"), reader.number("Q")
    if tensor_count > MOST_TENSORS or metadata_count > MOST_METADATA:
        raise GgufError("Its header claims more tensors or more metadata than any Wan model has.")
    metadata, arrays = _read_metadata(reader, metadata_count)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise GgufError("The alignment that its header names is none.")
    listed = [_read_tensor(reader) for _ in range(tensor_count)]
    data_start = -(-reader.position // alignment) * alignment
    return GgufHeader(
        MappingProxyType(_place(listed, data_start, size)), MappingProxyType(metadata), MappingProxyType(arrays)
    )


def read_strings(file: BinaryIO, array: GgufArray) -> list[str]:
    """The texts of a metadata array that `parse_header` found. Raises GgufError."""
    if array.item_type != STRING:
        raise GgufError("A list of texts in its header is not one.")
    file.seek(array.start)
    reader = _Reader(file, LARGEST_HEADER)
    return [reader.string(LONGEST_STRING) for _ in range(array.count)]


def read_numbers(file: BinaryIO, array: GgufArray) -> tuple[float, ...]:
    """The numbers of a metadata array that `parse_header` found. Raises GgufError."""
    if array.item_type not in _SCALARS:
        raise GgufError("A list of numbers in its header is not one.")
    code = "<" + str(array.count) + _SCALARS[array.item_type]
    file.seek(array.start)
    raw = file.read(struct.calcsize(code))
    if len(raw) < struct.calcsize(code):
        raise GgufError("The file ends inside its header: the download is incomplete. Download it again.")
    return struct.unpack(code, raw)


def _read_metadata(reader: _Reader, count: int) -> tuple[dict[str, str | int | float | bool], dict[str, GgufArray]]:
    scalars: dict[str, str | int | float | bool] = {}
    arrays: dict[str, GgufArray] = {}
    for _ in range(count):
        key, value_type = reader.string(LONGEST_NAME), reader.number("I")
        if key in scalars or key in arrays:
            raise GgufError("Its header names a value twice.")
        if value_type == STRING:
            scalars[key] = reader.string(LONGEST_STRING)
        elif value_type == ARRAY:
            item_type, length = reader.number("I"), reader.number("Q")
            if length > MOST_ITEMS or (item_type != STRING and item_type not in _SCALARS):
                raise GgufError("A list in its header is longer than any that is needed, or a list of lists.")
            arrays[key] = GgufArray(item_type, length, reader.position)
            reader.skip_items(item_type, length)
        elif value_type in _SCALARS:
            scalars[key] = reader.unpack(_SCALARS[value_type])
        else:
            raise GgufError(f"Its header holds a value of the unknown type {value_type}.")
    return scalars, arrays


def _read_tensor(reader: _Reader) -> tuple[str, str, tuple[int, ...], int, int]:
    """Name, type, shape (slowest dimension first), bytes, and offset from the start of the data."""
    name = reader.string(LONGEST_NAME)
    dimensions = reader.number("I")
    if not 0 <= dimensions <= MOST_DIMENSIONS:
        raise GgufError(f"A tensor has {dimensions} dimensions.")
    shape = tuple(reversed([reader.number("Q") for _ in range(dimensions)]))
    type_number, offset = reader.number("I"), reader.number("Q")
    if type_number not in BLOCKS:
        raise GgufError(f"It holds numbers of the ggml type {type_number}, which cannot be read.")
    kind, block, block_bytes = BLOCKS[type_number]
    elements = math.prod(shape)
    if any(length >= 2**40 for length in shape) or elements % block or (shape and shape[-1] % block):
        raise GgufError("A tensor's shape does not fit its type.")
    return name, kind, shape, elements // block * block_bytes, offset


def _place(
    listed: list[tuple[str, str, tuple[int, ...], int, int]], data_start: int, size: int
) -> dict[str, TensorEntry]:
    """The tensors at their places in the file. Raises GgufError where two overlap or one ends outside."""
    tensors: dict[str, TensorEntry] = {}
    for name, kind, shape, length, offset in listed:
        start = data_start + offset
        if start + length > size:
            raise GgufError(
                f"The file is incomplete: its header lists {start + length} bytes and {size} are there. "
                "Download it again."
            )
        if name in tensors:
            raise GgufError("Its header names a tensor twice.")
        tensors[name] = TensorEntry(kind, shape, start, start + length)
    if not tensors:
        raise GgufError("It holds no tensors.")
    reached = data_start
    for entry in sorted(tensors.values(), key=lambda item: (item.start, item.end)):
        if entry.start < reached:
            raise GgufError("Its tensors overlap.")
        reached = entry.end
    return tensors
