"""Poster of a clip: the small image that is shown before it plays."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from wan_ui.files import write_file
from wan_ui.media import video

SUFFIX = ".jpg"  # beside a clip's MP4, of the same stem
SIDE = 480  # pixels, the longer one: twice what the gallery shows, for dense screens
QUALITY = 82


def write(path: Path, frames: video.Frames) -> None:
    """The poster of `frames`, uint8, (T, H, W, 3). Raises OSError.

    The one in the middle: the first frame of an image-to-video clip is its sender's picture, alike for all of them.
    """
    write_file(path, _picture(frames[len(frames) // 2]))


def of_clip(path: Path, clip: Path, num_frames: int) -> None:
    """The poster of an MP4 of so many frames. Raises VideoEncodingFailed for a file that cannot be read, OSError."""
    write_file(path, _picture(video.read_frame(clip, num_frames // 2)))


def _picture(frame: video.Frames) -> bytes:
    """A frame, uint8, (H, W, 3), as a JPEG."""
    picture = Image.fromarray(frame)
    picture.thumbnail((SIDE, SIDE))
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=QUALITY, optimize=True)
    return kept.getvalue()
