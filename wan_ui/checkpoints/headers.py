"""What a single checkpoint file lists: tensors and metadata of safetensors and GGUF files, from their headers alone.

It needs no torch. Nothing is opened that can run code, and nothing that a header claims is believed
before it is compared with the file's length.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal

from wan_ui.checkpoints import gguf_files
from wan_ui.checkpoints.gguf_files import GgufArray, GgufError
from wan_ui.errors import (
    CheckpointIncomplete,
    CheckpointInvalid,
    CheckpointNotFound,
    CheckpointUnsupported,
    LoraInvalid,
)
from wan_ui.files import check_descriptors
from wan_ui.lora.safetensors_header import LARGEST_HEADER, TensorEntry, parse_header

FileKind = Literal["safetensors", "gguf"]

LONGEST_METADATA = 1 << 20  # bytes of a metadata value; `_quantization_metadata` names every layer
SPIECE_TENSOR = "spiece_model"  # a text encoder's SentencePiece file, as a tensor of bytes
GGUF_TOKENS = "tokenizer.ggml.tokens"  # the same vocabulary in a GGUF file's metadata
START = 64  # bytes that tell what a file is

_UNREADABLE_DTYPES = re.compile(rb'"dtype"\s*:\s*"(F4|F6_\w+|F8_E8M0|F8_\w+FNUZ)"')
_PICKLE = (
    "is a PyTorch pickle (.pt, .pth, .ckpt, .bin). Pickles can run code and are not opened. Use the same weights as a "
    ".safetensors file."
)
_FOREIGN_STARTS = (
    (b"PK\x03\x04", _PICKLE),
    (b"\x80\x02", _PICKLE),
    (b"\x80\x03", _PICKLE),
    (b"\x80\x04", _PICKLE),
    (b"\x80\x05", _PICKLE),
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, a few lines that stand for the file. Download the file itself (`git lfs pull`).",
    ),
)


@dataclass(frozen=True)
class FileHeader:
    """What a file lists. `name` is how it is shown to people; `arrays` are those of a GGUF file's metadata."""

    name: str
    path: Path
    size: int
    kind: FileKind
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str | int | float | bool]
    arrays: Mapping[str, GgufArray] = field(default_factory=lambda: MappingProxyType({}))


def read_header(path: Path, name: str) -> FileHeader:
    """The header of a safetensors or GGUF file; `name` is how messages call it.

    Raises CheckpointNotFound for a file that cannot be opened, CheckpointIncomplete for an empty or cut off one,
    CheckpointInvalid for what is no such file at all, CheckpointUnsupported for numbers in an unreadable format.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(START)
            check_start(start, size, name)
            file.seek(0)
            if start.startswith(gguf_files.MAGIC):
                return _gguf_header(file, path, size, name)
            return _safetensors_header(file, path, size, name)
    except OSError as error:
        check_descriptors(error)
        raise CheckpointNotFound(f"{name} cannot be opened: {error.strerror}.", file=name) from error


def read_small(header: FileHeader, name: str) -> bytes:
    """The raw bytes of a small tensor, such as a marker or the tokenizer's model."""
    entry = header.tensors[name]
    with header.path.open("rb") as file:
        file.seek(entry.start)
        return file.read(entry.end - entry.start)


def brings_vocabulary(header: FileHeader) -> bool:
    """Whether a text encoder's file brings its tokenizer's vocabulary."""
    return SPIECE_TENSOR in header.tensors or GGUF_TOKENS in header.arrays


def check_start(start: bytes, size: int, name: str) -> None:
    """Raises what is wrong with a file of `size` bytes that begins with these bytes (64 of them, or the file)."""
    if not start:
        raise CheckpointIncomplete(f"{name} is empty. Download it again.", file=name)
    for magic, what in _FOREIGN_STARTS:
        if start.startswith(magic):
            raise CheckpointInvalid(f"{name} {what}", file=name)
    if start.lstrip()[:1] == b"<":
        raise CheckpointInvalid(
            f"{name} is a web page: the download saved a sign-in or error page. Download the file itself.", file=name
        )
    if start.startswith(gguf_files.MAGIC):
        return
    if len(start) < 10:
        raise CheckpointIncomplete(f"{name} has {size} bytes: its download is incomplete.", file=name)
    if start[8:9] != b"{":
        raise CheckpointInvalid(f"{name} is neither a safetensors nor a GGUF file.", file=name)
    length = int.from_bytes(start[:8], "little")
    if length > LARGEST_HEADER:
        raise CheckpointInvalid(f"{name} is not a sound safetensors file: its header claims {length} bytes.", file=name)
    if 8 + length > size:
        raise CheckpointIncomplete(
            f"{name} is incomplete: its header needs {8 + length} bytes and {size} are there. Download it again.",
            file=name,
        )


def _safetensors_header(file: BinaryIO, path: Path, size: int, name: str) -> FileHeader:
    length = int.from_bytes(file.read(8), "little")
    raw = file.read(length)
    unreadable = _UNREADABLE_DTYPES.search(raw)
    if unreadable is not None:
        raise CheckpointUnsupported(
            f"{name} holds numbers as {unreadable[1].decode()} (nvfp4, mxfp8 or alike), which cannot be read. Use the "
            "bf16, fp16 or fp8_scaled file of the same model.",
            file=name,
            format=unreadable[1].decode(),
        )
    try:
        listing = parse_header(raw, size, LONGEST_METADATA)
    except LoraInvalid as error:
        kind = CheckpointIncomplete if "incomplete" in error.message else CheckpointInvalid
        raise kind(f"{name} cannot be used. {error.message}", file=name) from error
    return FileHeader(name, path, size, "safetensors", listing.tensors, listing.metadata)


def _gguf_header(file: BinaryIO, path: Path, size: int, name: str) -> FileHeader:
    try:
        header = gguf_files.parse_header(file, size)
    except GgufError as error:
        kind = CheckpointIncomplete if "incomplete" in str(error) else CheckpointInvalid
        raise kind(f"{name} cannot be used. {error}", file=name) from error
    return FileHeader(name, path, size, "gguf", header.tensors, header.metadata, header.arrays)
