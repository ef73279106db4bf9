"""The LoRA files at hand: a path under the LoRA folder or an upload becomes a checked file; it knows no torch."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.lora.header import LoraHeader, read_header
from wan_ui.lora.told import clean

SUFFIX = ".safetensors"
UPLOAD = "upload://"
LONGEST_SOURCE = 4096


@dataclass(frozen=True)
class LoraFile:
    """A sound LoRA file. `name`: as the user knows it; `path`: where it is; `size` in bytes."""

    name: str
    path: Path
    sha256: str
    size: int
    header: LoraHeader


class Library:
    """Files under `lora_dir`, and uploads under `uploads_dir` (None: no uploads are taken)."""

    def __init__(self, lora_dir: Path, uploads_dir: Path | None = None) -> None:
        self._lora_dir = lora_dir
        self._uploads_dir = uploads_dir
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, int, str], LoraFile] = {}

    def locate(self, source: str) -> LoraFile:
        """The file of a source: a relative path under the LoRA folder, or `upload://<id>`.

        Raises LoraNotFound when there is no such file or the path leaves the folder, LoraInvalid when it is no LoRA.
        """
        if not source or len(source) > LONGEST_SOURCE or "\0" in source:
            raise LoraNotFound("The LoRA path is empty or not a path.")
        if source.startswith(UPLOAD):
            return self._upload(source)
        path = self._inside(source)
        return self._checked(path, path.name)

    def listing(self) -> tuple[str, ...]:
        """The relative paths, sorted, of the .safetensors files under the LoRA folder that locate would open."""
        root = self._lora_dir.resolve()
        found: list[str] = []
        for folder, folders, files in os.walk(root):
            folders.sort()
            for file in files:
                path = Path(folder, file)
                if path.suffix.lower() == SUFFIX and path.is_file() and path.resolve().is_relative_to(root):
                    found.append(path.relative_to(root).as_posix())
        return tuple(sorted(found, key=str.lower))

    def add_upload(self, file: Path, name: str) -> str:
        """Move a finished upload in; equal files are stored once. Returns "upload://<id>"."""
        raise LoraNotFound("Uploads are not taken by this server.")

    def _upload(self, source: str) -> LoraFile:
        raise LoraNotFound("There is no such upload.")

    def _inside(self, source: str) -> Path:
        shown = clean(source, 120)
        if "://" in source:
            raise LoraNotFound(f"{shown}: give a path under the LoRA folder, or upload the file.", path=shown)
        pure = PurePosixPath(source)
        if pure.is_absolute() or ".." in pure.parts or "\\" in source:
            raise LoraNotFound(
                f"{shown}: a LoRA path is relative to the LoRA folder, with forward slashes and without '..'.",
                path=shown,
            )
        if pure.suffix.lower() != SUFFIX:
            raise LoraInvalid(f"{shown} is not a {SUFFIX} file.", path=shown)
        root = self._lora_dir.resolve()
        try:
            path = (root / pure).resolve()
            inside, is_file, is_dir = path.is_relative_to(root), path.is_file(), path.is_dir()
        except (OSError, RuntimeError) as error:  # a name too long for the file system, or a loop of links
            raise LoraNotFound(f"There is no LoRA {shown} under the LoRA folder.", path=shown) from error
        if inside and is_dir:
            raise LoraInvalid(f"{shown} is a folder, not a file.", path=shown)
        if not inside or not is_file:
            raise LoraNotFound(f"There is no LoRA {shown} under the LoRA folder.", path=shown)
        return path

    def _checked(self, path: Path, name: str) -> LoraFile:
        """Inspected and hashed, once per (real path, size, time of change)."""
        try:
            stat = path.stat()
            key = (str(path), stat.st_size, stat.st_mtime_ns, name)
            with self._lock:
                known = self._known.get(key)
            if known is not None:
                return known
            header = read_header(path, name)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise LoraNotFound(f"The LoRA {clean(name, 120)} cannot be read.", path=clean(name, 120)) from error
        found = LoraFile(name, path, digest, stat.st_size, header)
        with self._lock:
            self._known[key] = found
        return found
