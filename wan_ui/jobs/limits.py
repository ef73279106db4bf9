"""How much one visitor, and all together, may ask of this machine; it knows no door and stores nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wan_ui.errors import CostTooHigh, DiskFull, HostError, QueueFull, WanUIError
from wan_ui.identity import Identity
from wan_ui.request import Generation

VISITORS_WAITING = 20
VISITORS_COST = 4_000_000_000  # frames × pixels: 36 videos of 1280 × 720 × 121
KEPT_FREE = 32 << 20  # bytes of the disk
LOOK_SECONDS = 10.0  # between two looks at how much the data folder holds


@dataclass(frozen=True)
class Limits:
    """`waiting` requests in line, `waiting_each` of one visitor, `cost` in frames × pixels of one request.

    None: 20 and 4e9 for visitors, no limit for the owner. `disk`: bytes of clips and uploads together.
    """

    waiting: int = 1000
    waiting_each: int | None = None
    cost: int | None = None
    disk: int | None = None

    def check_cost(self, identity: Identity, generations: Sequence[Generation]) -> None:
        """Raises CostTooHigh for a request that is more than one may ask for."""
        most = self.cost if self.cost is not None else None if identity.owner else VISITORS_COST
        asked = sum(one.width * one.height * one.num_frames for one in generations)
        if most is not None and asked > most:
            raise CostTooHigh(
                f"This asks for {asked:.3g} frames × pixels and this server takes {most:.3g} at once: make it smaller, "
                "shorter or fewer videos.",
                asked=asked,
                limit=most,
            )

    def check_queue(self, identity: Identity, waiting: int, waiting_of_visitor: Callable[[], int]) -> None:
        """Raises QueueFull when no further job may wait, in all or for this identity."""
        if waiting >= self.waiting:
            raise QueueFull(
                f"{waiting} requests wait already, and no more may. Try again when the line is shorter.",
                limit=self.waiting,
            )
        most = self.waiting_each if self.waiting_each is not None else None if identity.owner else VISITORS_WAITING
        if most is not None and waiting_of_visitor() >= most:
            raise QueueFull(
                f"You have {most} requests waiting, and no more may. Send this one when one of them is done.",
                limit=most,
            )


NO_LIMITS = Limits(waiting=10**9)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class DiskQuota:
    """How much the folders of `parent` hold, looked at now and then, against a limit in bytes (None: no limit).

    `free` says the bytes that a folder's disk has left, of which some stay free: for the list of jobs, so that a job
    which fails on a full disk can be told so.
    """

    def __init__(
        self,
        parent: Path,
        folders: Sequence[str],
        most: int | None,
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[Path], int] = _free,
    ) -> None:
        self._parent = parent
        self._folders = tuple(parent / name for name in folders)
        self._most = most
        self._clock = clock
        self._free = free
        self._looked: tuple[float, int] | None = None

    def problem(self, size: int = 0) -> WanUIError | None:
        """Why no more, and no file of `size` bytes, may be stored, or None."""
        try:
            left = self._free(self._parent)
        except OSError as error:
            return HostError(f"The data folder cannot be used ({error.strerror}). Put it back and start again.")
        if left < size + KEPT_FREE:
            return DiskFull(
                f"The disk has {left / 1e6:,.0f} MB left, which is too little. Make room on it and try again.",
                needed=size + KEPT_FREE,
                free=left,
            )
        if self._most is None:
            return None
        now = self._clock()
        if self._looked is None or now - self._looked[0] >= LOOK_SECONDS:
            self._looked = (now, sum(map(_size, self._folders)))
        if self._looked[1] + size < self._most:
            return None
        return DiskFull(
            f"This server keeps at most {self._most / 1e9:g} GB of clips and uploads, and has them. Its owner can "
            "delete some, or raise --max-disk-gb."
        )

    def check(self) -> None:
        """Raises DiskFull where nothing more may be stored."""
        problem = self.problem()
        if problem is not None:
            raise problem


def _size(folder: Path) -> int:
    """Bytes of all files under a folder; 0 where there is none."""
    total = 0
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return 0
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            total += _size(Path(entry.path))
        else:
            try:
                total += entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue  # gone since it was listed
    return total
