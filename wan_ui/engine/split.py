"""How one video is divided among several GPUs: a pure choice, without torch, so that the server can make it."""

from __future__ import annotations

from dataclasses import dataclass

from wan_ui.request import Generation, find_model

HEAD_SIZE = 128  # of all Wan transformers
EQUAL_PARTS = 2
"""The most parts of the tokens with one GPU's bits, as measured on H200s (14B, 832×480×81 and 1280×720×81).

A quarter of the tokens takes other matrix kernels, which add in another order (docs/performance.md, "One video on
several GPUs").
"""


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
        """For a clip's metadata, such as `guidance 2 × sequence 4`."""
        parts = [f"guidance {self.guidance}"] * (self.guidance > 1) + [f"sequence {self.sequence}"] * (
            self.sequence > 1
        )
        return " × ".join(parts) or "none"


@dataclass(frozen=True)
class GroupPlace:
    """A process's place in a group: its rank among those of the split, who meet at the file `meeting`, a new one."""

    split: Split
    rank: int
    meeting: str


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

    The tokens are divided among EQUAL_PARTS at most, so a guided video takes four GPUs and another one two.
    Videos with a speed-up are not divided: a step cache decides by its own tokens which blocks to skip, and fp8
    products are scaled by the tokens that a GPU has.
    """
    if generation.speedup != "none":
        return Split()
    scales = (generation.guidance_scale, generation.guidance_scale_2 or 0.0)
    split = choose_split(gpus, guided=max(scales) > 1)
    heads = find_model(generation.model).hidden_size // HEAD_SIZE
    while split.sequence > EQUAL_PARTS or not heads_divide(heads, split.sequence):
        split = Split(split.guidance, split.sequence // 2)
    return split


def heads_divide(heads: int, parts: int) -> bool:
    """Whether diffusers' exchange can divide so many heads: padded to a multiple, every part must have one of them.

    12 heads cannot be divided by 8: two for each part, and nothing for the last two.
    """
    each = -(-heads // parts)
    return each * parts - heads < each
