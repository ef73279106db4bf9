"""Which component of which model a checkpoint file is: from its header, and from its name what the header cannot tell.

Pure: a header and the configs in force go in, a record comes out. Four things are in no header: T2V 14B of Wan 2.1 or
2.2, the high-noise or low-noise half of a pair, and the 480P or 720P training of Wan 2.1 I2V. Where the name does not
tell either, `Detected.candidates` has several members and the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from wan_ui.checkpoints.configs import ModelConfigs
from wan_ui.checkpoints.headers import FileHeader
from wan_ui.checkpoints.key_maps import ComponentKind, find_prefix, has_diffusers_names, map_keys
from wan_ui.checkpoints.quantization import Quantization
from wan_ui.errors import CheckpointInvalid, CheckpointUnsupported
from wan_ui.models import MODELS, WanModel

Shapes = Mapping[str, tuple[int, ...]]
"""Tensors' shapes by name."""

COMPONENTS: Mapping[ComponentKind, tuple[str, ...]] = MappingProxyType(
    {
        "transformer": ("transformer", "transformer_2"),
        "vae": ("vae",),
        "text_encoder": ("text_encoder",),
        "image_encoder": ("image_encoder",),
    }
)

_OTHER_FAMILIES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"vace_(patch_embedding|blocks)\b.*"), "Wan VACE"),
    (re.compile(r"control_adapter\..*"), "Wan Fun with camera control"),
    (re.compile(r"(face_adapter|pose_patch_embedding|motion_encoder|face_encoder)\..*"), "Wan Animate"),
    (re.compile(r"(casual_audio_encoder|audio_injector|cond_encoder|frame_packer|trainable_cond_mask)\b.*"), "Wan S2V"),
    (re.compile(r"(audio_proj|audio_model)\..*"), "a Wan model driven by audio (InfiniteTalk, FantasyTalking)"),
    (re.compile(r"patch_embedding_(mask|pose|global)\..*"), "Wan Animate or SCAIL"),
    (re.compile(r"ref_conv\..*"), "Wan Fun control"),
    (re.compile(r"img_emb\.emb_pos|condition_embedder\.image_embedder\.pos_embed"), "Wan 2.1 first-and-last-frame"),
    (re.compile(r".*\.lora_(A|B|down|up)\b.*"), "a LoRA, not a checkpoint. Put it in the LoRA folder"),
)


@dataclass(frozen=True, order=True)
class Candidate:
    """A component of a model that a file may be: `model` is the model's id, `component` as in its `components`."""

    model: str
    component: str


@dataclass(frozen=True)
class Detected:
    """What a file is. `shapes_like` are all that the header allows, `candidates` those that its name leaves."""

    kind: ComponentKind
    candidates: frozenset[Candidate]
    shapes_like: frozenset[Candidate]

    @property
    def is_open(self) -> bool:
        """Whether the user has to say which model, or which half of a pair, the file is."""
        if self.kind != "transformer":
            return False
        return len(self.candidates) > 1


def detect(header: FileHeader, quantization: Quantization, name: str, configs: ModelConfigs) -> Detected:
    """What the file is, by the header of its weights and its name (with its folders, as ComfyUI shows it).

    Raises CheckpointUnsupported for another family of Wan models, CheckpointInvalid for what fits no model.
    """
    shapes = {key: header.tensors[key].shape for key in quantization.weights}
    kind = component_kind(shapes)
    if kind is None:
        other = other_family({key.rpartition("diffusion_model.")[2] for key in shapes})
        if other is not None:
            raise _other(header, other)
        raise CheckpointInvalid(
            f"{header.name} is no part of a Wan model: its tensors have other names.", file=header.name
        )
    prefix = find_prefix(shapes, kind)
    other = other_family(key.removeprefix(prefix) for key in shapes)
    if other is not None:
        raise _other(header, other)
    candidates, problem = _fitting(kind, shapes, configs)
    if not candidates:
        raise CheckpointInvalid(f"{header.name} fits none of the models: {problem}", file=header.name)
    return Detected(kind, by_name(name, candidates) if kind == "transformer" else candidates, candidates)


def _other(header: FileHeader, family: str) -> CheckpointUnsupported:
    return CheckpointUnsupported(
        f"{header.name} is {family}. This program runs the plain text-to-video and image-to-video models of Wan 2.1 "
        "and 2.2.",
        file=header.name,
        family=family,
    )


def other_family(names: Iterable[str]) -> str | None:
    """The family of Wan models, or the kind of file, that these names without prefix belong to, where not ours."""
    for name in names:
        for pattern, family in _OTHER_FAMILIES:
            if pattern.fullmatch(name):
                return family
    return None


def component_kind(names: Collection[str]) -> ComponentKind | None:
    """Which component has tensors of these names, whoever named them."""
    for kind in ("transformer", "vae"):
        prefix = find_prefix(names, kind)
        short = {name.removeprefix(prefix) for name in names}
        if kind == "transformer" and ("head.modulation" in short or "proj_out.weight" in short):
            return "transformer"
        if kind == "vae" and short & {"decoder.conv1.weight", "decoder.conv_in.weight"}:
            return "vae"
    if {"shared.weight", "token_embedding.weight", "token_embd.weight"} & set(names):
        return "text_encoder"
    if any(name.endswith(("embeddings.class_embedding", "visual.cls_embedding")) for name in names):
        return "image_encoder"
    return None


# ---------------------------------------------------------------------------------------------- shapes


def _fitting(kind: ComponentKind, shapes: Shapes, configs: ModelConfigs) -> tuple[frozenset[Candidate], str]:
    """The models whose config a file's shapes agree with, and for none why the nearest does not."""
    fitting, problem = set(), ""
    named: dict[Any, Shapes] = {}
    for model in MODELS.values():
        for component in COMPONENTS[kind]:
            if component not in model.components:
                continue
            config = configs.config(model, component)
            # A VAE's names alone depend on its config: the others' are translated once for all models.
            layout = (config.get("num_res_blocks"), config.get("is_residual")) if kind == "vae" else None
            if layout not in named:
                named[layout] = _named(kind, shapes, config)
            wrong = _CHECKS[kind](shapes, named[layout], config)
            if wrong is None:
                fitting.add(Candidate(model.id, component))
            else:
                problem = wrong
    return frozenset(fitting), problem


def _named(kind: ComponentKind, shapes: Shapes, config: Mapping[str, Any]) -> Shapes:
    """Shapes by the names that diffusers or transformers gives the tensors; a part of a joined one has its share."""
    mapped = map_keys(kind, shapes, config)
    named: dict[str, tuple[int, ...]] = {}
    for target, source in mapped.sources.items():
        shape = shapes[source.name]
        named[target] = (shape[0] // source.of, *shape[1:]) if source.of > 1 and shape else shape
    return named


def _first_difference(expected: Shapes, named: Shapes) -> str | None:
    for key, shape in expected.items():
        if key not in named:
            return f"{key} is missing."
        if tuple(named[key]) != shape:
            return f"{key} has the shape {list(named[key])} where {list(shape)} is needed."
    return None


def _check_transformer(shapes: Shapes, named: Shapes, config: Mapping[str, Any]) -> str | None:
    """Why these shapes are not this transformer's, or None. Width, channels, feed-forward, blocks, image layers."""
    dim = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    patch = tuple(int(size) for size in config["patch_size"])
    pixels = patch[0] * patch[1] * patch[2]
    last = int(config["num_layers"]) - 1
    expected = {
        "scale_shift_table": (1, 2, dim),
        "patch_embedding.weight": (dim, int(config["in_channels"]), *patch),
        "proj_out.weight": (int(config["out_channels"]) * pixels, dim),
        "condition_embedder.text_embedder.linear_1.weight": (dim, int(config["text_dim"])),
        f"blocks.{last}.ffn.net.0.proj.weight": (int(config["ffn_dim"]), dim),
    }
    image_key = "condition_embedder.image_embedder.norm1.weight"
    if config.get("image_dim") is not None:
        expected[image_key] = (int(config["image_dim"]),)
    elif image_key in named:
        return "it has layers for an image encoder, which this model has not."
    if f"blocks.{last + 1}.scale_shift_table" in named:
        return "it has more blocks."
    return _first_difference(expected, named)


def _check_vae(shapes: Shapes, named: Shapes, config: Mapping[str, Any]) -> str | None:
    """Why these shapes are not this VAE's, or None. Latent channels, layout and base width."""
    nested = any(".upsamples." in key.removeprefix("decoder.upsamples") for key in shapes)
    renamed = has_diffusers_names("vae", shapes)
    if not renamed and nested != bool(config.get("is_residual")):
        return "it has the layout of another VAE."
    channels, base = int(config["z_dim"]), int(config["base_dim"])
    expected = {
        "post_quant_conv.weight": (channels, channels, 1, 1, 1),
        "encoder.conv_in.weight": (base, int(config["in_channels"]), 3, 3, 3),
    }
    return _first_difference(expected, named)


def _check_text_encoder(shapes: Shapes, named: Shapes, config: Mapping[str, Any]) -> str | None:
    """Why these shapes are not this UMT5 encoder's, or None."""
    width, last = int(config["d_model"]), int(config["num_layers"]) - 1
    expected = {
        "shared.weight": (int(config["vocab_size"]), width),
        f"encoder.block.{last}.layer.1.DenseReluDense.wi_0.weight": (int(config["d_ff"]), width),
        # UMT5 has a position bias in every block, T5 in the first alone.
        f"encoder.block.{last}.layer.0.SelfAttention.relative_attention_bias.weight": (
            int(config["relative_attention_num_buckets"]),
            int(config["num_heads"]),
        ),
    }
    return _first_difference(expected, named)


def _check_image_encoder(shapes: Shapes, named: Shapes, config: Mapping[str, Any]) -> str | None:
    """Why these shapes are not this CLIP vision encoder's, or None."""
    width, last, patch = int(config["hidden_size"]), int(config["num_hidden_layers"]) - 1, int(config["patch_size"])
    expected = {
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        f"encoder.layers.{last}.mlp.fc1.weight": (int(config["intermediate_size"]), width),
    }
    return _first_difference(expected, named)


_CHECKS: Mapping[ComponentKind, Callable[[Shapes, Shapes, Mapping[str, Any]], str | None]] = MappingProxyType(
    {
        "transformer": _check_transformer,
        "vae": _check_vae,
        "text_encoder": _check_text_encoder,
        "image_encoder": _check_image_encoder,
    }
)


# ---------------------------------------------------------------------------------------------- names

_VERSION = re.compile(r"wan[ _.-]?(2)[ _.-]?([12])(?!\d)|(?<![\d.])(2)[._]([12])(?![\d])", re.IGNORECASE)
_TASK = re.compile(r"(?<![a-z0-9])(ti2v|t2v|i2v)(?![a-z0-9])", re.IGNORECASE)
_SIZE = re.compile(r"(?<![\d.])(1[._]3|5|14)b(?![a-z0-9])|(?<![a-z0-9])(a14b)(?![a-z0-9])", re.IGNORECASE)
_RESOLUTION = re.compile(r"(?<!\d)(480|720)p?(?![a-z0-9])", re.IGNORECASE)
_NOISE = re.compile(r"(?<![a-z])(high|low)(?=$|[^a-z]|noise)", re.IGNORECASE)
_CAMEL_NOISE = re.compile(r"(High|Low)(?=Noise|$|[^a-z])")
_PAIR_WORD = re.compile(r"(?i:(?<![a-z])(?:high|low)(?=noise|$|[^a-z]))|(?:High|Low)(?=Noise|$|[^a-z])")


@dataclass(frozen=True)
class NameHints:
    """What a file's name says; None where it says nothing. The file's own name is heard before its folders'."""

    version: str | None = None
    task: str | None = None
    size: str | None = None
    resolution: str | None = None
    noise: str | None = None


def name_hints(name: str) -> NameHints:
    """What a name such as `T2V/Wan2_2-T2V-A14B-LOW_fp8.safetensors` says of the model."""
    hints: dict[str, str | None] = {"version": None, "task": None, "size": None, "resolution": None, "noise": None}
    parts = [part for part in re.split(r"[\\/]", name) if part]
    for part in reversed(parts):
        for key, value in _hints_of(part).items():
            if hints[key] is None:
                hints[key] = value
    return NameHints(**hints)


def _hints_of(part: str) -> dict[str, str | None]:
    version = _VERSION.search(part)
    task, size = _TASK.search(part), _SIZE.search(part)
    resolution = _RESOLUTION.search(part)
    noises = {match[1].lower() for match in (*_NOISE.finditer(part), *_CAMEL_NOISE.finditer(part))}
    found_size = None if size is None else (size[1] or size[2]).lower().replace("_", ".")
    is_pair_size = found_size == "a14b"
    return {
        "version": "2." + (version[2] or version[4]) if version is not None else ("2.2" if is_pair_size else None),
        "task": task[1].lower() if task is not None else None,
        "size": "14" if is_pair_size else found_size,
        "resolution": resolution[1] if resolution is not None else None,
        "noise": noises.pop() if len(noises) == 1 else None,
    }


def by_name(name: str, candidates: frozenset[Candidate]) -> frozenset[Candidate]:
    """The candidates that a name leaves. A hint that would leave none is not believed: the header is."""
    hints = name_hints(name)
    columns: tuple[tuple[str | None, Callable[[Candidate], str | None]], ...] = (
        (hints.noise, lambda item: _noise(MODELS[item.model], item.component)),
        (hints.version, lambda item: _version(MODELS[item.model])),
        (hints.task, lambda item: _task(MODELS[item.model])),
        (hints.size, lambda item: _size(MODELS[item.model])),
        (hints.resolution, lambda item: _resolution(MODELS[item.model])),
    )
    left = candidates
    for hint, column in columns:
        if hint is not None:
            left = frozenset(item for item in left if column(item) == hint) or left
    return left


def _version(model: WanModel) -> str:
    return "2.2" if model.family.startswith("wan22") else "2.1"


def _noise(model: WanModel, component: str) -> str | None:
    """`high` or `low` for a half of a pair, None for a single transformer."""
    slot = next(slot for slot, name in model.slots.items() if name == component)
    return slot if model.two_transformers else None


def _task(model: WanModel) -> str:
    return {"none": "t2v", "optional": "ti2v", "required": "i2v"}[model.control_image]


def _size(model: WanModel) -> str:
    """Parameters in billions, as file names write them: by the transformer's width, which is the model's alone."""
    return {1536: "1.3", 3072: "5"}.get(model.hidden_size, "14")


def _resolution(model: WanModel) -> str | None:
    """What an image-to-video model of Wan 2.1 was trained for: the label says 480P or 720P."""
    found = re.search(r"\b(480|720)P\b", model.label)
    return found[1] if found is not None else None


def pair_key(name: str) -> str:
    """The same text for both halves of a pair: without `high` and `low`, whatever separates the words.

    One published pair is spelled `…-A14B_HIGH_…` and `…-A14B-LOW_…`; another lies in `HighNoise/` and `LowNoise/`.
    """
    return re.sub(r"[-_. ]+", "-", _PAIR_WORD.sub("{}", name).lower())
