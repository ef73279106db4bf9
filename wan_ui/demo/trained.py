"""Writes the trained demo's folder from the weights in this package: one checkpoint for each model of the table."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from wan_ui.engine.recipes import unipc_config
from wan_ui.errors import CheckpointNotFound
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
    """The trained checkpoints in diffusers layout, the trained LoRAs and a first frame.

    Files that are equal in several repositories are stored once where the file system has hard links. Raises
    CheckpointNotFound where the weights are missing.
    """
    if not weights.is_dir():
        raise CheckpointNotFound(
            f"This installation lacks the demo's weights (wan_ui/demo/{weights.name}), so --demo cannot start. Install "
            "wan-ui again, or start without --demo."
        )
    written: dict[Path, Path] = {}
    for model in MODELS.values():
        for component, source in model.components.items():
            target = folder / "models" / source.repo / source.subfolder
            target.mkdir(parents=True, exist_ok=True)
            if component == "scheduler":
                config = {"_class_name": "UniPCMultistepScheduler", **unipc_config(model.euler_shift)}
                (target / "scheduler_config.json").write_text(json.dumps(config, indent=2) + "\n")
            elif component == "model_index":
                index = {"_class_name": "WanPipeline", "boundary_ratio": BOUNDARY}
                (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
            else:
                for file in sorted((weights / weights_folder(model, component)).iterdir()):
                    _link_or_copy(file, target / file.name, written)
    shutil.copytree(weights / "loras", folder / "loras", copy_function=shutil.copyfile)
    shutil.copyfile(weights / "first_frame.png", folder / "first_frame.png")


def weights_folder(model: WanModel, component: str) -> str:
    """The name of the folder in this package that a model's component comes from.

    Models that take their first frame in the same way share a transformer, and so do the halves of a pair.
    """
    if component == "vae":
        return f"vae{model.spatial_compression}"
    return _TRANSFORMERS[model.conditioning] if component in model.slots.values() else component


def _link_or_copy(file: Path, target: Path, written: dict[Path, Path]) -> None:
    """Copies a file, or links to an earlier copy of it."""
    if file in written and not target.exists():
        try:
            os.link(written[file], target)
            return
        except OSError:  # a file system without hard links
            pass
    if not target.exists():
        shutil.copyfile(file, target)
    written.setdefault(file, target)
