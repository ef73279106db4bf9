"""The configs of the seven models' components: shipped with the package, or a folder given in their place.

A single checkpoint file holds weights and nothing of its model's config: head counts, `latents_mean`, the scheduler.
The shipped ones are laid out as the repositories in diffusers format are, `<repo>/<subfolder>/config.json`, and so is
a folder that takes their place (`--configs-dir`), for fine-tunes of another size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wan_ui.errors import CheckpointIncomplete, CheckpointInvalid
from wan_ui.models import WanModel

SHIPPED = Path(__file__).parent / "configs"
LARGEST_CONFIG = 1 << 20  # bytes
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")

CONFIG_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "scheduler": "scheduler_config.json",
        "image_processor": "preprocessor_config.json",
        "model_index": "model_index.json",
        "tokenizer": "tokenizer_config.json",
    }
)


class ModelConfigs:
    """Configs by model and component. With `folder`, a config that is there takes the place of the shipped one."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folders = (SHIPPED,) if folder is None else (folder, SHIPPED)

    def folder(self, model: WanModel, component: str) -> Path | None:
        """The folder that holds a component's config, or None."""
        source, name = model.components[component], CONFIG_NAMES.get(component, "config.json")
        folders = (root / source.repo / source.subfolder for root in self._folders)
        return next((folder for folder in folders if (folder / name).is_file()), None)

    def config(self, model: WanModel, component: str) -> Mapping[str, Any]:
        """A component's config. Raises CheckpointIncomplete where there is none, or none that can be read."""
        name = CONFIG_NAMES.get(component, "config.json")
        folder = self.folder(model, component)
        source = model.components[component]
        shown = "/".join(part for part in (source.repo, source.subfolder, name) if part)
        if folder is None:
            raise CheckpointIncomplete(f"There is no config {shown}: put it under the configs folder.", file=shown)
        return read_config(folder / name, shown)

    def tokenizer_folder(self, model: WanModel) -> Path | None:
        """A folder with the model's tokenizer; none is shipped, since its vocabulary is too large."""
        folder = self.folder(model, "tokenizer")
        return folder if folder is not None and any((folder / file).is_file() for file in TOKENIZER_FILES) else None


def check_config(model: WanModel, component: str, config: Mapping[str, Any], shown: str) -> None:
    """Raises CheckpointInvalid where a transformer's config is another kind of model's.

    Text-to-video transformers take the latent's channels, image-to-video ones those, a mask of four and the encoded
    frame's; only Wan 2.1 image-to-video has layers for an image encoder.
    """
    if component not in model.slots.values():
        return
    latent = config.get("out_channels")
    takes_frame = model.conditioning in ("latent_channels", "clip_and_latent_channels")
    wanted = 2 * latent + 4 if takes_frame and isinstance(latent, int) else latent
    if config.get("in_channels") != wanted:
        raise CheckpointInvalid(
            f"{shown} is another model's transformer: it takes {config.get('in_channels')} channels where "
            f"{model.label} has {wanted}.",
            file=shown,
        )
    if (config.get("image_dim") is not None) != model.image_layers:
        which = "has" if config.get("image_dim") is not None else "lacks"
        raise CheckpointInvalid(
            f"{shown} is another model's transformer: it {which} the layers for an image encoder.", file=shown
        )


def read_config(path: Path, shown: str) -> Mapping[str, Any]:
    """A config file as a mapping. Raises CheckpointIncomplete for one that cannot be read."""
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise CheckpointIncomplete(f"{shown} is larger than any config. Put the config in place again.", file=shown)
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointIncomplete(f"{shown} cannot be read: put the config in place again.", file=shown) from error
    if not isinstance(value, dict):
        raise CheckpointIncomplete(f"{shown} is not a JSON object: put the config in place again.", file=shown)
    return MappingProxyType(value)
