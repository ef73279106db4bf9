"""A lock that keeps two servers from using one data folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from wan_ui.errors import DataFolderInUse, HostError
from wan_ui.files import create_folder

LOCK_FILE = ".lock"


class FolderLock:
    """Locks `folder` for this process until `release` or the end of the process, a kill included.

    The folder is created if it is missing. Raises DataFolderInUse if another process has locked it, and HostError if
    it cannot be created or written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            create_folder(folder)
            self._descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise HostError(
                f"The data folder cannot be used ({error.strerror}). Choose another with --data-dir."
            ) from error
        try:
            # flock rather than a file with a process id: the kernel releases it on SIGKILL too.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._descriptor, 20).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise DataFolderInUse(
                f"Another wan-ui server{f' (process {holder})' if holder else ''} is using this data folder. "
                "Stop it, or give this one its own with --data-dir."
            ) from error
        except OSError as error:
            os.close(self._descriptor)
            raise HostError(
                f"The data folder cannot be locked ({error.strerror}). Choose one on a local disk with --data-dir."
            ) from error
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Release the lock. To be called once."""
        os.close(self._descriptor)
