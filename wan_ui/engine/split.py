"""How one video is divided among several GPUs: a pure choice, without torch, so that the server can make it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from wan_ui.models import TEMPORAL_COMPRESSION
from wan_ui.request import Generation, find_model

EQUAL_PARTS = 2
"""The most parts of the tokens with one GPU's bits, as measured on H200s (14B, 832×480×81 and 1280×720×81).

A quarter of the tokens takes other matrix kernels, which add in another order (docs/performance.md, "One video on
several GPUs"). Heads need not divide evenly: the 12 of the 1.3B model go over 8 ranks too (`token_exchange`).
"""

MOST_GPUS = 2 * EQUAL_PARTS
"""The most GPUs for one video, with guidance."""

LEAST_TOKENS = 32_760
"""The fewest tokens (832×480×81 of a 14B model) whose division was measured to keep the bits of one GPU. Fewer ones
take other kernels the sooner, and gain less."""


@dataclass(frozen=True)
class Split:
    """How a video is divided: `guidance` is 1 or 2, `sequence` the number of parts of the tokens."""

    guidance: int = 1
    sequence: int = 1

    @property
    def ranks(self) -> int:
        """The number of GPUs in use."""
        return self.guidance * self.sequence

    def __str__(self) -> str:
        """For a clip's metadata, such as `guidance 2 × sequence 2`."""
        parts = [f"guidance {self.guidance}"] * (self.guidance > 1) + [f"sequence {self.sequence}"] * (
            self.sequence > 1
        )
        return " × ".join(parts) or "none"


@dataclass(frozen=True)
class GroupPlace:
    """A process's place in a group: its rank, and the file through which the ranks find each other.

    The file is new for a new group, and the same for its further clips, each of which has another number. The server
    names it, and a slot's process finds its folder (`rendezvous.local`).
    """

    split: Split
    rank: int
    rendezvous: str
    clip: int = 0


def ranks_of(split: str | None) -> int:
    """The number of GPUs of a split as a clip's metadata names it; None: one GPU."""
    return 1 if split is None else math.prod(map(int, re.findall(r"\d+", split)))


def choose_split(gpus: int, guided: bool) -> Split:
    """The fastest division for a number of GPUs: guidance first, which costs least, then the sequence.

    Powers of two are used, because tokens and heads divide evenly by them: 3 GPUs count as 2, 5 to 7 as 4.
    """
    usable = 1 << (max(1, gpus).bit_length() - 1)
    if usable == 1:
        return Split()
    return Split(2, usable // 2) if guided else Split(1, usable)


def split_of(generation: Generation, gpus: int) -> Split:
    """The division of a generation among at most so many GPUs, without what would change its bits.

    The tokens are divided among EQUAL_PARTS at most, and from LEAST_TOKENS on, so a guided video takes four GPUs and
    another one two.
    Videos with a speed-up are not divided: a step cache decides by its own tokens which blocks to skip, and fp8
    products are scaled by the tokens that a GPU has.
    """
    if generation.speedup != "none":
        return Split()
    split = choose_split(gpus, generation.is_guided)
    parts = EQUAL_PARTS if tokens_of(generation) >= LEAST_TOKENS else 1
    return replace(split, sequence=min(split.sequence, parts))


def tokens_of(generation: Generation) -> int:
    """The tokens of the transformer's input: patches of 1 × 2 × 2 latents."""
    side = 2 * find_model(generation.model).spatial_compression
    frames = (generation.num_frames - 1) // TEMPORAL_COMPRESSION + 1
    return frames * (generation.width // side) * (generation.height // side)
