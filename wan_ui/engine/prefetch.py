"""Files pulled into the page cache by several readers ahead of whoever needs them, with a count of the bytes.

It knows no model: what reads the files afterwards finds them in memory.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path

import psutil

from wan_ui.engine.memory import HOST_RESERVE

CHUNK = 8 << 20  # bytes of one read
SEGMENT = 128 << 20  # bytes in a row that one reader takes, so that a single large file is read by all of them
READERS = 4


def has_room(size: int) -> bool:
    """Whether host memory, or its page cache, can take so many bytes beside what the system needs."""
    available: int = psutil.virtual_memory().available
    return size + HOST_RESERVE <= available


class Prefetcher:
    """Reads files in order, once `start` is called. `done` counts bytes that are in memory, files that already were
    included; a file that cannot be read is left to whoever needs it, who says why."""

    def __init__(self, files: Sequence[Path], readers: int = READERS) -> None:
        self._segments = deque(
            (file, offset, min(SEGMENT, size - offset))
            for file, size in ((file, file.stat().st_size) for file in files)
            for offset in range(0, size, SEGMENT)
        )
        self.total = sum(length for _, _, length in self._segments)
        self.done = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._began = self._ended = 0.0
        self._threads = [
            threading.Thread(target=self._read, name=f"read-ahead-{n}", daemon=True) for n in range(readers)
        ]

    def start(self) -> None:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the reading, after the chunk that is under way."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def wait(self, timeout: float) -> bool:
        """Whether all files were read within so many seconds."""
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def rate(self) -> float | None:
        """Bytes per second from the start until the last byte, None before the first."""
        seconds = (self._ended or time.monotonic()) - self._began
        return self.done / seconds if self.done and seconds > 0 else None

    def _read(self) -> None:
        buffer = bytearray(CHUNK)
        while not self._stopping.is_set():
            try:
                file, offset, length = self._segments.popleft()
            except IndexError:
                return
            try:
                with file.open("rb", buffering=0) as opened:
                    self._pull(opened, offset, offset + length, memoryview(buffer))
            except OSError:
                continue  # who needs it reads it again, and says what is wrong

    def _pull(self, file: FileIO, at: int, end: int, buffer: memoryview) -> None:
        if is_cached(file, range(at, end, CHUNK)) and is_cached(file, (end - 1,)):
            self._count(end - at)
            return
        file.seek(at)
        while at < end and not self._stopping.is_set():
            length = file.readinto(buffer[: end - at])
            if not length:
                return  # it became shorter
            at += length
            self._count(length)

    def _count(self, length: int) -> None:
        with self._lock:
            self.done += length
            if self.done == self.total:
                self._ended = time.monotonic()


def is_cached(file: FileIO, places: Iterable[int]) -> bool:
    """Whether these bytes of a file are in the page cache; only Linux can say.

    Asked for a whole segment before any of it is read: the system reads on behind each read, and behind this question
    too, so that a byte shortly after one that was asked for says nothing.
    """
    if sys.platform != "linux":
        return False
    try:
        return all(os.preadv(file.fileno(), [bytearray(1)], at, os.RWF_NOWAIT) == 1 for at in places)
    except OSError:
        return False  # not there, or a file system that cannot tell
