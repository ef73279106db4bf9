"""The frames of a fake render, in a module that is imported fast: each process of a fake slot does so."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from wan_ui.request import Generation


def fake_frames(generation: Generation) -> npt.NDArray[np.uint8]:
    """Flat frames whose colour follows from the whole generation, brighter from frame to frame."""
    colour = np.frombuffer(hashlib.sha256(repr(generation).encode()).digest()[:3], np.uint8)
    ramp = np.arange(generation.num_frames, dtype=np.uint8)[:, None, None, None]
    shape = (generation.num_frames, generation.height, generation.width, 3)
    return np.ascontiguousarray(np.broadcast_to(colour + ramp, shape))
