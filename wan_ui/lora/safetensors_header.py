"""Validates the header of a safetensors file and lists its tensors and metadata, without reading any tensor.

The header is JSON of three levels: name -> {dtype, shape, data_offsets}. It is parsed entry by entry, so that a
hostile one (deep, huge, with false lengths) costs neither memory nor stack before it is refused.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.files import check_descriptors

LARGEST_HEADER = 8 * 2**20  # bytes; a combined 14B LyCORIS file has about 1 MiB
MOST_TENSORS = 8192  # a combined 14B file with every parameter changed has about 5,000
LONGEST_NAME = 512  # bytes of a name, quoted, and of the space before its value
LONGEST_ENTRY = 1024  # bytes of one tensor's {dtype, shape, data_offsets}
MOST_METADATA = 1_000  # entries
LONGEST_VALUE = 64 * 1024  # bytes of a metadata value; longer ones are skipped
MOST_DIMENSIONS = 8

ITEM_SIZE: Mapping[str, int] = MappingProxyType(
    {
        "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
        "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    }
)  # fmt: skip

_PICKLE = "a pickle (.pt or .ckpt) with another file ending. Pickles can run code and are not opened"
_NOT_SAFETENSORS = (
    (b"PK\x03\x04", "a PyTorch pickle or zip archive with another file ending. These can run code and are not opened"),
    (b"\x80\x02", _PICKLE),
    (b"\x80\x03", _PICKLE),
    (b"\x80\x04", _PICKLE),
    (b"\x80\x05", _PICKLE),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself. Download the file it points to"),
    (b"GGUF", "a GGUF file"),
)
_WHITE = b" \t\r\n"
_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'  # possessive: never backtracks, so it needs no memory for it
_NAMED = rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE
_NAME = re.compile(_NAMED + rb"\{", re.DOTALL)
_PAIR = re.compile(_SPACE + _NAMED + rb"(" + _STRING + rb")" + _SPACE + rb"([,}])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of the header. `start` and `end` are byte offsets from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """A valid file's tensors by name, in the file's order, and its metadata: strings, untrusted."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """The tensors and metadata of a safetensors file, from its header alone.

    Raises LoraInvalid, with what the file is instead, when it is not valid; LoraNotFound when it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(64)
            length = _header_length(start, size)
            file.seek(8)
            raw = file.read(length)
    except OSError as error:
        check_descriptors(error)
        raise LoraNotFound("The LoRA file cannot be opened.") from error
    if len(raw) < length:
        raise LoraInvalid("The file ends inside its header: the download is incomplete. Download it again.")
    return parse_header(raw, size)


def check_start(start: bytes) -> None:
    """Raises LoraInvalid, with what the file is instead, when no LoRA starts with these bytes (at least 64, or all)."""
    for magic, what in _NOT_SAFETENSORS:
        if start.startswith(magic):
            raise LoraInvalid(f"This is {what}. A LoRA is needed as a .safetensors file.")
    if start.lstrip()[:1] == b"<":
        raise LoraInvalid(
            "This is an HTML page, not a LoRA: the download saved a web page (a sign-in or error page, perhaps). "
            "Download the file itself."
        )
    if len(start) < 10:
        raise LoraInvalid(f"The file has {len(start)} bytes: it is empty or its download is incomplete.")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{":
        raise LoraInvalid("This is not a safetensors file: it does not start with a header.")
    if length > LARGEST_HEADER:
        raise LoraInvalid(f"Not a valid safetensors file: its header claims {length} bytes, more than any LoRA needs.")


def _header_length(start: bytes, size: int) -> int:
    check_start(start)
    length = int.from_bytes(start[:8], "little")
    if 8 + length > size:
        raise LoraInvalid(
            f"The file is incomplete: its header needs {8 + length} bytes and {size} are there. Download it again."
        )
    if length < 2:
        raise LoraInvalid("Not a valid safetensors file: its header is empty.")
    return length


def parse_header(raw: bytes, size: int, longest_value: int = LONGEST_VALUE) -> SafetensorsHeader:
    """The tensors and metadata of a header, `raw`, of a file of `size` bytes.

    Metadata values longer than `longest_value` bytes are left out. Raises LoraInvalid.
    """
    tensors: dict[str, TensorEntry] = {}
    metadata: dict[str, str] = {}
    seen_metadata = False
    for name, at, end in _members(raw):
        if name == "__metadata__":
            if seen_metadata:
                raise LoraInvalid("Not a valid safetensors file: its header has two metadata blocks.")
            seen_metadata = True
            metadata = _metadata(raw, at, longest_value)
            continue
        if name in tensors:
            raise LoraInvalid("Not a valid safetensors file: its header names a tensor twice.")
        if len(tensors) == MOST_TENSORS:
            raise LoraInvalid(f"Its header lists more than {MOST_TENSORS} tensors, more than any Wan model has.")
        tensors[name] = _entry(raw[at:end], 8 + len(raw))
    if not tensors:
        raise LoraInvalid("The safetensors file holds no tensors.")
    reached = 8 + len(raw)
    for entry in sorted(tensors.values(), key=lambda item: (item.start, item.end)):
        if entry.start != reached:
            raise LoraInvalid("Not a valid safetensors file: its tensors overlap or leave holes.")
        reached = entry.end
    if reached > size:
        raise LoraInvalid(
            f"The file is incomplete: its header lists {reached} bytes and {size} are there. Download it again."
        )
    if reached < size:
        raise LoraInvalid(f"Not a valid safetensors file: {size - reached} bytes follow its last tensor.")
    return SafetensorsHeader(MappingProxyType(tensors), MappingProxyType(metadata))


def _broken() -> LoraInvalid:
    return LoraInvalid("Not a valid safetensors file: its header is not the expected JSON.")


def _skip(raw: bytes, at: int) -> int:
    while at < len(raw) and raw[at] in _WHITE:
        at += 1
    return at


def _expect(raw: bytes, at: int, byte: bytes) -> int:
    at = _skip(raw, at)
    if raw[at : at + 1] != byte:
        raise _broken()
    return at + 1


def _text(raw: bytes, at: int, end: int) -> str:
    try:
        value = json.loads(raw[at:end].decode("utf-8"))  # bytes would be taken for UTF-16 when some are 0
    except (ValueError, RecursionError):
        raise _broken() from None
    if not isinstance(value, str):
        raise _broken()
    return value


def _members(raw: bytes) -> Iterator[tuple[str, int, int]]:
    """(name, start, end) of each member of the outer object, start and end enclosing its {…}."""
    at = _skip(raw, _expect(raw, 0, b"{"))
    while raw[at : at + 1] != b"}":
        match = _NAME.match(raw, at, at + LONGEST_NAME)
        if match is None:
            raise _broken()
        name, opens = _text(raw, *match.span(1)), match.end() - 1
        end = _metadata_end(raw, opens) if name == "__metadata__" else raw.find(b"}", opens) + 1
        if end == 0:
            raise _broken()
        yield name, opens, end
        at = _skip(raw, end)
        if raw[at : at + 1] == b",":
            at = _skip(raw, at + 1)
            if raw[at : at + 1] != b'"':
                raise _broken()
        elif raw[at : at + 1] != b"}":
            raise _broken()
    if raw[at + 1 :].strip(_WHITE):
        raise _broken()


def _pairs(raw: bytes, opens: int) -> Iterator[re.Match[bytes]]:
    """Each name and value of the object of strings that starts there."""
    at = _skip(raw, opens + 1)
    if raw[at : at + 1] == b"}":
        return
    for _ in range(MOST_METADATA):
        match = _PAIR.match(raw, at)
        if match is None:
            raise _broken()
        yield match
        if match.group(3) == b"}":
            return
        at = match.end()
    raise LoraInvalid("Its header holds more metadata than any trainer writes.")


def _metadata_end(raw: bytes, opens: int) -> int:
    end = _skip(raw, opens + 1) + 1
    for match in _pairs(raw, opens):
        end = match.end()
    return end


def _metadata(raw: bytes, opens: int, longest_value: int) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for match in _pairs(raw, opens):
        name, value = match.span(1), match.span(2)
        if name[1] - name[0] <= LONGEST_NAME and value[1] - value[0] <= longest_value:
            metadata[_text(raw, *name)] = _text(raw, *value)
    return metadata


def _entry(text: bytes, base: int) -> TensorEntry:
    # Eight quotes are the three names and the type: no name occurs twice.
    if len(text) > LONGEST_ENTRY or text.count(b"[") != 2 or text.count(b"{") != 1 or text.count(b'"') != 8:
        raise _broken()
    try:
        entry = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise _broken() from None
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken()
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise _broken()
    if len(shape) > MOST_DIMENSIONS:
        raise _broken()
    item = ITEM_SIZE.get(dtype)
    if item is None:
        raise LoraInvalid("The file holds numbers of an unknown type.")
    start, end = offsets
    if end - start != item * math.prod(shape):
        raise LoraInvalid("Not a valid safetensors file: a tensor's size does not match its shape.")
    return TensorEntry(dtype, tuple(shape), base + start, base + end)


def _counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**62 for value in values)
