"""The table of Wan models: every name and number that depends on the model.

A model of a known kind of conditioning is one more entry here and nothing else. Sources of the numbers: the
documentation pages of the reference server for the five image-to-video and 2.2 models, its pipelines for the rest, and
AI Toolkit's Wan models for the columns of the recipe `preview`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

DEFAULT_STEPS = 25
DEFAULT_GUIDANCE_SCALE = 4.0
DEFAULT_SEED = 42
DEFAULT_NUM_FRAMES = 41
DEFAULT_FPS = 16
DEFAULT_SIDE = 1024  # width and height of a request that leaves them out, for every model

RecipeId = Literal["reference", "preview", "preview_unipc"]
Speedup = Literal["none", "step_cache", "fp8_storage", "fp8_products"]
Sampler = Literal["unipc", "euler", "lcm", "dpm++"]
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
    """One model: where its files are, how it is conditioned and sampled, and the size of its networks.

    `conditioning` says how a first frame enters: not at all; written over the first latent frame (5B); as mask and
    latent channels behind the noise (2.2 I2V); the same plus CLIP embeddings (2.1 I2V).
    `slots` maps the names under which LoRAs are given (`single`, or `high` and `low`) to the transformer components.
    `unipc_shift` is the flow shift of the built UniPC scheduler; None: the checkpoint's own scheduler is used.
    `euler_shift` is that of today's trainer, `old_unipc_shift` that of its UniPC previews up to AI Toolkit 0.9.2.
    `boundary` is the share of the 1000 training timesteps from which on `transformer` works and below which
    `transformer_2` does; the string "checkpoint" reads it from model_index.json.
    `expand_timesteps`: every token has a timestep of its own, also without a first frame.
    `spatial_compression` and `latent_channels` are the VAE's; `mask_channels` come in front of the encoded first frame
    where that is concatenated with the noise (one per pixel frame of a latent frame), and are 0 elsewhere.
    `trainer_arch` is AI Toolkit's `model.arch`; models that share one differ in its `model.name_or_path`.
    `hidden_size`, `ffn_size`, `blocks` and `parameters` are those of one transformer, and `image_layers` says whether
    it has cross-attention to CLIP embeddings.
    `form_size` and `presets` are sizes offered on the page; `tuned_for` is the largest size a checkpoint is meant for.
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
    latent_channels: int
    mask_channels: int
    family: str
    trainer_arch: str
    hidden_size: int
    ffn_size: int
    blocks: int
    parameters: int
    image_layers: bool
    form_size: Preset
    presets: tuple[Preset, ...] = ()
    tuned_for: Preset | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def takes_last_frame(self) -> bool:
        """Whether a last frame can be given beside the first: it enters through latent channels."""
        return self.conditioning in ("latent_channels", "clip_and_latent_channels")

    @property
    def two_transformers(self) -> bool:
        """Whether the model has a high-noise and a low-noise transformer."""
        return len(self.slots) > 1

    @property
    def input_channels(self) -> int:
        """Channels of a transformer's input: the noise, with mask and encoded first frame where concatenated."""
        return self.latent_channels + (self.mask_channels + self.latent_channels if self.mask_channels else 0)


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


def _from_repo(repo: str, names: tuple[str, ...]) -> Mapping[str, Source]:
    """Components that are folders of the same name in one repository."""
    return MappingProxyType({name: Source(repo, name) for name in names})


def _for_all_recipes(value: int) -> Mapping[RecipeId, int]:
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
    components=_from_repo("Wan-AI/Wan2.2-TI2V-5B-Diffusers", ("transformer", "vae", "text_encoder", "tokenizer")),
    control_image="optional",
    conditioning="first_latent",
    divisor=_for_all_recipes(32),
    frame_rule="floor",
    slots=SINGLE,
    unipc_shift=5.0,
    euler_shift=5.0,
    old_unipc_shift=5.0,
    boundary=_NO_BOUNDARY,
    expand_timesteps=True,
    spatial_compression=16,
    latent_channels=48,
    mask_channels=0,
    family="wan22_5b",
    trainer_arch="wan22_5b",
    hidden_size=3072,
    ffn_size=14336,
    blocks=30,
    parameters=4_999_787_712,
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
    divisor=_for_all_recipes(16),
    frame_rule="floor",
    slots=HIGH_LOW,
    unipc_shift=3.0,
    euler_shift=5.0,
    old_unipc_shift=3.0,
    boundary=MappingProxyType({"reference": 0.9, "preview": 0.875, "preview_unipc": 0.875}),
    expand_timesteps=False,
    spatial_compression=8,
    latent_channels=16,
    mask_channels=4,
    family="wan22_14b",
    trainer_arch="wan22_14b_i2v",
    hidden_size=5120,
    ffn_size=13824,
    blocks=40,
    parameters=14_288_901_184,
    image_layers=False,
    form_size=_SQUARE,
    notes=(FIRST_FRAME_NOTE, PAIR_NOTE),
)

WAN22_14B_T2V = replace(
    WAN22_14B_I2V,
    id="wan22_14b_t2v",
    label="Wan 2.2 T2V A14B",
    base_model="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    components=MappingProxyType(
        {
            **_from_repo("Wan-AI/Wan2.2-T2V-A14B-Diffusers", ("vae", "text_encoder", "tokenizer", "scheduler")),
            "transformer": Source("ai-toolkit/Wan2.2-T2V-A14B-Diffusers-bf16", "transformer"),
            "transformer_2": Source("ai-toolkit/Wan2.2-T2V-A14B-Diffusers-bf16", "transformer_2"),
            "model_index": Source("Wan-AI/Wan2.2-T2V-A14B-Diffusers", ""),
        }
    ),
    control_image="none",
    conditioning="text",
    divisor=MappingProxyType({"reference": 32, "preview": 16, "preview_unipc": 16}),
    frame_rule="diffusers",
    unipc_shift=None,
    boundary=MappingProxyType({"reference": "checkpoint", "preview": 0.875, "preview_unipc": 0.875}),
    mask_channels=0,
    trainer_arch="wan22_14b",
    parameters=14_288_491_584,
    notes=(PAIR_NOTE,),
)

WAN21_14B = WanModel(
    id="wan21_14b",
    label="Wan 2.1 T2V 14B",
    base_model="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    components=_from_repo("Wan-AI/Wan2.1-T2V-14B-Diffusers", _ONE_PIPELINE),
    control_image="none",
    conditioning="text",
    divisor=_for_all_recipes(16),
    frame_rule="diffusers",
    slots=SINGLE,
    unipc_shift=None,
    euler_shift=3.0,
    old_unipc_shift=3.0,
    boundary=_NO_BOUNDARY,
    expand_timesteps=False,
    spatial_compression=8,
    latent_channels=16,
    mask_channels=0,
    family="wan21_14b",
    trainer_arch="wan21",
    hidden_size=5120,
    ffn_size=13824,
    blocks=40,
    parameters=14_288_491_584,
    image_layers=False,
    form_size=_SQUARE,
)

WAN21_1B = replace(
    WAN21_14B,
    id="wan21_1b",
    label="Wan 2.1 T2V 1.3B",
    base_model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    components=_from_repo("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", _ONE_PIPELINE),
    family="wan21_1b",
    hidden_size=1536,
    ffn_size=8960,
    blocks=30,
    parameters=1_418_996_800,
    form_size=_480P,
)

WAN21_I2V_14B = replace(
    WAN21_14B,
    id="wan21_i2v_14b",
    label="Wan 2.1 I2V 14B 720P",
    base_model="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
    components=_from_repo("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", _WITH_CLIP),
    control_image="required",
    conditioning="clip_and_latent_channels",
    mask_channels=4,
    family="wan21_i2v",
    trainer_arch="wan21_i2v",
    parameters=16_394_878_784,
    image_layers=True,
    notes=(FIRST_FRAME_NOTE,),
)

WAN21_I2V_14B_480P = replace(
    WAN21_I2V_14B,
    id="wan21_i2v_14b480p",
    label="Wan 2.1 I2V 14B 480P",
    base_model="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    components=_from_repo("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", _WITH_CLIP),
    form_size=_480P,
    presets=(_480P, Preset(848, 480), Preset(864, 480)),
    tuned_for=Preset(864, 480),
    notes=(FIRST_FRAME_NOTE, SIZE_480P_NOTE),
)

MODELS: Mapping[str, WanModel] = MappingProxyType(
    {
        model.id: model
        for model in (
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


def label_of(model_id: str) -> str:
    """A model's name; its wire id if the table does not have the model, as for a job of another version."""
    return MODELS[model_id].label if model_id in MODELS else model_id
