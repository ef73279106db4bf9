"""Moves a row's parts between host and device for each memory mode; it knows no request and no LoRA format."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import HookRegistry, apply_group_offloading

from wan_ui.engine.components import Components
from wan_ui.engine.memory import MODES, RESERVE, Placement
from wan_ui.engine.out_of_memory import is_out_of_memory
from wan_ui.engine.streaming import HOST, SLOTS, CudaStreams, OffloadedModule, StreamedBlocks, Streams

log = logging.getLogger(__name__)

T = TypeVar("T")

SLACK = 2 << 30
"""Bytes that are left free and not filled with blocks: one that stays saves a transfer that is hidden anyway."""

_OFFLOADING_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


def free_bytes(device: torch.device) -> int:
    """Device memory this process can still use or already holds, within its own cap. 0 where there is no counter."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    cap = int(total * torch.cuda.get_per_process_memory_fraction(device))
    return min(free + torch.cuda.memory_reserved(device), cap)


def release(device: torch.device) -> None:
    """Gives freed memory back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def probe(device: torch.device) -> None:
    """Raises RuntimeError when a CUDA context is dead: after a device-side assert, say, every call fails for good."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # an error of a kernel comes up at the next call that waits for it
        try:
            torch.zeros(1, device=device).add_(1).item()
        except torch.OutOfMemoryError:
            return  # another program has it all: full is not dead


class DevicePlacement:
    """Where the parts live under one memory mode. On the CPU everything is resident.

    In the other modes the host holds them: a pair's transformer at work is on the device whole, a streamed one with as
    many of its blocks as there is room for, and the text encoder for as long as it encodes.
    """

    def __init__(
        self, mode: Placement, components: Components, device: torch.device, streams: Streams | None = None
    ) -> None:
        self.mode: Placement = mode
        self._components = components
        self._device = device
        self._streamed: dict[str, StreamedBlocks] = {}
        self._encoder: OffloadedModule | None = None
        self._given_lanes = streams
        self._activations = 0
        self._all_visit = False
        self._settle()

    @staticmethod
    def on_host(mode: Placement) -> frozenset[str]:
        """The parts that are loaded into host memory under a mode."""
        return frozenset() if mode == "resident" else frozenset({"transformer", "transformer_2", "text_encoder"})

    def _settle(self) -> None:
        """Every part to its place when nothing is at work."""
        home = self._device if self.mode == "resident" else HOST
        for name, transformer in self._components.transformers.items():
            self.still(name)
            if name not in self._streamed:
                transformer.to(home)
        if self._encoder is None:
            self._components.text_encoder.to(home)
        release(self._device)

    def change(self, mode: Placement) -> None:
        """Another mode from here on: a tighter one, or a looser one after the weights were packed."""
        if mode == "resident":
            self.close()  # what streamed or visited moves in
        self.mode = mode
        self._settle()

    @property
    def can_tighten(self) -> bool:
        """Whether there is device memory left to give up."""
        return self.mode != "stream" or not self._all_visit

    def tighten(self) -> None:
        """Less device memory from here on: the next mode, and in the last one no block that stays."""
        if self.mode != "stream":
            self.change(MODES[MODES.index(self.mode) + 1])
            return
        self._all_visit = True
        for name in self._streamed:
            self.still(name)
        release(self._device)

    def prepare(self, activations: int) -> None:
        """Told before a render how many bytes it needs beside the weights."""
        if activations > self._activations:
            for name in self._streamed:
                self.still(name)
        self._activations = activations

    @property
    def in_place(self) -> bool:
        """Whether a transformer at work computes with its parameters' own memory, so that they may be swapped."""
        return self.mode == "resident"

    def still(self, name: str) -> WanTransformer3DModel:
        """A transformer whose weights may be changed: its parameters are where they live, and nothing is under way."""
        if name in self._streamed:
            self._streamed[name].leave()
        return self._components.transformers[name]

    def reshape(self, name: str) -> WanTransformer3DModel:
        """A transformer whose parameters may be given other dtypes."""
        if name in self._streamed:
            self._streamed.pop(name).close()
        return self._components.transformers[name]

    def enter(self, transformer: WanTransformer3DModel) -> None:
        """Brings a transformer to work; the other of a pair goes home first."""
        if self.mode == "resident":
            return
        name = next(n for n, part in self._components.transformers.items() if part is transformer)
        for other in self._streamed:
            if other != name:
                self.still(other)
        if name not in self._streamed:
            self._streamed[name] = StreamedBlocks(transformer, self._streams)
        streamed = self._streamed[name]
        if not streamed.present:
            release(self._device)
            streamed.enter(self._resident_blocks(streamed))

    @property
    def _streams(self) -> Streams:
        self._given_lanes = self._given_lanes or CudaStreams(self._device)
        return self._given_lanes

    def clear_for_decode(self) -> None:
        """Leaves the device to the VAE where memory is tight."""
        if self.mode != "resident":
            for name in self._streamed:
                self.still(name)
            release(self._device)

    def _resident_blocks(self, streamed: StreamedBlocks) -> int:
        if self.mode == "pair":
            return streamed.count
        if self._all_visit:
            return 0
        room = idle_bytes(self._device) - self._activations - RESERVE - SLACK - SLOTS * streamed.block_bytes
        return max(0, min(streamed.count, room // streamed.block_bytes))

    @contextmanager
    def encoding(self) -> Iterator[torch.device]:
        """The text encoder at work; yields the device it works on."""
        if self.mode == "resident":
            yield self._device
            return
        encoder = self._components.text_encoder
        size = sum(part.nbytes for part in encoder.parameters())
        if size > idle_bytes(self._device):
            for name in self._components.transformers:
                self.still(name)
            release(self._device)
        if size > idle_bytes(self._device):
            yield from self._encoding_in_stream()
            return
        self._encoder = self._encoder or OffloadedModule(encoder, self._streams)
        with self._encoder.visiting():
            yield self._device
        release(self._device)

    def _encoding_in_stream(self) -> Iterator[torch.device]:
        encoder = self._components.text_encoder
        apply_group_offloading(
            encoder,
            onload_device=self._device,
            offload_device=HOST,
            offload_type="leaf_level",
            use_stream=True,
            low_cpu_mem_usage=True,
        )
        try:
            yield self._device
        finally:
            registry = HookRegistry.check_if_exists_or_initialize(encoder)
            for hook in _OFFLOADING_HOOKS:
                registry.remove_hook(hook, recurse=True)
            encoder.to(HOST)
            release(self._device)

    def close(self) -> None:
        """Every part at home, in ordinary memory."""
        for name in list(self._streamed):
            self.reshape(name)
        if self._encoder is not None:
            self._encoder.release()
            self._encoder = None


def fitting(work: Callable[[], T], placement: DevicePlacement, may_tighten: Callable[[], bool]) -> T:
    """What `work` gives: where device memory runs out, once more with less of it taken by weights.

    Raises what `work` raises, and its out of memory where nothing may be given up, or nothing is left.
    """
    while True:
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error) or not placement.can_tighten or not may_tighten():
                raise
            log.warning("out of GPU memory in the mode %s, going on with less: %s", placement.mode, str(error))
        placement.tighten()  # not before: the error's traceback, which no log may keep, holds what was allocated


def idle_bytes(device: torch.device) -> int:
    """Device memory that nothing of this process uses. 0 where there is no counter."""
    if device.type != "cuda":
        return 0
    return free_bytes(device) - torch.cuda.memory_allocated(device)
