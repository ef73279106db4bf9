"""Writes files atomically, and maps a full disk to DiskFull."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wan_ui.errors import DiskFull, TooManyOpenFiles

log = logging.getLogger(__name__)

PART_PREFIX = ".part-"  # what a killed process leaves behind starts with this, and may be removed at the next start
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_NO_DESCRIPTOR_TEXTS = tuple(f"(os error {number})" for number in _NO_DESCRIPTOR)  # of libraries written in Rust


def is_disk_full(error: OSError) -> bool:
    """Whether the disk, or the account's quota on it, is used up."""
    return error.errno in _NO_SPACE


def disk_full(what: str) -> DiskFull:
    """The error for what could not be stored: "the video", "the first frame"."""
    return DiskFull(f"The disk is full: there is no space for {what}. Free some disk space and try again.")


def check_descriptors(error: BaseException) -> None:
    """Raises TooManyOpenFiles if an error, or one that it came from, is that no further file can be opened.

    To be called before such an error is taken for one of the file.
    """
    cause: BaseException | None = error
    while cause is not None:
        is_without_number = any(text in str(cause) for text in _NO_DESCRIPTOR_TEXTS)
        if is_without_number or (isinstance(cause, OSError) and cause.errno in _NO_DESCRIPTOR):
            raise TooManyOpenFiles(
                "The server has too many files and connections open. Raise its limit (ulimit -n, LimitNOFILE), and try "
                "again."
            ) from error
        cause = cause.__cause__ or cause.__context__


@contextmanager
def disk_full_mapped(what: str) -> Iterator[None]:
    """Raises DiskFull in place of an OSError of a full disk; other errors pass."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(what) from error
        raise


@contextmanager
def folder_beside(path: Path, what: str, failed: Callable[[str | None], Exception]) -> Iterator[Path]:
    """A folder to make the file `path` in, so that the last step is a rename and a failure leaves nothing behind.

    Raises DiskFull for `what` in place of an OSError of a full disk, and what `failed` makes of the reason of others.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=PART_PREFIX) as folder:
            yield Path(folder)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(what) from error
        raise failed(error.strerror) from error


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the folder's disk."""
    return shutil.disk_usage(folder).free


def bytes_in(folder: Path) -> int:
    """Bytes of all files under a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # deleted since it was listed
    return total


def create_folder(folder: Path) -> None:
    """Creates a folder with its parents unless it is there, to last through a power cut. Raises OSError."""
    missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        _sync(each.parent)


def publish_file(part: Path, path: Path) -> None:
    """Gives the finished file `part` its name, to last through a power cut. Same file system; raises OSError."""
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def remove_parts(folder: Path) -> None:
    """Removes what killed processes left unfinished, as far as possible. Only for a process that owns the folder."""
    for part in folder.glob(f"{PART_PREFIX}*"):
        try:
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
        except OSError as error:
            log.warning("an unfinished file of a killed process cannot be removed", extra={"reason": error.strerror})


def write_file(path: Path, data: bytes) -> None:
    """Writes `data` to `path`: readers see all of it or the file that was there before. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=PART_PREFIX)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        publish_file(part, path)
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
