"""The SHA-256 of files, each read once and remembered over a restart; it knows no LoRA."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

from wan_ui.media import disk

log = logging.getLogger(__name__)

_Mark = tuple[int, int, int, int]


def file_mark(state: os.stat_result) -> _Mark:
    """What changes whenever a file does: size, time of change, and what no program can set back."""
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


def read_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashCache:
    """Hashes by real path and `mark`, kept in `file` (None: in memory alone). Any thread may call any method."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known = _read(file)

    def known(self, path: Path) -> str | None:
        """The SHA-256 of a file as it is now, if it was read before. Raises OSError for one that is gone."""
        now = file_mark(path.stat())
        with self._lock:
            found = self._known.get(str(path))
        return found[1] if found is not None and found[0] == now else None

    def of(self, path: Path) -> str:
        """The SHA-256 of a file, which is read if need be. Raises OSError."""
        known = self.known(path)
        if known is not None:
            return known
        before = file_mark(path.stat())
        sha256 = read_sha256(path)
        if file_mark(path.stat()) == before:  # one that is being written meanwhile is not worth remembering
            with self._lock:
                self._known[str(path)] = (before, sha256)
                self._save()
        return sha256

    def _save(self) -> None:
        if self._file is None:
            return
        try:
            disk.save(self._file, json.dumps(self._known).encode())
        except OSError as error:  # then they are read again after a restart
            log.warning("the hashes of the LoRA files cannot be kept", extra={"reason": error.strerror})


def _read(file: Path | None) -> dict[str, tuple[_Mark, str]]:
    try:
        listed = {} if file is None else json.loads(file.read_bytes())
        return {str(path): ((one[0], one[1], one[2], one[3]), str(sha256)) for path, (one, sha256) in listed.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return {}  # a convenience: what it does not tell is read again
