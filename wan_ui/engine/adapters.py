"""LoRAs on one transformer: unfused adapters, exact float32 merges, and the way back; it knows no files on disk."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import WanTransformer3DModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant

from wan_ui.errors import LoraMismatch
from wan_ui.lora.convert import Converted, Dora, LowRank, Part, delta

_OTHER_MODEL = "Open the tab of the model it was trained for."
_PARAMETERS = ("weight", "bias", "scale_shift_table")

Place = Literal["device", "host", "checkpoint"]
Change = Mapping[str, float]
"""‖ΔW‖ / ‖W‖ (Frobenius) by parameter name, at the multiplier in force."""


@dataclass(frozen=True)
class BaseWeights:
    """Where a merge leaves the weights it changes.

    `place` chooses for a number of bytes: beside the model, in host memory, or nowhere, so that they are read again.
    `reread` gives a parameter as the checkpoint has it, by its diffusers name. `in_place` says whether a transformer at
    work computes with its parameters' own memory.
    """

    place: Callable[[int], Place]
    reread: Callable[[str], torch.Tensor]
    in_place: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class Merge:
    """Parts of one LoRA to be added to the weights, times the multiplier. `key` is its file's SHA-256."""

    key: str
    parts: Mapping[str, Part]
    multiplier: float


@dataclass(frozen=True)
class Adapter:
    """Parts of one LoRA that stay unfused, by module name."""

    key: str
    parts: Mapping[str, Part]


def summary(change: Change) -> dict[str, float]:
    """The median and the largest of a change over its parameters."""
    if not change:
        return {"median": 0.0, "max": 0.0}
    return {"median": statistics.median(change.values()), "max": max(change.values())}


class ScaledLinear(LoraVariant):  # type: ignore[misc]
    """PEFT's plain LoRA, bit for bit, with its multiplier in a tensor (0-dim, float32): a changed one is no new graph.

    PyTorch computes bfloat16 × a Python number in float32 and rounds once; so does this. Run eagerly it takes a float32
    copy of the change where PEFT takes one of its own dtype.
    """

    def __init__(self, multiplier: torch.Tensor) -> None:
        self.multiplier = multiplier

    def forward(
        self, module: LoraLayer, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        change: torch.Tensor = module.lora_B[active_adapter](module.lora_A[active_adapter](x))
        change.copy_(change.float().mul_(self.multiplier))
        return result + change


class TransformerAdapters:
    """What one transformer wears. Where a method fails, it leaves the base model in that respect and raises.

    `multipliers` is the device on which adapters' multipliers are kept as tensors, for transformers that are compiled;
    None: they are PEFT's own numbers.
    """

    def __init__(
        self, transformer: WanTransformer3DModel, originals: BaseWeights, multipliers: torch.device | None = None
    ) -> None:
        self._transformer = transformer
        self._originals = originals
        self._adapters: dict[str, tuple[str, ...]] = {}
        self._weights: dict[str, float] = {}
        self._pristine: dict[str, torch.Tensor | None] = {}
        self._merged: dict[str, dict[str, float]] = {}
        self._norms: dict[str, float] = {}
        self._multipliers_on = multipliers
        self._multipliers: dict[str, torch.Tensor] = {}
        self._layers: dict[str, dict[str, LoraLayer]] = {}

    def attach(self, adapters: Sequence[Adapter]) -> dict[str, int]:
        """These adapters, unfused, and no others, inactive until weigh(). How many modules each has in use, by key.

        Raises LoraMismatch when shapes do not fit, or when not every module of an adapter came into use.
        """
        if self._exchange(adapters):
            return {adapter.key: len(adapter.parts) for adapter in adapters}
        self._detach()
        used: dict[str, int] = {}
        for position, adapter in enumerate(adapters):
            names = []
            for suffix, kind in (("", LowRank), ("_dora", Dora)):
                parts = {module: part for module, part in adapter.parts.items() if isinstance(part, kind)}
                if parts:
                    # By position: both transformers of a pair use the same name, and one compiled graph serves both.
                    names.append(f"lora_{position}{suffix}")
                    self._attach(names[-1], parts, dora=kind is Dora)
            self._adapters[adapter.key] = tuple(names)
            used[adapter.key] = sum(len(self._layers[name]) for name in names)
            if used[adapter.key] != len(adapter.parts):
                self._detach()
                raise LoraMismatch(
                    f"Only {used[adapter.key]} of the LoRA's {len(adapter.parts)} modules are in this model. "
                    f"{_OTHER_MODEL}",
                    modules_in_file=len(adapter.parts),
                    modules_in_use=used[adapter.key],
                )
        return used

    def set_scales(self, weights: Mapping[str, float]) -> None:
        """Each adapter's scale; idempotent, sent before every render. The keys are exactly those worn."""
        self._weights = dict(weights)
        names = [name for key in weights for name in self._adapters[key]]
        scales = [scale for key, scale in weights.items() for _ in self._adapters[key]]
        if names:
            self._transformer.set_adapters(names, scales)
        for name, scale in zip(names, scales, strict=True):
            if name in self._multipliers:
                self._multipliers[name].fill_(scale)

    def merge(self, merges: Sequence[Merge]) -> dict[str, int]:
        """These LoRAs added to the base weights, and no others: W + Σ multiplier × ΔW in float32, cast once.

        How many modules of each are in use, by key. Raises LoraMismatch when a parameter is missing or has another
        shape.
        """
        wanted: dict[str, list[tuple[str, float, Part]]] = {}
        for merge in merges:
            for name, part in merge.parts.items():
                wanted.setdefault(_parameter_name(name), []).append((merge.key, merge.multiplier, part))
        self._merged.clear()
        with torch.no_grad():
            try:
                self._restore([name for name in self._pristine if name not in wanted])
                parameters = {name: self._parameter(name) for name in wanted}
                new = [p for name, p in parameters.items() if name not in self._pristine]
                place = self._originals.place(sum(p.numel() * p.element_size() for p in new))
                for name, parts in wanted.items():
                    self._add(name, parameters[name], parts, place)
            except (LoraMismatch, RuntimeError):
                self.restore()
                raise
        return {merge.key: len(merge.parts) for merge in merges}

    def restore(self) -> None:
        """The base weights, bit for bit."""
        with torch.no_grad():
            self._restore(list(self._pristine))
        self._merged.clear()

    def settle(self) -> None:
        """What is merged stays merged, whatever the weights become now: copies of what was there before are let go."""
        self._pristine = dict.fromkeys(self._pristine)

    def _restore(self, names: Sequence[str]) -> None:
        for name in names:
            self._parameter(name).copy_(self._base(name))
            del self._pristine[name]

    def _base(self, name: str) -> torch.Tensor:
        """A changed parameter as the checkpoint has it, from wherever it is kept."""
        pristine = self._pristine[name]
        return self._originals.reread(name) if pristine is None else pristine

    def changes(self) -> Mapping[str, Change]:
        """How much each LoRA now changes the weights, by key."""
        merged: dict[str, dict[str, float]] = {key: dict(change) for key, change in self._merged.items()}
        with torch.no_grad():
            for key, names in self._adapters.items():
                found = merged.setdefault(key, {})
                for name in names:
                    for module_name, module in self._layers[name].items():
                        found[module_name] = self._adapter_change(
                            module_name, module, name, self._weights.get(key, 0.0)
                        )
        return merged

    @contextmanager
    def disabled(self) -> Iterator[bool]:
        """The base model for a moment. Yields False, and changes nothing, when its weights are not at hand."""
        kept = self._pristine.values()
        if any(base is None for base in kept) or (kept and not self._originals.in_place()):
            yield False
            return
        parameters = {name: self._parameter(name) for name in self._pristine}
        if any(base is None or base.device != parameters[name].device for name, base in self._pristine.items()):
            yield False
            return
        self._swap(parameters)
        try:
            with self._muted():
                yield True
        finally:
            self._swap(parameters)

    @contextmanager
    def _muted(self) -> Iterator[None]:
        """No adapter has an effect. By multipliers of 0 where they are tensors, which asks for no other graph."""
        names = [name for key in self._adapters for name in self._adapters[key]]
        if all(name in self._multipliers for name in names):
            scales = {name: self._multipliers[name].clone() for name in names}
            for name in names:
                self._multipliers[name].fill_(0)
            try:
                yield
            finally:
                for name, scale in scales.items():
                    self._multipliers[name].copy_(scale)
        else:
            self._transformer.disable_adapters()
            try:
                yield
            finally:
                self._transformer.enable_adapters()

    @property
    def has_no_adapters(self) -> bool:
        return not self._adapters and not self._pristine

    def _swap(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            kept = self._pristine[name]
            if kept is not None:
                self._pristine[name], parameter.data = parameter.data, kept

    def _add(
        self, name: str, parameter: torch.nn.Parameter, parts: Sequence[tuple[str, float, Part]], place: Place
    ) -> None:
        kept = name in self._pristine
        base = self._base(name).to(parameter.device, parameter.dtype) if kept else parameter
        total = base.float()
        norm = float(total.norm())
        for key, multiplier, part in parts:
            change = _on(parameter.device, part)
            if change.shape != parameter.shape:
                raise LoraMismatch(
                    f"The LoRA's {name} has the shape {tuple(change.shape)}, this model's {tuple(parameter.shape)}. "
                    f"{_OTHER_MODEL}",
                    module=name,
                )
            self._merged.setdefault(key, {})[name] = _relative(float(change.norm()) * abs(multiplier), norm)
            total = total + multiplier * change
        if not kept:
            self._pristine[name] = _copy(parameter, place)
        parameter.copy_(total.to(parameter.dtype))

    def _exchange(self, adapters: Sequence[Adapter]) -> bool:
        """Other weights for the layers that are worn, where those adapt the same modules; else False, and no change.

        PEFT's layers for a 14B transformer take a second to build, their weights a few milliseconds to replace.
        """
        wanted = {f"lora_{position}": adapter.parts for position, adapter in enumerate(adapters)}
        if not wanted or wanted.keys() != self._layers.keys():
            return False
        replacements: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        for name, parts in wanted.items():
            layers = self._layers[name]
            if parts.keys() != layers.keys():
                return False
            for module, part in parts.items():
                down, up = layers[module].lora_A[name].weight, layers[module].lora_B[name].weight
                if not isinstance(part, LowRank) or not _fits(part, down, up):
                    return False
                replacements += zip((down, up), _factors(part), strict=True)
        for parameter, new in replacements:
            parameter.data = new.to(parameter.device, parameter.dtype)
        self._adapters = {adapter.key: (name,) for name, adapter in zip(wanted, adapters, strict=True)}
        self._weights.clear()
        return True

    def _attach(self, name: str, parts: Mapping[str, Part], *, dora: bool) -> None:
        try:
            # PEFT measures a DoRA's base weights while it attaches, which it cannot do without their values.
            self._transformer.load_lora_adapter(
                _peft_state(parts), prefix=None, adapter_name=name, low_cpu_mem_usage=not dora
            )
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            self._detach()
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise LoraMismatch(
                f"The LoRA does not fit this model: its layers have other shapes or names. {_OTHER_MODEL}"
            ) from error
        self._layers[name] = {
            module_name: module
            for module_name, module in self._transformer.named_modules()
            if isinstance(module, LoraLayer) and name in module.r
        }
        if self._multipliers_on is not None and not dora:
            self._multipliers[name] = torch.ones((), device=self._multipliers_on)
            for module in self._layers[name].values():
                module.lora_variant[name] = ScaledLinear(self._multipliers[name])

    def _adapter_change(self, module_name: str, module: LoraLayer, name: str, multiplier: float) -> float:
        """‖ΔW‖ / ‖W‖ of one live adapter, from the rank × rank products, so that no matrix is formed."""
        down, up = module.lora_A[name].weight.float().flatten(1), module.lora_B[name].weight.float().flatten(1)
        if name in module.lora_magnitude_vector:
            base = module.get_base_layer().weight.to(up.device).float()
            changed = base + multiplier * (up @ down)
            magnitude = module.lora_magnitude_vector[name].weight.float().reshape(-1, 1)
            return _relative(
                float((changed * (magnitude / changed.norm(dim=1, keepdim=True)) - base).norm()), float(base.norm())
            )
        product = (up.T @ up) * (down @ down.T)
        norm = float(product.sum().clamp(min=0).sqrt()) * abs(multiplier)
        if module_name not in self._norms:
            self._norms[module_name] = float(module.get_base_layer().weight.float().norm())
        return _relative(norm, self._norms[module_name])

    def _parameter(self, name: str) -> torch.nn.Parameter:
        """The base model's parameter of a full name, adapter or not."""
        module_name, _, last = name.rpartition(".")
        try:
            module = self._transformer.get_submodule(module_name)
            base: torch.nn.Module = module.get_base_layer() if isinstance(module, LoraLayer) else module
            return base.get_parameter(last)
        except AttributeError as error:
            raise LoraMismatch(
                f"The LoRA changes {name}, which this model does not have. {_OTHER_MODEL}", module=name
            ) from error

    def _detach(self) -> None:
        self._adapters.clear()
        self._weights.clear()
        self._multipliers.clear()
        self._layers.clear()
        self._transformer.unload_lora()


def split(lora: Converted, unfused: frozenset[str]) -> tuple[dict[str, Part], dict[str, Part]]:
    """A LoRA's parts: those of the unfused kinds, and those to be merged."""
    kinds = tuple(kind for name, kind in (("lora", LowRank), ("dora", Dora)) if name in unfused)
    kept: dict[str, Part] = {name: part for name, part in lora.modules.items() if isinstance(part, kinds)}
    return kept, {name: part for name, part in lora.modules.items() if name not in kept}


def _parameter_name(name: str) -> str:
    """The full parameter name of a change; a linear layer's weight goes by its module's name."""
    return name if name.rpartition(".")[2] in _PARAMETERS else f"{name}.weight"


def _on(device: torch.device, part: Part) -> torch.Tensor:
    """The float32 change of a parameter, multiplied out on the device."""
    if isinstance(part, LowRank):
        return delta(LowRank(part.down.to(device), part.up.to(device), part.scale))
    return delta(part).to(device)


def _copy(parameter: torch.nn.Parameter, place: Place) -> torch.Tensor | None:
    if place == "checkpoint":
        return None
    return parameter.detach().to("cpu", copy=True) if place == "host" else parameter.detach().clone()


def _relative(change: float, whole: float) -> float:
    return change / whole if whole else 0.0


def _factors(part: LowRank | Dora) -> tuple[torch.Tensor, torch.Tensor]:
    """PEFT's A [rank, in…] and B [out, rank(, 1…)], alpha folded into B in float32."""
    return part.down, part.up if part.scale == 1 else part.up.float() * part.scale


def _fits(part: LowRank, down: torch.Tensor, up: torch.Tensor) -> bool:
    """Whether a part can take the place of an adapter's matrices: the same layer's, of any rank."""
    same_layer = part.down.shape[1:] == down.shape[1:] and part.up.shape[:1] == up.shape[:1]
    return same_layer and part.up.shape[1:] == (len(part.down), *up.shape[2:])


def _peft_state(parts: Mapping[str, Part]) -> dict[str, torch.Tensor]:
    """The adapter's state dict in PEFT's names, alpha folded into the up matrix in float32."""
    state: dict[str, torch.Tensor] = {}
    for module, part in parts.items():
        if isinstance(part, (LowRank, Dora)):
            state[f"{module}.lora_A.weight"], state[f"{module}.lora_B.weight"] = _factors(part)
        if isinstance(part, Dora):
            state[f"{module}.lora_magnitude_vector.weight"] = part.magnitude
    return state
