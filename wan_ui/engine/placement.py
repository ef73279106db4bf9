"""Device placement: moves a model's parts between host and device as each placement mode requires."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import HookRegistry, apply_group_offloading

from wan_ui.engine.budget import MODES, RESERVE, PlacementMode, note
from wan_ui.engine.components import Components
from wan_ui.engine.memory import idle_bytes, is_out_of_memory, release
from wan_ui.engine.streaming import BUFFERS, HOST, CudaStreams, OffloadedModule, StreamedBlocks, Streams

log = logging.getLogger(__name__)

T = TypeVar("T")

SLACK = 2 << 30
"""Bytes left free and not filled with resident blocks: one more saves a transfer that is hidden anyway."""

_OFFLOADING_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


class DevicePlacement:
    """Where a model's parts are in one placement mode. On the CPU everything is resident.

    In the other modes the host holds them: in `pair` the current transformer is on the device whole, in `stream` with
    as many resident blocks as there is memory for, and the text encoder only while it encodes.

    `return_to_file` lays a transformer's fp8 weights back into the pages of the file that they came from: given where
    the host holds one transformer of a pair at a time. None: it holds both.
    """

    def __init__(
        self,
        mode: PlacementMode,
        components: Components,
        device: torch.device,
        streams: Streams | None = None,
        return_to_file: Callable[[str], None] | None = None,
    ) -> None:
        self.mode: PlacementMode = mode
        self._components = components
        self._device = device
        self._streamed: dict[str, StreamedBlocks] = {}
        self._encoder: OffloadedModule | None = None
        self._streams_made = streams
        self._return_to_file = return_to_file
        self._activations = 0
        self._no_resident_blocks = False
        self._place_all()

    @staticmethod
    def on_host(mode: PlacementMode) -> frozenset[str]:
        """The parts that are loaded into host memory in a mode."""
        return frozenset() if mode == "resident" else frozenset({"transformer", "transformer_2", "text_encoder"})

    def _place_all(self) -> None:
        """Moves every part to where it is when nothing computes."""
        target = self._device if self.mode == "resident" else HOST
        for name, transformer in self._components.transformers.items():
            self.offload(name)
            if name not in self._streamed:
                transformer.to(target)
        if self._encoder is None:
            self._components.text_encoder.to(target)
        release(self._device)

    def change(self, mode: PlacementMode) -> None:
        """Switches to another mode: a tighter one, or a looser one after the weights were packed."""
        if mode == "resident":
            self.close()  # what was streamed moves to the device whole
        self.mode = mode
        self._place_all()

    @property
    def can_tighten(self) -> bool:
        """Whether there is device memory left to give up."""
        return self.mode != "stream" or not self._no_resident_blocks

    def tighten(self) -> None:
        """Uses less device memory from now on: the next mode, or, in `stream`, no resident blocks."""
        if self.mode != "stream":
            self.change(MODES[MODES.index(self.mode) + 1])
            return
        self._no_resident_blocks = True
        self.offload_transformers()

    def reserve(self, activations: int) -> None:
        """Sets how many bytes the next render needs beside the weights; fewer blocks are resident where it is more."""
        if activations > self._activations:
            for name in self._streamed:
                self.offload(name)
        self._activations = activations

    @property
    def note(self) -> str:
        """Where the weights are, as a sentence for the progress card; empty where everything is on the device."""
        shared = "The computer's memory holds one of the two transformers at a time: each change between them reads it "
        shared += "again from the page cache or the disk."
        return " ".join(filter(None, (note(self.mode), shared if self._return_to_file is not None else "")))

    @property
    def is_resident(self) -> bool:
        """Whether transformers compute with their parameters' own memory, so that weights may be swapped in place."""
        return self.mode == "resident"

    def offload(self, name: str) -> WanTransformer3DModel:
        """The transformer with its weights on the host where it is streamed, so that they may be changed in place."""
        if name in self._streamed:
            self._streamed[name].offload()
        return self._components.transformers[name]

    def unpin(self, name: str) -> WanTransformer3DModel:
        """The transformer offloaded, in ordinary memory, so that its parameters may be given other dtypes."""
        if name in self._streamed:
            self._streamed.pop(name).close()
        return self._components.transformers[name]

    def onload(self, transformer: WanTransformer3DModel) -> None:
        """Brings a transformer to the device; the other of a pair is offloaded first."""
        if self.mode == "resident":
            return
        name = next(n for n, part in self._components.transformers.items() if part is transformer)
        for other in [held for held in self._streamed if held != name]:
            if self._return_to_file is None:
                self.offload(other)
            else:
                self.unpin(other)
                self._return_to_file(other)
        if name not in self._streamed:
            self._streamed[name] = StreamedBlocks(transformer, self._streams)
        streamed = self._streamed[name]
        if not streamed.is_onloaded:
            release(self._device)
            streamed.onload(self._resident_blocks(streamed))

    @property
    def _streams(self) -> Streams:
        self._streams_made = self._streams_made or CudaStreams(self._device)
        return self._streams_made

    def offload_transformers(self) -> None:
        """Leaves the device to the VAE, except in `resident`."""
        if self.mode != "resident":
            for name in self._streamed:
                self.offload(name)
            release(self._device)

    def _resident_blocks(self, streamed: StreamedBlocks) -> int:
        """How many blocks fit beside the activations, the reserve and the two buffers that streamed blocks share."""
        if self.mode == "pair":
            return streamed.count
        if self._no_resident_blocks:
            return 0
        free = idle_bytes(self._device) - self._activations - RESERVE - SLACK - BUFFERS * streamed.block_bytes
        return max(0, min(streamed.count, free // streamed.block_bytes))

    @contextmanager
    def text_encoder_onloaded(self) -> Iterator[torch.device]:
        """The text encoder ready to compute; yields the device that its inputs belong on."""
        if self.mode == "resident":
            yield self._device
            return
        encoder = self._components.text_encoder
        size = sum(part.nbytes for part in encoder.parameters())
        if size > idle_bytes(self._device):
            for name in self._components.transformers:
                self.offload(name)
            release(self._device)
        if size > idle_bytes(self._device):
            yield from self._text_encoder_by_layers()
            return
        self._encoder = self._encoder or OffloadedModule(encoder, self._streams)
        with self._encoder.onloaded():
            yield self._device
        release(self._device)

    def _text_encoder_by_layers(self) -> Iterator[torch.device]:
        """Where the encoder does not fit whole: diffusers' group offloading, one layer on the device at a time."""
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
        """Offloads every part into ordinary, unpinned memory."""
        for name in list(self._streamed):
            self.unpin(name)
        if self._encoder is not None:
            self._encoder.unpin()
            self._encoder = None


def retry_with_less_memory(work: Callable[[], T], placement: DevicePlacement, may_tighten: Callable[[], bool]) -> T:
    """What `work` returns; where device memory runs out it is called again with fewer weights on the device.

    Raises what `work` raises, and its out-of-memory error where `may_tighten` is false or nothing is left to give up.
    """
    while True:
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error) or not placement.can_tighten or not may_tighten():
                raise
            log.warning("out of GPU memory in the mode %s, retrying with less: %s", placement.mode, str(error))
        # After the except block: the error's traceback holds the frames, and with them the tensors, that filled memory.
        placement.tighten()
