"""Prefetch: reads files into the page cache with several threads before they are needed, counting the bytes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path

CHUNK = 8 << 20  # bytes of one read
SEGMENT = 128 << 20  # contiguous bytes that one reader takes, so that all readers share a single large file
READERS = 4


class Prefetcher:
    """Reads files in order once `start` is called; `done` of `total` bytes are in memory.

    `done` includes bytes that were cached before. A file that cannot be read is skipped: its own loader reports why.
    """

    def __init__(self, files: Sequence[Path], readers: int = READERS, segment: int = SEGMENT) -> None:
        """`segment` is the number of contiguous bytes that one reader takes."""
        self._segments = deque(segments(files, segment))
        self.total = sum(length for _, _, length in self._segments)
        self.done = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._started = self._finished = 0.0
        self._threads = [threading.Thread(target=self._read, name=f"prefetch-{n}", daemon=True) for n in range(readers)]

    def start(self) -> None:
        """Starts the readers."""
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops the readers after the chunk that each is reading, and waits for them."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def wait(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds; returns whether all files were read."""
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def rate(self) -> float | None:
        """Bytes per second from the start to the last byte; None before the first."""
        seconds = (self._finished or time.monotonic()) - self._started
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
                    self._read_segment(opened, offset, offset + length, memoryview(buffer))
            except OSError:
                continue  # its own loader reads it again and reports what is wrong

    def _read_segment(self, file: FileIO, at: int, end: int, buffer: memoryview) -> None:
        if is_cached(file, range(at, end, CHUNK)) and is_cached(file, (end - 1,)):
            self._count(end - at)
            return
        file.seek(at)
        while at < end and not self._stopping.is_set():
            length = file.readinto(buffer[: end - at])
            if not length:
                return  # the file was truncated
            at += length
            self._count(length)

    def _count(self, length: int) -> None:
        with self._lock:
            self.done += length
            if self.done == self.total:
                self._finished = time.monotonic()


def segments(files: Iterable[Path], size: int) -> list[tuple[Path, int, int]]:
    """The files in pieces of at most `size` bytes: file, offset and length of each."""
    return [
        (file, offset, min(size, whole - offset))
        for file, whole in ((file, file.stat().st_size) for file in files)
        for offset in range(0, whole, size)
    ]


def is_cached(file: FileIO, offsets: Iterable[int]) -> bool:
    """Whether the bytes at these offsets are in the page cache; False where the system cannot tell (not Linux).

    Ask about a whole segment before reading any of it: the kernel reads ahead after each read, this one included, so
    a byte shortly after one that was asked for proves nothing.
    """
    if sys.platform != "linux":
        return False
    try:
        return all(os.preadv(file.fileno(), [bytearray(1)], at, os.RWF_NOWAIT) == 1 for at in offsets)
    except OSError:
        return False  # not cached, or a file system that cannot tell
