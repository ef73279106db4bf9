"""Memory budget: which placement of a model's weights fits, computed from sizes in bytes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from wan_ui.config import MemoryMode
from wan_ui.errors import OutOfMemory
from wan_ui.models import TEMPORAL_COMPRESSION, WanModel
from wan_ui.request import Generation
from wan_ui.text import gigabytes

PlacementMode = Literal["resident", "pair", "stream"]
"""`resident`: everything on the device. `pair`: one whole transformer at a time. `stream`: block by block."""

Fp8Weights = Literal["auto", "packed", "unpacked"]
"""How fp8 weights of single files lie in memory; the numbers are the same."""

MODES: tuple[PlacementMode, ...] = ("resident", "pair", "stream")  # most device memory first

# Bytes of activations per token and hidden channel during one bf16 forward. With per-token timesteps the float32
# modulation (6 × hidden) of every token is added.
BYTES_PER_TOKEN_CHANNEL = 28
BYTES_PER_TOKEN_CHANNEL_EXPANDED = 80
VAE_BYTES_PER_PIXEL = 11_200  # per output pixel of one frame, while four frames are decoded in bf16
FRAME_BYTES_PER_PIXEL = 3 * (2 + 2 + 1)  # a decoded frame in bf16, its concatenation, and in uint8
TILE = 256  # pixels a side of diffusers' decode in tiles
TILED_FRAME_BYTES_PER_PIXEL = 3 * (4 + 2 + 2 + 1)  # the tiles overlap, and are put together twice
HOST_RESERVE = 4 << 30  # bytes of host memory left free beside what is kept, pinned or prefetched
RESERVE = 1 << 30  # bytes for the CUDA context's workspaces and fragmentation
PACKED_SHARE = 0.52  # of bf16's bytes: 98 % of the parameters are linear layers of the blocks, at 1 byte, not 2
CACHED_STATES = 9  # hidden states that a step cache keeps: three each for cond, uncond and the measuring forward
STREAMED_BLOCKS = 3  # blocks on the device at once while streaming: computing, being copied in, being freed


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model's parts as they will lie in memory; `block` is one transformer block, `rest` VAE and CLIP."""

    transformers: tuple[int, ...]
    text_encoder: int
    rest: int
    block: int

    @property
    def whole(self) -> int:
        """Bytes of all parts together."""
        return sum(self.transformers) + self.text_encoder + self.rest


def activation_bytes(model: WanModel, width: int, height: int, num_frames: int, tiled: bool = False) -> int:
    """Peak bytes beside the weights for one clip: the larger of a transformer forward and the VAE's decode.

    `tiled`: the decode works in tiles. The factors above were measured on full-size runs on one H200, see
    docs/decisions.md.
    """
    per_channel = BYTES_PER_TOKEN_CHANNEL_EXPANDED if model.expand_timesteps else BYTES_PER_TOKEN_CHANNEL
    forward = _tokens(model, width, height, num_frames) * model.hidden_size * per_channel
    decoded_at_once = min(width, TILE) * min(height, TILE) if tiled else width * height
    frames = (TILED_FRAME_BYTES_PER_PIXEL if tiled else FRAME_BYTES_PER_PIXEL) * num_frames * width * height
    return max(forward, decoded_at_once * VAE_BYTES_PER_PIXEL + frames)


def cache_bytes(model: WanModel, width: int, height: int, num_frames: int) -> int:
    """Bytes that a step cache keeps beside the activations, in bf16."""
    return CACHED_STATES * _tokens(model, width, height, num_frames) * model.hidden_size * 2


def render_bytes(model: WanModel, generation: Generation, tiled: bool) -> int:
    """Bytes of device memory that a render needs beside the weights, with a decode of whole frames or in tiles."""
    size = (generation.width, generation.height, generation.num_frames)
    cache = cache_bytes(model, *size) if generation.speedup == "step_cache" else 0
    return activation_bytes(model, *size, tiled=tiled) + cache


def packed_sizes(sizes: Sizes) -> Sizes:
    """The sizes with the transformers' weights in fp8."""
    return replace(
        sizes,
        transformers=tuple(int(size * PACKED_SHARE) for size in sizes.transformers),
        block=int(sizes.block * PACKED_SHARE),
    )


def _tokens(model: WanModel, width: int, height: int, num_frames: int) -> int:
    """Tokens of one clip: the transformer's patches are 1 × 2 × 2 latents."""
    patch = 2 * model.spatial_compression
    return ((num_frames - 1) // TEMPORAL_COMPRESSION + 1) * (width // patch) * (height // patch)


def device_bytes(mode: PlacementMode, sizes: Sizes, activations: int) -> int:
    """Bytes of device memory that a mode takes at its peak."""
    if mode == "resident":
        return sizes.whole + activations + RESERVE
    if mode == "pair":
        return max(max(sizes.transformers) + sizes.rest + activations, sizes.text_encoder + sizes.rest) + RESERVE
    return STREAMED_BLOCKS * sizes.block + sizes.rest + activations + RESERVE


def decide(wanted: MemoryMode, sizes: Sizes, activations: int, in_tiles: int, free: int) -> PlacementMode:
    """The first mode that fits `free` bytes of device memory, or the one that was asked for.

    `in_tiles` are the activations with a decode in tiles, the fallback where a whole decode does not fit.
    Raises OutOfMemory when even streaming with that does not fit.
    """
    if wanted != "auto":
        return wanted
    for mode in MODES:
        if device_bytes(mode, sizes, activations) <= free:
            return mode
    needed = device_bytes("stream", sizes, min(activations, in_tiles))
    if needed <= free:
        return "stream"
    raise OutOfMemory(
        f"This size needs about {gigabytes(needed, 0)} of GPU memory even block by block, and {gigabytes(free, 0)} are "
        "free. Choose a smaller width, height or frame count, or close other programs that use the GPU.",
        needed=needed,
        free=free,
    )


def host_bytes(mode: PlacementMode, sizes: Sizes) -> int:
    """Bytes of host memory that a mode keeps weights in."""
    return 0 if mode == "resident" else sum(sizes.transformers) + sizes.text_encoder


def holds_one_transformer(mode: PlacementMode, sizes: Sizes, available: int) -> bool:
    """Whether the host has room for one transformer of a pair at a time and not for both."""
    if mode == "resident" or len(sizes.transformers) < 2:
        return False
    one = max(sizes.transformers) + sizes.text_encoder + HOST_RESERVE
    return one <= available < host_bytes(mode, sizes) + HOST_RESERVE


@dataclass(frozen=True)
class MemoryPlan:
    """Where weights lie: `fp8_in_memory` as in their files, `one_transformer` of a pair on the host at a time."""

    mode: PlacementMode
    fp8_in_memory: bool = False
    one_transformer: bool = False

    def on_host(self, sizes: Sizes) -> Sizes:
        """The sizes of what the host holds at a time."""
        return replace(sizes, transformers=(max(sizes.transformers),)) if self.one_transformer else sizes


def plan(
    unpacked: Sizes,
    packed: Sizes | None,
    decide_mode: Callable[[Sizes], PlacementMode],
    available: int,
    weights: Fp8Weights = "auto",
) -> MemoryPlan:
    """Where weights lie on a host with `available` bytes. fp8 stays fp8 by itself where its numbers do not all fit.

    `packed` are the sizes with fp8 weights as in the files, None where the files have none; `decide_mode` gives the
    mode for sizes. Whether the host has room for the result is for `check_host` to say, with `MemoryPlan.on_host`.
    """
    is_packed = packed is not None and (
        weights == "packed" or (weights == "auto" and decide_mode(unpacked) != "resident")
    )
    sizes = packed if is_packed and packed is not None else unpacked
    mode = decide_mode(sizes)
    return MemoryPlan(mode, is_packed, is_packed and holds_one_transformer(mode, sizes, available))


def check_host(wanted: MemoryMode, mode: PlacementMode, sizes: Sizes, available: int, packable: bool) -> None:
    """Raises OutOfMemory where the host has no room for the weights that a mode keeps there, unless it was asked for.

    Otherwise the system would kill the whole process in the middle of a video. `packable`: fp8 would need less.
    """
    needed = host_bytes(mode, sizes) + HOST_RESERVE
    if mode == "resident" or wanted != "auto" or needed <= available:
        return
    less = ", the speed-up fp8_storage (with the reference recipe), which needs about half," if packable else ""
    raise OutOfMemory(
        "This model does not fit the GPU, and the computer's memory, where its weights would stay, has "
        f"{gigabytes(available, 0)} free of about {gigabytes(needed, 0)}. Close other programs, choose a smaller "
        f"model{less} or start with --memory {mode} to try all the same.",
        needed=needed,
        free=available,
    )


def note(mode: PlacementMode) -> str:
    """The mode as a sentence for the progress card; empty for `resident`."""
    return {
        "resident": "",
        "pair": "Memory is tight: only the transformer at work is on the GPU.",
        "stream": "Memory is tight: the transformer streams through the GPU block by block.",
    }[mode]
