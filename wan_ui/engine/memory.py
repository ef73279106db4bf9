"""What fits where: a pure decision from sizes to a memory mode; it moves nothing and knows no framework."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from wan_ui.config import MemoryMode
from wan_ui.errors import OutOfMemory
from wan_ui.models import TEMPORAL_COMPRESSION, WanModel

Placement = Literal["resident", "pair", "stream"]
MODES: tuple[Placement, ...] = ("resident", "pair", "stream")  # loosest first

# Bytes of activations per token and hidden channel, one forward in bf16; with per-token timesteps the float32
# modulation of every token comes on top.
BYTES_PER_TOKEN_CHANNEL = 28
BYTES_PER_TOKEN_CHANNEL_EXPANDED = 80
VAE_BYTES_PER_PIXEL = 11_200  # per output pixel of one frame, while four frames are decoded in bf16
FRAME_BYTES_PER_PIXEL = 3 * (2 + 2 + 1)  # a decoded frame in bf16, its concatenation, and in uint8
TILE = 256  # pixels a side of diffusers' decode in tiles
TILED_FRAME_BYTES_PER_PIXEL = 3 * (4 + 2 + 2 + 1)  # the tiles overlap, and are put together twice
HOST_RESERVE = 4 << 30  # bytes of host memory that are left free beside what is kept, locked or read ahead
RESERVE = 1 << 30  # bytes for the CUDA context's workspaces and fragmentation
PACKED_SHARE = 0.52  # of bf16's bytes: 98 % of the parameters are linear layers of the blocks, at 1 byte, not 2
CACHED_STATES = 9  # hidden states that a step cache keeps: three each for cond, uncond and the measuring forward
STREAMED_BLOCKS = 3  # blocks on the device at once while streaming: at work, on the way, being freed


@dataclass(frozen=True)
class Sizes:
    """Bytes of a row's parts as they will lie in memory."""

    transformers: tuple[int, ...]
    text_encoder: int
    rest: int
    block: int

    @property
    def whole(self) -> int:
        return sum(self.transformers) + self.text_encoder + self.rest


def activation_bytes(row: WanModel, width: int, height: int, num_frames: int, tiled: bool = False) -> int:
    """Peak bytes beside the weights for one clip: the larger of a transformer forward and the VAE's decode, or `tiled`.

    The factors above were read off full-size runs on one H200, see docs/decisions.md.
    """
    tokens = _tokens(row, width, height, num_frames)
    each = BYTES_PER_TOKEN_CHANNEL_EXPANDED if row.expand_timesteps else BYTES_PER_TOKEN_CHANNEL
    transformer = tokens * row.hidden_size * each
    at_once = min(width, TILE) * min(height, TILE) if tiled else width * height
    of_frames = (TILED_FRAME_BYTES_PER_PIXEL if tiled else FRAME_BYTES_PER_PIXEL) * num_frames
    return max(transformer, at_once * VAE_BYTES_PER_PIXEL + width * height * of_frames)


def cache_bytes(row: WanModel, width: int, height: int, num_frames: int) -> int:
    """What a step cache keeps beside the activations, in bf16."""
    return CACHED_STATES * _tokens(row, width, height, num_frames) * row.hidden_size * 2


def packed(sizes: Sizes) -> Sizes:
    """The sizes with the transformers' weights in fp8."""
    return replace(
        sizes,
        transformers=tuple(int(size * PACKED_SHARE) for size in sizes.transformers),
        block=int(sizes.block * PACKED_SHARE),
    )


def _tokens(row: WanModel, width: int, height: int, num_frames: int) -> int:
    patch = 2 * row.spatial_compression
    return ((num_frames - 1) // TEMPORAL_COMPRESSION + 1) * (width // patch) * (height // patch)


def needed(mode: Placement, sizes: Sizes, activations: int) -> int:
    """Bytes of device memory that a mode takes at its peak."""
    if mode == "resident":
        return sizes.whole + activations + RESERVE
    if mode == "pair":
        return max(max(sizes.transformers) + sizes.rest + activations, sizes.text_encoder + sizes.rest) + RESERVE
    return STREAMED_BLOCKS * sizes.block + sizes.rest + activations + RESERVE


def decide(wanted: MemoryMode, sizes: Sizes, activations: int, in_tiles: int, free: int) -> Placement:
    """The first mode that fits `free` bytes of device memory, or the one that was asked for.

    `in_tiles` are the activations with a decode in tiles, which is what is left where a whole one has no room.
    Raises OutOfMemory when even streaming with that does not fit.
    """
    if wanted != "auto":
        return wanted
    for mode in MODES:
        if needed(mode, sizes, activations) <= free:
            return mode
    short = needed("stream", sizes, min(activations, in_tiles))
    if short <= free:
        return "stream"
    raise OutOfMemory(
        f"This size needs about {short / 1e9:.0f} GB of GPU memory even block by block, and {free / 1e9:.0f} GB are "
        "free. Choose a smaller width, height or frame count, or close other programs that use the GPU.",
        needed=short,
        free=free,
    )


def host_bytes(mode: Placement, sizes: Sizes) -> int:
    """Bytes of host memory that a mode keeps weights in."""
    return 0 if mode == "resident" else sum(sizes.transformers) + sizes.text_encoder


def check_host(wanted: MemoryMode, mode: Placement, sizes: Sizes, available: int, packable: bool) -> None:
    """Raises OutOfMemory where the host has no room for the weights that a mode keeps there, unless it was asked for.

    The system would end the whole program otherwise, in the middle of a video. `packable`: fp8 would take less.
    """
    short = host_bytes(mode, sizes) + HOST_RESERVE
    if mode == "resident" or wanted != "auto" or short <= available:
        return
    less = ", the speed-up fp8_storage (with the reference recipe), which needs about half," if packable else ""
    raise OutOfMemory(
        "This model does not fit the GPU, and the computer's memory, where its weights would stay, has "
        f"{available / 1e9:.0f} GB free of about {short / 1e9:.0f} GB. Close other programs, choose a smaller "
        f"model{less} or start with --memory {mode} to try all the same.",
        needed=short,
        free=available,
    )


def sentence(mode: Placement) -> str:
    """The mode in the card's words; nothing for the ordinary one."""
    return {
        "resident": "",
        "pair": "Memory is tight: only the transformer at work is on the GPU.",
        "stream": "Memory is tight: the transformer streams through the GPU block by block.",
    }[mode]
