"""What the engine reports while it works (Progress) and what it returns (Clip)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Phase = Literal["checking", "downloading", "loading", "lora", "text", "image", "denoise", "decode", "encode"]


@dataclass(frozen=True)
class Progress:
    """One moment of a render.

    `step` of `steps` are denoising steps finished; `seconds_per_step` is the mean over the steps so far and
    `seconds_left` the estimate for the rest of the denoising. `bytes_done` of `bytes_total` belong to the phases
    downloading and loading, `bytes_per_second` to loading. `note` is one sentence to show, such as the memory mode.
    `fraction` is how much of the decoding or encoding is done, 0 to 1. `picture` is a new live picture, an animated
    WebP (see live_picture.py); most reports have none.
    """

    phase: Phase
    step: int = 0
    steps: int = 0
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    note: str = ""
    bytes_per_second: float | None = None
    fraction: float | None = None
    picture: bytes | None = field(default=None, repr=False)


OnProgress = Callable[[Progress], None]
"""Called between two steps and at each phase; it may raise Cancelled, which ends the render before the decode."""


def ignore_progress(progress: Progress) -> None:
    """An OnProgress for callers who show none."""


@dataclass(frozen=True)
class ClipFiles:
    """A clip's files as bytes: MP4, poster, last frame and, where they are wanted, all frames without loss."""

    video: bytes = field(repr=False)
    poster: bytes = field(repr=False)
    last: bytes = field(repr=False)
    lossless: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Clip:
    """A finished video: `frames` is uint8, (num_frames, height, width, 3), RGB.

    `metadata` is JSON-ready: recipe, effective sampler and shift, LoRA use per slot, memory mode, seconds by phase,
    versions, what was adjusted or ignored. A clip of another machine has `files` and no frames.
    """

    frames: npt.NDArray[np.uint8]
    width: int
    height: int
    num_frames: int
    fps: int
    seed: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    files: ClipFiles | None = None
