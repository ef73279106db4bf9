"""Moves a row's parts between host and device for each memory mode; it knows no request and no LoRA format."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import HookRegistry, apply_group_offloading

from wan_ui.engine.components import Components
from wan_ui.engine.memory import Placement

HOST = torch.device("cpu")
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


class Residence:
    """Where the parts live under one memory mode. On the CPU everything is resident."""

    def __init__(self, mode: Placement, components: Components, device: torch.device) -> None:
        self.mode: Placement = mode
        self._components = components
        self._device = device
        self._streaming: set[str] = set()
        self.settle()

    @staticmethod
    def on_host(mode: Placement) -> frozenset[str]:
        """The parts that are loaded into host memory under a mode."""
        return frozenset() if mode == "resident" else frozenset({"transformer", "transformer_2", "text_encoder"})

    def settle(self) -> None:
        """Every part to its place when nothing is at work."""
        for name, transformer in self._components.transformers.items():
            if self.mode == "resident":
                self.still(name)
                transformer.to(self._device)
        if self.mode == "resident":
            self._components.text_encoder.to(self._device)
        else:
            self._send_home()
            self._components.text_encoder.to(HOST)
        release(self._device)

    def step_down(self, mode: Placement) -> None:
        """A tighter mode from here on."""
        self.mode = mode
        self.settle()

    def still(self, name: str) -> WanTransformer3DModel:
        """A transformer whose weights may be changed: no offloading hooks, all parameters real."""
        transformer = self._components.transformers[name]
        if name in self._streaming:
            registry = HookRegistry.check_if_exists_or_initialize(transformer)
            for hook in _OFFLOADING_HOOKS:
                registry.remove_hook(hook, recurse=True)
            self._streaming.discard(name)
            transformer.to(HOST)
        return transformer

    def enter(self, transformer: WanTransformer3DModel) -> None:
        """Brings a transformer to work; in pair mode the other goes home first."""
        name = next(n for n, part in self._components.transformers.items() if part is transformer)
        if self.mode == "pair":
            for other in self._components.transformers.values():
                if other is not transformer:
                    other.to(HOST)
            release(self._device)
            transformer.to(self._device)
        elif self.mode == "stream" and name not in self._streaming:
            apply_group_offloading(
                transformer,
                onload_device=self._device,
                offload_device=HOST,
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=True,
            )
            self._streaming.add(name)

    @contextmanager
    def encoding(self) -> Iterator[torch.device]:
        """The text encoder at work; yields the device it works on."""
        encoder = self._components.text_encoder
        if self.mode == "resident":
            yield self._device
            return
        size = sum(part.numel() * part.element_size() for part in encoder.parameters())
        if self.mode == "pair" and size > idle_bytes(self._device):
            self._send_home()
            release(self._device)
        if size > idle_bytes(self._device):
            yield from self._encoding_in_stream()
            return
        encoder.to(self._device)
        try:
            yield self._device
        finally:
            encoder.to(HOST)
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

    def _send_home(self) -> None:
        for name, transformer in self._components.transformers.items():
            self.still(name)
            transformer.to(HOST)


def idle_bytes(device: torch.device) -> int:
    """Device memory that nothing of this process uses."""
    return free_bytes(device) - torch.cuda.memory_allocated(device)
