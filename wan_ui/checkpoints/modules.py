"""Builds diffusers' and transformers' modules from single checkpoint files.

Before a tensor is read, the names and shapes that the module needs are compared with what the file lists. The module's
own structure comes from its class and config, built without memory for its weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from wan_ui.checkpoints.configs import read_config
from wan_ui.checkpoints.folders import Component, SingleFile, folder_headers
from wan_ui.checkpoints.fp8_linear import Fp8Linear, packed_layers
from wan_ui.checkpoints.headers import FileHeader
from wan_ui.checkpoints.key_maps import ComponentKind, TensorSource, map_keys
from wan_ui.checkpoints.quantization import FP8, Quantization, read_quantization
from wan_ui.checkpoints.tensors import TensorReader
from wan_ui.errors import CheckpointInvalid
from wan_ui.lora.safetensors_header import TensorEntry

MOST_NAMED = 3  # tensors that an error names
_PACKABLE: Mapping[ComponentKind, re.Pattern[str]] = MappingProxyType(
    {
        "transformer": re.compile(
            r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0|add_[kv]_proj)|ffn\.net\.(0\.proj|2))\.weight"
        ),
        "text_encoder": re.compile(
            r"encoder\.block\.\d+\.layer\.\d\.(SelfAttention\.[qkvo]|DenseReluDense\.(wi_0|wi_1|wo))\.weight"
        ),
    }
)
"""The linear layers that hold nearly all of a component's numbers."""

TIED = {"encoder.embed_tokens.weight": "shared.weight"}  # UMT5's embedding is in the file once, under one of two names


@dataclass(frozen=True)
class OpenFile:
    """A file whose tensors were found to be those of a component: header, quantization, and where each tensor is."""

    header: FileHeader
    quantization: Quantization
    sources: Mapping[str, TensorSource]
    shapes: Mapping[str, tuple[int, ...]]

    def reader(self) -> TensorReader:
        """Reads the component's tensors."""
        return TensorReader(self.header, self.quantization, self.sources)

    def is_packable(self, name: str, kind: ComponentKind) -> bool:
        """Whether a tensor is a linear layer's fp8 weight that may stay fp8 in memory."""
        source = self.sources[name]
        pattern = _PACKABLE.get(kind)
        stored = self.header.tensors[source.name].dtype
        return pattern is not None and stored in FP8 and source.of == 1 and pattern.fullmatch(name) is not None


def open_file(header: FileHeader, kind: ComponentKind, config: Mapping[str, Any]) -> OpenFile:
    """Compares a file with the component that it is to be, by its config. Reads no weights.

    Raises CheckpointInvalid, with the names of tensors, for missing or unknown ones and for other shapes;
    CheckpointUnsupported for number formats that are not read.
    """
    quantization = read_quantization(header)
    mapped = map_keys(kind, quantization.weights, config)
    expected = expected_shapes(kind, config)
    extra = sorted({*mapped.unknown, *(mapped.sources[name].name for name in mapped.sources if name not in expected)})
    stored = {name: _stored_shape(header.tensors, source) for name, source in mapped.sources.items()}
    compare_shapes(header.name, kind, stored, expected)
    if extra:
        raise CheckpointInvalid(
            f"{header.name} is not this model's {_words(kind)}: it also holds {_some(extra)}.",
            file=header.name,
            unknown=extra[:MOST_NAMED],
        )
    return OpenFile(header, quantization, mapped.sources, expected)


def compare_shapes(
    shown: str,
    kind: ComponentKind,
    stored: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    """Raises CheckpointInvalid, naming `shown` and the tensor, where one is missing or has another shape."""
    missing = sorted(name for name in expected if name not in stored)
    if missing:
        raise CheckpointInvalid(
            f"{shown} is not this model's {_words(kind)}, or not all of it: {_some(missing)} missing.",
            file=shown,
            missing=missing[:MOST_NAMED],
        )
    for name, shape in expected.items():
        if _without_ones(stored[name]) != _without_ones(shape):
            raise CheckpointInvalid(
                f"{shown} is another model's {_words(kind)}: {name} has the shape {list(stored[name])} where "
                f"{list(shape)} is needed.",
                file=shown,
                tensor=name,
            )


def weight_bytes(component: Component, kind: ComponentKind, dtype: torch.dtype, packed: bool = False) -> int:
    """Bytes that a component's weights take in memory; its names and shapes are compared with its config before.

    `packed`: with fp8 weights of a single file kept as they are. Raises CheckpointInvalid for another model's weights,
    CheckpointIncomplete for files that are not whole.
    """
    if component.single is not None:
        file = open_file(component.single.header, component.single.kind, component.single.config)
        return sum(
            torch.Size(shape).numel() * (1 if packed and file.is_packable(name, kind) else dtype.itemsize)
            for name, shape in file.shapes.items()
        )
    headers = folder_headers(component)
    config = read_config(component.folder / "config.json", f"{component.name}/config.json")
    if "quantization_config" not in config:
        tensors = {name: entry for header in headers for name, entry in header.tensors.items()}
        mapped = map_keys(kind, tensors, config)
        stored = {name: _stored_shape(tensors, source) for name, source in mapped.sources.items()}
        for alias, name in TIED.items():
            if alias in tensors:
                stored.setdefault(name, tensors[alias].shape)
        compare_shapes(f"{component.name}/{component.files[-1].name}", kind, stored, expected_shapes(kind, config))
    return sum(
        torch.Size(entry.shape).numel() * dtype.itemsize for header in headers for entry in header.tensors.values()
    )


def _words(kind: ComponentKind) -> str:
    return kind.replace("_", " ")


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _stored_shape(tensors: Mapping[str, TensorEntry], source: TensorSource) -> tuple[int, ...]:
    shape = tensors[source.name].shape
    return (shape[0] // source.of, *shape[1:]) if source.of > 1 and shape else shape


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without leading dimensions of one: Wan's own CLIP stores (1, n, d) where transformers has (n, d)."""
    start = next((at for at, length in enumerate(shape) if length != 1), len(shape))
    return shape[start:]


def empty_module(kind: ComponentKind, config: Mapping[str, Any]) -> torch.nn.Module:
    """The component's module with its weights on the meta device; buffers that are computed are real."""
    with init_empty_weights():
        if kind == "transformer":
            return WanTransformer3DModel.from_config(dict(config))  # type: ignore[no-any-return]
        if kind == "vae":
            return AutoencoderKLWan.from_config(dict(config))  # type: ignore[no-any-return]
        if kind == "text_encoder":
            return UMT5EncoderModel(UMT5Config.from_dict(dict(config)))  # type: ignore[no-any-return]
        return CLIPVisionModel(CLIPVisionConfig.from_dict(dict(config)))  # type: ignore[no-any-return]


def expected_shapes(kind: ComponentKind, config: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of all the weights of a component, a tied one under its first name alone."""
    return _expected_shapes(kind, _frozen(config))


@lru_cache(maxsize=16)
def _expected_shapes(kind: ComponentKind, frozen: tuple[tuple[str, Any], ...]) -> Mapping[str, tuple[int, ...]]:
    module = empty_module(kind, {key: list(value) if isinstance(value, tuple) else value for key, value in frozen})
    return {name: tuple(value.shape) for name, value in module.state_dict().items() if name not in TIED}


def _frozen(config: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((key, tuple(v) if isinstance(v, list) else v) for key, v in config.items()))


def load_module(
    file: OpenFile, single: SingleFile, device: torch.device, dtype: torch.dtype, packed: bool = False
) -> torch.nn.Module:
    """The component with the file's weights, in evaluation mode and without gradients.

    Weights get `dtype`, but for those that diffusers keeps in float32 in a transformer of 16 bits. `packed`: linear
    layers keep fp8 weights as they are in the file.
    """
    kind = single.kind
    module = empty_module(kind, single.config)
    kept = set(module._keep_in_fp32_modules or ()) if isinstance(module, WanTransformer3DModel) else set()
    state: dict[str, torch.Tensor] = {}
    with file.reader() as reader:
        for name, shape in file.shapes.items():
            wanted = torch.float32 if kept & set(name.split(".")) else dtype
            if packed and file.is_packable(name, kind):
                path = name.removesuffix(".weight")
                values, scale = reader.read_packed(name)
                empty = module.get_submodule(path)
                bias = empty.bias if isinstance(empty, torch.nn.Linear) else None
                layer = Fp8Linear(values.to(device), None if scale is None else float(scale), bias, wanted)
                module.set_submodule(path, layer)
                state[f"{path}.packed"] = layer.packed
            else:
                state[name] = reader.read(name, wanted, device).reshape(shape)
    state.update({alias: state[name] for alias, name in TIED.items() if name in state})
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False).to(device)


def map_packed(file: OpenFile, module: torch.nn.Module) -> None:
    """Lays fp8 weights that lie in memory back into the pages of their file; all other weights get their own memory.

    Layers that were given other weights since are ordinary ones, and stay.
    """
    with file.reader() as reader:
        mapped = set()
        for path, layer in packed_layers(module):
            layer.packed.data = reader.read_packed(path.replace(".base_layer", "") + ".weight")[0]
            mapped.add(id(layer.packed))
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in mapped:
            tensor.data = tensor.data.clone()  # a view would keep the whole of a block's buffer
