"""MP4s made box by box: as ours carry their settings, and as somebody who means harm would write them."""

from __future__ import annotations

import json
from typing import Any


def box(kind: bytes, content: bytes = b"", size: int | None = None) -> bytes:
    """A box; `size` is what its head says, where that is not the truth."""
    return (len(content) + 8 if size is None else size).to_bytes(4) + kind + content


def wide(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """A box with a size of 64 bits."""
    return b"\0\0\0\1" + kind + (len(content) + 16 if size is None else size).to_bytes(8) + content


def film(comment: bytes, size: int | None = None) -> bytes:
    """The box that holds the comment as ffmpeg lays it out; `size` is what the comment's own head says."""
    data = box(b"data", b"\0\0\0\1\0\0\0\0" + comment, size)
    meta = box(b"meta", b"\0\0\0\0" + box(b"hdlr", b"\0" * 25) + box(b"ilst", box(b"\xa9cmt", data)))
    return box(b"moov", box(b"mvhd", b"\0" * 100) + box(b"udta", meta))


def mp4(*boxes: bytes) -> bytes:
    return box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41") + b"".join(boxes)


def carrying(about: Any) -> bytes:
    """An MP4 without a picture that carries something as JSON, or bytes as they are."""
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    return mp4(film(text), box(b"mdat", b"\0" * 64))
