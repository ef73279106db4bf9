"""The LoRAs of one model by slot: files into adapters and merges, and the report of what each does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel

from wan_ui.checkpoints.fp8_linear import packed_layers
from wan_ui.engine.adapters import Adapter, BackupLocation, BaseWeights, Merge, TransformerAdapters, split, summary
from wan_ui.engine.components import Components, read_tensor
from wan_ui.engine.core import Report
from wan_ui.engine.memory import idle_bytes, out_of_memory_mapped
from wan_ui.engine.placement import DevicePlacement
from wan_ui.engine.runtime import Runtime
from wan_ui.lora.convert import Converted, convert
from wan_ui.lora.library import LoraFile
from wan_ui.lora.shapes import Dimensions, from_config
from wan_ui.models import WanModel
from wan_ui.scale import Scale, is_constant, largest, scale_at

RENDER_RESERVE = 12 << 30  # bytes of GPU memory left free for a render beside copies of the original weights
MOST_DROPPED = 50  # unused tensors listed in a report


@dataclass(frozen=True)
class ModuleCounts:
    """One file's modules on a slot: in the file, in use in one way, and the (tensor, reason) pairs left unused."""

    in_file: int
    in_use: int
    dropped: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, lora: Converted, in_use: int) -> ModuleCounts:
        """The counts of a converted file of which `in_use` modules are in use."""
        return cls(len(lora.modules) + lora.left_out, in_use, lora.dropped[:MOST_DROPPED])


class LoraSlots:
    """LoRAs on a model's transformers. A method that fails leaves that part as the base model."""

    def __init__(self, model: WanModel, components: Components, placement: DevicePlacement, runtime: Runtime) -> None:
        self._model = model
        self._components = components
        self._placement = placement
        self._runtime = runtime
        # A scale that is a number is part of a compiled graph; one in a tensor is not.
        scales_on = runtime.device if runtime.compiler.mode != "off" else None
        self._adapters = {
            slot: TransformerAdapters(components.transformers[component], self._base_weights(component), scales_on)
            for slot, component in model.slots.items()
        }
        self._scales: dict[str, Mapping[str, Scale]] = {}  # by slot; by file
        self._counts: dict[tuple[str, str], dict[str, ModuleCounts]] = {}  # by slot and way; by file

    def attach(self, slot: str, files: tuple[LoraFile, ...], unfused: frozenset[str]) -> WanTransformer3DModel:
        """Attaches these files' layers of the unfused kinds as adapters, and no others; returns the transformer."""
        transformer = self._placement.offload(self._model.slots[slot])
        self._counts[slot, "adapter"] = {}
        with out_of_memory_mapped():
            loras = {file.sha256: convert(file.path, slot, self._sizes(slot)) for file in files}
            in_use = self._adapters[slot].attach([Adapter(key, split(lora, unfused)[0]) for key, lora in loras.items()])
        self._counts[slot, "adapter"] = {key: ModuleCounts.of(lora, in_use[key]) for key, lora in loras.items()}
        return transformer

    def merge(self, slot: str, files: tuple[tuple[LoraFile, float], ...], unfused: frozenset[str]) -> None:
        """Merges these files' other layers, at their scales, into the slot's transformer, and no others."""
        component = self._model.slots[slot]
        if any(packed_layers(self._components.transformers[component])):
            self._placement.unpin(component)  # layers that are merged into become ordinary ones
        else:
            self._placement.offload(component)
        self._counts[slot, "merged"] = {}
        with out_of_memory_mapped():
            loras = {file.sha256: (convert(file.path, slot, self._sizes(slot)), scale) for file, scale in files}
            in_use = self._adapters[slot].merge(
                [Merge(key, split(lora, unfused)[1], scale) for key, (lora, scale) in loras.items()]
            )
        self._counts[slot, "merged"] = {key: ModuleCounts.of(lora, in_use[key]) for key, (lora, _) in loras.items()}

    def set_scales(self, slot: str, scales: Mapping[str, Scale]) -> None:
        """Sets the scales of the slot's adapters, by SHA-256; one that changes over the steps to its largest value."""
        self._scales[slot] = scales
        self._adapters[slot].set_scales({key: largest(scale) for key, scale in scales.items()})

    def set_step(self, transformer: WanTransformer3DModel, step: int, steps: int) -> bool:
        """Sets the scales for step `step` (from 0) of the transformer's own `steps`; returns whether any changed."""
        changed = False
        for slot in self._slots_of(transformer):
            scales = {key: scale_at(self._scales[slot][key], step, steps) for key in self._adapters[slot].scales}
            if scales and scales != self._adapters[slot].scales:
                self._adapters[slot].set_scales(scales)
                changed = True
        return changed

    def end_steps(self) -> None:
        """After a run: scales that changed over its steps are at their largest values again, as reports give them."""
        for slot, scales in self._scales.items():
            if not all(map(is_constant, self._in_force(slot))):
                self.set_scales(slot, {key: scales[key] for key in self._adapters[slot].scales})

    def _in_force(self, slot: str) -> list[Scale]:
        """The scales of the adapters that are attached to a slot now."""
        return [self._scales[slot][key] for key in self._adapters[slot].scales]

    def _slots_of(self, transformer: WanTransformer3DModel) -> list[str]:
        components = self._components.transformers
        return [slot for slot, component in self._model.slots.items() if components[component] is transformer]

    def report(self, slot: str) -> Mapping[str, Report]:
        """What each file on the slot does now, by SHA-256."""
        reports: dict[str, Report] = {}
        for key, change in self._adapters[slot].changes().items():
            ways = [way for way in ("adapter", "merged") if key in self._counts.get((slot, way), {})]
            counts = [self._counts[slot, way][key] for way in ways]
            reports[key] = {
                "applied": " and ".join(ways),
                "modules_in_file": counts[0].in_file,
                "modules_in_use": sum(count.in_use for count in counts),
                "dropped": [{"module": tensor, "why": reason} for tensor, reason in counts[0].dropped],
                "weight_change": summary(change),
            }
        return reports

    def first_prediction_change(
        self, transformer: WanTransformer3DModel, prediction: torch.Tensor, recompute: Callable[[], torch.Tensor]
    ) -> dict[str, float]:
        """By how much LoRAs change a prediction, by slot: ‖with − without‖ / ‖without‖ in float32.

        Empty where the transformer has no LoRA, or where the base weights are not at hand: on one of a group's GPUs
        too, since each has to compute its part of the prediction again.
        """
        group = self._runtime.group
        changes: dict[str, float] = {}
        for slot, component in self._model.slots.items():
            adapters = self._adapters[slot]
            is_in_use = not adapters.is_base_model and not adapters.is_without_effect
            if self._components.transformers[component] is transformer and is_in_use:
                with adapters.disabled() as possible:
                    if possible if group is None else group.all_agree(possible):
                        base = recompute().float()
                        changes[slot] = float((prediction.float() - base).norm() / base.norm())
        return changes

    def keep_merges(self) -> None:
        """Keeps what is merged: the originals are no longer held for being restored."""
        for adapters in self._adapters.values():
            adapters.keep_merges()

    def remove_all(self) -> None:
        """Restores the base model on every slot."""
        for slot, adapters in self._adapters.items():
            self._placement.offload(self._model.slots[slot])
            adapters.attach([])
            adapters.restore()

    def _sizes(self, slot: str) -> Dimensions:
        """The sizes of the slot's transformer: layers of a LoRA that it does not have are left out."""
        return from_config(self._components.transformers[self._model.slots[slot]].config)

    def _base_weights(self, component: str) -> BaseWeights:
        files = self._components.files[component]

        def backup_location(size: int) -> BackupLocation:
            """Beside the model where the GPU has room for it and a render, else the host, else the file itself."""
            device = self._runtime.device
            if device.type == "cuda" and size + RENDER_RESERVE <= idle_bytes(device):
                return "device"
            return "host" if self._runtime.memory.has_host_room(size) else "checkpoint"

        return BaseWeights(backup_location, lambda name: read_tensor(files, name), lambda: self._placement.is_resident)
