"""A video's poster: the small image shown before it plays."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from wan_ui.files import write_file
from wan_ui.media import video

SUFFIX = ".jpg"  # beside a video's MP4, with the same stem
SIDE = 480  # pixels, the longer one: twice what the gallery shows, for dense screens
THUMBNAIL_SIDE = 264  # pixels, the longer one: twice what the queue shows
QUALITY = 82


def write(path: Path, frames: video.Frames) -> None:
    """The poster of `frames`, uint8, (T, H, W, 3). Raises OSError.

    It is the middle frame: the first frame of an image-to-video run is the same image for all of its videos.
    """
    write_file(path, _picture(frames[len(frames) // 2]))


def of_clip(path: Path, clip: Path, num_frames: int) -> None:
    """The poster of an MP4 of so many frames. Raises VideoEncodingFailed for a file that cannot be read, OSError."""
    write_file(path, _picture(video.read_frame(clip, num_frames // 2)))


def of_image(image: Image.Image) -> bytes:
    """An RGB image as a JPEG of the size of a thumbnail."""
    return _jpeg(image, THUMBNAIL_SIDE)


def _picture(frame: video.Frames) -> bytes:
    """A frame, uint8, (H, W, 3), as a JPEG."""
    return _jpeg(Image.fromarray(frame), SIDE)


def _jpeg(image: Image.Image, side: int) -> bytes:
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
