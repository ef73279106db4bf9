"""Encodes a clip to bytes, where another machine than the server's renders it: no frames cross the network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from wan_ui.engine.result import Clip, ClipFiles
from wan_ui.media import clip_frames, poster, video


def encoded(clip: Clip, lossless: bool, beat: Callable[[], None], on_fraction: Callable[[float], None]) -> Clip:
    """The clip with its files in place of its frames; its MP4 has no metadata yet.

    `lossless`: its frames are kept without loss too. `beat` and `on_fraction` as for video.write, which also says what
    is raised.
    """
    with tempfile.TemporaryDirectory(prefix="wan-ui-clip-") as folder:
        movie, still, last, frames = (Path(folder, name) for name in ("clip.mp4", "poster.jpg", "last.png", "all.mkv"))
        video.write(movie, clip.frames, clip.fps, {}, beat=beat, on_fraction=on_fraction)
        poster.write(still, clip.frames)
        clip_frames.write_last(last, clip.frames)
        if lossless:
            video.write_lossless(frames, clip.frames, beat=beat)
        files = ClipFiles(
            movie.read_bytes(), still.read_bytes(), last.read_bytes(), frames.read_bytes() if lossless else None
        )
    return replace(clip, frames=clip.frames[:0].copy(), files=files)
