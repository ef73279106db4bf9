"""Files with the headers of published checkpoints: their names, shapes and dtypes at real size, sparse or empty."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wan_ui.checkpoints.modules import expected_shapes

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "U8": 1, "I8": 1}

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""(dtype, shape) by name."""


def header_bytes(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A safetensors header, its length before it, padded to 8 bytes as the library does."""
    listed: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        length = SIZES[dtype] * math.prod(shape)
        listed[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(listed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_sparse(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> Path:
    """A file with that header and the length that it claims, all zeros, of which the disk holds the header alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = header_bytes(tensors, metadata)
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(len(raw) + sum(SIZES[dtype] * math.prod(shape) for dtype, shape in tensors.values()))
    return path


def transformer_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of an original Wan transformer, as Wan's own code names them."""
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    ffn, out = config["ffn_dim"], config["out_channels"] * math.prod(config["patch_size"])

    def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (dim, config["in_channels"], *config["patch_size"]),
        "patch_embedding.bias": (dim,),
        **linear("text_embedding.0", dim, config["text_dim"]),
        **linear("text_embedding.2", dim, dim),
        **linear("time_embedding.0", dim, config["freq_dim"]),
        **linear("time_embedding.2", dim, dim),
        **linear("time_projection.1", 6 * dim, dim),
        **linear("head.head", out, dim),
        "head.modulation": (1, 2, dim),
    }
    for block in range(config["num_layers"]):
        stem = f"blocks.{block}."
        for attention in ("self_attn", "cross_attn"):
            for letter in "qkvo":
                shapes |= linear(f"{stem}{attention}.{letter}", dim, dim)
            shapes |= {f"{stem}{attention}.norm_{letter}.weight": (dim,) for letter in "qk"}
        if config["image_dim"] is not None:
            shapes |= linear(f"{stem}cross_attn.k_img", dim, dim) | linear(f"{stem}cross_attn.v_img", dim, dim)
            shapes[f"{stem}cross_attn.norm_k_img.weight"] = (dim,)
        shapes |= {f"{stem}norm3.weight": (dim,), f"{stem}norm3.bias": (dim,), f"{stem}modulation": (1, 6, dim)}
        shapes |= linear(f"{stem}ffn.0", ffn, dim) | linear(f"{stem}ffn.2", dim, ffn)
    if config["image_dim"] is not None:
        width = config["image_dim"]
        for norm, size in (("0", width), ("4", dim)):
            shapes |= {f"img_emb.proj.{norm}.weight": (size,), f"img_emb.proj.{norm}.bias": (size,)}
        shapes |= linear("img_emb.proj.1", width, width) | linear("img_emb.proj.3", dim, width)
    return shapes


def vae_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of an original Wan VAE of either layout."""
    return {_original_vae_name(name, config): shape for name, shape in expected_shapes("vae", config).items()}


def _original_vae_name(name: str, config: Mapping[str, Any]) -> str:
    blocks = config["num_res_blocks"]
    for renamed, original in (
        ("norm1.", "residual.0."),
        ("conv1.", "residual.2."),
        ("norm2.", "residual.3."),
        ("conv2.", "residual.6."),
        ("conv_shortcut.", "shortcut."),
        ("norm_out.", "head.0."),
        ("conv_out.", "head.2."),
        ("conv_in.", "conv1."),
        ("mid_block.attentions.0.", "middle.1."),
        ("post_quant_conv.", "conv2."),
        ("quant_conv.", "conv1."),
    ):
        if re.search(rf"(^|\.){re.escape(renamed)}", name):
            name = name.replace(renamed, original, 1)
            break
    if middle := re.fullmatch(r"(\w+)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{middle[1]}.middle.{2 * int(middle[2])}.{middle[3]}"
    if config["is_residual"]:
        if block := re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d)\.resnets\.(\d)\.(.+)", name):
            return f"{block[1]}.{block[2]}samples.{block[3]}.{block[2]}samples.{block[4]}.{block[5]}"
        if block := re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d)\.(?:down|up)sampler\.(.+)", name):
            last = blocks if block[2] == "down" else blocks + 1
            return f"{block[1]}.{block[2]}samples.{block[3]}.{block[2]}samples.{last}.{block[4]}"
        return name
    if block := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.(.+)", name):
        return f"encoder.downsamples.{block[1]}.{block[2]}"
    if block := re.fullmatch(r"decoder\.up_blocks\.(\d)\.resnets\.(\d)\.(.+)", name):
        return f"decoder.upsamples.{int(block[1]) * (blocks + 2) + int(block[2])}.{block[3]}"
    if block := re.fullmatch(r"decoder\.up_blocks\.(\d)\.upsamplers\.0\.(.+)", name):
        return f"decoder.upsamples.{int(block[1]) * (blocks + 2) + blocks + 1}.{block[2]}"
    return name


def umt5_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a UMT5 encoder as Comfy-Org publishes it: transformers' names."""
    return dict(expected_shapes("text_encoder", config))


def clip_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a CLIP vision encoder as Comfy-Org publishes it: with `vision_model.` before each name."""
    return {f"vision_model.{name}": shape for name, shape in expected_shapes("image_encoder", config).items()}


def half(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F16") -> Tensors:
    """All tensors in one dtype."""
    return {name: (dtype, shape) for name, shape in shapes.items()}


def fp8_scaled(
    shapes: Mapping[str, tuple[int, ...]],
    rest: str = "F16",
    is_scaled: Callable[[str, tuple[int, ...]], bool] = lambda name, shape: len(shape) == 2,
    scale_input: bool = True,
) -> Tensors:
    """Comfy-Org's older form: `.scale_weight`, `.scale_input` and the marker `scaled_fp8`."""
    tensors: Tensors = {}
    for name, shape in shapes.items():
        if is_scaled(name, shape):
            tensors[name] = ("F8_E4M3", shape)
            stem = name.removesuffix("weight")
            tensors[f"{stem}scale_weight"] = ("F32", ())
            if scale_input:
                tensors[f"{stem}scale_input"] = ("F32", ())
        else:
            tensors[name] = (rest, shape)
    tensors["scaled_fp8"] = ("F8_E4M3", (0,))
    return tensors
