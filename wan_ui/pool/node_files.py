"""Files that the server sends to another machine: named by SHA-256, checked, and kept there in a bounded cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from wan_ui.errors import HostError
from wan_ui.files import PART_PREFIX, create_folder, disk_full_mapped, publish_file
from wan_ui.lora.metadata import ADAPTER_CONFIG

CHUNK_BYTES = 4 << 20
LORA = "lora.safetensors"


@dataclass(frozen=True)
class SentFile:
    """A file that a clip needs: a LoRA or an image, by its SHA-256 and its size in bytes.

    `source` is a LoRA's path in the request, `name` its name for people, and `config` the bytes of PEFT's
    adapter_config.json beside it, which states its alpha.
    """

    kind: Literal["lora", "image"]
    sha256: str
    size: int
    source: str = ""
    name: str = ""
    config: bytes | None = None

    @property
    def key(self) -> str:
        """What it is stored under: the same LoRA with another config is another entry."""
        return self.sha256 if self.config is None else f"{self.sha256}-{hashlib.sha256(self.config).hexdigest()[:16]}"


class NodeFiles:
    """The files of a machine in `folder`, of at most `max_bytes` besides those in use. Shared by all its slots.

    A file is locked while a clip uses it (`flock`, which a killed process gives up), and only others are deleted, those
    first whose use is longest ago.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._locks: dict[str, BinaryIO] = {}
        for each in (folder / "images", folder / "loras"):
            create_folder(each)

    def path(self, file: SentFile) -> Path:
        """Where a file is, or would be."""
        if file.kind == "image":
            return self._folder / "images" / file.sha256
        return self._folder / "loras" / file.key / LORA

    def lock(self, files: Sequence[SentFile]) -> list[SentFile]:
        """Locks these files until the next call and releases all others; returns those that are not here."""
        before, self._locks = self._locks, {}
        missing = [file for file in files if not self._lock(file)]
        for opened in before.values():
            opened.close()
        return missing

    def write(self, file: SentFile, part: str, offset: int, data: bytes) -> None:
        """Writes a piece of a file, the pieces in order, under the name `part` until the last one is there.

        Raises HostError when the whole has another SHA-256, DiskFull, and HostError for what the disk refuses.
        """
        path = self.path(file)
        unfinished = self._folder / f"{PART_PREFIX}{part}"
        try:
            with disk_full_mapped("a file of the server"):
                with unfinished.open("wb" if offset == 0 else "r+b") as opened:
                    opened.seek(offset)
                    opened.write(data)
                if offset + len(data) >= file.size:
                    self._publish(file, unfinished, path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise HostError(f"A file of the server cannot be stored on this machine ({error.strerror}).") from error

    def trim(self) -> None:
        """Deletes unlocked files, the longest unused first, until the others have at most `max_bytes`."""
        entries = sorted(self._entries(), key=lambda entry: entry[1].st_mtime)
        total = sum(state.st_size for _, state in entries)
        for path, state in entries:
            if total <= self._max_bytes:
                return
            if _delete(path):
                total -= state.st_size

    def _publish(self, file: SentFile, unfinished: Path, path: Path) -> None:
        with unfinished.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        if sha256 != file.sha256:
            unfinished.unlink()
            raise HostError("A file changed while it was sent to another machine. Try again.")
        if file.kind == "image":
            if path.is_file():  # another slot of this machine has stored it meanwhile, and may have locked it
                unfinished.unlink()
            else:
                publish_file(unfinished, path)
            return
        # A folder that appears whole: a LoRA must never be seen without its config, or with another's.
        folder = unfinished.with_name(f"{unfinished.name}-folder")
        folder.mkdir()
        unfinished.rename(folder / LORA)
        if file.config is not None:
            (folder / ADAPTER_CONFIG).write_bytes(file.config)
        try:
            folder.rename(path.parent)
        except OSError:  # another slot of this machine has stored the same file meanwhile
            shutil.rmtree(folder)
            if not path.is_file():
                raise

    def _lock(self, file: SentFile) -> bool:
        """Locks a file and marks it as used now; whether it is here."""
        path = self.path(file)
        try:
            opened = path.open("rb")
            fcntl.flock(opened, fcntl.LOCK_SH)
            os.utime(path)
            if path.stat().st_ino != os.fstat(opened.fileno()).st_ino:
                return False  # deleted before it was locked
        except FileNotFoundError:
            return False
        self._locks[f"{file.kind} {file.key}"] = opened
        return True

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in (*self._folder.glob("images/*"), *self._folder.glob(f"loras/*/{LORA}")):
            with suppress(FileNotFoundError):
                yield path, path.stat()


def part_name() -> str:
    """A name for an unfinished file that no other has."""
    return secrets.token_hex(8)


def _delete(path: Path) -> bool:
    """Deletes a file, a LoRA with its folder, unless it is locked; whether it is gone."""
    try:
        with path.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.name != LORA:
                path.unlink()
                return True
            removed = path.parents[2] / f"{PART_PREFIX}{part_name()}"
            path.parent.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True
