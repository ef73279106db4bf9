"""Reads a SentencePiece model (`spiece.model`) with a small parser of its own, within bounds; it needs no package.

The file is a protobuf message: field 1 repeats the pieces (1 text, 2 score, 3 type), field 2 holds the trainer's
settings (3 the kind of model), field 3 the normalizer's (2 the compiled character map, 3 whether a space is put in
front, 4 whether spaces are joined). Other fields are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from wan_ui.errors import CheckpointInvalid

LARGEST_MODEL = 64 << 20  # bytes; UMT5's has 4.5 MB
MOST_PIECES = 1 << 20  # UMT5 has 256,384
LONGEST_PIECE = 4096  # bytes

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_UNIGRAM = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its position."""

    text: str
    score: float
    kind: int = NORMAL


@dataclass(frozen=True)
class SentencePieceModel:
    """A unigram model: its pieces, and how a text is normalized before it is cut."""

    pieces: tuple[Piece, ...]
    character_map: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True

    @property
    def unknown_id(self) -> int:
        """The id of what no piece covers."""
        return next((at for at, piece in enumerate(self.pieces) if piece.kind == UNKNOWN), 0)


def parse_model(raw: bytes, shown: str) -> SentencePieceModel:
    """The model of a `spiece.model` file's bytes; `shown` names it in errors. Raises CheckpointInvalid."""
    if len(raw) > LARGEST_MODEL:
        raise _invalid(shown)
    try:
        return _parse(raw)
    except (ValueError, struct.error, IndexError) as error:
        raise _invalid(shown) from error


def _invalid(shown: str) -> CheckpointInvalid:
    return CheckpointInvalid(f"{shown} is not a SentencePiece model. Download it again.", file=shown)


def _parse(raw: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    kind = _UNIGRAM
    character_map, add_dummy_prefix, remove_extra_whitespaces = b"", True, True
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            if len(pieces) == MOST_PIECES:
                raise ValueError("too many pieces")
            pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            kind = int(dict(_fields(value)).get(3, _UNIGRAM))
        elif number == 3 and isinstance(value, bytes):
            settings = dict(_fields(value))
            found = settings.get(2, b"")
            character_map = found if isinstance(found, bytes) else b""
            add_dummy_prefix = bool(settings.get(3, 1))
            remove_extra_whitespaces = bool(settings.get(4, 1))
    if not pieces or kind != _UNIGRAM:
        raise ValueError("no unigram model")
    return SentencePieceModel(tuple(pieces), character_map, add_dummy_prefix, remove_extra_whitespaces)


def _piece(raw: bytes) -> Piece:
    fields = dict(_fields(raw))
    text, score = fields.get(1, b""), fields.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or len(text) > LONGEST_PIECE or not isinstance(score, bytes) or len(score) != 4:
        raise ValueError("a piece is none")
    return Piece(text.decode("utf-8"), float(struct.unpack("<f", score)[0]), int(fields.get(3, NORMAL)))


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protobuf message; numbers as int, everything else as bytes."""
    position = 0
    while position < len(raw):
        key, position = _varint(raw, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(raw, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(raw, position)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError("an unknown wire type")
        if position + length > len(raw):
            raise ValueError("a field ends outside")
        yield number, raw[position : position + length]
        position += length


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """A variable-length integer and the position behind it."""
    value = shift = 0
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
