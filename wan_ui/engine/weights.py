"""The precision of a model's transformer weights: casts to bfloat16 and back, and packing as fp8."""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel

from wan_ui.engine import fp8
from wan_ui.engine.components import Components
from wan_ui.engine.core import Storage
from wan_ui.engine.placement import DevicePlacement
from wan_ui.engine.runtime import Runtime
from wan_ui.engine.streaming import ADAPTER_PREFIX


class TransformerWeights:
    """The base weights of one model's transformers. `storage` says whether they are exact or packed."""

    def __init__(self, components: Components, placement: DevicePlacement, runtime: Runtime) -> None:
        self.storage: Storage = "exact"
        self._names = tuple(components.transformers)
        self._placement = placement
        self._device = runtime.device
        self._dtype = runtime.dtype
        self._float32: dict[tuple[str, str], torch.Tensor] = {}  # by transformer and tensor name, on the host

    def cast(self, whole_bf16: bool) -> None:
        """On CUDA, casts diffusers' float32 exceptions and the rotary buffers to bfloat16, or restores them exactly."""
        for name in self._names:
            if whole_bf16 and self._dtype is torch.bfloat16:
                for key, tensor in base_tensors(self._placement.unpin(name)).items():
                    if tensor.dtype is torch.float32:
                        self._float32[name, key] = tensor.data.to("cpu")
                        tensor.data = tensor.data.to(torch.bfloat16)
            elif not whole_bf16 and self._float32:
                for key, tensor in base_tensors(self._placement.unpin(name)).items():
                    if (name, key) in self._float32:
                        tensor.data = self._float32.pop((name, key)).to(tensor.device)

    def pack(self, storage: Storage) -> None:
        """Packs the weights as fp8, with what is merged into them. There is no way back but to load them again."""
        self.storage = storage
        for name in self._names:
            fp8.pack_blocks(self._placement.unpin(name), self._device, products=storage == "fp8_products")


def base_tensors(transformer: WanTransformer3DModel) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the base model by name, also while adapters are attached.

    To be called anew after each move: moving a module replaces its buffers.
    """
    named = (*transformer.named_parameters(), *transformer.named_buffers())
    return {name.replace(".base_layer", ""): tensor for name, tensor in named if ADAPTER_PREFIX not in name}
