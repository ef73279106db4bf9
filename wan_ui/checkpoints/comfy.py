"""Finds the checkpoint files of a ComfyUI `models/` folder and of other folders, by name alone; it opens none.

ComfyUI keeps one list for `diffusion_models/` and `unet/`, and one for `text_encoders/` and `clip/`; subfolders count.
`extra_model_paths.yaml` beside or above the folder adds more folders, relative to its own place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from wan_ui.errors import JobConfigInvalid
from wan_ui.text import is_utf8
from wan_ui.trainer import safe_yaml

Category = Literal["diffusion_models", "text_encoders", "vae", "clip_vision", "loras"]

CATEGORIES: Mapping[str, Category] = MappingProxyType(
    {
        "diffusion_models": "diffusion_models",
        "unet": "diffusion_models",
        "text_encoders": "text_encoders",
        "clip": "text_encoders",
        "vae": "vae",
        "clip_vision": "clip_vision",
        "loras": "loras",
    }
)
"""ComfyUI's names of folders, the older ones too, and the list that each belongs to."""

CHECKPOINT_ENDINGS = (".safetensors", ".sft", ".gguf")
PICKLE_ENDINGS = (".ckpt", ".pt", ".pt2", ".bin", ".pth", ".pkl")
EXTRA_PATHS = "extra_model_paths.yaml"
MOST_FILES = 20_000  # in one folder tree; what lies beyond is left out, and said
LARGEST_CONFIG = 1 << 20  # bytes
DEEPEST = 8  # levels of subfolders
SHARD = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")


@dataclass(frozen=True)
class ModelFolders:
    """Folders by list, in the order in which ComfyUI searches them, and what was left out, with the reason."""

    by_category: Mapping[Category, tuple[Path, ...]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundFile:
    """A file by its name below its folder (`T2V/model.safetensors`, as ComfyUI shows it) and where it lies."""

    name: str
    path: Path


def find_folders(comfy_dir: Path) -> ModelFolders:
    """The folders that a ComfyUI installation takes models from; `comfy_dir` is its `models/` folder, or its root.

    Folders that are missing are named in the notes where `extra_model_paths.yaml` lists them.
    """
    root = comfy_dir / "models" if _is_comfy_root(comfy_dir) else comfy_dir
    found: dict[Category, list[Path]] = {}
    notes: list[str] = []
    if not root.is_dir():
        notes.append(f"The ComfyUI folder {root.name} does not exist.")
    for name, category in CATEGORIES.items():
        if (root / name).is_dir():
            found.setdefault(category, []).append(root / name)
    for place in dict.fromkeys((root, root.parent, comfy_dir)):
        if (place / EXTRA_PATHS).is_file():
            extra = read_extra_paths(place / EXTRA_PATHS)
            for category, folders in extra.by_category.items():
                found.setdefault(category, []).extend(folders)
            notes += extra.notes
    unique = {category: tuple(dict.fromkeys(folders)) for category, folders in found.items()}
    return ModelFolders(MappingProxyType(unique), tuple(notes))


def _is_comfy_root(folder: Path) -> bool:
    has_categories = any((folder / name).is_dir() for name in CATEGORIES)
    return not has_categories and (folder / "models").is_dir()


def read_extra_paths(path: Path) -> ModelFolders:
    """The folders that an `extra_model_paths.yaml` lists, those that exist; the others are named in the notes.

    Relative ones start at `base_path`, and a relative `base_path` at the file's own folder. `~` and environment
    variables in `base_path` are expanded, as ComfyUI does.
    """
    found: dict[Category, list[Path]] = {}
    notes: list[str] = []
    try:
        document = safe_yaml.load(path.read_bytes())
    except (OSError, JobConfigInvalid) as error:
        reason = error.message if isinstance(error, JobConfigInvalid) else str(error.strerror)
        return ModelFolders(MappingProxyType({}), (f"{path.name} cannot be read: {reason}",))
    sections = document.values() if isinstance(document, dict) else ()
    for section in (section for section in sections if isinstance(section, dict)):
        base = _base_path(section, path.parent)
        for key, value in section.items():
            category = CATEGORIES.get(str(key))
            if category is None or not isinstance(value, str):
                continue
            for line in (line.strip() for line in value.splitlines() if line.strip()):
                folder = base / line
                if folder.is_dir():
                    found.setdefault(category, []).append(folder)
                else:
                    notes.append(f"{path.name} names the folder {Path(line).name} for {key}, which does not exist.")
    return ModelFolders(MappingProxyType({key: tuple(value) for key, value in found.items()}), tuple(notes))


def _base_path(section: Mapping[str, Any], folder: Path) -> Path:
    base = section.get("base_path")
    return folder if not isinstance(base, str) else folder / Path(os.path.expandvars(base)).expanduser()


def list_files(folders: Iterable[Path], skip: Iterable[Path] = ()) -> list[FoundFile]:
    """The files under these folders, pickles and shards too; a name that an earlier folder has hides a later one.

    `skip` are folders that are left out with everything below them.
    """
    files: dict[str, FoundFile] = {}
    left_out = frozenset(path.resolve() for path in skip)
    for folder in folders:
        for path in _walk(folder, left_out):
            name = path.relative_to(folder).as_posix()
            files.setdefault(name, FoundFile(name, path))
    return list(files.values())


def _is_component(folder: Path, names: Iterable[str]) -> bool:
    """Whether a folder is a component in diffusers' or transformers' layout, whose weights go with its config."""
    if "config.json" not in names:
        return False
    try:
        with (folder / "config.json").open("rb") as file:
            config = json.loads(file.read(LARGEST_CONFIG))
    except (OSError, ValueError, RecursionError):
        return False
    # Wan's own repositories have a config.json too, with their own class in it.
    return isinstance(config, dict) and (
        "architectures" in config or config.get("_class_name", "WanModel") != "WanModel"
    )


def _walk(folder: Path, left_out: frozenset[Path]) -> Iterator[Path]:
    """The model files below a folder, links followed, no folder twice."""
    seen: set[Path] = set()
    count = 0
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        real = here.resolve()
        if (
            real in seen
            or real in left_out
            or _is_component(here, names)
            or len(here.relative_to(folder).parts) > DEEPEST
        ):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or not name.lower().endswith((*CHECKPOINT_ENDINGS, *PICKLE_ENDINGS)):
                continue
            count += 1
            if count > MOST_FILES:
                return
            if is_utf8(str(here / name)):
                yield here / name
