"""Limits on the queue, on the cost of a request and on the disk space of the data folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_ui.errors import CostTooHigh, DiskFull, HostError, PayloadTooLarge, QueueFull, WanUIError
from wan_ui.files import free_bytes
from wan_ui.identity import Identity
from wan_ui.request import Generation

MOST_TEXT = 1_000_000  # characters of one request, all its videos together
VISITORS_WAITING = 20
VISITORS_COST = 4_000_000_000  # frames × pixels: 36 videos of 1280 × 720 × 121
RESERVED_BYTES = 32 << 20  # of the disk, so that the job database can still be written
MEASURE_SECONDS = 10.0  # between two measurements of the data folder


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    `waiting` jobs in the queue, `waiting_each` of one visitor, `cost` of one request in frames × pixels; None: 20 and
    4e9 for visitors, no limit for the owner. `disk`: bytes of clips and uploads together, None for no limit.
    `waiting_of_guests`: jobs of all but the owner. `guests_use_hub_token`: whether this machine's token for the hub is
    sent for guests' LoRAs too.
    """

    waiting: int = 1000
    waiting_each: int | None = None
    cost: int | None = None
    disk: int | None = None
    waiting_of_guests: int = 500
    guests_use_hub_token: bool = True

    def check_cost(self, identity: Identity, generations: Sequence[Generation]) -> None:
        """Raises CostTooHigh for a request whose frames × pixels exceed the limit."""
        limit = self._limit(self.cost, VISITORS_COST, identity)
        cost = sum(video.width * video.height * video.num_frames for video in generations)
        if limit is not None and cost > limit:
            raise CostTooHigh(
                f"This request needs {cost:.3g} frames × pixels, and this server accepts at most {limit:.3g}: make the "
                "videos smaller, shorter or fewer.",
                asked=cost,
                limit=limit,
            )

    def check_text(self, wire: Mapping[str, Any], generations: Sequence[Generation]) -> None:
        """Raises PayloadTooLarge for more text than MOST_TEXT, as sent or with every video's prompts written out.

        It is kept with the job and read with each list of jobs.
        """
        written = sum(len(video.prompt) + len(video.neg) for video in generations)
        if max(written, len(json.dumps(wire))) > MOST_TEXT:
            raise PayloadTooLarge(
                f"The texts of this request, all its videos together, are longer than {MOST_TEXT} characters: send "
                "fewer prompts at once, or shorter ones.",
                limit=MOST_TEXT,
            )

    def check_queue(
        self,
        identity: Identity,
        waiting: int,
        waiting_of_visitor: Callable[[], int],
        waiting_of_guests: Callable[[], int] = lambda: 0,
    ) -> None:
        """Raises QueueFull when no further job may wait, in all, of all guests or for this identity."""
        if waiting >= self.waiting:
            raise QueueFull(
                f"The queue is full ({waiting} jobs). Try again later.",
                limit=self.waiting,
            )
        if not identity.owner and waiting_of_guests() >= self.waiting_of_guests:
            raise QueueFull(
                f"{self.waiting_of_guests} jobs of guests are waiting, which is the limit. Try again later.",
                limit=self.waiting_of_guests,
            )
        limit = self._limit(self.waiting_each, VISITORS_WAITING, identity)
        if limit is not None and waiting_of_visitor() >= limit:
            raise QueueFull(
                f"You have {limit} jobs waiting, which is the limit. Try again when one of them is finished.",
                limit=limit,
            )

    @staticmethod
    def _limit(chosen: int | None, of_visitors: int, identity: Identity) -> int | None:
        """The chosen limit, or else the default of visitors; the owner has none by default."""
        return of_visitors if chosen is None and not identity.owner else chosen


NO_LIMITS = Limits(waiting=10**9, waiting_of_guests=10**9)


class DiskQuota:
    """Checks new files against the free disk space and against `limit` bytes for the `folders` of the data folder.

    The folders are measured every MEASURE_SECONDS at most. `free` returns the free bytes of a folder's disk,
    `database` the bytes of the job database, which count too.
    """

    def __init__(
        self,
        parent: Path,
        folders: Sequence[str],
        limit: int | None,
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[Path], int] = free_bytes,
        database: Callable[[], int] = lambda: 0,
    ) -> None:
        self._parent = parent
        self._folders = tuple(parent / name for name in folders)
        self._limit = limit
        self._clock = clock
        self._free = free
        self._database = database
        self._measured: tuple[float, int] | None = None

    def problem(self, size: int = 0) -> WanUIError | None:
        """The error for which no file of `size` bytes may be stored, or None if it may."""
        try:
            left = self._free(self._parent)
        except OSError as error:
            return HostError(f"The data folder cannot be used ({error.strerror}). Restore it and start again.")
        if left < size + RESERVED_BYTES:
            return DiskFull(
                f"The disk has only {left / 1e6:,.0f} MB left. Free some disk space and try again.",
                needed=size + RESERVED_BYTES,
                free=left,
            )
        if self._limit is None:
            return None
        now = self._clock()
        if self._measured is None or now - self._measured[0] >= MEASURE_SECONDS:
            self._measured = (now, sum(map(_size, self._folders)) + self._database())
        if self._measured[1] + size < self._limit:
            return None
        return DiskFull(
            f"The server's limit of {self._limit / 1e9:g} GB for videos and uploads is reached. Delete some, or raise "
            "--max-disk-gb."
        )

    def check(self, size: int = 0) -> None:
        """Raises DiskFull or HostError if no `size` bytes more may be stored, and counts them if they may."""
        problem = self.problem(size)
        if problem is not None:
            raise problem
        if self._measured is not None:  # not measured again before the next one asks
            self._measured = (self._measured[0], self._measured[1] + size)


def _size(folder: Path) -> int:
    """Bytes of all files under a folder; 0 if it does not exist."""
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
                state = entry.stat(follow_symlinks=False)
                total += state.st_size // max(1, state.st_nlink)  # once for all its names
            except OSError:
                continue  # deleted since it was listed
    return total
