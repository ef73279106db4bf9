"""Lays out the trained demo from the weights in this package; it knows the table's columns and no model by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from wan_ui.engine.recipes import unipc_config
from wan_ui.models import MODELS, WanModel

BOUNDARY = 0.875  # what model_index.json of a checkpoint with two transformers says
WEIGHTS = Path(__file__).parent / "weights"
_TRANSFORMERS = {
    "text": "t2v",
    "first_latent": "ti2v5b",
    "latent_channels": "i2v22",
    "clip_and_latent_channels": "i2v21",
}


def write_trained(folder: Path, weights: Path = WEIGHTS) -> None:
    """The trained checkpoints in diffusers layout, the trained LoRAs and a first frame. Files that are equal in
    several repositories are stored once where the file system can."""
    written: dict[Path, Path] = {}
    for row in MODELS.values():
        for component, source in row.components.items():
            place = folder / "models" / source.repo / source.subfolder
            place.mkdir(parents=True, exist_ok=True)
            if component == "scheduler":
                config = {"_class_name": "UniPCMultistepScheduler", **unipc_config(row.euler_shift)}
                (place / "scheduler_config.json").write_text(json.dumps(config, indent=2) + "\n")
            elif component == "model_index":
                index = {"_class_name": "WanPipeline", "boundary_ratio": BOUNDARY}
                (place / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
            else:
                for file in sorted((weights / part_of(row, component)).iterdir()):
                    _store(file, place / file.name, written)
    shutil.copytree(weights / "loras", folder / "loras", copy_function=shutil.copyfile)
    shutil.copyfile(weights / "first_frame.png", folder / "first_frame.png")


def part_of(row: WanModel, component: str) -> str:
    """The folder in this package that a row's component comes from.

    Rows that take their first frame in the same way share a transformer, and so do the halves of a pair.
    """
    if component == "vae":
        return f"vae{row.spatial_compression}"
    return _TRANSFORMERS[row.conditioning] if component in row.slots.values() else component


def _store(file: Path, place: Path, written: dict[Path, Path]) -> None:
    """A copy of a file, or one more name for a copy that was made before."""
    if file in written and not place.exists():
        try:
            os.link(written[file], place)
            return
        except OSError:  # a file system without hard links
            pass
    if not place.exists():
        shutil.copyfile(file, place)
    written.setdefault(file, place)
