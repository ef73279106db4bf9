"""Files that are on the disk whole or not at all; it knows nothing of what is in them."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

PART_PREFIX = ".part-"  # what a killed process leaves behind starts with this, and may be removed at the next start
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: OSError) -> bool:
    """Whether the disk, or the account's quota on it, is used up."""
    return error.errno in _NO_SPACE


def publish(part: Path, path: Path) -> None:
    """Give the finished file `part` its name, to last through a power cut. Same file system; raises OSError."""
    _sync(part)
    os.replace(part, path)
    _sync(path.parent)


def sweep(folder: Path) -> None:
    """Removes what killed processes left unfinished, as far as it can be. Only for one that alone holds the folder."""
    for part in folder.glob(f"{PART_PREFIX}*"):
        try:
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
        except OSError as error:
            log.warning("what a killed process was writing cannot be removed", extra={"reason": error.strerror})


def save(path: Path, data: bytes) -> None:
    """Write `data` to `path`: other readers see all of it or the file that was there before. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=PART_PREFIX)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
