"""Device and host memory as measured now, and the placement decided from it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from wan_ui.config import MemoryMode
from wan_ui.engine import budget, cgroup
from wan_ui.engine.budget import HOST_RESERVE, PlacementMode, Sizes
from wan_ui.errors import OutOfMemory
from wan_ui.models import WanModel
from wan_ui.request import Generation

log = logging.getLogger(__name__)

# What an error says beside torch's own allocator: in the driver, and when a library wants its workspace.
_OUT_OF_MEMORY_MESSAGES = (
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "STATUS_ALLOC_FAILED",
)


def free_bytes(device: torch.device) -> int:
    """Device memory this process can still use or already holds, within its own cap. 0 on the CPU."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    cap = int(total * torch.cuda.get_per_process_memory_fraction(device))
    return min(free + torch.cuda.memory_reserved(device), cap)


def idle_bytes(device: torch.device) -> int:
    """Device memory that no tensor of this process uses. 0 on the CPU."""
    if device.type != "cuda":
        return 0
    return free_bytes(device) - torch.cuda.memory_allocated(device)


def memory_bytes(device: torch.device) -> tuple[int, int]:
    """Bytes of memory for models that are free, and all there are: the device's, or the host's for the CPU."""
    if device.type != "cuda":
        return available_host_bytes(), psutil.virtual_memory().total
    return idle_bytes(device), torch.cuda.mem_get_info(device)[1]


def release(device: torch.device) -> None:
    """Returns freed memory to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def check_device(device: torch.device) -> None:
    """Raises RuntimeError when a CUDA context is dead: after a device-side assert every call fails for good."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # a kernel's error is reported by the next call that waits for it
        try:
            torch.zeros(1, device=device).add_(1).item()
        except torch.OutOfMemoryError:
            return  # another program uses all of it: full is not dead


def available_host_bytes() -> int:
    """Host memory that can be allocated without swapping, the page cache included, within a container's limit."""
    available: int = psutil.virtual_memory().available
    allowed = cgroup.free_bytes()
    return available if allowed is None else min(available, allowed)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch reports that device memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        message in str(error) for message in _OUT_OF_MEMORY_MESSAGES
    )


@contextmanager
def out_of_memory_mapped() -> Iterator[None]:
    """Maps torch's out-of-memory errors to OutOfMemory, whose message says what to try."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        log.error("out of GPU memory", exc_info=error)
        raise OutOfMemory(
            "The GPU ran out of memory. Try a smaller width, height or frame count, close other programs that use the "
            "GPU, or start with --memory stream where it is not on yet."
        ) from error


@dataclass(frozen=True)
class MemoryPolicy:
    """Decides where a model's weights live on this machine.

    `mode` is the user's choice ("auto" decides). `host_bytes` measures available host memory in bytes.
    """

    mode: MemoryMode
    device: torch.device
    host_bytes: Callable[[], int] = available_host_bytes

    def decide(self, model: WanModel, sizes: Sizes, generation: Generation) -> PlacementMode:
        """The mode for a generation. Raises OutOfMemory where none fits."""
        if self.device.type != "cuda":
            return "resident"
        activations = budget.render_bytes(model, generation, generation.vae_tiling)
        in_tiles = budget.render_bytes(model, generation, True)
        return budget.decide(self.mode, sizes, activations, in_tiles, free_bytes(self.device))

    def tightened(self, current: PlacementMode, model: WanModel, sizes: Sizes, generation: Generation) -> PlacementMode:
        """The mode a generation needs, never one with more device memory than the current. Raises OutOfMemory."""
        mode = max(current, self.decide(model, sizes, generation), key=budget.MODES.index)
        if mode != current == "resident":
            self.check_host(mode, sizes, packable=False)
        return mode

    def check_host(self, mode: PlacementMode, sizes: Sizes, packable: bool) -> None:
        """Raises OutOfMemory where the host cannot hold what a mode keeps there; `packable`: fp8 would need less."""
        budget.check_host(self.mode, mode, sizes, self.host_bytes(), packable)

    def may_tighten(self, current: PlacementMode, sizes: Sizes) -> bool:
        """Whether a render may go on in a tighter mode: the mode was not chosen by the user, and the host has room."""
        moved = budget.host_bytes("pair", sizes) if current == "resident" else 0
        return self.mode == "auto" and self.device.type == "cuda" and self.has_host_room(moved)

    def has_host_room(self, size: int) -> bool:
        """Whether host memory, or its page cache, can take `size` bytes beside the reserve."""
        return size + HOST_RESERVE <= self.host_bytes()
