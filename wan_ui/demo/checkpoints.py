"""The demo folder: written once, whole or not at all, and replaced by that of a newer version."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError

from wan_ui.demo.trained import WEIGHTS, write_trained
from wan_ui.errors import CheckpointNotFound, DiskFull
from wan_ui.files import PART_PREFIX

STAMP = "demo.json"  # written last; without it, or with a file that it lists missing, a folder is not a demo
NEEDED_BYTES = 160 << 20  # twice the demo's 80 MB where a file system has no hard links

DEMO_DEFAULTS: Mapping[str, int | float] = MappingProxyType(
    {"width": 128, "height": 128, "num_frames": 17, "sample_steps": 12, "guidance_scale": 2.0}
)
"""The form's starting values with --demo, by wire name: the size of the training clips, and just enough steps."""

LATENT_MAPS = WEIGHTS.parent / "latent_maps"
"""The maps of the demo's VAEs for live pictures, as tools/fit_latent_maps.py writes them."""

BANNER = (
    "Demo: a tiny model of coloured shapes that move, not Wan. For real videos, start without --demo on a machine with "
    "a CUDA GPU, or name your checkpoints with --models-dir."
)


@dataclass(frozen=True)
class Demo:
    """Where the demo's files are, and the sentence that the page shows above the tabs."""

    models_dir: Path
    lora_dir: Path
    first_frame: Path
    banner: str


@dataclass(frozen=True)
class Kind:
    """What writes a demo's folder, and its version, which must change with the files."""

    write: Callable[[Path], None]
    version: str
    banner: str


TRAINED = Kind(write_trained, "trained-3", BANNER)


def ensure(folder: Path, kind: Kind = TRAINED) -> Demo:
    """The demo in `folder`, written now if it is missing, damaged, of another version or of another kind.

    It is written beside the folder and renamed into place, so that a half-written one is never used; files that others
    put into the folder, such as a LoRA, are kept. Raises DiskFull, or CheckpointNotFound where it cannot be written or
    this installation lacks the demo's weights.
    """
    try:
        if not _is_current(folder, kind.version):
            _replace(folder, kind.write, kind.version)
    except SafetensorError as error:
        raise _cannot_write(str(error), None) from error
    except OSError as error:
        raise _cannot_write(os.strerror(error.errno or errno.EIO), error.errno) from error
    return Demo(
        models_dir=folder / "models",
        lora_dir=folder / "loras",
        first_frame=folder / "first_frame.png",
        banner=kind.banner,
    )


def _cannot_write(reason: str, number: int | None) -> DiskFull | CheckpointNotFound:
    if number == errno.ENOSPC or "No space left" in reason:
        return DiskFull(
            f"The demo checkpoints need {NEEDED_BYTES >> 20} MB of disk: free some disk space, or choose "
            "another data folder with --data-dir.",
            needed=NEEDED_BYTES,
        )
    return CheckpointNotFound(
        f"The demo checkpoints could not be written ({reason}): choose another data folder with --data-dir."
    )


def _manifest(folder: Path) -> dict[str, int]:
    """Relative path and bytes of every file under the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _stamp(folder: Path) -> tuple[str, dict[str, int]]:
    """Version and manifest of the demo in the folder; both empty where there is none."""
    try:
        stamp = json.loads((folder / STAMP).read_bytes())
        return str(stamp["version"]), {str(path): int(size) for path, size in stamp["files"].items()}
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return "", {}


def _is_current(folder: Path, version: str) -> bool:
    stamped, files = _stamp(folder)
    return stamped == version and files.items() <= _manifest(folder).items()


def _replace(folder: Path, write: Callable[[Path], None], version: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder.parent).free < NEEDED_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=folder.parent) as scratch,
        # Not a part, which the next start removes: between the renames it may hold files of the user.
        tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as replaced,
    ):
        new, old = Path(scratch, "new"), Path(replaced, "old")
        new.mkdir()
        write(new)
        (new / STAMP).write_text(json.dumps({"version": version, "files": _manifest(new)}, indent=1) + "\n")
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if not _is_current(folder, version):  # else another process wrote the same demo meanwhile
                raise
        _move_others(old, folder)


def _move_others(old: Path, new: Path) -> None:
    """Moves files that the old demo did not write into the new one, unless that has a file of the same name."""
    _, ours = _stamp(old)
    for path in _manifest(old):
        if path not in ours and path != STAMP and not (new / path).exists():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (old / path).rename(new / path)
