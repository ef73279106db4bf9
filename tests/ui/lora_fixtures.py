"""LoRA files and the sizes of the models they are for: three widths, so that a file can be for another tab."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.lora_files import write_lora
from wan_ui.models import WanModel

EVIL = '<img src=x onerror="alert(1)">'
WIDTHS = {"wan22_5b": 48, "wan21_1b": 32}
LARGE = 64


def configs(model: WanModel, component: str) -> Mapping[str, Any]:
    """A transformer's config.json: 5B and 1.3B have widths of their own, all 14B share one."""
    width = WIDTHS.get(model.id, LARGE)
    channels = 48 if model.conditioning == "first_latent" else 16
    return {
        "num_attention_heads": 2,
        "attention_head_dim": width // 2,
        "ffn_dim": 2 * width,
        "num_layers": 3,
        "in_channels": channels,
        "out_channels": channels,
        "added_kv_proj_dim": width if model.image_layers else None,
        "image_dim": 16 if model.image_layers else None,
    }


def lora(path: Path, width: int, seed: int = 0, combined: bool = False, **metadata: Any) -> Path:
    """A file for a width with AI Toolkit's metadata; `combined` puts a high- and a low-noise half in it."""
    write_lora(path, width=width, ffn=2 * width, seed=seed)
    state = load_file(path)
    if combined:
        prefix = "diffusion_model."
        state = {
            f"{prefix}{side}.{key.removeprefix(prefix)}": tensor.clone()
            for side in ("transformer_1", "transformer_2")
            for key, tensor in state.items()
        }
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    standard = {"software": json.dumps({"name": "ai-toolkit", "version": "0.12.26"})}
    save_file(state, path, metadata={"format": "pt", **standard, **texts})
    return path


def write_loras(folder: Path) -> None:
    """The LoRA folder of the tests: see the names."""
    save: dict[str, Any] = {"sshs_model_hash": "a" * 64, "training_info": {"step": 2000, "epoch": 9}}
    wan22: dict[str, Any] = {"ss_base_model_version": "wan_2.2_14b"}
    lora(folder / "small.safetensors", 48, 1, trigger_word="sks cat", ss_base_model_version="wan_2.2_5b", **save)
    lora(folder / "any_14b.safetensors", LARGE, 2)
    lora(folder / "cat_high_noise.safetensors", LARGE, 3, **wan22, **save)
    lora(folder / "cat_low_noise.safetensors", LARGE, 4, **wan22, **save)
    lora(folder / "dog_high_noise.safetensors", LARGE, 5, **wan22, **{**save, "sshs_model_hash": "b" * 64})
    lora(folder / "both.safetensors", LARGE, 6, combined=True, **wan22)
    lora(folder / "speed.safetensors", 48, 7, ss_base_model_version="wan_2.2_5b")
    evil: dict[str, Any] = {"trigger_word": EVIL, "ss_base_model_version": EVIL}
    evil["software"] = {"name": EVIL, "version": EVIL}
    lora(folder / "evil.safetensors", 48, 8, **evil)
    (folder / "page.safetensors").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
