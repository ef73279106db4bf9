"""The table of Wan models: names and numbers, and the only place that knows a model. It imports nothing of ours.

Sources of the numbers: the documentation pages of the reference server for the five image-to-video and 2.2 models,
its pipelines for the rest, and AI Toolkit's Wan models for the columns of the recipe `preview`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

DEFAULT_STEPS = 25
DEFAULT_GUIDANCE_SCALE = 4.0
DEFAULT_SEED = 42
DEFAULT_NUM_FRAMES = 41
DEFAULT_FPS = 16
DEFAULT_SIDE = 1024  # width and height of a request that leaves them out, on every row

RecipeId = Literal["reference", "preview", "preview_unipc"]
Speedup = Literal["none", "step_cache", "fp8_storage", "fp8_products"]
Conditioning = Literal["text", "first_latent", "latent_channels", "clip_and_latent_channels"]
FrameRule = Literal["floor", "diffusers"]

SINGLE: Mapping[str, str] = MappingProxyType({"single": "transformer"})
HIGH_LOW: Mapping[str, str] = MappingProxyType({"high": "transformer", "low": "transformer_2"})


@dataclass(frozen=True)
class Source:
    """Where a component's files are: a repository in diffusers layout and a folder in it ("" is its root)."""

    repo: str
    subfolder: str


@dataclass(frozen=True)
class Preset:
    """A size button of the form, in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class WanModel:
    """One row of the table.

    `conditioning` says how a first frame enters: not at all; written over the first latent frame (5B);
    as 4 mask and 16 latent channels behind the noise (2.2 I2V); the same plus CLIP embeddings (2.1 I2V).
    `always_masked` rows run the per-token timestep loop even without a first frame.
    `unipc_shift` is the flow shift of the built UniPC scheduler; None: the checkpoint's own scheduler is used.
    `euler_shift` is that of today's trainer, `old_unipc_shift` that of its UniPC previews up to AI Toolkit 0.9.2.
    `trainer_arch` is AI Toolkit's `model.arch`; rows that share one differ in its `model.name_or_path`.
    `boundary` is the share of the 1000 training timesteps from which on `transformer` works and below which
    `transformer_2` does; the string "checkpoint" reads it from model_index.json.
    """

    id: str
    label: str
    base_model: str
    components: Mapping[str, Source]
    control_image: Literal["none", "optional", "required"]
    conditioning: Conditioning
    divisor: Mapping[RecipeId, int]
    frame_rule: FrameRule
    slots: Mapping[str, str]
    unipc_shift: float | None
    euler_shift: float
    old_unipc_shift: float
    boundary: Mapping[RecipeId, float | Literal["checkpoint"] | None]
    expand_timesteps: bool
    spatial_compression: int
    family: str
    trainer_arch: str
    hidden_size: int
    ffn_size: int
    blocks: int
    image_layers: bool
    form_size: Preset
    presets: tuple[Preset, ...] = ()
    tuned_for: Preset | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def slug(self) -> str:
        """The row's part of a URL, as the documents write it: `wan22-5b`."""
        return self.id.replace("_", "-")

    @property
    def two_transformers(self) -> bool:
        return len(self.slots) > 1


TEMPORAL_COMPRESSION = 4  # of every Wan VAE: n frames become (n - 1) // 4 + 1 latent frames
NUM_TRAIN_TIMESTEPS = 1000

_ONE_PIPELINE = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
_WITH_CLIP = (*_ONE_PIPELINE, "image_encoder", "image_processor")

PAIR_NOTE = (
    "Wan 2.2 A14B LoRAs come in pairs. With only one side of a pair loaded, the effect will not match the trainer's "
    "samples."
)
FIRST_FRAME_NOTE = (
    "Image-to-video is very sensitive to the first frame's size and shape: it is resized to exactly the effective "
    "width and height (Lanczos, no crop)."
)
SIZE_480P_NOTE = (
    "This checkpoint is tuned for 480p-ish sizes such as 832 × 480; above them expect less stable motion and slower "
    "renders. For larger sizes use Wan 2.1 I2V 14B 720P."
)


def _from_one(repo: str, names: tuple[str, ...]) -> Mapping[str, Source]:
    return MappingProxyType({name: Source(repo, name) for name in names})


def _every(value: int) -> Mapping[RecipeId, int]:
    return MappingProxyType({"reference": value, "preview": value, "preview_unipc": value})


_NO_BOUNDARY: Mapping[RecipeId, float | Literal["checkpoint"] | None] = MappingProxyType(
    {"reference": None, "preview": None, "preview_unipc": None}
)
_SQUARE = Preset(1024, 1024)
_480P = Preset(832, 480)

WAN22_5B = WanModel(
    id="wan22_5b",
    label="Wan 2.2 TI2V 5B",
    base_model="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    components=_from_one("Wan-AI/Wan2.2-TI2V-5B-Diffusers", ("transformer", "vae", "text_encoder", "tokenizer")),
    control_image="optional",
    conditioning="first_latent",
    divisor=_every(32),
    frame_rule="floor",
    slots=SINGLE,
    unipc_shift=5.0,
    euler_shift=5.0,
    old_unipc_shift=5.0,
    boundary=_NO_BOUNDARY,
    expand_timesteps=True,
    spatial_compression=16,
    family="wan22_5b",
    trainer_arch="wan22_5b",
    hidden_size=3072,
    ffn_size=14336,
    blocks=30,
    image_layers=False,
    form_size=_SQUARE,
    notes=(FIRST_FRAME_NOTE,),
)

WAN22_14B_I2V = WanModel(
    id="wan22_14b_i2v",
    label="Wan 2.2 I2V A14B",
    base_model="ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16",
    components=MappingProxyType(
        {
            "transformer": Source("ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16", "transformer"),
            "transformer_2": Source("ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16", "transformer_2"),
            "vae": Source("ai-toolkit/wan2.1-vae", ""),
            "text_encoder": Source("ai-toolkit/umt5_xxl_encoder", "text_encoder"),
            "tokenizer": Source("ai-toolkit/umt5_xxl_encoder", "tokenizer"),
        }
    ),
    control_image="required",
    conditioning="latent_channels",
    divisor=_every(16),
    frame_rule="floor",
    slots=HIGH_LOW,
    unipc_shift=3.0,
    euler_shift=5.0,
    old_unipc_shift=3.0,
    boundary=MappingProxyType({"reference": 0.9, "preview": 0.875, "preview_unipc": 0.875}),
    expand_timesteps=False,
    spatial_compression=8,
    family="wan22_14b",
    trainer_arch="wan22_14b_i2v",
    hidden_size=5120,
    ffn_size=13824,
    blocks=40,
    image_layers=False,
    form_size=_SQUARE,
    notes=(FIRST_FRAME_NOTE, PAIR_NOTE),
)

WAN22_14B_T2V = WanModel(
    id="wan22_14b_t2v",
    label="Wan 2.2 T2V A14B",
    base_model="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    components=MappingProxyType(
        {
            **_from_one("Wan-AI/Wan2.2-T2V-A14B-Diffusers", ("vae", "text_encoder", "tokenizer", "scheduler")),
            "transformer": Source("ai-toolkit/Wan2.2-T2V-A14B-Diffusers-bf16", "transformer"),
            "transformer_2": Source("ai-toolkit/Wan2.2-T2V-A14B-Diffusers-bf16", "transformer_2"),
            "model_index": Source("Wan-AI/Wan2.2-T2V-A14B-Diffusers", ""),
        }
    ),
    control_image="none",
    conditioning="text",
    divisor=MappingProxyType({"reference": 32, "preview": 16, "preview_unipc": 16}),
    frame_rule="diffusers",
    slots=HIGH_LOW,
    unipc_shift=None,
    euler_shift=5.0,
    old_unipc_shift=3.0,
    boundary=MappingProxyType({"reference": "checkpoint", "preview": 0.875, "preview_unipc": 0.875}),
    expand_timesteps=False,
    spatial_compression=8,
    family="wan22_14b",
    trainer_arch="wan22_14b",
    hidden_size=5120,
    ffn_size=13824,
    blocks=40,
    image_layers=False,
    form_size=_SQUARE,
    notes=(PAIR_NOTE,),
)

WAN21_I2V_14B = WanModel(
    id="wan21_i2v_14b",
    label="Wan 2.1 I2V 14B 720P",
    base_model="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
    components=_from_one("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", _WITH_CLIP),
    control_image="required",
    conditioning="clip_and_latent_channels",
    divisor=_every(16),
    frame_rule="diffusers",
    slots=SINGLE,
    unipc_shift=None,
    euler_shift=3.0,
    old_unipc_shift=3.0,
    boundary=_NO_BOUNDARY,
    expand_timesteps=False,
    spatial_compression=8,
    family="wan21_i2v",
    trainer_arch="wan21_i2v",
    hidden_size=5120,
    ffn_size=13824,
    blocks=40,
    image_layers=True,
    form_size=_SQUARE,
    notes=(FIRST_FRAME_NOTE,),
)

WAN21_I2V_14B_480P = WanModel(
    id="wan21_i2v_14b480p",
    label="Wan 2.1 I2V 14B 480P",
    base_model="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    components=_from_one("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", _WITH_CLIP),
    control_image="required",
    conditioning="clip_and_latent_channels",
    divisor=_every(16),
    frame_rule="diffusers",
    slots=SINGLE,
    unipc_shift=None,
    euler_shift=3.0,
    old_unipc_shift=3.0,
    boundary=_NO_BOUNDARY,
    expand_timesteps=False,
    spatial_compression=8,
    family="wan21_i2v",
    trainer_arch="wan21_i2v",
    hidden_size=5120,
    ffn_size=13824,
    blocks=40,
    image_layers=True,
    form_size=_480P,
    presets=(_480P, Preset(848, 480), Preset(864, 480)),
    tuned_for=Preset(864, 480),
    notes=(FIRST_FRAME_NOTE, SIZE_480P_NOTE),
)

WAN21_14B = WanModel(
    id="wan21_14b",
    label="Wan 2.1 T2V 14B",
    base_model="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    components=_from_one("Wan-AI/Wan2.1-T2V-14B-Diffusers", _ONE_PIPELINE),
    control_image="none",
    conditioning="text",
    divisor=_every(16),
    frame_rule="diffusers",
    slots=SINGLE,
    unipc_shift=None,
    euler_shift=3.0,
    old_unipc_shift=3.0,
    boundary=_NO_BOUNDARY,
    expand_timesteps=False,
    spatial_compression=8,
    family="wan21_14b",
    trainer_arch="wan21",
    hidden_size=5120,
    ffn_size=13824,
    blocks=40,
    image_layers=False,
    form_size=_SQUARE,
)

WAN21_1B = WanModel(
    id="wan21_1b",
    label="Wan 2.1 T2V 1.3B",
    base_model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    components=_from_one("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", _ONE_PIPELINE),
    control_image="none",
    conditioning="text",
    divisor=_every(16),
    frame_rule="diffusers",
    slots=SINGLE,
    unipc_shift=None,
    euler_shift=3.0,
    old_unipc_shift=3.0,
    boundary=_NO_BOUNDARY,
    expand_timesteps=False,
    spatial_compression=8,
    family="wan21_1b",
    trainer_arch="wan21",
    hidden_size=1536,
    ffn_size=8960,
    blocks=30,
    image_layers=False,
    form_size=_480P,
)

MODELS: Mapping[str, WanModel] = MappingProxyType(
    {
        row.id: row
        for row in (
            WAN22_5B,
            WAN22_14B_I2V,
            WAN22_14B_T2V,
            WAN21_I2V_14B,
            WAN21_I2V_14B_480P,
            WAN21_14B,
            WAN21_1B,
        )
    }
)
