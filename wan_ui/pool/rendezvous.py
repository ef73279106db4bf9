"""Where the processes of a machine find each other to render one video: files in a folder that all of them see."""

from __future__ import annotations

import json
import socket
import time
import uuid
from dataclasses import replace
from pathlib import Path

from wan_ui.engine.split import GroupPlace
from wan_ui.files import create_folder

FOLDER = "groups"
OLD_SECONDS = 2 * 24 * 3600.0  # a group writes to its file before each clip, and no process keeps one for so long
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NETWORK = Path("/proc/self/ns/net")
SHARED_MEMORY = Path("/dev/shm")  # NCCL's, which is only looked at


class Rendezvous:
    """The files of a slot's process: each is made by the first rank that opens it, and lasts as long as its group."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path: Path | None = None

    def local(self, place: GroupPlace) -> GroupPlace:
        """A place with the path of its file on this machine. Raises OSError where the folder cannot be used."""
        folder = _folder(self._data_dir)
        if not place.rank and not place.clip:
            _remove_old(folder)
        self._path = folder / place.rendezvous
        return replace(place, rendezvous=str(self._path))

    def remove(self) -> None:
        """Deletes the file of the last group: this process ends, and its group with it."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def leave_mark(data_dir: Path) -> str:
    """Makes a file for another process of this machine, which says what the two must share; returns its name."""
    folder, name = _folder(data_dir), f"mark-{uuid.uuid4().hex}"
    _remove_old(folder)
    (folder / name).write_text(json.dumps(_shared()))
    return name


def sees_mark(data_dir: Path, name: str) -> bool:
    """Whether this process can render together with the one that left a mark: it sees its file, and shares the rest.

    The mark is deleted.
    """
    path = _folder(data_dir) / name
    try:
        content = path.read_text()
    except FileNotFoundError:
        return False
    path.unlink(missing_ok=True)
    own = _shared()
    return own is not None and json.loads(content) == own


def _shared() -> list[str] | None:
    """What the processes of a group have in common besides the folder; None where that is not known.

    The machine that is running (NCCL compares its name and its start), the loopback interface, and shared memory.
    """
    try:
        network, memory = NETWORK.readlink(), SHARED_MEMORY.stat().st_dev
        return [socket.gethostname(), BOOT_ID.read_text().strip(), str(network), str(memory)]
    except OSError:
        return None


def _folder(data_dir: Path) -> Path:
    """The folder, which only this user may look into: a file in it leads to the group's connections."""
    create_folder(data_dir)
    folder = data_dir / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _remove_old(folder: Path) -> None:
    """Deletes what killed processes have left behind."""
    limit = time.time() - OLD_SECONDS
    for path in folder.iterdir():
        try:
            if path.stat().st_mtime < limit:
                path.unlink()
        except FileNotFoundError:
            continue  # another process has deleted it
