"""Full-size checkpoints with random weights, written on the GPU machine itself, in the layout that users have."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from tests.checkpoints.published_files import header_bytes
from tests.golden_cases import CHECKPOINTS
from wan_ui.models import WanModel

DTYPES = {torch.bfloat16: "BF16", torch.float32: "F32"}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRANSFORMERS = {
    "wan22_5b": {
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "ffn_dim": 14336,
        "num_layers": 30,
        "in_channels": 48,
        "out_channels": 48,
    },
    "wan22_14b": {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40},
}
VAE_5B = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
UMT5_XXL = UMT5Config(
    d_model=4096,
    d_ff=10240,
    d_kv=64,
    num_heads=64,
    num_layers=24,
    num_decoder_layers=24,
    vocab_size=256384,
    feed_forward_proj="gated-gelu",
    is_encoder_decoder=False,
    tie_word_embeddings=False,
)


def write(
    model: WanModel, folder: Path, text_layers: int = 24, layers: int | None = None, without: Collection[str] = ()
) -> None:
    """The model's checkpoint under `folder/<org>/<name>/`; the second transformer of a pair is a link to the first.

    `layers` and `text_layers` are the blocks of each transformer and of the text encoder. The components in `without`
    are left out.
    """
    torch.manual_seed(0)
    for name, source in model.components.items():
        target = folder / source.repo / source.subfolder
        if name in without or (target.exists() and name != "model_index"):
            continue
        target.mkdir(parents=True, exist_ok=True)
        if name == "transformer":
            config = dict(TRANSFORMERS[model.family], text_dim=4096, rope_max_seq_len=1024)
            if layers is not None:
                config["num_layers"] = layers
            if model.conditioning == "latent_channels":
                config["in_channels"] = 36
            with torch.device(DEVICE):
                transformer = WanTransformer3DModel(**config)
            _save(transformer.to(torch.bfloat16), target, "diffusion_pytorch_model")
        elif name == "transformer_2":
            first = folder / model.components["transformer"].repo / model.components["transformer"].subfolder
            for file in first.iterdir():
                os.link(file, target / file.name)
        elif name == "vae":
            with torch.device(DEVICE):
                vae = AutoencoderKLWan(**(VAE_5B if model.spatial_compression == 16 else {}))
            _save(vae.to(torch.bfloat16), target, "diffusion_pytorch_model")
        elif name == "text_encoder":
            with torch.device(DEVICE):
                encoder = UMT5EncoderModel(UMT5Config(**UMT5_XXL.to_dict() | {"num_layers": text_layers}))
            encoder = encoder.to(torch.bfloat16)
            encoder.config.save_pretrained(target)
            _save(encoder, target, "model")
        else:
            tiny = CHECKPOINTS / source.repo / source.subfolder
            for file in tiny.iterdir():
                if file.is_file():
                    shutil.copy(file, target / file.name)
        torch.cuda.empty_cache()


def _save(model: torch.nn.Module, folder: Path, stem: str) -> None:
    """One file; diffusers models also write their config."""
    if isinstance(model, (WanTransformer3DModel, AutoencoderKLWan)):
        model.save_config(folder)
    state = model.state_dict()
    listed = {name: (DTYPES[value.dtype], tuple(value.shape)) for name, value in state.items()}
    with (folder / f"{stem}.safetensors").open("wb") as file:  # the library's own writer copies all of it in memory
        file.write(header_bytes(listed, {"format": "pt"}))
        for value in state.values():
            file.write(value.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)


def write_lora(path: Path, model: WanModel, rank: int, seed: int, layers: int | None = None) -> None:
    """A LoRA of AI Toolkit's layout on every attention and feed-forward layer of the model."""
    generator = torch.Generator().manual_seed(seed)
    width, ffn = model.hidden_size, model.ffn_size
    shapes = {f"{attn}.{part}": (width, width) for attn in ("self_attn", "cross_attn") for part in "qkvo"}
    shapes |= {"ffn.0": (ffn, width), "ffn.2": (width, ffn)}
    state = {}
    for block in range(layers or model.blocks):
        for module, (out, into) in shapes.items():
            key = f"diffusion_model.blocks.{block}.{module}"
            state[f"{key}.lora_A.weight"] = torch.randn(rank, into, generator=generator).to(torch.bfloat16) * 0.02
            state[f"{key}.lora_B.weight"] = torch.randn(out, rank, generator=generator).to(torch.bfloat16) * 0.02
    path.parent.mkdir(parents=True, exist_ok=True)
    software = json.dumps({"name": "ai-toolkit", "version": "0.12.26"})
    save_file(state, path, metadata={"format": "pt", "software": software})
