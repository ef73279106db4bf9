"""The sample files that AI Toolkit writes (WebP, GIF, MP4, PNG, JPEG): their frames, facts and thumbnails."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import IO, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from wan_ui.errors import (
    InvalidRequest,
    PayloadTooLarge,
    PreviewNotFound,
    VideoEncodingFailed,
    VideoInvalid,
    WanUIError,
)
from wan_ui.media import boxes, image_cost, video
from wan_ui.media.image_decoder import UNREADABLE

MOST_BYTES = 512 * 2**20  # of the file
MOST_FRAMES = 1000  # the request's own bound of num_frames
MOST_PIXELS = 4096 * 4096  # of one frame
MOST_PIXELS_IN_ALL = 2**28  # 768 MiB as RGB
FORMATS = ("WEBP", "GIF", "PNG", "JPEG")  # the last two: what the trainer writes for one frame
RATES = range(1, 121)  # frames per second that a request may ask for
COMMON_RATES = (16, 24, 30, 25, 12, 8, 10, 15, 20, 50, 60, 120)
SHORTEST = 1000 // RATES[-1]  # milliseconds of a frame
WEBP_QUALITY = 80  # the trainer's
THUMBNAIL_SIDE = 320  # pixels
MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {"WEBP": "image/webp", "GIF": "image/gif", "PNG": "image/png", "JPEG": "image/jpeg", "MP4": "video/mp4"}
)

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SampleFacts:
    """What a sample file states. `rates`: the frames per second that its frame durations can mean; empty: unknown.

    Size in pixels; `format`: "WEBP", "GIF", "PNG", "JPEG" or "MP4".
    """

    width: int
    height: int
    num_frames: int
    rates: tuple[int, ...]
    format: str

    @property
    def fps(self) -> int | None:
        """The most common of `rates`; None: unknown."""
        return next((rate for rate in (*COMMON_RATES, *self.rates) if rate in self.rates), None)


@dataclass(frozen=True)
class SampleVideo:
    """A sample's frames, uint8, (T, H, W, 3), RGB; frames that the file merged into a longer one are repeated."""

    frames: Frames
    facts: SampleFacts


def decode(path: Path) -> SampleVideo:
    """Reads a WebP, GIF, MP4, PNG or JPEG; the format is detected from its content.

    Raises PayloadTooLarge beyond the limits, from the header where the format states them; InvalidRequest for another
    or damaged file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        raise _unreadable("the file does not exist") from error
    if size > MOST_BYTES:
        raise PayloadTooLarge(f"The sample file is larger than {MOST_BYTES // 2**20} MiB.", max_bytes=MOST_BYTES)
    # By its first bytes: ffmpeg would also follow a playlist that only calls itself an MP4.
    return _video(path) if start[4:8] == b"ftyp" else _images(path)


class _Clamped:
    """An open file for Pillow. A read asks for no more than the file has: Python allocates what is asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes; a chunk of a PNG may state four billion."""
        return self._file.read(min(size, self._size))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position."""
        return self._file.tell()


def first_frame(path: Path) -> Image.Image | None:
    """The first frame of an image file, as RGB, without decoding the others; None for a video.

    Raises InvalidRequest and PayloadTooLarge as `decode`.
    """
    with path.open("rb") as file:
        if file.read(12)[4:8] == b"ftyp":
            return None
    with _opened(path) as image:
        _check(*image.size, 1)
        _check_scans(path, image)
        return image.convert("RGB")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file. Raises InvalidRequest for what is none, or is found damaged while it is read."""
    try:
        with path.open("rb") as file, Image.open(cast("IO[bytes]", _Clamped(file)), formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        raise _unreadable("it is not an image or a video") from error
    except UNREADABLE as error:
        raise _unreadable("it is damaged or cut off") from error


def _unreadable(problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"The training sample cannot be read: {problem}. Use the trainer's WebP, or a GIF or MP4.",
        fields=[{"loc": "preview", "msg": problem}],
    )


def _check_scans(path: Path, image: Image.Image) -> None:
    """Raises PayloadTooLarge for a JPEG with more passes over its pixels than a picture of the largest size has."""
    if image.format == "JPEG" and image_cost.passes(image, path.read_bytes()) > MOST_PIXELS_IN_ALL:
        raise PayloadTooLarge("The training sample is a JPEG of too many scans: save it again.", max_pixels=MOST_PIXELS)


def _check(width: int, height: int, count: int) -> None:
    if count > MOST_FRAMES:
        raise PayloadTooLarge(
            f"The training sample has more than {MOST_FRAMES} frames: cut it.", max_frames=MOST_FRAMES
        )
    if width * height > MOST_PIXELS or width * height * count > MOST_PIXELS_IN_ALL:
        raise PayloadTooLarge(
            f"The training sample is too large: {width} × {height}, {count} frames.", max_pixels=MOST_PIXELS_IN_ALL
        )


def _video(path: Path) -> SampleVideo:
    try:
        boxes.check_sizes(path, video.MOST_SAMPLES, MOST_PIXELS)
        info = video.probe(path)
        _check(info.width, info.height, info.num_frames)
        frames = video.read_untrusted_frames(path, 3 * MOST_PIXELS_IN_ALL)
    except (VideoEncodingFailed, VideoInvalid) as error:
        raise _unreadable("it is damaged or cut off") from error
    rate = round(info.fps)
    height, width = frames.shape[1:3]
    return SampleVideo(frames, SampleFacts(width, height, len(frames), (rate,) if rate in RATES else (), "MP4"))


def _images(path: Path) -> SampleVideo:
    with _opened(path) as image:
        kind = image.format or ""
        # To count a GIF's frames here would decode it twice.
        _check(*image.size, getattr(image, "n_frames", 1) if kind == "WEBP" else 1)
        _check_scans(path, image)
        frames, durations = _decode_frames(image)
    unit = _unit(durations)
    repeats = [max(1, round(duration / unit)) for duration in durations] if unit else [1] * len(frames)
    height, width = frames.shape[1:3]
    _check(width, height, sum(repeats))
    if set(repeats) != {1}:
        frames = np.repeat(frames, repeats, axis=0)
    return SampleVideo(frames, SampleFacts(width, height, len(frames), _rates(unit, 10 if kind == "GIF" else 1), kind))


def _decode_frames(image: Image.Image) -> tuple[Frames, list[int]]:
    """Every frame as RGB, and its duration in milliseconds."""
    frames: list[Frames] = []
    durations: list[int] = []
    while True:
        try:
            image.seek(len(frames))
        except EOFError:
            break
        _check(*image.size, len(frames) + 1)
        frames.append(np.asarray(image.convert("RGB")))
        durations.append(max(0, int(image.info.get("duration", 0))))
    return np.stack(frames), durations


def _unit(durations: list[int]) -> int:
    """Milliseconds of one frame: the greatest common divisor of all durations, or else the shortest; 0: unknown."""
    stated = [duration for duration in durations if duration]
    if len(durations) < 2 or not stated:
        return 0
    common = reduce(math.gcd, stated)
    return common if common >= SHORTEST else max(SHORTEST, min(stated))


def _rates(unit: int, resolution: int) -> tuple[int, ...]:
    """The frame rates whose frames, of 1000 // fps milliseconds as the trainer writes them, have this duration."""
    return tuple(rate for rate in RATES if unit and 1000 // rate // resolution * resolution == unit)


def thumbnail(path: Path) -> bytes:
    """The first frame of a sample file as a small WebP. Raises PreviewNotFound for a file that cannot be read."""
    try:
        image = first_frame(path)
        if image is None:
            image = Image.open(io.BytesIO(video.first_frame(path))).convert("RGB")
    except WanUIError as error:
        raise PreviewNotFound(f"This sample file cannot be shown: {error.message}") from error
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


def media_type(path: Path) -> str:
    """The media type of a sample file, by its first bytes. Raises PreviewNotFound for another file."""
    with path.open("rb") as file:
        start = file.read(12)
    for kind, matches in (
        ("WEBP", start[:4] == b"RIFF" and start[8:12] == b"WEBP"),
        ("GIF", start[:4] == b"GIF8"),
        ("PNG", start[:8] == b"\x89PNG\r\n\x1a\n"),
        ("JPEG", start[:3] == b"\xff\xd8\xff"),
        ("MP4", start[4:8] == b"ftyp"),
    ):
        if matches:
            return MEDIA_TYPES[kind]
    raise PreviewNotFound("This sample file is neither an image nor a video.")
