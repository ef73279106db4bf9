"""The shape of every layer of a Wan transformer, from its config.json or from the model table."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from wan_ui.lora.layers import ModuleInfo
from wan_ui.models import Conditioning, WanModel

# Channels that go into the patch embedding, by conditioning: 16 of noise, and for image-to-video 4 of mask and 16 of
# the first frame's latent behind them; the VAE of 5B has 48.
_IN_CHANNELS: Mapping[Conditioning, int] = MappingProxyType(
    {"text": 16, "first_latent": 48, "latent_channels": 36, "clip_and_latent_channels": 36}
)
_TEXT_SIZE, _FREQUENCIES, _CLIP_SIZE, _PATCH = 4096, 256, 1280, (1, 2, 2)  # of every released Wan checkpoint

# Inside a block: sizes by the names of Dimensions' fields. Two sizes: a linear layer's [out, in].
_BLOCK_SHAPES: Mapping[str, tuple[str | int, ...]] = MappingProxyType(
    {
        **{f"attn{n}.{leaf}": ("hidden", "hidden") for n in (1, 2) for leaf in ("to_q", "to_k", "to_v", "to_out.0")},
        **{f"attn{n}.{leaf}": ("hidden",) for n in (1, 2) for leaf in ("norm_q", "norm_k")},
        "attn2.add_k_proj": ("hidden", "added"),
        "attn2.add_v_proj": ("hidden", "added"),
        "attn2.norm_added_k": ("hidden",),
        "ffn.net.0.proj": ("ffn", "hidden"),
        "ffn.net.2": ("hidden", "ffn"),
        "norm2": ("hidden",),
        "scale_shift_table": (1, 6, "hidden"),
    }
)
_OUTER_SHAPES: Mapping[str, tuple[str | int, ...]] = MappingProxyType(
    {
        "patch_embedding": ("hidden", "in_channels", "patch_t", "patch_h", "patch_w"),
        "condition_embedder.text_embedder.linear_1": ("hidden", "text"),
        "condition_embedder.text_embedder.linear_2": ("hidden", "hidden"),
        "condition_embedder.time_embedder.linear_1": ("hidden", "frequencies"),
        "condition_embedder.time_embedder.linear_2": ("hidden", "hidden"),
        "condition_embedder.time_proj": ("hidden6", "hidden"),
        "condition_embedder.image_embedder.norm1": ("image",),
        "condition_embedder.image_embedder.ff.net.0.proj": ("image", "image"),
        "condition_embedder.image_embedder.ff.net.2": ("hidden", "image"),
        "condition_embedder.image_embedder.norm2": ("hidden",),
        "proj_out": ("out", "hidden"),
        "scale_shift_table": (1, 2, "hidden"),
    }
)
_IMAGE_LAYER = re.compile(r"attn2\.(?:add_[kv]_proj|norm_added_k)$|^condition_embedder\.image_embedder\.")


@dataclass(frozen=True)
class Dimensions:
    """Sizes of one transformer, in channels; `blocks` is a count, `patch` (frames, rows, columns) of the latent.

    `added` and `image` are 0 for a model without image layers.
    """

    hidden: int
    ffn: int
    blocks: int
    added: int
    image: int
    in_channels: int
    text: int
    frequencies: int
    out: int
    patch: tuple[int, int, int]

    def size(self, name: str | int) -> int:
        """The size of one axis in a table of shapes: a number, or the name of a field."""
        if isinstance(name, int):
            return name
        sizes = {
            "hidden": self.hidden, "hidden6": 6 * self.hidden, "ffn": self.ffn, "added": self.added,
            "image": self.image, "in_channels": self.in_channels, "text": self.text,
            "frequencies": self.frequencies, "out": self.out,
            "patch_t": self.patch[0], "patch_h": self.patch[1], "patch_w": self.patch[2],
        }  # fmt: skip
        return sizes[name]

    def shape(self, module: str) -> tuple[int, ...] | None:
        """The shape of a module's weight (or of the bare table), or None when this transformer has no such module."""
        number = block_of(module)
        if number is not None and number >= self.blocks:
            return None
        if is_image_layer(module) and not (self.added if number is not None else self.image):
            return None
        symbols = _symbols(module)
        return None if symbols is None else tuple(self.size(symbol) for symbol in symbols)


def from_table(model: WanModel) -> Dimensions:
    """The released checkpoint's sizes."""
    channels = _IN_CHANNELS[model.conditioning]
    latent = 48 if model.conditioning == "first_latent" else 16
    image = model.image_layers
    return Dimensions(
        model.hidden_size, model.ffn_size, model.blocks, model.hidden_size if image else 0, _CLIP_SIZE if image else 0,
        channels, _TEXT_SIZE, _FREQUENCIES, latent * _PATCH[0] * _PATCH[1] * _PATCH[2], _PATCH,
    )  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Dimensions:
    """The sizes that a checkpoint's own transformer/config.json states. Raises KeyError for another kind of config."""
    patch = tuple(int(side) for side in config.get("patch_size", _PATCH))
    return Dimensions(
        hidden=int(config["num_attention_heads"]) * int(config["attention_head_dim"]),
        ffn=int(config["ffn_dim"]),
        blocks=int(config["num_layers"]),
        added=int(config.get("added_kv_proj_dim") or 0),
        image=int(config.get("image_dim") or 0),
        in_channels=int(config["in_channels"]),
        text=int(config.get("text_dim", _TEXT_SIZE)),
        frequencies=int(config.get("freq_dim", _FREQUENCIES)),
        out=int(config.get("out_channels") or config["in_channels"]) * patch[0] * patch[1] * patch[2],
        patch=(patch[0], patch[1], patch[2]),
    )


def dimensions(model: WanModel, config: Mapping[str, Any] | None) -> Dimensions:
    """The checkpoint's own sizes where its config is given, else the model table's."""
    return from_table(model) if config is None else from_config(config)


def block_of(module: str) -> int | None:
    """The block's number, or None for a module outside the blocks."""
    parts = module.split(".", 2)
    return int(parts[1]) if parts[0] == "blocks" else None


def is_image_layer(module: str) -> bool:
    """Whether only a transformer with CLIP image conditioning (Wan 2.1 I2V) has the module."""
    return _IMAGE_LAYER.search(module) is not None


def has_bias(module: str) -> bool:
    """Whether the module has a bias: all have but the RMS norms and the bare tables."""
    leaf = module.rpartition(".")[2]
    return leaf not in ("norm_q", "norm_k", "norm_added_k", "scale_shift_table")


def _symbols(module: str) -> tuple[str | int, ...] | None:
    if module.startswith("blocks."):
        return _BLOCK_SHAPES.get(module.split(".", 2)[2])
    return _OUTER_SHAPES.get(module)


def infer(shapes: Iterable[tuple[str, tuple[int, ...]]], what: str) -> int | None:
    """The size that most modules' weights agree on for a field of Dimensions, such as "hidden"; None: unknown."""
    votes: Counter[int] = Counter()
    for module, shape in shapes:
        symbols = _symbols(module)
        if symbols is None or len(symbols) != len(shape):
            continue
        votes.update(size for symbol, size in zip(symbols, shape, strict=True) if symbol == what)
    return votes.most_common(1)[0][0] if votes else None


def layer_problem(change: ModuleInfo, sizes: Dimensions) -> str | None:
    """Why a change cannot be applied to a transformer of these sizes, in words, or None."""
    shape = sizes.shape(change.module)
    if shape is None:
        if is_image_layer(change.module):
            return "an image layer (of Wan 2.1 image-to-video), which this model does not have"
        number = block_of(change.module)
        if number is not None and number >= sizes.blocks:
            return f"of a block that this model does not have (it has {sizes.blocks})"
        return "a layer that this model does not have"
    if change.kind == "bias":
        if not has_bias(change.module):
            return "a bias of a layer that has none"
        shape = shape[:1]
    if change.shape != shape and not (change.kind == "loha" and _is_flat(change.shape, shape)):
        return f"of the shape {times(change.shape)}, this model's layer has {times(shape)}"
    return None


def _is_flat(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a LoHa's [out, in · k…] is a convolution's shape, flattened."""
    return len(shape) == 2 and len(wanted) > 2 and shape == (wanted[0], math.prod(wanted[1:]))


def times(shape: Sequence[int]) -> str:
    """A shape for a message: `5120 × 1536`."""
    return " × ".join(str(size) for size in shape)
