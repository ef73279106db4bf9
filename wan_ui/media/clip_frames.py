"""A clip's own frames: what is kept without loss beside its MP4, and what has to be decoded from it."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wan_ui.errors import InvalidRequest, VideoEncodingFailed
from wan_ui.files import folder_beside, write_file
from wan_ui.media import video

LOSSLESS_SUFFIX = ".mkv"  # all frames, of clips that are compared with a training sample
LAST_SUFFIX = ".png"  # the last frame, of every clip
MOST_PARTS = 16
MOST_JOINED = 4_000_000_000  # frames × pixels, as of a visitor's request


def write_last(path: Path, frames: video.Frames) -> None:
    """Keeps the last of `frames`, uint8, (T, H, W, 3), as a PNG. Raises OSError."""
    write_file(path, png(frames[-1]))


def last_frame(clip: Path) -> tuple[bytes, bool]:
    """The last frame of a clip as a PNG, and whether it is the rendered one; else it is decoded from the MP4.

    Raises VideoEncodingFailed for a file that cannot be read.
    """
    try:
        return clip.with_suffix(LAST_SUFFIX).read_bytes(), True
    except OSError:  # written before last frames were kept
        return png(video.read_frame(clip, video.probe(clip).num_frames - 1)), False


def read(clip: Path) -> video.Frames:
    """All frames of a clip, uint8, (T, H, W, 3): the rendered ones where they are kept. Raises VideoEncodingFailed."""
    lossless = clip.with_suffix(LOSSLESS_SUFFIX)
    if lossless.is_file():
        return video.read_lossless(lossless)
    frames = video.read_frames(clip)
    last, is_rendered = last_frame(clip)
    if is_rendered:
        frames = frames.copy()
        frames[-1] = np.asarray(Image.open(io.BytesIO(last)).convert("RGB"))
    return frames


def join(path: Path, clips: Sequence[Path], metadata: Mapping[str, Any]) -> None:
    """Writes clips one after another as one MP4, encoded once, without the first frame of each but the first clip.

    A clip that continues another starts with that one's last frame. The frames are in a file beside `path` while they
    are assembled. Raises InvalidRequest for clips of several sizes or frame rates, or of too many frames;
    VideoEncodingFailed and DiskFull.
    """
    infos = [video.probe(clip) for clip in clips]
    first, count = infos[0], sum(info.num_frames for info in infos) - len(infos) + 1
    if len({(info.width, info.height, round(info.fps)) for info in infos}) > 1:
        raise _refused("the parts must have one size and one frame rate")
    if count * first.width * first.height > MOST_JOINED:
        raise _refused("the parts have too many frames together; join fewer")
    with folder_beside(path, "the video", _not_joined) as folder:
        frames = allocate_frames(folder / "frames", (count, first.height, first.width, 3))
        filled = 0
        for clip in clips:
            part = read(clip)[1 if filled else 0 :]
            frames[filled : filled + len(part)] = part
            filled += len(part)
        video.write(path, frames[:filled], max(1, round(first.fps)), metadata)
        del frames


def _not_joined(reason: str | None) -> VideoEncodingFailed:
    return VideoEncodingFailed(f"The joined video could not be written: {reason}.")


def allocate_frames(path: Path, shape: tuple[int, int, int, int]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Frames, uint8, (T, H, W, 3), in a new file whose blocks are all there. Raises OSError, also for a full disk.

    A file with holes would end the process instead: writing through a mapping to a full disk raises SIGBUS.
    """
    with path.open("wb") as file:
        if sys.platform == "darwin":  # has no such call
            file.truncate(math.prod(shape))
        else:
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
    return np.memmap(path, np.uint8, mode="r+", shape=shape)


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(f"part: {message}.", fields=[{"loc": "query.part", "msg": message}])


def png(frame: video.Frames) -> bytes:
    """A frame, uint8, (H, W, 3), as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()
