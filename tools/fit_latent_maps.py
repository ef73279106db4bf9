"""Fits the latent-to-RGB maps of the demo's two VAEs and writes them into the package: run it after a new training."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from wan_ui.demo.checkpoints import LATENT_MAPS
from wan_ui.demo.trained import WEIGHTS
from wan_ui.engine.live_picture import LivePictures


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    for old in LATENT_MAPS.glob("*.npz"):
        old.unlink()
    for folder in sorted(WEIGHTS.glob("vae*")):
        vae = AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32).eval()
        LivePictures(LATENT_MAPS, sha256).maps(sorted(folder.glob("*.safetensors")), vae)
        print(folder.name)
