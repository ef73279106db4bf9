"""Blocks that live in pinned host memory and visit the device, their transfers hidden behind each other's arithmetic.

It knows transformers of blocks, CUDA streams and bytes; no request, no LoRA format, no memory mode.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import psutil
import torch
from diffusers import WanTransformer3DModel

from wan_ui.engine.memory import HOST_RESERVE

log = logging.getLogger(__name__)

HOST = torch.device("cpu")
ALIGNMENT = 256  # bytes: where a tensor may begin in a buffer, as CUDA's own allocations do
SLOTS = 2  # blocks on the device at once of those that visit: one at work, one on its way
ADAPTER_MARK = "lora_"  # in the names of PEFT's parameters; adapters stay on the device


@dataclass(frozen=True)
class Piece:
    """A tensor's place in its block's buffer. `offset` in bytes."""

    tensor: torch.Tensor
    offset: int
    size: int
    home: torch.Tensor

    def within(self, buffer: torch.Tensor) -> torch.Tensor:
        """The same tensor as a view of another buffer, uint8 and one-dimensional."""
        part = buffer[self.offset : self.offset + self.size]
        return part.view(self.home.dtype).view(self.home.shape)


class Streams(Protocol):
    """A device with two lanes of work in order: one computes, one copies from the host meanwhile."""

    @property
    def device(self) -> torch.device: ...

    def room(self, size: int) -> torch.Tensor:
        """Bytes on the device, uint8 and one-dimensional."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Any:
        """On the copying lane; gives the moment of its end."""

    def compute_waits(self, moment: Any) -> None:
        """What is computed from here on begins after the moment."""

    def compute_waits_for_all(self) -> None:
        """What is computed from here on begins after all copies so far."""

    def copies_wait(self) -> None:
        """Copies from here on begin after what was computed so far."""

    def finish(self) -> None:
        """Waits, on the host, for both lanes."""

    def pin(self, buffer: torch.Tensor) -> Callable[[], None] | None:
        """Locks a host buffer's pages, so that copies from it run beside computing; how to unlock them, or None."""


class CudaStreams:
    """The current CUDA stream, and one of its own for the copies."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copies = torch.cuda.Stream(device)

    def room(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> torch.cuda.Event:
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
            moment = torch.cuda.Event()
            moment.record(self._copies)
        return moment

    def compute_waits(self, moment: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(moment)

    def compute_waits_for_all(self) -> None:
        torch.cuda.current_stream(self.device).wait_stream(self._copies)

    def copies_wait(self) -> None:
        self._copies.wait_stream(torch.cuda.current_stream(self.device))

    def finish(self) -> None:
        torch.cuda.synchronize(self.device)

    def pin(self, buffer: torch.Tensor) -> Callable[[], None] | None:
        """In place, while there is room: locked pages cannot be swapped out.

        PyTorch's own pinned allocations round up to a power of two, a third of a large host memory.
        """
        if psutil.virtual_memory().available < HOST_RESERVE:
            return None
        address = buffer.data_ptr()
        if int(torch.cuda.cudart().cudaHostRegister(address, buffer.nbytes, 0)):
            self._forget_last_error()
            return None
        return partial(_unpin, address)

    def _forget_last_error(self) -> None:
        """CUDA keeps a refusal and gives it to the next kernel that is launched: to this one."""
        try:
            torch.zeros(1, device=self.device)
        except RuntimeError as error:
            log.info("page-locked memory was refused: %s", error)


def _unpin(address: int) -> None:
    status = int(torch.cuda.cudart().cudaHostUnregister(address))
    if status:
        log.warning("page-locked memory could not be given back: CUDA error %d", status)


class HostBuffer:
    """The tensors of a module side by side in one page-locked host buffer, so that one copy moves them all."""

    def __init__(self, tensors: Sequence[torch.Tensor], streams: Streams) -> None:
        offsets, end = [], 0
        for tensor in tensors:
            offsets.append(end)
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self.bytes = torch.empty(end, dtype=torch.uint8)
        self.pieces: list[Piece] = []
        for tensor, offset in zip(tensors, offsets, strict=True):
            part = self.bytes[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            part.copy_(tensor)
            tensor.data = part
            self.pieces.append(Piece(tensor, offset, part.nbytes, part))
        unpin = streams.pin(self.bytes)
        self._unpin = weakref.finalize(self, unpin) if unpin is not None else None

    @property
    def pinned(self) -> bool:
        return self._unpin is not None

    def at(self, buffer: torch.Tensor) -> None:
        """The tensors are views of `buffer` from here on; it holds, or will hold, the same bytes."""
        for piece in self.pieces:
            piece.tensor.data = piece.within(buffer)

    def on_host(self) -> None:
        """The tensors are in host memory again."""
        for piece in self.pieces:
            piece.tensor.data = piece.home

    def release(self) -> None:
        """The pages are ordinary ones again; the tensors stay in them."""
        if self._unpin is not None:
            self._unpin()


class StreamedBlocks:
    """One transformer whose blocks are on the host between its runs, and on the device for as long as they compute.

    `resident` blocks stay on the device from the first run on until leave(): each is copied once, behind the blocks
    before it. The others share two buffers: one computes while the next is on its way.
    """

    def __init__(self, transformer: WanTransformer3DModel, streams: Streams) -> None:
        self._transformer = transformer
        self._streams = streams
        self._blocks = [HostBuffer(_own_tensors(block), streams) for block in transformer.blocks]
        self._rest = HostBuffer(_rest(transformer), streams)
        self._here: dict[int, tuple[torch.Tensor, Any]] = {}
        self._visitors: list[int] = []
        self._next = 0
        self._hooks: list[Any] = []
        if not all(buffer.pinned for buffer in self._blocks):
            log.warning("the host's memory cannot be page-locked: blocks travel to the GPU several times slower")

    @property
    def block_bytes(self) -> int:
        """Bytes of the largest block."""
        return max(block.bytes.nbytes for block in self._blocks)

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    @property
    def present(self) -> bool:
        return bool(self._hooks)

    def enter(self, resident: int) -> None:
        """To work, with that many blocks to stay on the device. The first copies begin at once."""
        if self.present:
            return
        count = len(self._blocks)
        kept = [index for index in range(count) if (index + 1) * resident // count > index * resident // count]
        if count - len(kept) <= SLOTS:
            kept = list(range(count))
        self._visitors = sorted(set(range(count)) - set(kept))
        rest = self._streams.room(self._rest.bytes.nbytes)
        slots = [self._streams.room(self.block_bytes) for _ in range(SLOTS)] if self._visitors else []
        places = {index: self._streams.room(self._blocks[index].bytes.nbytes) for index in kept}
        rest.copy_(self._rest.bytes)
        self._rest.at(rest)
        for name, parameter in self._transformer.named_parameters():
            if ADAPTER_MARK in name:
                parameter.data = parameter.data.to(self._streams.device)
        self._streams.copies_wait()
        for index in range(count):
            if index in places:
                self._fetch(index, places[index])
            elif slots:
                self._fetch_next(slots.pop())
        for index, block in enumerate(self._transformer.blocks):
            self._hooks.append(block.register_forward_pre_hook(partial(self._before, index)))
            if index in self._visitors:
                self._hooks.append(block.register_forward_hook(partial(self._after, index)))

    def leave(self) -> None:
        """Home: nothing is copied back, since nothing changes a weight while it is away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._streams.compute_waits_for_all()
        for block in self._blocks:
            block.on_host()
        self._rest.on_host()
        self._here.clear()
        self._visitors.clear()
        self._next = 0

    def close(self) -> None:
        """Home, and the host's pages are ordinary ones again."""
        self.leave()
        self._streams.finish()
        for buffer in (*self._blocks, self._rest):
            buffer.release()

    def _fetch(self, index: int, buffer: torch.Tensor) -> None:
        source = self._blocks[index].bytes
        self._here[index] = (buffer, self._streams.copy(buffer[: source.nbytes], source))

    def _fetch_next(self, slot: torch.Tensor) -> None:
        """The next visitor in the order of the blocks, round and round, into a slot whose block has computed."""
        self._streams.copies_wait()
        while self._visitors[self._next] in self._here:
            self._next = (self._next + 1) % len(self._visitors)
        self._fetch(self._visitors[self._next], slot)

    def _before(self, index: int, block: torch.nn.Module, arguments: Any) -> None:
        if index not in self._here:
            self._begin_again_at(index)
        buffer, arrived = self._here[index]
        self._streams.compute_waits(arrived)
        self._blocks[index].at(buffer)

    def _after(self, index: int, block: torch.nn.Module, arguments: Any, result: Any) -> None:
        self._blocks[index].on_host()
        self._fetch_next(self._here.pop(index)[0])

    def _begin_again_at(self, index: int) -> None:
        """For a forward that did not run every block: the visitors on their way are not those that come next."""
        waiting = [visitor for visitor in self._visitors if visitor in self._here]
        slots = [self._here.pop(visitor)[0] for visitor in waiting]
        self._next = self._visitors.index(index)
        for slot in slots:
            self._fetch_next(slot)


class OffloadedModule:
    """A module that lives on the host and visits the device whole."""

    def __init__(self, module: torch.nn.Module, streams: Streams) -> None:
        self._buffer = HostBuffer([*module.parameters(), *module.buffers()], streams)
        self._device = streams.device

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """On the device for the block; nothing is copied back."""
        self._buffer.at(self._buffer.bytes.to(self._device))
        try:
            yield
        finally:
            self._buffer.on_host()

    def release(self) -> None:
        self._buffer.release()


def _own_tensors(block: torch.nn.Module) -> list[torch.Tensor]:
    """The base model's tensors of a block; its adapters stay on the device."""
    named = [*block.named_parameters(), *block.named_buffers()]
    return [tensor for name, tensor in named if ADAPTER_MARK not in name]


def _rest(transformer: WanTransformer3DModel) -> list[torch.Tensor]:
    """What is outside the blocks."""
    named = [*transformer.named_parameters(), *transformer.named_buffers()]
    return [tensor for name, tensor in named if not name.startswith("blocks.") and ADAPTER_MARK not in name]
