"""README.md and docs/ say what the code does: generated parts, examples, links, memory figures."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from wan_ui.demo import examples
from wan_ui.models import MODELS, WanModel
from wan_ui.request import parse, resolve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEMORY = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
PAGES = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))


def test_the_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 110


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_http_example_is_a_request_that_the_demo_can_run() -> None:
    body = re.search(r"-d '(\{.*?\n\})'", README, re.DOTALL)
    assert body is not None
    (generation,) = resolve(parse(json.loads(body[1])), lambda image: image)
    assert [use.path for use in generation.loras] == [examples.SINGLE]


def test_the_python_example_is_a_request() -> None:
    body = re.search(r"engine\.generate\((\{.*?\n\})\)", README, re.DOTALL)
    assert body is not None
    assert resolve(parse(ast.literal_eval(body[1])), lambda image: image)


@pytest.mark.parametrize("name", re.findall(r"^(?:\$ )?(scripts/\w+)", README, re.MULTILINE))
def test_the_scripts_named_exist(name: str) -> None:
    assert (ROOT / name).stat().st_mode & 0o111


def _gigabytes(model: Any) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) * 2 / 1e9


def _transformer(row: WanModel) -> Any:
    return WanTransformer3DModel(
        num_attention_heads=row.hidden_size // 128,
        attention_head_dim=128,
        in_channels=row.input_channels,
        out_channels=row.latent_channels,
        ffn_dim=row.ffn_size,
        num_layers=row.blocks,
        image_dim=1280 if row.image_layers else None,
        added_kv_proj_dim=row.hidden_size if row.image_layers else None,
    )


def _vae(row: WanModel) -> Any:
    if row.spatial_compression == 8:
        return AutoencoderKLWan()
    return AutoencoderKLWan(
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        in_channels=12,
        out_channels=12,
        is_residual=True,
        patch_size=2,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
        scale_factor_spatial=16,
    )


@pytest.mark.slow
@pytest.mark.parametrize("row", MODELS.values(), ids=MODELS)
def test_memory_figures_are_those_of_the_architectures(row: WanModel) -> None:
    """The real classes at full size on the meta device, in bf16."""
    with torch.device("meta"):
        network = _transformer(row)
        transformer, vae = _gigabytes(network), _gigabytes(_vae(row))
        text = _gigabytes(
            UMT5EncoderModel(
                UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
            )
        )
        image = 0.0
        if row.image_layers:
            clip = CLIPVisionConfig(
                hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14
            )
            image = _gigabytes(CLIPVisionModel(clip))
    assert sum(parameter.numel() for parameter in network.parameters()) == row.parameters
    whole = transformer * len(row.slots) + text + vae + image
    at_work = max(transformer, text) + vae + image
    assert f"| {transformer:.1f} |" in MEMORY
    assert f"| {whole:.1f} | {at_work:.1f} |" in MEMORY
