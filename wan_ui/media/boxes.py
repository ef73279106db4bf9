"""Reads the comment and the sizes of an MP4 from its boxes, within limits whatever it states; decodes nothing."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wan_ui.errors import VideoInvalid

MOST_COMMENT = 4 << 20  # bytes; a clip's is some kilobytes, and a comparison's of long prompts some hundreds
MOST_BOXES = 10_000  # read in one file
_COMMENT = b"\xa9cmt"
_PATH = (b"udta", b"meta", b"ilst", _COMMENT, b"data")
_BEFORE = {
    b"meta": 4,
    b"data": 8,
}  # bytes of a box's content before its inner boxes or data: version and flags; type and locale
MOST_SAMPLES = 1_000_000  # of a file of ours: a day of frames at 12 a second
MOST_RUNS = 100_000  # entries of a table of durations
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
    """A box's kind and the position of its content, in bytes from the start of the file."""

    kind: bytes
    start: int
    end: int


@dataclass(frozen=True)
class Track:
    """The first video track: its size in pixels, its number of samples, and their durations' sum in 1/`timescale` s."""

    width: int
    height: int
    samples: int
    duration: int
    timescale: int


class _File:
    """An open MP4: its boxes, at most MOST_BOXES of them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._left = [MOST_BOXES]
        _check_start(file, self.size)

    def boxes(self, start: int, end: int) -> Iterator[_Box]:
        """The boxes between two positions."""
        return _boxes(self._file, start, end, self._left)

    def inside(self, box: _Box, *path: bytes) -> _Box | None:
        """The box at a path of kinds inside another, the first of each kind."""
        current: _Box | None = box
        for kind in path:
            if current is None:
                return None
            inner = self.boxes(current.start + _BEFORE.get(current.kind, 0), current.end)
            current = next((each for each in inner if each.kind == kind), None)
        return current

    def movie(self) -> _Box:
        """The first moov. Raises VideoInvalid for a file without one, and for one that is cut off."""
        movies = [box for box in self.boxes(0, self.size) if box.kind == b"moov"]  # to the end, to see it is whole
        if not movies:
            raise VideoInvalid("This MP4 is cut off, or was never finished. Copy or download it again.")
        return movies[0]

    def read(self, box: _Box, most: int) -> bytes:
        """A box's content, at most so many bytes of it."""
        self._file.seek(box.start)
        return self._file.read(max(0, min(most, box.end - box.start)))


def comment(path: Path, most: int = MOST_COMMENT) -> bytes | None:
    """The bytes of the file's comment, or None.

    Only the boxes' headers and the comment are read. Raises VideoInvalid for a file that is not an MP4, one that is cut
    off, and a comment of more than `most` bytes.
    """
    with path.open("rb") as opened:
        file = _File(opened)
        data = file.inside(file.movie(), *_PATH)
        if data is None:
            return None
        length = data.end - data.start - _BEFORE[b"data"]
        if length > most:
            raise VideoInvalid(f"This MP4 contains {length} bytes of text; at most {most} are read as settings.")
        return file.read(data, most + _BEFORE[b"data"])[_BEFORE[b"data"] :]


def track(path: Path) -> Track:
    """The first video track. Raises VideoInvalid for a file without one, or with tables that contradict each other."""
    with path.open("rb") as opened:
        file = _File(opened)
        return _first_video([_track(file, box) for box in _tracks(file, file.movie())])


def check_sizes(path: Path, most_samples: int, most_pixels: int) -> Track:
    """As `track`, of an untrusted file, which ffmpeg is only then given.

    ffmpeg keeps a record of each sample that the tables state, and they may state millions in some bytes. Raises
    VideoInvalid for more than `most_samples` in all tracks together, for a frame of more than `most_pixels`, and for
    a file in fragments, whose samples no table at its head counts.
    """
    with path.open("rb") as opened:
        file = _File(opened)
        movie = file.movie()
        kinds = {box.kind for box in (*file.boxes(0, file.size), *file.boxes(movie.start, movie.end))}
        if kinds & {b"moof", b"mvex", b"cmov"}:
            raise VideoInvalid("This MP4 is in fragments. Save it as an ordinary MP4 first.")
        tracks = [_track(file, box) for box in _tracks(file, movie)]
    if sum(each.samples for each in tracks) > most_samples:
        raise VideoInvalid(f"This MP4 states more than {most_samples} frames. Cut it.")
    if any(each.width * each.height > most_pixels for each in tracks):
        raise VideoInvalid(f"This MP4 has frames of more than {most_pixels} pixels. Make it smaller.")
    return _first_video(tracks)


def _first_video(tracks: Sequence[Track]) -> Track:
    first = next((each for each in tracks if each.width and each.height), None)
    if first is None or not first.samples:
        raise VideoInvalid("This MP4 holds no video.")
    return first


def _tracks(file: _File, movie: _Box) -> list[_Box]:
    return [box for box in file.boxes(movie.start, movie.end) if box.kind == b"trak"]


def _track(file: _File, box: _Box) -> Track:
    """One track; width and height are 0 for one that is no video. Raises VideoInvalid for one without its tables."""
    header, handler = file.inside(box, b"mdia", b"mdhd"), file.inside(box, b"mdia", b"hdlr")
    table = file.inside(box, b"mdia", b"minf", b"stbl")
    if header is None or handler is None or table is None:
        raise _damaged()
    is_video = file.read(handler, 12)[8:12] == b"vide"
    sizes = next((each for each in file.boxes(table.start, table.end) if each.kind in (b"stsz", b"stz2")), None)
    described, times = file.inside(table, b"stsd"), file.inside(table, b"stts")
    if sizes is None or described is None or times is None:
        raise _damaged()
    samples = _sample_count(file.read(sizes, 12), sizes)
    timescale, duration = _timescale(file.read(header, 24)), _durations(file.read(times, 8 + 8 * MOST_RUNS), samples)
    entry = file.read(described, 8 + 8 + 28)  # the head of its first entry, to where a video's size stands
    width, height = (int.from_bytes(entry[at : at + 2]) for at in (40, 42)) if is_video and len(entry) >= 44 else (0, 0)
    return Track(width, height, samples, duration, timescale)


def _sample_count(head: bytes, box: _Box) -> int:
    """The number of samples of an stsz or stz2. Raises VideoInvalid for more sizes than the box has room for."""
    if len(head) < 12:
        raise _damaged()
    each, count = int.from_bytes(head[4:8]), int.from_bytes(head[8:12])
    bits = 32 if box.kind == b"stsz" else head[7]
    needs_table = box.kind == b"stz2" or not each
    if count > MOST_SAMPLES or (needs_table and count * bits > (box.end - box.start - 12) * 8):
        raise _damaged()
    return count


def _timescale(head: bytes) -> int:
    """The units a second of an mdhd, which stand behind times of 32 or of 64 bits."""
    at = 20 if head[:1] == b"\1" else 12
    return int.from_bytes(head[at : at + 4])


def _durations(table: bytes, samples: int) -> int:
    """The sum of an stts's durations. Raises VideoInvalid for a table that is not of so many samples."""
    count = int.from_bytes(table[4:8])
    if len(table) < 8 or count > MOST_RUNS or len(table) < 8 + 8 * count:
        raise _damaged()
    runs = [struct.unpack_from(">LL", table, at) for at in range(8, 8 + 8 * count, 8)]
    if sum(length for length, _ in runs) != samples:
        raise _damaged()
    return sum(length * each for length, each in runs)


def _damaged() -> VideoInvalid:
    return VideoInvalid("This MP4 is damaged. Copy or download it again.")


def without_user_data(path: Path) -> bytes:
    """The file with its user data (the comment, the encoder's name) overwritten, all other bytes at their positions.

    Raises VideoInvalid as `comment` does.
    """
    data = bytearray(path.read_bytes())
    file = io.BytesIO(data)
    _check_start(file, len(data))
    left = [MOST_BOXES]
    for movie in _boxes(file, 0, len(data), left):
        if movie.kind == b"moov":
            for box in _boxes(file, movie.start, movie.end, left):
                if box.kind == b"udta":
                    kind = data.rindex(b"udta", movie.start, box.start)
                    data[kind : kind + 4] = b"free"  # a box that readers skip
                    data[box.start : box.end] = bytes(box.end - box.start)
    return bytes(data)


def _check_start(file: BinaryIO, size: int) -> None:
    file.seek(0)
    start = file.read(12)
    if start[4:8] == b"ftyp":
        return
    kind = next((name for at, sign, name in _KINDS if start[at : at + len(sign)] == sign), None)
    what = "is empty" if size == 0 else f"is {kind}" if kind is not None else "is not an MP4"
    raise VideoInvalid(f"This file {what}. Settings can be read only from MP4s generated by wan-ui.")


def _boxes(file: BinaryIO, start: int, end: int, left: list[int]) -> Iterator[_Box]:
    """The boxes between two positions of the file. `left` holds how many more may be read, and counts down."""
    whole = file.seek(0, os.SEEK_END)
    at = start
    while at + 8 <= end:
        left[0] -= 1
        if left[0] < 0:
            raise VideoInvalid("This MP4 has more parts than any that wan-ui writes.")
        file.seek(at)
        head = file.read(16)
        size, kind, before = int.from_bytes(head[:4]), head[4:8], 8
        if size == 1:
            size, before = int.from_bytes(head[8:16]), 16
        elif size == 0:
            size = end - at  # to the end
        if size < before:
            raise _damaged()
        if at + size > end:
            cut = end == whole
            raise VideoInvalid(f"This MP4 is {'cut off' if cut else 'damaged'}. Copy or download it again.")
        yield _Box(kind, at + before, at + size)
        at += size
