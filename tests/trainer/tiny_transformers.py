"""Configs of tiny transformers, for tests and their processes that need no torch."""

from __future__ import annotations

from typing import Any

from wan_ui.models import WanModel


def tiny(row: WanModel, component: str) -> dict[str, Any]:
    """A transformer's config.json of checkpoints that these LoRA files fit."""
    channels = {"latent_channels": 36, "first_latent": 48}.get(row.conditioning, 16)
    return {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "ffn_dim": 96,
        "num_layers": 3,
        "in_channels": channels,
        "out_channels": channels,
        "added_kv_proj_dim": 48 if row.image_layers else None,
        "image_dim": 16 if row.image_layers else None,
    }
