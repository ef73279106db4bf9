"""A cache of SHA-256 hashes of files, kept over a restart: each file is read once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

from wan_ui.files import write_file

log = logging.getLogger(__name__)

_Mark = tuple[int, int, int, int]


def file_mark(state: os.stat_result) -> _Mark:
    """Changes whenever a file does: size, modification time, and change time, which no program can set back."""
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


def read_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashCache:
    """Hashes by real path and file_mark, kept in `file` (None: in memory only). Safe to use from several threads."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known = _read(file)

    def known(self, path: Path) -> str | None:
        """The SHA-256 of a file as it is now, if it was read before. Raises OSError for a missing file."""
        now = file_mark(path.stat())
        with self._lock:
            entry = self._known.get(str(path))
        return entry[1] if entry is not None and entry[0] == now else None

    def of(self, path: Path) -> str:
        """The SHA-256 of a file, which is read unless its hash is known. Raises OSError."""
        known = self.known(path)
        if known is not None:
            return known
        before = file_mark(path.stat())
        sha256 = read_sha256(path)
        if file_mark(path.stat()) == before:  # else it is being written
            with self._lock:
                self._known[str(path)] = (before, sha256)
                self._save()
        return sha256

    def _save(self) -> None:
        if self._file is None:
            return
        try:
            write_file(self._file, json.dumps(self._known).encode())
        except OSError as error:  # the files are then read again after a restart
            log.warning("the hashes of the LoRA files cannot be saved", extra={"reason": error.strerror})


def _read(file: Path | None) -> dict[str, tuple[_Mark, str]]:
    try:
        listed = {} if file is None else json.loads(file.read_bytes())
        return {
            str(path): ((size, mtime, ctime, inode), str(sha256))
            for path, ((size, mtime, ctime, inode), sha256) in listed.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return {}  # a convenience: what it does not hold is read again
