"""Writes frames to an MP4 with JSON metadata inside, and reads both back, through ffmpeg."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from wan_ui.errors import PayloadTooLarge, VideoEncodingFailed, VideoInvalid
from wan_ui.files import PART_PREFIX, disk_full, is_disk_full, publish_file
from wan_ui.media import boxes

CRF = 14
KEYFRAME_EVERY = 8  # frames; players that step and scrub seek to a keyframe first
MOST_PIXELS = 4096 * 4096  # of an untrusted video whose first frame is read; a request's sides go up to 4096
FIRST_FRAME_SECONDS = 30.0
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
_NO_SPACE_SIGNS = (b"No space left on device", b"Disk quota exceeded")

Frames = npt.NDArray[np.uint8]


class VideoInfo(NamedTuple):
    """Size in pixels, number of frames, frames per second of the first video stream."""

    width: int
    height: int
    num_frames: int
    fps: float


def write(
    path: Path,
    frames: Frames,
    fps: int,
    metadata: Mapping[str, Any],
    on_fraction: Callable[[float], None] | None = None,
    *,
    ffmpeg: str | None = None,
) -> None:
    """Writes `frames` to `path` as H.264 yuv420p, BT.709 limited range, with `metadata` inside as JSON.

    `frames` is uint8, (T, H, W, 3), RGB, T at least 1, H and W even; `fps` a whole number. The file appears whole or
    not at all. `on_fraction` is called with the share of the frames that the encoder has taken. `ffmpeg` is the
    encoder's program, imageio-ffmpeg's unless given.
    Raises VideoEncodingFailed with ffmpeg's last line, DiskFull, and ValueError for frames of another shape.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), not {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if width % 2 or height % 2:
        raise ValueError(f"width and height must be even for 4:2:0 colour, not {width} × {height}")
    comment = json.dumps(metadata)  # ASCII: a lone surrogate in a prompt cannot spoil a finished render
    try:
        # A folder beside the video, so that the last step is a rename and a failure leaves nothing behind.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=PART_PREFIX) as folder:
            tags, part = Path(folder, "tags.txt"), Path(folder, "clip.mp4")
            tags.write_text(f";FFMETADATA1\n{METADATA_KEY}={_escape(comment)}\n", encoding="ascii")
            command = _encoder(ffmpeg or _ffmpeg(), width, height, fps, tags, part)
            _encode(command, frames, Path(folder), on_fraction)
            publish_file(part, path)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full("the video") from error
        raise VideoEncodingFailed(
            f"The video could not be written ({error.strerror}). Check the data folder and its disk."
        ) from error


def write_lossless(path: Path, frames: Frames) -> None:
    """Writes `frames`, uint8, (T, H, W, 3), to `path` bit for bit, as FFV1 in Matroska; whole or not at all.

    Raises VideoEncodingFailed with ffmpeg's last line, and DiskFull.
    """
    height, width = frames.shape[1:3]
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=PART_PREFIX) as folder:
            part = Path(folder, "frames.mkv")
            command = [
                *(_ffmpeg(), "-y", "-hide_banner", "-nostats", "-loglevel", "error"),
                *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", "1", "-i", "pipe:0"),
                *("-c:v", "ffv1", "-level", "3", "-g", "1", "-slices", "4", "-pix_fmt", "bgr0"),
                *("-f", "matroska", f"file:{part}"),
            ]
            _encode(command, frames, Path(folder))
            publish_file(part, path)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full("the video") from error
        raise VideoEncodingFailed(f"The frames could not be stored: {error.strerror}.") from error


def read_lossless(path: Path) -> Frames:
    """The frames that `write_lossless` wrote. Raises VideoEncodingFailed."""
    info = probe(path)
    data = _read(path, "-map", "0:v:0", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    return np.frombuffer(data, np.uint8).reshape(-1, info.height, info.width, 3)


def read_frames(path: Path, most_bytes: int | None = None) -> Frames:
    """The frames, uint8, (T, H, W, 3), RGB, of a file that `write` wrote. Raises VideoEncodingFailed.

    `most_bytes` limits them for an untrusted file, with PayloadTooLarge: its stream may hold more than its header
    states.
    """
    info = probe(path)
    arguments = ("-map", "0:v:0", "-vf", _FROM_BT709, "-fps_mode", "passthrough", "-f", "rawvideo", "-")
    data = _read(path, *arguments, most_bytes=most_bytes)
    return np.frombuffer(data, np.uint8).reshape(-1, info.height, info.width, 3)


def read_frame(path: Path, index: int) -> Frames:
    """One frame of a file written by `write`, uint8, (H, W, 3), RGB. Raises VideoEncodingFailed, also past its end."""
    info = probe(path)
    chosen = f"select=eq(n\\,{index}),{_FROM_BT709}"
    data = _read(
        path, "-map", "0:v:0", "-vf", chosen, "-frames:v", "1", "-fps_mode", "passthrough", "-f", "rawvideo", "-"
    )
    if not data:
        raise VideoEncodingFailed(f"{path.name} has no frame {index}.")
    return np.frombuffer(data, np.uint8).reshape(info.height, info.width, 3)


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
    boxes.check_start(path)  # ffmpeg would also follow a playlist that only calls itself an MP4
    command = [
        *(_ffmpeg(), "-hide_banner", "-nostdin", "-loglevel", "error", "-max_pixels", str(MOST_PIXELS)),
        *("-f", "mov", "-i", f"file:{path}", "-map", "0:v:0", "-frames:v", "1", "-vf", _FROM_BT709),
        *("-c:v", "png", "-f", "image2pipe", "-"),
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=FIRST_FRAME_SECONDS
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode or not done.stdout:
        raise VideoInvalid("The first frame of this MP4 cannot be read. Choose the image that the video starts from.")
    return done.stdout


def probe(path: Path) -> VideoInfo:
    """Size, frame count and rate, from the packets and without decoding. Raises VideoEncodingFailed."""
    # From framecrc and not from ffmpeg's log, which prints the metadata too: a prompt could look like a stream.
    text = _read(path, "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "-").decode("ascii", "replace")
    head = dict(re.findall(r"^#(\w+) 0: (\S+)$", text, re.MULTILINE))
    packets = [line.split(",") for line in text.splitlines() if line and not line.startswith("#")]
    if "dimensions" not in head or not packets:
        raise VideoEncodingFailed(f"{path.name} holds no video.")
    width, height = (int(side) for side in head["dimensions"].split("x"))
    ticks, per_second = (int(part) for part in head["tb"].split("/"))
    duration = sum(int(packet[3]) for packet in packets) * ticks
    return VideoInfo(width, height, len(packets), len(packets) * per_second / duration if duration else 0.0)


def _encoder(ffmpeg: str, width: int, height: int, fps: int, tags: Path, part: Path) -> list[str]:
    return [
        *(ffmpeg, "-y", "-hide_banner", "-nostats", "-loglevel", "error"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", str(fps), "-i", "pipe:0"),
        *("-f", "ffmetadata", "-i", f"file:{tags}", "-map", "0:v:0", "-map_metadata", "1"),
        *("-vf", _TO_BT709, "-c:v", "libx264", "-preset", "veryfast", "-crf", str(CRF), "-g", str(KEYFRAME_EVERY)),
        *_BT709_TAGS,
        *("-movflags", "+faststart", "-f", "mp4", f"file:{part}"),
    ]


def _encode(
    command: list[str], frames: Frames, folder: Path, on_fraction: Callable[[float], None] | None = None
) -> None:
    """Runs the encoder, with the frames on its standard input."""
    messages: list[bytes] = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        # Its messages are read meanwhile, as a full pipe would block it, and into memory, as the disk may be full.
        listener = Thread(target=lambda pipe: messages.extend(pipe), args=(process.stderr,), daemon=True)
        listener.start()
        try:
            for count, frame in enumerate(frames, 1):
                rest = np.ascontiguousarray(frame).data.cast("B")
                while rest:
                    rest = rest[process.stdin.write(rest) :]
                if on_fraction is not None:
                    on_fraction(count / len(frames))
        except BrokenPipeError:
            pass  # the encoder ended early: its status and last line, read below, say why
        process.stdin.close()
        listener.join()
    everything = b"".join(messages)
    if any(sign in everything for sign in _NO_SPACE_SIGNS):
        raise disk_full("the video")
    if process.returncode:
        raise VideoEncodingFailed(f"The video could not be encoded: {_last_line(everything, folder)}")


def _read(path: Path, *arguments: str, most_bytes: int | None = None) -> bytes:
    """Runs ffmpeg on the file and returns its standard output."""
    command = [_ffmpeg(), "-hide_banner", "-nostdin", "-loglevel", "error", "-i", f"file:{path}", *arguments]
    if most_bytes is not None:
        return _read_up_to(command, path, most_bytes)
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if result.returncode:
        raise VideoEncodingFailed(f"{path.name} could not be read: {_last_line(result.stderr, path.parent)}")
    return result.stdout


def _read_up_to(command: list[str], path: Path, most_bytes: int) -> bytes:
    with tempfile.TemporaryFile() as messages:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages) as process:
            assert process.stdout is not None
            data = process.stdout.read(most_bytes + 1)
            if len(data) > most_bytes:
                process.kill()
                raise PayloadTooLarge(f"The video is larger than {most_bytes} bytes of frames.", max_bytes=most_bytes)
        messages.seek(0)
        if process.returncode:
            raise VideoEncodingFailed(f"{path.name} could not be read: {_last_line(messages.read(), path.parent)}")
    return data


def _ffmpeg() -> str:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise VideoEncodingFailed(
            "ffmpeg was not found: install the imageio-ffmpeg package, or set IMAGEIO_FFMPEG_EXE."
        ) from error


def _last_line(messages: bytes, folder: Path) -> str:
    lines = messages.decode("utf-8", "replace").replace(f"{folder}/", "").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "ffmpeg gave no reason")


def _escape(value: str) -> str:
    return re.sub(r"([\\=;#\n])", r"\\\1", value)
