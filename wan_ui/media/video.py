"""Writes frames to an MP4 with JSON metadata inside, and reads both back, through ffmpeg."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from wan_ui.errors import PayloadTooLarge, VideoEncodingFailed, VideoInvalid
from wan_ui.files import disk_full, folder_beside, publish_file
from wan_ui.media import boxes, process

CRF = 14
KEYFRAME_EVERY = 8  # frames; players that step and scrub seek to a keyframe first
MOST_PIXELS = 4096 * 4096  # of an untrusted video whose first frame is read; a request's sides go up to 4096
FIRST_FRAME_SECONDS = 30.0
FIRST_FRAME_BYTES = 64 << 20  # of its PNG
MOST_SAMPLES = 20_000  # frames and packets of sound that an untrusted file may state
DECODER_MEMORY = 3 << 30  # bytes of address space for an untrusted file, most of which is never touched
# A run of ffmpeg may take so long, and a second for so many pixels: a hundredth of what a slow machine does.
LEAST_SECONDS = 60.0
PIXELS_PER_SECOND = 500_000
UNTRUSTED_PIXELS_PER_SECOND = 10 * PIXELS_PER_SECOND  # others wait while it is decoded
METADATA_KEY = "comment"  # MP4 keeps this one without -movflags use_metadata_tags
_SCALER = "bicubic+accurate_rnd+full_chroma_int"
# scale converts and tags the matrix and range. Primaries and transfer of rawvideo are "unknown", and the encoder
# prefers the frames' tags to its own options, so setparams tags the frames. Without tags, browsers assume BT.601 for
# small sizes and BT.709 for large ones.
_TO_BT709 = (
    f"scale=out_color_matrix=bt709:out_range=tv:flags={_SCALER},format=yuv420p,"
    "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)
_FROM_BT709 = f"scale=in_color_matrix=bt709:in_range=tv:out_range=pc:flags={_SCALER},format=rgb24"
_BT709_TAGS = ("-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709", "-color_range", "tv")
# Of an untrusted file: few threads, each of which has memory of its own, and no frame beyond a size.
_UNTRUSTED = ("-threads", "2", "-max_pixels", str(MOST_PIXELS))
_NO_SPACE_SIGNS = (b"No space left on device", b"Disk quota exceeded")

Frames = npt.NDArray[np.uint8]


class VideoInfo(NamedTuple):
    """Size in pixels, number of frames, frames per second of the first video stream."""

    width: int
    height: int
    num_frames: int
    fps: float


def no_beat() -> None:
    """A `beat` that never ends the encoder."""


def ignore_fraction(fraction: float) -> None:
    """An `on_fraction` that shows nothing."""


@dataclass(frozen=True)
class Encoder:
    """The program that encodes, imageio-ffmpeg's unless given.

    It may take `least_seconds`, and a second more for each PIXELS_PER_SECOND.
    """

    program: str | None = None
    least_seconds: float = LEAST_SECONDS


ENCODER = Encoder()


def write(
    path: Path,
    frames: Frames,
    fps: int,
    metadata: Mapping[str, Any],
    *,
    encoder: Encoder = ENCODER,
    beat: Callable[[], None] = no_beat,
    on_fraction: Callable[[float], None] = ignore_fraction,
) -> None:
    """Writes `frames` to `path` as H.264 yuv420p, BT.709 limited range, with `metadata` inside as JSON.

    `frames` is uint8, (T, H, W, 3), RGB, T at least 1, H and W even; `fps` a whole number. The file appears whole or
    not at all. `beat` is called several times a second and may raise to end it, `on_fraction` with the share of the
    frames that the encoder has taken.
    Raises VideoEncodingFailed with ffmpeg's last line, DiskFull, and ValueError for frames of another shape.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), not {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if width % 2 or height % 2:
        raise ValueError(f"width and height must be even for 4:2:0 colour, not {width} × {height}")
    with folder_beside(path, "the video", _not_written) as folder:
        tags, part = folder / "tags.txt", folder / "clip.mp4"
        _write_tags(tags, metadata)
        command = _encoder(encoder.program or _ffmpeg(), width, height, fps, tags, part)
        _encode(command, _reported(frames, on_fraction), frames.size, folder, beat, encoder.least_seconds)
        publish_file(part, path)


def write_encoded(
    path: Path, encoded: bytes, metadata: Mapping[str, Any], *, beat: Callable[[], None] = no_beat
) -> None:
    """Writes an MP4 that `write` made elsewhere to `path`, with `metadata` in place of its own.

    Nothing is encoded anew. Raises as `write` does.
    """
    with folder_beside(path, "the video", _not_written) as folder:
        tags, source, part = folder / "tags.txt", folder / "encoded.mp4", folder / "clip.mp4"
        _write_tags(tags, metadata)
        source.write_bytes(encoded)
        command = [
            *(_ffmpeg(), "-y", "-hide_banner", "-nostdin", "-nostats", "-loglevel", "error"),
            *("-f", "mov", "-i", f"file:{source}", "-f", "ffmetadata", "-i", f"file:{tags}"),
            *("-map", "0:v:0", "-map_metadata", "1", "-c", "copy", "-movflags", "+faststart"),
            *("-f", "mp4", f"file:{part}"),
        ]
        _encode(command, iter(()), 0, folder, beat, LEAST_SECONDS)
        publish_file(part, path)


def _not_written(reason: str | None) -> VideoEncodingFailed:
    return VideoEncodingFailed(f"The video could not be written ({reason}). Check the data folder and its disk.")


def write_lossless(path: Path, frames: Frames, *, beat: Callable[[], None] = no_beat) -> None:
    """Writes `frames`, uint8, (T, H, W, 3), to `path` bit for bit, as FFV1 in Matroska; whole or not at all.

    `beat` as for `write`. Raises VideoEncodingFailed with ffmpeg's last line, and DiskFull.
    """
    height, width = frames.shape[1:3]
    with folder_beside(path, "the video", _not_stored) as folder:
        part = folder / "frames.mkv"
        command = [
            *(_ffmpeg(), "-y", "-hide_banner", "-nostats", "-loglevel", "error"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", "1", "-i", "pipe:0"),
            *("-c:v", "ffv1", "-level", "3", "-g", "1", "-slices", "4", "-pix_fmt", "bgr0"),
            *("-f", "matroska", f"file:{part}"),
        ]
        _encode(command, _reported(frames, ignore_fraction), frames.size, folder, beat, LEAST_SECONDS)
        publish_file(part, path)


def _not_stored(reason: str | None) -> VideoEncodingFailed:
    return VideoEncodingFailed(f"The frames could not be stored: {reason}.")


def read_lossless(path: Path) -> Frames:
    """The frames that `write_lossless` wrote. Raises VideoEncodingFailed."""
    info = _packets(path)
    arguments = ("-map", "0:v:0", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    return _as_frames(_read(path, _limits_of(info), *arguments), info)


def read_frames(path: Path) -> Frames:
    """The frames, uint8, (T, H, W, 3), RGB, of a file that `write` wrote. Raises VideoEncodingFailed."""
    info = probe(path)
    arguments = ("-map", "0:v:0", "-vf", _FROM_BT709, "-fps_mode", "passthrough", "-f", "rawvideo", "-")
    return _as_frames(_read(path, _limits_of(info), *arguments), info)


def read_untrusted_frames(path: Path, most_bytes: int) -> Frames:
    """As `read_frames`, of an untrusted file, whose boxes `boxes.check_sizes` has checked.

    Raises VideoEncodingFailed, also for a stream of another size than the boxes state, and PayloadTooLarge for more
    than `most_bytes`.
    """
    info = probe(path)
    arguments = ("-map", "0:v:0", "-vf", _FROM_BT709, "-fps_mode", "passthrough", "-f", "rawvideo", "-")
    pixels = info.width * info.height * info.num_frames
    limits = process.Limits(FIRST_FRAME_SECONDS + pixels / UNTRUSTED_PIXELS_PER_SECOND, most_bytes, DECODER_MEMORY)
    return _as_frames(_read(path, limits, *arguments, before=_UNTRUSTED), info)


def read_frame(path: Path, index: int) -> Frames:
    """One frame of a file written by `write`, uint8, (H, W, 3), RGB. Raises VideoEncodingFailed, also past its end."""
    info = probe(path)
    chosen = f"select=eq(n\\,{index}),{_FROM_BT709}"
    arguments = ("-map", "0:v:0", "-vf", chosen, "-frames:v", "1", "-fps_mode", "passthrough", "-f", "rawvideo", "-")
    data = _read(path, _limits_of(info), *arguments)
    if not data:
        raise VideoEncodingFailed(f"{path.name} has no frame {index}.")
    frame: Frames = _as_frames(data, info)[0]
    return frame


def _limits_of(info: VideoInfo) -> process.Limits:
    """For decoding a file of ours: its own size, and the time that its frames may take."""
    pixels = info.width * info.height * info.num_frames
    # One frame more than it states: a decoder that finds another number must not look like a full pipe.
    output = 3 * info.width * info.height * (info.num_frames + 1)
    return process.Limits(LEAST_SECONDS + pixels / PIXELS_PER_SECOND, output)


def _as_frames(data: bytearray, info: VideoInfo) -> Frames:
    size = info.height * info.width * 3
    if not data or len(data) % size:
        raise VideoEncodingFailed("The video's frames do not have the size that the file states.")
    return np.frombuffer(data, np.uint8).reshape(-1, info.height, info.width, 3)


def read_metadata(path: Path) -> dict[str, Any]:
    """The mapping that `write` put into the file; {} for a file without one.

    Raises VideoInvalid for a file that is not a complete MP4 and for a comment of megabytes, VideoEncodingFailed for
    a file that cannot be opened.
    """
    try:
        metadata = json.loads((boxes.comment(path) or b"").decode("utf-8"))
    except (ValueError, RecursionError):
        return {}  # another program's comment
    except OSError as error:
        raise VideoEncodingFailed(f"{path.name} could not be read: {error.strerror}.") from error
    return metadata if isinstance(metadata, dict) else {}


def first_frame(path: Path) -> bytes:
    """The first frame of an untrusted MP4, as a PNG. Raises VideoInvalid."""
    _check_untrusted(path)
    return _untrusted_frame(path, "first", _FROM_BT709)


def last_frame(path: Path) -> bytes:
    """The last frame of an untrusted MP4, as a PNG. Raises VideoInvalid."""
    index = _check_untrusted(path).samples - 1
    return _untrusted_frame(path, "last", f"select=eq(n\\,{index}),{_FROM_BT709}")


def _check_untrusted(path: Path) -> boxes.Track:
    """The video track of an MP4 that ffmpeg may be given. Raises VideoInvalid."""
    # Also its start is looked at: ffmpeg would follow a playlist in disguise.
    return boxes.check_sizes(path, MOST_SAMPLES, MOST_PIXELS)


def _untrusted_frame(path: Path, which: str, filters: str) -> bytes:
    command = [
        *(_ffmpeg(), "-hide_banner", "-nostdin", "-loglevel", "error", *_UNTRUSTED),
        *("-f", "mov", "-i", f"file:{path}", "-map", "0:v:0", "-frames:v", "1", "-vf", filters),
        *("-c:v", "png", "-f", "image2pipe", "-"),
    ]
    try:
        done = process.run(command, process.Limits(FIRST_FRAME_SECONDS, FIRST_FRAME_BYTES, DECODER_MEMORY))
    except (process.OutOfTime, process.TooMuchOutput):
        done = None
    if done is None or done.status or not done.output:
        raise VideoInvalid(f"The {which} frame of this MP4 cannot be read. Choose the image that was used as it.")
    return bytes(done.output)


def probe(path: Path) -> VideoInfo:
    """Size, frame count and rate of an MP4, from its boxes and without decoding. Raises VideoEncodingFailed."""
    try:
        facts = boxes.track(path)
    except VideoInvalid as error:
        raise VideoEncodingFailed(f"{path.name} holds no video that can be read. {error.message}") from error
    except OSError as error:
        raise VideoEncodingFailed(f"{path.name} could not be read: {error.strerror}.") from error
    rate = facts.samples * facts.timescale / facts.duration if facts.duration else 0.0
    return VideoInfo(facts.width, facts.height, facts.samples, rate)


def _packets(path: Path) -> VideoInfo:
    """As `probe`, of a file in Matroska that we wrote."""
    # From framecrc and not from ffmpeg's log, which prints the metadata too: a prompt could look like a stream.
    limits = process.Limits(LEAST_SECONDS, MOST_SAMPLES * 200)
    text = _read(path, limits, "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "-").decode("ascii", "replace")
    head = dict(re.findall(r"^#(\w+) 0: (\S+)$", text, re.MULTILINE))
    packets = [line.split(",") for line in text.splitlines() if line and not line.startswith("#")]
    if "dimensions" not in head or not packets:
        raise VideoEncodingFailed(f"{path.name} holds no video.")
    width, height = (int(side) for side in head["dimensions"].split("x"))
    return VideoInfo(width, height, len(packets), 0.0)


def _write_tags(path: Path, metadata: Mapping[str, Any]) -> None:
    comment = json.dumps(metadata)  # ASCII: a lone surrogate in a prompt cannot spoil a finished render
    path.write_text(f";FFMETADATA1\n{METADATA_KEY}={_escape(comment)}\n", encoding="ascii")


def _encoder(ffmpeg: str, width: int, height: int, fps: int, tags: Path, part: Path) -> list[str]:
    return [
        *(ffmpeg, "-y", "-hide_banner", "-nostats", "-loglevel", "error"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", str(fps), "-i", "pipe:0"),
        *("-f", "ffmetadata", "-i", f"file:{tags}", "-map", "0:v:0", "-map_metadata", "1"),
        *("-vf", _TO_BT709, "-c:v", "libx264", "-preset", "veryfast", "-crf", str(CRF), "-g", str(KEYFRAME_EVERY)),
        *_BT709_TAGS,
        *("-movflags", "+faststart", "-f", "mp4", f"file:{part}"),
    ]


def _reported(frames: Frames, on_fraction: Callable[[float], None]) -> Iterator[memoryview]:
    """The bytes of each frame; reports the share that was taken before each further one."""
    for count, frame in enumerate(frames):
        on_fraction(count / len(frames))
        yield np.ascontiguousarray(frame).data
    on_fraction(1.0)


def _encode(
    command: list[str],
    pieces: Iterator[memoryview],
    size: int,
    folder: Path,
    beat: Callable[[], None],
    least_seconds: float,
) -> None:
    """Runs the encoder, with the frames on its standard input; `size` is their number of bytes."""
    seconds = least_seconds + size / 3 / PIXELS_PER_SECOND
    try:
        # Its messages are read into memory: the disk may be full.
        done = process.run(command, process.Limits(seconds), pieces=pieces, beat=beat)
    except process.OutOfTime as error:
        raise VideoEncodingFailed(
            f"The video could not be encoded within {seconds:.0f} s: ffmpeg does not go on. Check the disk and "
            "the load of this machine, then try again."
        ) from error
    except process.TooMuchOutput as error:
        raise VideoEncodingFailed("The video could not be encoded: ffmpeg writes to the wrong place.") from error
    if any(sign in done.messages for sign in _NO_SPACE_SIGNS):
        raise disk_full("the video")
    if done.status:
        raise VideoEncodingFailed(f"The video could not be encoded: {_last_line(done.messages, folder)}")


def _read(path: Path, limits: process.Limits, *arguments: str, before: tuple[str, ...] = ()) -> bytearray:
    """Runs ffmpeg on the file, with options `before` it and `arguments` after it; returns its standard output."""
    command = [_ffmpeg(), "-hide_banner", "-nostdin", "-loglevel", "error", *before, "-i", f"file:{path}", *arguments]
    try:
        result = process.run(command, limits)
    except OSError as error:
        raise VideoEncodingFailed(f"{path.name} could not be read: {error.strerror}.") from error
    except process.OutOfTime as error:
        raise VideoEncodingFailed(f"{path.name} could not be read within {limits.seconds:.0f} s.") from error
    except process.TooMuchOutput as error:
        raise PayloadTooLarge(
            f"The video is larger than {limits.output} bytes of frames.", max_bytes=limits.output
        ) from error
    if result.status:
        raise VideoEncodingFailed(f"{path.name} could not be read: {_last_line(result.messages, path.parent)}")
    return result.output


def _ffmpeg() -> str:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise VideoEncodingFailed(
            "ffmpeg was not found: install the imageio-ffmpeg package, or set IMAGEIO_FFMPEG_EXE."
        ) from error


def _last_line(messages: bytearray, folder: Path) -> str:
    lines = messages.decode("utf-8", "replace").replace(f"{folder}/", "").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "ffmpeg gave no reason")


def _escape(value: str) -> str:
    return re.sub(r"([\\=;#\n])", r"\\\1", value)
