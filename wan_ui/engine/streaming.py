"""Block streaming: transformer blocks in pinned host memory, copied to the device while other blocks compute.

The copy of block i + 1 runs on a CUDA stream of its own during the computation of block i. A 14B block is 0.7 GB in
bf16: about 13 ms over PCIe 5 at 55 GB/s, while its computation on a clip's tokens takes longer, so the copies cost
hardly any time.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from diffusers import WanTransformer3DModel

from wan_ui.engine.budget import HOST_RESERVE
from wan_ui.engine.memory import available_host_bytes

log = logging.getLogger(__name__)

HOST = torch.device("cpu")
ALIGNMENT = 256  # bytes: where a tensor may begin in a buffer, as CUDA's own allocations do
BUFFERS = 2  # device buffers that streamed blocks share: one computes while the next is copied
ADAPTER_PREFIX = "lora_"  # of PEFT's parts in parameter names; adapters stay on the device


@dataclass(frozen=True)
class TensorSlice:
    """A tensor and the part of its module's buffer that holds it, `offset` and `size` in bytes.

    `host` is the tensor's data in the host buffer, in its own dtype and shape.
    """

    tensor: torch.Tensor
    offset: int
    size: int
    host: torch.Tensor

    def view_of(self, buffer: torch.Tensor) -> torch.Tensor:
        """The tensor's data in another buffer (uint8, 1-dim), in its own dtype and shape."""
        part = buffer[self.offset : self.offset + self.size]
        return part.view(self.host.dtype).view(self.host.shape)


class Streams(Protocol):
    """A device with two queues of work: one stream computes, the other copies from the host at the same time."""

    @property
    def device(self) -> torch.device:
        """Where blocks compute."""

    def allocate(self, size: int) -> torch.Tensor:
        """A device buffer of `size` bytes, uint8 and 1-dim."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Any:
        """Queues a copy on the copy stream; returns the event of its end."""

    def compute_after(self, event: Any) -> None:
        """What is queued for computing from here on starts after the event."""

    def compute_after_copies(self) -> None:
        """What is queued for computing from here on starts after all copies queued so far."""

    def copy_after_compute(self) -> None:
        """Copies queued from here on start after everything queued for computing so far."""

    def synchronize(self) -> None:
        """Waits, on the host, for both streams."""

    def pin(self, buffer: torch.Tensor) -> Callable[[], None] | None:
        """Page-locks a host buffer, so that copies from it run beside computing; returns the unpin, or None."""


class CudaStreams:
    """The current CUDA stream, and one of its own for the copies."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copies = torch.cuda.Stream(device)

    def allocate(self, size: int) -> torch.Tensor:
        """A device buffer of `size` bytes, uninitialized."""
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> torch.cuda.Event:
        """Queues a copy on the copy stream, without blocking; returns the event of its end."""
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._copies)
        return event

    def compute_after(self, event: torch.cuda.Event) -> None:
        """Makes the current stream wait for the event."""
        torch.cuda.current_stream(self.device).wait_event(event)

    def compute_after_copies(self) -> None:
        """Makes the current stream wait for the copy stream."""
        torch.cuda.current_stream(self.device).wait_stream(self._copies)

    def copy_after_compute(self) -> None:
        """Makes the copy stream wait for the current stream."""
        self._copies.wait_stream(torch.cuda.current_stream(self.device))

    def synchronize(self) -> None:
        """Waits for the device."""
        torch.cuda.synchronize(self.device)

    def pin(self, buffer: torch.Tensor) -> Callable[[], None] | None:
        """Registers the buffer with CUDA while the host has memory to spare: pinned pages cannot be swapped out.

        PyTorch's own pinned allocator rounds sizes up to a power of two, which wastes a third of a large host memory.
        """
        if available_host_bytes() < HOST_RESERVE:
            return None
        address = buffer.data_ptr()
        if int(torch.cuda.cudart().cudaHostRegister(address, buffer.nbytes, 0)):
            self._clear_last_error()
            return None
        return partial(_unpin, address)

    def _clear_last_error(self) -> None:
        """Launches a kernel: CUDA reports a failed registration again at the next launch."""
        try:
            torch.zeros(1, device=self.device)
        except RuntimeError as error:
            log.info("page-locked memory is not available: %s", error)


def _unpin(address: int) -> None:
    status = int(torch.cuda.cudart().cudaHostUnregister(address))
    if status:
        log.warning("page-locked memory could not be released: CUDA error %d", status)


class HostBuffer:
    """A module's tensors side by side in one pinned host buffer, so that one copy moves them all."""

    def __init__(self, tensors: Sequence[torch.Tensor], streams: Streams) -> None:
        offsets, end = [], 0
        for tensor in tensors:
            offsets.append(end)
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self.bytes = torch.empty(end, dtype=torch.uint8)
        self.slices: list[TensorSlice] = []
        for tensor, offset in zip(tensors, offsets, strict=True):
            part = self.bytes[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            part.copy_(tensor)
            tensor.data = part
            self.slices.append(TensorSlice(tensor, offset, part.nbytes, part))
        unpin = streams.pin(self.bytes)
        self._unpin = weakref.finalize(self, unpin) if unpin is not None else None

    @property
    def pinned(self) -> bool:
        """Whether the buffer's pages are locked."""
        return self._unpin is not None

    def bind(self, buffer: torch.Tensor) -> None:
        """Makes the tensors views of `buffer`, which holds, or will hold, the same bytes."""
        for part in self.slices:
            part.tensor.data = part.view_of(buffer)

    def bind_host(self) -> None:
        """Makes the tensors views of the host buffer again."""
        for part in self.slices:
            part.tensor.data = part.host

    def unpin(self) -> None:
        """Unlocks the pages; the tensors stay in them."""
        if self._unpin is not None:
            self._unpin()


class StreamedBlocks:
    """One transformer with its blocks on the host, each on the device only while it computes.

    `resident` blocks stay on the device from the first run on until offload(): each is copied once, behind the blocks
    before it. The others share two device buffers: one computes while the next is copied. With resident blocks spread
    evenly, a copy has several blocks' computation to hide behind.
    """

    def __init__(self, transformer: WanTransformer3DModel, streams: Streams) -> None:
        self._transformer = transformer
        self._streams = streams
        self._blocks = [HostBuffer(_block_tensors(block), streams) for block in transformer.blocks]
        self._rest = HostBuffer(_other_tensors(transformer), streams)
        self._onloaded: dict[int, tuple[torch.Tensor, Any]] = {}  # by block: device buffer, event of the copy's end
        self._streamed: list[int] = []  # blocks that are copied in every forward, ascending
        self._next = 0  # where in `_streamed` the next copy is
        self._hooks: list[Any] = []
        if not all(buffer.pinned for buffer in self._blocks):
            log.warning("the host's memory cannot be page-locked: blocks are copied to the GPU several times slower")

    @property
    def block_bytes(self) -> int:
        """Bytes of the largest block."""
        return max(block.bytes.nbytes for block in self._blocks)

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    @property
    def is_onloaded(self) -> bool:
        """Whether the transformer can compute on the device now."""
        return bool(self._hooks)

    def onload(self, resident: int) -> None:
        """Prepares the transformer to compute, with that many resident blocks, and starts the first copies."""
        if self.is_onloaded:
            return
        count = self.count
        # Evenly spread: block i is resident where floor(i × resident / count) grows from i to i + 1.
        kept = [index for index in range(count) if (index + 1) * resident // count > index * resident // count]
        if count - len(kept) <= BUFFERS:
            kept = list(range(count))
        self._streamed = sorted(set(range(count)) - set(kept))
        rest = self._streams.allocate(self._rest.bytes.nbytes)
        shared = [self._streams.allocate(self.block_bytes) for _ in range(BUFFERS)] if self._streamed else []
        own = {index: self._streams.allocate(self._blocks[index].bytes.nbytes) for index in kept}
        rest.copy_(self._rest.bytes)
        self._rest.bind(rest)
        for name, parameter in self._transformer.named_parameters():
            if ADAPTER_PREFIX in name:
                parameter.data = parameter.data.to(self._streams.device)
        self._streams.copy_after_compute()
        for index in range(count):
            if index in own:
                self._copy(index, own[index])
            elif shared:
                self._copy_next(shared.pop())
        for index, block in enumerate(self._transformer.blocks):
            self._hooks.append(block.register_forward_pre_hook(partial(self._before_block, index)))
            if index in self._streamed:
                self._hooks.append(block.register_forward_hook(partial(self._after_block, index)))

    def offload(self) -> None:
        """Binds all weights to the host again. Nothing is copied: no weight changes while it is on the device."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._streams.compute_after_copies()
        for block in self._blocks:
            block.bind_host()
        self._rest.bind_host()
        self._onloaded.clear()
        self._streamed.clear()
        self._next = 0

    def close(self) -> None:
        """Offloads the transformer and unpins the host's pages."""
        self.offload()
        self._streams.synchronize()
        for buffer in (*self._blocks, self._rest):
            buffer.unpin()

    def _copy(self, index: int, buffer: torch.Tensor) -> None:
        source = self._blocks[index].bytes
        self._onloaded[index] = (buffer, self._streams.copy(buffer[: source.nbytes], source))

    def _copy_next(self, buffer: torch.Tensor) -> None:
        """Copies the next streamed block, in cyclic order, into a buffer whose block has computed."""
        self._streams.copy_after_compute()
        while self._streamed[self._next] in self._onloaded:
            self._next = (self._next + 1) % len(self._streamed)
        self._copy(self._streamed[self._next], buffer)

    def _before_block(self, index: int, block: torch.nn.Module, arguments: Any) -> None:
        if index not in self._onloaded:
            self._restart_at(index)
        buffer, copied = self._onloaded[index]
        self._streams.compute_after(copied)
        self._blocks[index].bind(buffer)

    def _after_block(self, index: int, block: torch.nn.Module, arguments: Any, result: Any) -> None:
        self._blocks[index].bind_host()
        self._copy_next(self._onloaded.pop(index)[0])

    def _restart_at(self, index: int) -> None:
        """After a forward that skipped blocks, as a step cache does: copies the blocks from `index` on instead."""
        waiting = [other for other in self._streamed if other in self._onloaded]
        buffers = [self._onloaded.pop(other)[0] for other in waiting]
        self._next = self._streamed.index(index)
        for buffer in buffers:
            self._copy_next(buffer)


class OffloadedModule:
    """A module on the host that is copied to the device whole while it computes."""

    def __init__(self, module: torch.nn.Module, streams: Streams) -> None:
        self._buffer = HostBuffer([*module.parameters(), *module.buffers()], streams)
        self._device = streams.device

    @contextmanager
    def onloaded(self) -> Iterator[None]:
        """On the device within the block; nothing is copied back."""
        self._buffer.bind(self._buffer.bytes.to(self._device))
        try:
            yield
        finally:
            self._buffer.bind_host()

    def unpin(self) -> None:
        """Unlocks the host's pages."""
        self._buffer.unpin()


def _block_tensors(block: torch.nn.Module) -> list[torch.Tensor]:
    """The base model's tensors of a block; adapters are left out, since they stay on the device."""
    named = [*block.named_parameters(), *block.named_buffers()]
    return [tensor for name, tensor in named if ADAPTER_PREFIX not in name]


def _other_tensors(transformer: WanTransformer3DModel) -> list[torch.Tensor]:
    """The base model's tensors outside the blocks."""
    named = [*transformer.named_parameters(), *transformer.named_buffers()]
    return [tensor for name, tensor in named if not name.startswith("blocks.") and ADAPTER_PREFIX not in name]
