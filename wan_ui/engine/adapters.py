"""LoRAs on one transformer: unfused adapters, exact float32 merges, and the way back; it knows no files on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from peft.tuners.lora import LoraLayer

from wan_ui.errors import LoraMismatch
from wan_ui.lora.convert import Converted, Dora, LowRank, delta

_OTHER_MODEL = "Open the tab of the model it was trained for."


@dataclass(frozen=True)
class InUse:
    """How many modules a LoRA has in its file, and how many now compute with it."""

    modules_in_file: int
    modules_in_use: int

    def counts(self) -> dict[str, int]:
        return {"modules_in_file": self.modules_in_file, "modules_in_use": self.modules_in_use}


@dataclass(frozen=True)
class Merge:
    """One LoRA to be added to the weights, times its multiplier."""

    lora: Converted
    multiplier: float


class Dressing:
    """What one transformer wears. Where a method fails, it leaves the base model and raises."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        self._transformer = transformer
        self._names: dict[str, str] = {}
        self._pristine: dict[str, torch.Tensor] = {}

    @property
    def changed_parameters(self) -> int:
        """How many base parameters differ from the checkpoint."""
        return len(self._pristine)

    def wear(self, loras: Mapping[str, Converted]) -> dict[str, InUse]:
        """These adapters, unfused, and no others, keyed by their file's SHA-256; inactive until weigh().

        Raises LoraMismatch when shapes do not fit, or when not every module of a file came into use.
        """
        self._undress()
        in_use: dict[str, InUse] = {}
        for position, (key, lora) in enumerate(loras.items()):
            name = f"lora_{position}"  # the same in both transformers of a pair: one compiled graph serves both
            try:
                self._transformer.load_lora_adapter(
                    _peft_state(lora), prefix=None, adapter_name=name, low_cpu_mem_usage=True
                )
            except (RuntimeError, ValueError, KeyError, IndexError) as error:
                self._undress()
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise LoraMismatch(
                    f"The LoRA does not fit this model: its layers have other shapes or names. {_OTHER_MODEL}"
                ) from error
            self._names[key] = name
            in_use[key] = InUse(len(lora.modules), self._count(name))
            if in_use[key].modules_in_use != len(lora.modules):
                self._undress()
                raise _partly(in_use[key])
        return in_use

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Each adapter's scale; idempotent, sent before every render. The keys are exactly those worn."""
        if self._names:
            names = [self._names[key] for key in weights]
            self._transformer.set_adapters(names, list(weights.values()))

    def merge(self, merges: Sequence[Merge]) -> list[InUse]:
        """These LoRAs added to the base weights, and no others: W + Σ multiplier × ΔW in float32, cast once.

        Raises LoraMismatch when a parameter is missing or has another shape.
        """
        self.restore()
        changes: dict[str, list[tuple[float, Converted, str]]] = {}
        for item in merges:
            for name in item.lora.modules:
                changes.setdefault(name, []).append((item.multiplier, item.lora, name))
        with torch.no_grad():
            for name, parts in changes.items():
                try:
                    self._add(name, [(multiplier, lora) for multiplier, lora, _ in parts])
                except (LoraMismatch, RuntimeError):
                    self.restore()
                    raise
        return [InUse(len(item.lora.modules), len(item.lora.modules)) for item in merges]

    def restore(self) -> None:
        """The base weights, bit for bit."""
        with torch.no_grad():
            for name, pristine in self._pristine.items():
                parameter = self._parameter(name)
                parameter.copy_(pristine)
        self._pristine.clear()

    def _add(self, name: str, parts: Sequence[tuple[float, Converted]]) -> None:
        parameter = self._parameter(name)
        total = parameter.float()
        for multiplier, lora in parts:
            change = delta(lora.modules[name]).to(parameter.device)
            if change.shape != parameter.shape:
                raise LoraMismatch(
                    f"The LoRA's {name} has the shape {tuple(change.shape)}, this model's {tuple(parameter.shape)}. "
                    f"{_OTHER_MODEL}",
                    module=name,
                )
            total = total + multiplier * change
        self._pristine[name] = parameter.detach().clone()
        parameter.copy_(total.to(parameter.dtype))

    def _parameter(self, name: str) -> torch.nn.Parameter:
        """The base model's parameter of a module (its weight) or of a full parameter name, adapter or not."""
        module_name, _, last = name.rpartition(".")
        try:
            if last in {"weight", "bias", "scale_shift_table"}:
                return self._base(module_name).get_parameter(last)
            return self._base(name).get_parameter("weight")
        except AttributeError as error:
            raise LoraMismatch(
                f"The LoRA changes {name}, which this model does not have. {_OTHER_MODEL}", module=name
            ) from error

    def _base(self, module_name: str) -> torch.nn.Module:
        module = self._transformer.get_submodule(module_name)
        return module.get_base_layer() if isinstance(module, LoraLayer) else module

    def _undress(self) -> None:
        self._names.clear()
        self._transformer.unload_lora()

    def _count(self, name: str) -> int:
        return sum(isinstance(module, LoraLayer) and name in module.r for module in self._transformer.modules())


def _partly(counted: InUse) -> LoraMismatch:
    return LoraMismatch(
        f"Only {counted.modules_in_use} of the LoRA's {counted.modules_in_file} modules are in this model. "
        f"{_OTHER_MODEL}",
        modules_in_file=counted.modules_in_file,
        modules_in_use=counted.modules_in_use,
    )


def _peft_state(lora: Converted) -> dict[str, torch.Tensor]:
    """The adapter's state dict in PEFT's names, alpha folded into the up matrix in float32."""
    state: dict[str, torch.Tensor] = {}
    for module, part in lora.modules.items():
        if not isinstance(part, (LowRank, Dora)):
            raise LoraMismatch(f"The LoRA's {module} can only be merged, not attached.", module=module)
        state[f"{module}.lora_A.weight"] = part.down
        state[f"{module}.lora_B.weight"] = part.up if part.scale == 1 else (part.up.float() * part.scale)
    return state
