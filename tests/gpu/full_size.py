"""Full-size checkpoints with random weights, written on the GPU machine itself, in the layout that users have."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from tests.checkpoints.published_files import header_bytes
from tests.golden_cases import CHECKPOINTS
from wan_ui.checkpoints.configs import ModelConfigs
from wan_ui.models import MODELS, WanModel

DTYPES = {torch.bfloat16: "BF16", torch.float32: "F32"}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIGS = ModelConfigs()


def transformer_config(model: str, layers: int | None = None) -> dict[str, Any]:
    """The published config of a model's transformers, with `layers` blocks in place of all."""
    config = {key: value for key, value in CONFIGS.config(MODELS[model], "transformer").items() if key[0] != "_"}
    return config if layers is None else config | {"num_layers": layers}


def vae_config(model: str) -> dict[str, Any]:
    """The published config of a model's VAE."""
    return {key: value for key, value in CONFIGS.config(MODELS[model], "vae").items() if key[0] != "_"}


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
            with torch.device(DEVICE):
                transformer = WanTransformer3DModel(**transformer_config(model.id, layers))
            _save(transformer.to(torch.bfloat16), target, "diffusion_pytorch_model")
        elif name == "transformer_2":
            first = folder / model.components["transformer"].repo / model.components["transformer"].subfolder
            for file in first.iterdir():
                os.link(file, target / file.name)
        elif name == "vae":
            with torch.device(DEVICE):
                vae = AutoencoderKLWan(**vae_config(model.id))
            _save(vae.to(torch.bfloat16), target, "diffusion_pytorch_model")
        elif name == "text_encoder":
            config = UMT5Config.from_dict(dict(CONFIGS.config(model, name)))
            config.num_layers, config.is_encoder_decoder = text_layers, False
            with torch.device(DEVICE):
                _save(UMT5EncoderModel(config).to(torch.bfloat16), target, "model")
        elif name == "image_encoder":
            with torch.device(DEVICE):
                clip = CLIPVisionModel(CLIPVisionConfig(**CONFIGS.config(model, name)))
            _save(clip.to(torch.bfloat16), target, "model")
        elif name == "image_processor":
            shutil.copytree(CONFIGS.folder(model, name) or "", target, dirs_exist_ok=True)
        else:
            tiny = CHECKPOINTS / source.repo / source.subfolder
            for file in tiny.iterdir():
                if file.is_file():
                    shutil.copy(file, target / file.name)
        torch.cuda.empty_cache()


def _save(model: Any, folder: Path, stem: str) -> None:
    """The weights as one file, and the config."""
    if isinstance(model, (WanTransformer3DModel, AutoencoderKLWan)):
        model.save_config(folder)
    else:
        model.config.save_pretrained(folder)
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
