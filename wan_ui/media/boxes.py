"""The comment that an MP4 carries, by its boxes alone, bounded whatever the file says; it decodes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wan_ui.errors import VideoInvalid

MOST_COMMENT = 4 << 20  # bytes; a clip's is some kilobytes, and a comparison's of long prompts some hundreds
MOST_BOXES = 10_000  # looked at in one file
_COMMENT = b"\xa9cmt"
_PATH = (b"udta", b"meta", b"ilst", _COMMENT, b"data")
_BEFORE = {b"meta": 4, b"data": 8}  # bytes of a box's content before what is in it: version and flags; type and locale
_KINDS = (
    (0, b"\x89PNG\r\n", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF"),
    (8, b"WEBP", "a WebP picture"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (0, b"PK\x03\x04", "a ZIP"),
)


@dataclass(frozen=True)
class _Box:
    """A box's kind and where its content is, in bytes from the file's start."""

    kind: bytes
    start: int
    end: int


def comment(path: Path, most: int = MOST_COMMENT) -> bytes | None:
    """The bytes of the file's comment, None where it has none.

    Nothing but the boxes' heads and the comment is read. Raises VideoInvalid for a file that is no MP4, one that is cut
    off, and a comment of more than `most` bytes.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        _check_start(file, size)
        left = [MOST_BOXES]
        film = None
        for box in _boxes(file, 0, size, left):
            if box.kind == b"moov" and film is None:
                film = box
        if film is None:
            raise VideoInvalid("This MP4 is cut off, or was never finished. Copy or download it again.")
        found: _Box | None = film
        for kind in _PATH:
            if found is None:
                return None
            inside = _boxes(file, found.start + _BEFORE.get(found.kind, 0), found.end, left)
            found = next((box for box in inside if box.kind == kind), None)
        if found is None:
            return None
        start = found.start + _BEFORE[b"data"]
        length = found.end - start
        if length > most:
            raise VideoInvalid(f"This MP4 carries {length} bytes of text, and at most {most} are read as settings.")
        file.seek(start)
        return file.read(max(0, length))


def check_start(path: Path) -> None:
    """Raises VideoInvalid for a file that does not begin as an MP4 does."""
    with path.open("rb") as file:
        _check_start(file, file.seek(0, os.SEEK_END))


def _check_start(file: BinaryIO, size: int) -> None:
    file.seek(0)
    start = file.read(12)
    if start[4:8] == b"ftyp":
        return
    kind = next((name for at, sign, name in _KINDS if start[at : at + len(sign)] == sign), None)
    what = "is empty" if size == 0 else f"is {kind}" if kind is not None else "is no MP4"
    raise VideoInvalid(f"This file {what}. Settings are read from MP4s that wan-ui made: choose one of those.")


def _boxes(file: BinaryIO, start: int, end: int, left: list[int]) -> Iterator[_Box]:
    """The boxes between two places of the file. `left` holds how many more may be looked at, and counts down."""
    whole = file.seek(0, os.SEEK_END)
    at = start
    while at + 8 <= end:
        left[0] -= 1
        if left[0] < 0:
            raise VideoInvalid("This MP4 has more parts than any that wan-ui makes.")
        file.seek(at)
        head = file.read(16)
        size, kind, before = int.from_bytes(head[:4]), head[4:8], 8
        if size == 1:
            size, before = int.from_bytes(head[8:16]), 16
        elif size == 0:
            size = end - at  # to the end
        if size < before:
            raise VideoInvalid("This MP4 is damaged. Copy or download it again.")
        if at + size > end:
            cut = end == whole
            raise VideoInvalid(f"This MP4 is {'cut off' if cut else 'damaged'}. Copy or download it again.")
        yield _Box(kind, at + before, at + size)
        at += size
