"""LoRA files for tests: records without a file, and files on disk in AI Toolkit's layout for the tiny checkpoints."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file

from wan_ui.lora.header import LoraHeader
from wan_ui.lora.layers import Kind, ModuleInfo
from wan_ui.lora.library import LoraFile

ATTENTION = tuple(f"{kind}_attn.{part}" for kind in ("self", "cross") for part in "qkvo")


def lora_file(name: str, kind: str = "lora") -> LoraFile:
    """A record that points at no file; its SHA-256 follows from its name. `kind` is one or several, joined by +."""
    kinds = [cast(Kind, one) for one in kind.split("+")]
    modules = tuple(ModuleInfo("single", f"blocks.{i}", one, (1, 1), 1, None) for i, one in enumerate(kinds))
    header = LoraHeader(
        type=kind,
        slot="single",
        slots=("single",),
        modules=modules,
        dropped=(),
        dropped_count=0,
        dtype="F32",
        hidden=None,
        ffn=None,
        in_channels=None,
        blocks=(),
        image_layers=False,
        rank=None,
        alpha=None,
        trainer=None,
        trainer_version=None,
        base_version=None,
        step=None,
        epoch=None,
        trigger_word=None,
        output_name=None,
        model_hash=None,
        messages=(),
    )
    return LoraFile(name, Path(name), hashlib.sha256(name.encode()).hexdigest(), 0, header)


def write_lora(
    path: Path, *, width: int = 48, ffn: int = 96, blocks: int = 3, rank: int = 4, seed: int = 0, scale: float = 0.2
) -> Path:
    """A plain LoRA on every attention and feed-forward layer, in AI Toolkit's keys and metadata."""
    generator = torch.Generator().manual_seed(seed)
    shapes = dict.fromkeys(ATTENTION, (width, width)) | {"ffn.0": (ffn, width), "ffn.2": (width, ffn)}
    state = {}
    for block in range(blocks):
        for module, (out, into) in shapes.items():
            key = f"diffusion_model.blocks.{block}.{module}"
            state[f"{key}.lora_A.weight"] = torch.randn(rank, into, generator=generator) * scale
            state[f"{key}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * scale
    path.parent.mkdir(parents=True, exist_ok=True)
    software = json.dumps({"name": "ai-toolkit", "version": "0.12.26"})
    save_file(state, path, metadata={"format": "pt", "software": software})
    return path
