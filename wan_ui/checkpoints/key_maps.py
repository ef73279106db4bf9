"""Names of tensors in published checkpoint files, and the names that diffusers and transformers give the same ones.

Pure functions over names: no file, no tensor and no framework. `sources` is the whole of it: for the tensors of one
component, under which name, and as which part of it, each is found in the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from wan_ui.lora.layers import BLOCK_NAMES, OUTER_NAMES

ComponentKind = Literal["transformer", "vae", "text_encoder", "image_encoder"]

TRANSFORMER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "")
VAE_PREFIXES = ("model.", "")


@dataclass(frozen=True)
class TensorSource:
    """Where a tensor is found: its name in the file and, where several are joined along axis 0, which of `of`."""

    name: str
    part: int = 0
    of: int = 1


# ---------------------------------------------------------------------------------------------- transformer

# The modules of lora.layers, without the modulation tables: those are parameters and have no `.weight`.
_TRANSFORMER_TOP = {name: module for name, module in OUTER_NAMES.items() if name != "head.modulation"}
# Wan runs norm1, norm3, norm2 in that order; diffusers numbers them as they run.
_TRANSFORMER_BLOCK = {name: module for name, module in BLOCK_NAMES.items() if name != "modulation"}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def transformer_name(original: str) -> str | None:
    """An original Wan transformer name under diffusers' name, or None for one that diffusers' model has not."""
    if original == "head.modulation":
        return "scale_shift_table"
    block = _BLOCK.fullmatch(original)
    if block is None:
        return _renamed(original, _TRANSFORMER_TOP)
    if block[2] == "modulation":
        return f"blocks.{block[1]}.scale_shift_table"
    inner = _renamed(block[2], _TRANSFORMER_BLOCK)
    return None if inner is None else f"blocks.{block[1]}.{inner}"


def _renamed(name: str, modules: Mapping[str, str]) -> str | None:
    """`module.leaf` with the module renamed."""
    module, _, leaf = name.rpartition(".")
    return f"{modules[module]}.{leaf}" if module in modules and leaf in ("weight", "bias") else None


# ---------------------------------------------------------------------------------------------- VAE

_VAE_RESIDUAL: Mapping[str, str] = MappingProxyType(
    {
        "residual.0": "norm1",
        "residual.2": "conv1",
        "residual.3": "norm2",
        "residual.6": "conv2",
        "shortcut": "conv_shortcut",
    }
)
_VAE_FIXED: Mapping[str, str] = MappingProxyType(
    {
        "conv1": "quant_conv",
        "conv2": "post_quant_conv",
        **{f"{side}.conv1": f"{side}.conv_in" for side in ("encoder", "decoder")},
        **{f"{side}.head.0": f"{side}.norm_out" for side in ("encoder", "decoder")},
        **{f"{side}.head.2": f"{side}.conv_out" for side in ("encoder", "decoder")},
    }
)
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.middle\.(\d)\.(.+)")
_VAE_FLAT = re.compile(r"(encoder\.downsamples|decoder\.upsamples)\.(\d+)\.(.+)")
_VAE_NESTED = re.compile(r"(encoder|decoder)\.(?:down|up)samples\.(\d+)\.(?:down|up)samples\.(\d+)\.(.+)")


def vae_name(original: str, config: Mapping[str, Any]) -> str | None:
    """An original Wan VAE name under diffusers' name, or None.

    `config` is the VAE's: `num_res_blocks` decides where one stage ends and the next begins, `is_residual` is the
    layout of Wan 2.2's VAE (5B), whose stages are nested.
    """
    module, _, leaf = original.rpartition(".")
    if module in _VAE_FIXED:
        return f"{_VAE_FIXED[module]}.{leaf}"
    middle = _VAE_MIDDLE.fullmatch(original)
    if middle is not None:
        side, index, rest = middle[1], int(middle[2]), middle[3]
        if index == 1:
            return f"{side}.mid_block.attentions.0.{rest}"
        return f"{side}.mid_block.resnets.{index // 2}.{_residual(rest)}"
    nested = _VAE_NESTED.fullmatch(original)
    if config.get("is_residual"):
        return None if nested is None else _nested_vae_name(nested, int(config["num_res_blocks"]))
    flat = _VAE_FLAT.fullmatch(original)
    if flat is None or nested is not None:
        return None
    index, rest = int(flat[2]), flat[3]
    if flat[1] == "encoder.downsamples":
        return f"encoder.down_blocks.{index}.{_residual(rest)}"
    # Of each stage: one residual block more than in the encoder, then the upsampler, which the last stage lacks.
    stage, within = divmod(index, int(config["num_res_blocks"]) + 2)
    if within <= int(config["num_res_blocks"]):
        return f"decoder.up_blocks.{stage}.resnets.{within}.{_residual(rest)}"
    return f"decoder.up_blocks.{stage}.upsamplers.0.{rest}"


def _nested_vae_name(match: re.Match[str], res_blocks: int) -> str:
    side, stage, within, rest = match[1], match[2], int(match[3]), match[4]
    stages, sampler, last = (
        ("down_blocks", "downsampler", res_blocks) if side == "encoder" else ("up_blocks", "upsampler", res_blocks + 1)
    )
    if within < last:
        return f"{side}.{stages}.{stage}.resnets.{within}.{_residual(rest)}"
    return f"{side}.{stages}.{stage}.{sampler}.{rest}"


def _residual(rest: str) -> str:
    """A residual block's part renamed; the parts of a resampling layer keep their names."""
    module, _, leaf = rest.rpartition(".")
    return f"{_VAE_RESIDUAL.get(module, module)}.{leaf}"


# ---------------------------------------------------------------------------------------------- UMT5

_T5_BLOCK_WAN: Mapping[str, str] = MappingProxyType(
    {
        "attn.q": "layer.0.SelfAttention.q",
        "attn.k": "layer.0.SelfAttention.k",
        "attn.v": "layer.0.SelfAttention.v",
        "attn.o": "layer.0.SelfAttention.o",
        "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
        "norm1": "layer.0.layer_norm",
        "norm2": "layer.1.layer_norm",
        "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
        "ffn.fc1": "layer.1.DenseReluDense.wi_1",
        "ffn.fc2": "layer.1.DenseReluDense.wo",
    }
)
_T5_BLOCK_LLAMA_CPP: Mapping[str, str] = MappingProxyType(
    {
        "attn_q": "layer.0.SelfAttention.q",
        "attn_k": "layer.0.SelfAttention.k",
        "attn_v": "layer.0.SelfAttention.v",
        "attn_o": "layer.0.SelfAttention.o",
        "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
        "attn_norm": "layer.0.layer_norm",
        "ffn_norm": "layer.1.layer_norm",
        "ffn_gate": "layer.1.DenseReluDense.wi_0",
        "ffn_up": "layer.1.DenseReluDense.wi_1",
        "ffn_down": "layer.1.DenseReluDense.wo",
    }
)
_T5_TOP: Mapping[str, str] = MappingProxyType(
    {
        "token_embedding.weight": "shared.weight",
        "norm.weight": "encoder.final_layer_norm.weight",
        "token_embd.weight": "shared.weight",
        "enc.output_norm.weight": "encoder.final_layer_norm.weight",
    }
)
_T5_BLOCK = re.compile(r"(blocks|enc\.blk)\.(\d+)\.(.+)\.weight")


def umt5_name(original: str) -> str | None:
    """A name of Wan's own T5 or of llama.cpp under transformers' name; transformers' own names stay. None: unknown."""
    if original == "shared.weight" or original.startswith("encoder."):
        return original
    if original in _T5_TOP:
        return _T5_TOP[original]
    block = _T5_BLOCK.fullmatch(original)
    if block is None:
        return None
    inner = (_T5_BLOCK_WAN if block[1] == "blocks" else _T5_BLOCK_LLAMA_CPP).get(block[3])
    return None if inner is None else f"encoder.block.{block[2]}.{inner}.weight"


# ---------------------------------------------------------------------------------------------- CLIP vision

_CLIP_TOP: Mapping[str, str] = MappingProxyType(
    {
        "cls_embedding": "embeddings.class_embedding",
        "pos_embedding": "embeddings.position_embedding.weight",
        "patch_embedding.weight": "embeddings.patch_embedding.weight",
        "pre_norm.weight": "pre_layrnorm.weight",
        "pre_norm.bias": "pre_layrnorm.bias",
        "post_norm.weight": "post_layernorm.weight",
        "post_norm.bias": "post_layernorm.bias",
    }
)
_CLIP_BLOCK: Mapping[str, str] = MappingProxyType(
    {
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.proj": "self_attn.out_proj",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
)
_CLIP_LAYER = re.compile(r"transformer\.(\d+)\.(.+)\.(weight|bias)")


def clip_sources(original: str) -> Mapping[str, TensorSource] | None:
    """What a name of a CLIP vision file holds, by transformers' names (without `vision_model.`). None: unknown.

    Wan's own file joins the query, key and value projections along axis 0 in one `to_qkv`.
    """
    if not original.startswith("visual."):
        return {original.removeprefix("vision_model."): TensorSource(original)}
    name = original.removeprefix("visual.")
    if name in _CLIP_TOP:
        return {_CLIP_TOP[name]: TensorSource(original)}
    layer = _CLIP_LAYER.fullmatch(name)
    if layer is None:
        return None
    stem, leaf = f"encoder.layers.{layer[1]}", layer[3]
    if layer[2] == "attn.to_qkv":
        return {
            f"{stem}.self_attn.{letter}_proj.{leaf}": TensorSource(original, part, 3)
            for part, letter in enumerate("qkv")
        }
    inner = _CLIP_BLOCK.get(layer[2])
    return None if inner is None else {f"{stem}.{inner}.{leaf}": TensorSource(original)}


# ---------------------------------------------------------------------------------------------- whole files

_UNUSED: Mapping[ComponentKind, re.Pattern[str]] = MappingProxyType(
    {
        "transformer": re.compile(r"(.*\.comfy_attention\.config)"),
        "vae": re.compile(r"(?!)"),
        "text_encoder": re.compile(r"(spiece_model|logit_scale|encoder\.embed_tokens\.weight|lm_head\.weight)"),
        "image_encoder": re.compile(
            r"((vision_model\.)?embeddings\.position_ids|visual_projection\.weight|visual\.head|log_scale|logit_scale"
            r"|textual\..*|text_model\..*|text_projection\.weight)"
        ),
    }
)
"""Tensors that a sound file may hold and the model does not use."""


@dataclass(frozen=True)
class KeyMap:
    """Where each tensor of a component is in a file; `unused` are known and not needed, `unknown` neither."""

    sources: Mapping[str, TensorSource]
    unused: frozenset[str]
    unknown: frozenset[str]


def find_prefix(names: Collection[str], kind: ComponentKind) -> str:
    """What stands before every name of a component in a file, found at a tensor that each such file has."""
    if kind == "transformer":
        ends = ("head.modulation", "condition_embedder.time_embedder.linear_1.weight")
        return _prefix_before(names, ends, TRANSFORMER_PREFIXES)
    if kind == "vae":
        return _prefix_before(names, ("decoder.conv1.weight", "decoder.conv_in.weight"), VAE_PREFIXES)
    return ""


def _prefix_before(names: Collection[str], ends: Iterable[str], prefixes: Iterable[str]) -> str:
    return next((prefix for prefix in prefixes if prefix and any(prefix + end in names for end in ends)), "")


def map_keys(kind: ComponentKind, names: Collection[str], config: Mapping[str, Any]) -> KeyMap:
    """The tensors of a component, by their names in diffusers or transformers, of a file with these names.

    `names` are weights alone, without scales and markers of a quantization. `config` is the component's.
    """
    prefix = find_prefix(names, kind)
    sources: dict[str, TensorSource] = {}
    unused, unknown = set(), set()
    to_sources = _translation(kind, {name.removeprefix(prefix) for name in names}, config)
    for name in names:
        short = name.removeprefix(prefix)
        if _UNUSED[kind].fullmatch(short):
            unused.add(name)
            continue
        translated = to_sources(short) if name.startswith(prefix) else None
        if translated is None:
            unknown.add(name)
            continue
        for target, source in translated.items():
            sources[target] = TensorSource(prefix + source.name, source.part, source.of)
    return KeyMap(MappingProxyType(sources), frozenset(unused), frozenset(unknown))


def _translation(
    kind: ComponentKind, names: Collection[str], config: Mapping[str, Any]
) -> Callable[[str], Mapping[str, TensorSource] | None]:
    """From a name without prefix to what it holds."""
    if kind == "image_encoder":
        return clip_sources

    def rename(name: str) -> str | None:
        if kind == "text_encoder":
            return umt5_name(name)
        if has_diffusers_names(kind, names):
            return name
        return transformer_name(name) if kind == "transformer" else vae_name(name, config)

    def translate(name: str) -> Mapping[str, TensorSource] | None:
        target = rename(name)
        return None if target is None else {target: TensorSource(name)}

    return translate


def has_diffusers_names(kind: ComponentKind, names: Collection[str]) -> bool:
    """Whether a transformer's or VAE's names (without prefix) are diffusers' already."""
    return ("proj_out.weight" if kind == "transformer" else "decoder.conv_in.weight") in names
