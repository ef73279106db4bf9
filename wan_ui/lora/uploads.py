"""Stores uploaded files once by content, and finds them by id after a restart."""

from __future__ import annotations

import errno
import json
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wan_ui.errors import HostError
from wan_ui.files import PART_PREFIX, create_folder, disk_full_mapped, publish_file, remove_parts, write_file

_INDEX = "uploads.json"


@dataclass(frozen=True)
class Upload:
    """One upload: its id, original name, content and size in bytes; several may share one stored file."""

    id: str
    name: str
    sha256: str
    size: int


class Uploads:
    """A folder of `<sha256>.safetensors` and an index of uploads. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        create_folder(folder)
        self._index = self._read()

    def find(self, upload_id: str) -> Upload | None:
        """The upload of an id, or None."""
        with self._lock:
            return self._index.get(upload_id)

    def named(self, name: str, among: Callable[[str], bool]) -> Upload | None:
        """The latest upload with an original name, of those whose id `among` accepts, or None."""
        with self._lock:
            matches = [upload for upload in reversed(self._index.values()) if upload.name == name]
        return next((upload for upload in matches if among(upload.id)), None)

    def with_sha256(self, sha256: str, among: Callable[[str], bool]) -> list[Upload]:
        """The uploads with a content, the latest first, of those whose id `among` accepts."""
        with self._lock:
            matches = [upload for upload in reversed(self._index.values()) if upload.sha256 == sha256]
        return [upload for upload in matches if among(upload.id)]

    def path(self, upload: Upload) -> Path:
        """Where an upload's bytes are."""
        return self._folder / f"{upload.sha256}.safetensors"

    def add(self, file: Path, name: str, sha256: str) -> Upload:
        """Moves a file into the store. The same name with the same content keeps its id.

        Raises DiskFull when there is no space; `file` is then not moved.
        """
        with self._lock:
            for known in self._index.values():
                if (known.name, known.sha256) == (name, sha256) and self.path(known).exists():
                    file.unlink()
                    return known
            upload = Upload(secrets.token_hex(16), name, sha256, file.stat().st_size)
            try:
                with disk_full_mapped("the upload"):
                    if self.path(upload).exists():
                        file.unlink()
                    else:
                        self._move(file, self.path(upload))
                    self._write({**self._index, upload.id: upload})
            except OSError as error:
                raise HostError("The upload cannot be stored: the uploads folder is not writable.") from error
            self._index[upload.id] = upload
            return upload

    def all(self) -> tuple[Upload, ...]:
        """All uploads, the oldest first."""
        with self._lock:
            return tuple(self._index.values())

    def delete(self, upload_id: str) -> None:
        """Removes an upload, and its file where no other upload has the same content. Raises OSError."""
        with self._lock:
            index = dict(self._index)
            upload = index.pop(upload_id, None)
            if upload is None:
                return
            self._write(index)
            self._index = index
            if all(other.sha256 != upload.sha256 for other in index.values()):
                self.path(upload).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes unfinished files of a killed process. Only for a process that owns the folder."""
        remove_parts(self._folder)

    def _move(self, file: Path, target: Path) -> None:
        try:
            publish_file(file, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The temporary folder is on another file system: the file is copied, under a temporary name.
            partial = self._folder / f"{PART_PREFIX}{secrets.token_hex(8)}"
            try:
                shutil.copyfile(file, partial)
                publish_file(partial, target)
            finally:
                partial.unlink(missing_ok=True)
            file.unlink()

    def _read(self) -> dict[str, Upload]:
        try:
            listed: Any = json.loads((self._folder / _INDEX).read_text(encoding="utf-8"))
            return {item["id"]: Upload(**item) for item in listed}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError) as error:
            raise HostError(
                f"The index of uploads, {_INDEX}, is damaged: move it away and restart the server."
            ) from error

    def _write(self, index: dict[str, Upload]) -> None:
        text = json.dumps([asdict(upload) for upload in index.values()], indent=1)
        write_file(self._folder / _INDEX, text.encode())
