"""Tiny checkpoints of the real classes with random weights for every model, and LoRAs for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.utils import logging as transformers_logging

from wan_ui.demo.checkpoints import Kind
from wan_ui.demo.trained import BOUNDARY
from wan_ui.engine.recipes import unipc_config
from wan_ui.models import MODELS, Source, WanModel

# One size for every model, so that one LoRA file fits them all, as the reference server's documents use it.
HEADS, HEAD_SIZE, FFN_SIZE, BLOCKS = 2, 24, 96, 3
HIDDEN_SIZE = HEADS * HEAD_SIZE
TEXT_SIZE = 32
IMAGE_SIZE, IMAGE_SIDE, IMAGE_PATCH = 40, 28, 14  # the CLIP encoder's width, input pixels and patch pixels
CONTRAST = 1.3  # a random decoder is greyish
TEXT_INFLUENCE = 4.0  # a random transformer hardly reacts to the prompt
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
LONGEST_PROMPT = 512  # tokens

LORA_RANK = 4
LORA_STRENGTH = 0.25  # standard deviation of A and B: strong enough to see at scale 1
SINGLE_LORA = "my_lora_job/my_lora.safetensors"
IMAGE_LORA = "my_wan_job/my_wan_job.safetensors"
HIGH_LORA = "my_lora_job/my_high_noise.safetensors"
LOW_LORA = "my_lora_job/my_low_noise.safetensors"


def write(folder: Path) -> None:
    """A whole demo folder: models, LoRAs and a first frame."""
    write_models(folder / "models")
    write_loras(folder / "loras")
    write_first_frame(folder / "first_frame.png")


RANDOM = Kind(write, "random-1", "Demo: the weights are random.")


def write_models(folder: Path) -> None:
    """Every component of every model as `folder/<org>/<name>/<subfolder>/`, in diffusers layout, float32.

    VAEs, text and image encoders are equal files in all repositories, as in the real ones; each transformer is its own.
    """
    written: set[Source] = set()
    with _no_progress_bars():
        for model in MODELS.values():
            for name, source in model.components.items():
                if source not in written:
                    written.add(source)
                    _write_component(model, name, source, folder / source.repo / source.subfolder)


def write_loras(folder: Path) -> None:
    """LoRAs in AI Toolkit's keys and metadata, under the very paths that the reference server's documents use."""
    _write_checkpoint(folder, {SINGLE_LORA: _lora_tensors("single", image_layers=False)}, "wan_2.2_5b")
    _write_checkpoint(folder, {IMAGE_LORA: _lora_tensors("image", image_layers=True)}, "wan_2.1")
    _write_checkpoint(
        folder,
        {
            HIGH_LORA: _lora_tensors("high", image_layers=False),
            LOW_LORA: _lora_tensors("low", image_layers=False),
        },
        "wan_2.2_14b",
    )


def write_first_frame(path: Path) -> None:
    """A drawn evening landscape, 512×512 RGB: square, as the form's demo size is."""
    side, scale = 512, 2  # drawn at twice the size and reduced, for smooth edges
    big = side * scale
    picture = Image.new("RGB", (big, big))
    draw = ImageDraw.Draw(picture)
    for y in range(big):
        draw.line([(0, y), (big, y)], fill=_between((36, 42, 94), (250, 176, 120), min(1.0, y / (0.62 * big))))
    draw.ellipse([0.56 * big, 0.30 * big, 0.80 * big, 0.54 * big], fill=(255, 236, 190))
    hills = (
        (((0.00, 0.62), (0.24, 0.44), (0.47, 0.63), (0.74, 0.50), (1.00, 0.66)), (98, 84, 132)),
        (
            ((0.00, 0.76), (0.30, 0.62), (0.62, 0.78), (0.86, 0.66), (1.00, 0.72)),
            (58, 62, 104),
        ),
    )
    for ridge, colour in hills:
        outline = [(x * big, y * big) for x, y in ridge]
        draw.polygon([*outline, (big, big), (0, big)], fill=colour)
    draw.rectangle([0, 0.80 * big, big, big], fill=(30, 48, 84))
    for index in range(9):
        glint, half = (0.82 + 0.02 * index) * big, (0.11 - 0.008 * index) * big
        draw.line([(0.68 * big - half, glint), (0.68 * big + half, glint)], fill=(248, 206, 150), width=3 * scale)
    draw.rectangle([0.20 * big, 0.58 * big, 0.215 * big, 0.86 * big], fill=(40, 28, 34))
    draw.polygon([(0.2075 * big, 0.30 * big), (0.10 * big, 0.70 * big), (0.315 * big, 0.70 * big)], fill=(34, 74, 66))
    picture.resize((side, side), Image.Resampling.LANCZOS).save(path)


def _between(start: tuple[int, int, int], end: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(start, end, strict=True))
    return red, green, blue


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Without transformers' progress bars within the block."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def _seeded(what: str) -> Iterator[None]:
    """The same weights for the same text on every machine; the caller's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(hashlib.sha256(what.encode()).digest()[:4], "big"))
        yield


def _write_component(model: WanModel, name: str, source: Source, folder: Path) -> None:
    if name in model.slots.values():
        _transformer(model, source).save_pretrained(folder)
    elif name == "vae":
        _vae(model).save_pretrained(folder)
    elif name == "text_encoder":
        _text_encoder().save_pretrained(folder)
    elif name == "tokenizer":
        _tokenizer().save_pretrained(folder)
    elif name == "image_encoder":
        _image_encoder().save_pretrained(folder)
    elif name == "image_processor":
        side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
        CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIDE}, crop_size=side).save_pretrained(folder)
    elif name == "scheduler":
        UniPCMultistepScheduler(**unipc_config(model.euler_shift)).save_pretrained(folder)
    elif name == "model_index":
        folder.mkdir(parents=True, exist_ok=True)
        index = {"_class_name": "WanPipeline", "boundary_ratio": BOUNDARY}
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    else:
        raise ValueError(f"the table has a component {name!r} that the demo cannot make")


def _transformer(model: WanModel, source: Source) -> WanTransformer3DModel:
    with _seeded(f"transformer {source.repo} {source.subfolder}"):
        transformer = WanTransformer3DModel(
            num_attention_heads=HEADS,
            attention_head_dim=HEAD_SIZE,
            in_channels=model.input_channels,
            out_channels=model.latent_channels,
            text_dim=TEXT_SIZE,
            freq_dim=64,
            ffn_dim=FFN_SIZE,
            num_layers=BLOCKS,
            image_dim=IMAGE_SIZE if model.image_layers else None,
            added_kv_proj_dim=HIDDEN_SIZE if model.image_layers else None,
        )
    with torch.no_grad():
        transformer.condition_embedder.text_embedder.linear_2.weight.mul_(TEXT_INFLUENCE)
        for block in transformer.blocks:
            block.attn2.to_out[0].weight.mul_(TEXT_INFLUENCE)
    return transformer


def _vae(model: WanModel) -> AutoencoderKLWan:
    channels, spatial_compression = model.latent_channels, model.spatial_compression
    kind: dict[str, Any] = {}
    if spatial_compression == 16:  # the 2.2 VAE folds 2×2 pixels into channels first
        kind = {
            "is_residual": True,
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
            "decoder_base_dim": 8,
            "latents_mean": [0.0] * channels,
            "latents_std": [1.0] * channels,
            "scale_factor_spatial": spatial_compression,
        }
    with _seeded(f"vae {spatial_compression}"):
        vae = AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 2, 2], num_res_blocks=1, z_dim=channels, **kind)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(CONTRAST)
    return vae


def _text_encoder() -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=len(SPECIAL_TOKENS) + 256,
        d_model=TEXT_SIZE,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    with _seeded("text encoder"):
        return UMT5EncoderModel(config)


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte of UTF-8, so that every language has tokens and no word is unknown."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *letters))}
    pad, end, unknown = SPECIAL_TOKENS
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, vocabulary[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=end,
        unk_token=unknown,
        model_max_length=LONGEST_PROMPT,
    )


def _image_encoder() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=IMAGE_SIZE,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=IMAGE_SIDE,
        patch_size=IMAGE_PATCH,
        projection_dim=16,
    )
    with _seeded("image encoder"):
        return CLIPVisionModel(config)


def _lora_tensors(what: str, *, image_layers: bool) -> dict[str, torch.Tensor]:
    """A [rank, in] and B [out, rank] for every module that AI Toolkit trains, bfloat16 as it saves them."""
    square = (HIDDEN_SIZE, HIDDEN_SIZE)
    shapes = {f"{kind}_attn.{letter}": square for kind in ("self", "cross") for letter in "qkvo"}
    shapes |= {"ffn.0": (FFN_SIZE, HIDDEN_SIZE), "ffn.2": (HIDDEN_SIZE, FFN_SIZE)}
    if image_layers:
        shapes |= {"cross_attn.k_img": square, "cross_attn.v_img": square}
    tensors: dict[str, torch.Tensor] = {}
    with _seeded(f"lora {what}"):
        for block in range(BLOCKS):
            for module, (rows, columns) in shapes.items():
                key = f"diffusion_model.blocks.{block}.{module}"
                tensors[f"{key}.lora_A.weight"] = LORA_STRENGTH * torch.randn(LORA_RANK, columns)
                tensors[f"{key}.lora_B.weight"] = LORA_STRENGTH * torch.randn(rows, LORA_RANK)
    return {key: tensor.to(torch.bfloat16) for key, tensor in tensors.items()}


def _write_checkpoint(folder: Path, files: Mapping[str, Mapping[str, torch.Tensor]], base: str) -> None:
    """The files of one checkpoint; AI Toolkit gives both halves of a pair the same name and hash."""
    digest = hashlib.sha256()
    for tensors in files.values():
        for tensor in tensors.values():
            digest.update(tensor.view(torch.int16).numpy().tobytes())
    first = Path(next(iter(files)))
    name = first.parent.name if len(files) > 1 else first.stem
    metadata = {
        "format": "pt",
        "name": name,
        "version": "1.0",
        "training_info": json.dumps({"step": 2000, "epoch": 1}),
        "ss_base_model_version": base,
        "ss_output_name": name,
        "ss_tag_frequency": json.dumps({"1_sks": {"sks": 1}}),
        "sshs_model_hash": digest.hexdigest(),
        "software": json.dumps(
            {"name": "ai-toolkit", "repo": "https://github.com/ostris/ai-toolkit", "version": "0.12.26"}
        ),
        "wan_ui_demo": "random weights in AI Toolkit's layout; trained on nothing",
    }
    for path, tensors in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), folder / path, metadata=metadata)
