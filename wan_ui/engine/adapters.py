"""LoRAs on one transformer: unfused adapters, float32 merges into the weights, and their exact removal."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import WanTransformer3DModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant

from wan_ui.checkpoints.fp8_linear import Fp8Linear, UnpackedAtUse, shapes_only
from wan_ui.engine.kernels.operators import add_adapter
from wan_ui.errors import LoraMismatch
from wan_ui.lora.convert import Converted, Dora, LowRank, Part, delta

_OTHER_MODEL = "Open the tab of the model it was trained for."
_PARAMETERS = ("weight", "bias", "scale_shift_table")

BackupLocation = Literal["device", "host", "checkpoint"]
"""Where the original of a merged weight is: a copy on the device or the host, or only the checkpoint's file."""

Change = Mapping[str, float]
"""‖ΔW‖ / ‖W‖ (Frobenius norms) by parameter name, at the scale in force."""


@dataclass(frozen=True)
class BaseWeights:
    """Where a merge gets and keeps the original weights.

    `backup_location` chooses, for a number of bytes, where copies of them are kept. `read` returns a parameter as the
    checkpoint has it, by its diffusers name. `is_resident` tells whether a running transformer computes with its
    parameters' own memory, so that swapping them takes effect.
    """

    backup_location: Callable[[int], BackupLocation]
    read: Callable[[str], torch.Tensor]
    is_resident: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class Merge:
    """Layers of one LoRA to be added to the weights, times `scale`. `key` is its file's SHA-256."""

    key: str
    parts: Mapping[str, Part]
    scale: float


@dataclass(frozen=True)
class Adapter:
    """Layers of one LoRA that stay unfused, by module name. `key` is its file's SHA-256."""

    key: str
    parts: Mapping[str, Part]


def summary(change: Change) -> dict[str, float]:
    """The median and the largest of a change over its parameters."""
    if not change:
        return {"median": 0.0, "max": 0.0}
    return {"median": statistics.median(change.values()), "max": max(change.values())}


class Scale:
    """An adapter's scale: as the number that eager PyTorch multiplies with, and as a tensor that compiled graphs read.

    A new number would need a new graph; a new value in the tensor (0-dim, float32) does not.
    """

    def __init__(self, device: torch.device) -> None:
        self.number = 1.0
        self.tensor = torch.ones((), device=device)

    def set(self, number: float) -> None:
        """Sets both forms."""
        self.number = number
        self.tensor.fill_(number)


class ScaledLinear(LoraVariant):  # type: ignore[misc]
    """PEFT's plain LoRA with its scale in a tensor where a graph is compiled, so that a new scale needs no new graph.

    y = W x + s × B (A x), with the same bits as PEFT's: each step is rounded to the layer's dtype. Run eagerly, the
    change is scaled and the base's result added in the change's own memory.
    """

    def __init__(self, scale: Scale) -> None:
        self.scale = scale

    def forward(
        self, module: LoraLayer, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """`x` (…, in) and the base layer's `result` (…, out), in the layer's dtype."""
        if not torch.compiler.is_compiling() and self.scale.number == 0:
            return result
        down, up = module.lora_A[active_adapter], module.lora_B[active_adapter]
        reduced = down(x)
        if torch.compiler.is_compiling():
            added: torch.Tensor = add_adapter(result, reduced, up.weight, self.scale.tensor)
            return added
        change: torch.Tensor = up(reduced).mul_(self.scale.number)
        return change.add_(result) if change.dtype == result.dtype else result + change


class TransformerAdapters:
    """The LoRAs on one transformer. A method that fails removes what it was about to change, then raises.

    `scales_on` is the device of tensors that hold the adapters' scales, for a transformer that is compiled;
    None: the scales are PEFT's own Python numbers.
    """

    def __init__(
        self, transformer: WanTransformer3DModel, base_weights: BaseWeights, scales_on: torch.device | None = None
    ) -> None:
        self._transformer = transformer
        self._base_weights = base_weights
        self._adapters: dict[str, tuple[str, ...]] = {}  # PEFT's adapter names by file
        self._scales: dict[str, float] = {}  # by file
        self._skipped = False  # all adapters are at scale 0 and disabled
        self._backups: dict[str, torch.Tensor | None] = {}  # originals of merged parameters; None: in the checkpoint
        self._merged: dict[str, dict[str, float]] = {}  # relative change by file and parameter
        self._norms: dict[str, float] = {}  # of base weights, by module
        self._scales_on = scales_on
        self._adapter_scales: dict[str, Scale] = {}  # by adapter name, where graphs read them
        self._layers: dict[str, dict[str, LoraLayer]] = {}  # by adapter name and module

    def attach(self, adapters: Sequence[Adapter]) -> dict[str, int]:
        """Attaches these adapters and no others; they have no effect until set_scales().

        Returns how many modules of each are in use, by key. Raises LoraMismatch when shapes do not fit, or when not
        every module of an adapter is in use.
        """
        if self._exchange_weights(adapters):
            return {adapter.key: len(adapter.parts) for adapter in adapters}
        self._detach()
        used: dict[str, int] = {}
        for position, adapter in enumerate(adapters):
            names = []
            for suffix, kind in (("", LowRank), ("_dora", Dora)):
                parts = {module: part for module, part in adapter.parts.items() if isinstance(part, kind)}
                if parts:
                    # Named by position: with the same names, one compiled graph serves both transformers of a pair.
                    names.append(f"lora_{position}{suffix}")
                    self._attach_one(names[-1], parts, dora=kind is Dora)
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

    def set_scales(self, scales: Mapping[str, float]) -> None:
        """Sets each adapter's scale; idempotent, called before every render. The keys are exactly those attached.

        One at scale 0 is skipped, except in compiled graphs: there its change is multiplied by 0, because a graph
        without it would be another one.
        """
        self._scales = dict(scales)
        by_name = {name: scale for key, scale in scales.items() for name in self._adapters[key]}
        active = {name: scale for name, scale in by_name.items() if scale != 0 or name in self._adapter_scales}
        if active:
            self._transformer.set_adapters(list(active), list(active.values()))
        if by_name and bool(active) == self._skipped:
            self._skipped = not active
            self._enable(bool(active))
        for name, scale in active.items():
            if name in self._adapter_scales:
                self._adapter_scales[name].set(scale)

    def _enable(self, enabled: bool) -> None:
        if enabled:
            self._transformer.enable_adapters()
        else:
            self._transformer.disable_adapters()

    @property
    def scales(self) -> Mapping[str, float]:
        """The scale of each attached adapter now, by its file."""
        return self._scales

    @property
    def is_without_effect(self) -> bool:
        """Whether all adapters are at scale 0 and nothing is merged."""
        return bool(self._scales) and not any(self._scales.values()) and not self._backups

    def merge(self, merges: Sequence[Merge]) -> dict[str, int]:
        """Adds these LoRAs, and no others, to the base weights: W' = cast(W + Σ scale × ΔW), summed in float32.

        Returns how many modules of each are in use, by key. Raises LoraMismatch when a parameter is missing or has
        another shape.
        """
        wanted: dict[str, list[tuple[str, float, Part]]] = {}
        for merge in merges:
            for name, part in merge.parts.items():
                wanted.setdefault(_parameter_name(name), []).append((merge.key, merge.scale, part))
        self._merged.clear()
        with torch.no_grad():
            try:
                self._restore([name for name in self._backups if name not in wanted])
                self._unpack(wanted)
                parameters = {name: self._parameter(name) for name in wanted}
                unchanged = [p for name, p in parameters.items() if name not in self._backups]
                location = self._base_weights.backup_location(sum(p.numel() * p.element_size() for p in unchanged))
                for name, parts in wanted.items():
                    self._add(name, parameters[name], parts, location)
            except (LoraMismatch, RuntimeError):
                self.restore()
                raise
        return {merge.key: len(merge.parts) for merge in merges}

    def _unpack(self, names: Iterable[str]) -> None:
        """Ordinary layers, whose weights can be changed, in place of those that keep a file's fp8."""
        for name in names:
            path = name.rpartition(".")[0]
            try:
                module = self._transformer.get_submodule(path)
            except AttributeError:
                continue  # _parameter says that the model does not have it
            path += ".base_layer" if isinstance(module, LoraLayer) else ""
            base = module.get_base_layer() if isinstance(module, LoraLayer) else module
            if isinstance(base, Fp8Linear):
                self._transformer.set_submodule(path, base.unpacked())

    def restore(self) -> None:
        """Restores the base weights, bit for bit."""
        with torch.no_grad():
            self._restore(list(self._backups))
        self._merged.clear()

    def keep_merges(self) -> None:
        """Deletes the copies of the original weights: from now on they are restored from the checkpoint."""
        self._backups = dict.fromkeys(self._backups)

    def _restore(self, names: Sequence[str]) -> None:
        for name in names:
            self._parameter(name).copy_(self._base(name))
            del self._backups[name]

    def _base(self, name: str) -> torch.Tensor:
        """A merged parameter's original, from its copy or from the checkpoint."""
        backup = self._backups[name]
        return self._base_weights.read(name) if backup is None else backup

    def changes(self) -> Mapping[str, Change]:
        """How much each LoRA changes the weights at present, by key."""
        merged: dict[str, dict[str, float]] = {key: dict(change) for key, change in self._merged.items()}
        with torch.no_grad():
            for key, names in self._adapters.items():
                changes, scale = merged.setdefault(key, {}), self._scales.get(key, 0.0)
                for name in names:
                    for module_name, module in self._layers[name].items():
                        changes[module_name] = self._adapter_change(module_name, module, name, scale)
        return merged

    @contextmanager
    def disabled(self) -> Iterator[bool]:
        """The base model within the block.

        Yields False, and changes nothing, where merged weights have no copy on the same device to be swapped with.
        """
        backups = self._backups.values()
        if any(base is None for base in backups) or (backups and not self._base_weights.is_resident()):
            yield False
            return
        parameters = {name: self._parameter(name) for name in self._backups}
        if any(base is None or base.device != parameters[name].device for name, base in self._backups.items()):
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
        """Adapters without effect within the block: at scale 0 where scales are tensors, which needs no other graph."""
        names = [name for key in self._adapters for name in self._adapters[key]]
        if all(name in self._adapter_scales for name in names):
            scales = {name: self._adapter_scales[name].number for name in names}
            for name in names:
                self._adapter_scales[name].set(0)
            try:
                yield
            finally:
                for name, scale in scales.items():
                    self._adapter_scales[name].set(scale)
        else:
            self._enable(False)
            try:
                yield
            finally:
                self._enable(not self._skipped)

    @property
    def is_base_model(self) -> bool:
        """Whether no LoRA is attached or merged."""
        return not self._adapters and not self._backups

    def _swap(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            backup = self._backups[name]
            if backup is not None:
                self._backups[name], parameter.data = parameter.data, backup

    def _add(
        self,
        name: str,
        parameter: torch.nn.Parameter,
        parts: Sequence[tuple[str, float, Part]],
        location: BackupLocation,
    ) -> None:
        """Sets a parameter to its original plus these changes (file, scale, layer), and backs the original up."""
        has_backup = name in self._backups
        base = self._base(name).to(parameter.device, parameter.dtype) if has_backup else parameter
        total = base.float()
        norm = float(total.norm())
        for key, scale, part in parts:
            change = _change_on(parameter.device, part)
            if change.shape != parameter.shape:
                raise LoraMismatch(
                    f"The LoRA's {name} has the shape {tuple(change.shape)}, this model's {tuple(parameter.shape)}. "
                    f"{_OTHER_MODEL}",
                    module=name,
                )
            self._merged.setdefault(key, {})[name] = _relative(float(change.norm()) * abs(scale), norm)
            total = total + scale * change
        if not has_backup:
            self._backups[name] = _copy(parameter, location)
        parameter.copy_(total.to(parameter.dtype))

    def _exchange_weights(self, adapters: Sequence[Adapter]) -> bool:
        """Puts other weights into the attached layers where those adapt the same modules; else returns False.

        PEFT needs a second to build its layers for a 14B transformer; replacing their weights takes milliseconds.
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
        self._scales.clear()
        return True

    def _attach_one(self, name: str, parts: Mapping[str, Part], *, dora: bool) -> None:
        try:
            # PEFT computes the norms of a DoRA's base weights while it attaches, for which it needs their values.
            with nullcontext() if dora else shapes_only(self._transformer):
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
        if self._scales_on is not None and not dora:
            self._adapter_scales[name] = Scale(self._scales_on)
            for module in self._layers[name].values():
                module.lora_variant[name] = ScaledLinear(self._adapter_scales[name])

    def _adapter_change(self, module_name: str, module: LoraLayer, name: str, scale: float) -> float:
        """‖ΔW‖ / ‖W‖ of one attached adapter. `down` A is (rank, in), `up` B is (out, rank)."""
        down, up = module.lora_A[name].weight.float().flatten(1), module.lora_B[name].weight.float().flatten(1)
        if name in module.lora_magnitude_vector:
            # DoRA (Liu et al., 2024): W' = m × (W + s BA) / ‖W + s BA‖, with a norm and a magnitude m per output row.
            base = module.get_base_layer().weight.to(up.device).float()
            changed = base + scale * (up @ down)
            magnitude = module.lora_magnitude_vector[name].weight.float().reshape(-1, 1)
            return _relative(
                float((changed * (magnitude / changed.norm(dim=1, keepdim=True)) - base).norm()), float(base.norm())
            )
        # ‖BA‖² = trace(AᵀBᵀBA) = Σ (BᵀB) ∘ (AAᵀ): two rank × rank products instead of an out × in matrix.
        product = (up.T @ up) * (down @ down.T)
        norm = float(product.sum().clamp(min=0).sqrt()) * abs(scale)
        if module_name not in self._norms:
            self._norms[module_name] = _norm_of_weight(module.get_base_layer(), up.device)
        return _relative(norm, self._norms[module_name])

    def _parameter(self, name: str) -> torch.nn.Parameter:
        """The base model's parameter by its full name, also where its module is adapted."""
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
        self._scales.clear()
        self._adapter_scales.clear()
        self._layers.clear()
        self._skipped = False
        self._transformer.unload_lora()


def _norm_of_weight(base: torch.nn.Module, device: torch.device) -> float:
    """A base layer's norm, computed on a device: its weight may lie on the host, packed, which a CPU is slow at."""
    weight = base.weight_on(device) if isinstance(base, UnpackedAtUse) else base.get_parameter("weight").to(device)
    return float(weight.float().norm())


def split(lora: Converted, unfused: frozenset[str]) -> tuple[dict[str, Part], dict[str, Part]]:
    """A LoRA's layers by module: those of the unfused kinds, and those to be merged."""
    kinds = tuple(kind for name, kind in (("lora", LowRank), ("dora", Dora)) if name in unfused)
    adapters: dict[str, Part] = {name: part for name, part in lora.modules.items() if isinstance(part, kinds)}
    return adapters, {name: part for name, part in lora.modules.items() if name not in adapters}


def _parameter_name(name: str) -> str:
    """The parameter name of a change; a linear layer's weight is listed under its module's name."""
    return name if name.rpartition(".")[2] in _PARAMETERS else f"{name}.weight"


def _change_on(device: torch.device, part: Part) -> torch.Tensor:
    """The float32 change ΔW of a parameter, multiplied out on the device."""
    if isinstance(part, LowRank):
        return delta(LowRank(part.down.to(device), part.up.to(device), part.scale))
    return delta(part).to(device)


def _copy(parameter: torch.nn.Parameter, location: BackupLocation) -> torch.Tensor | None:
    if location == "checkpoint":
        return None
    return parameter.detach().to("cpu", copy=True) if location == "host" else parameter.detach().clone()


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
