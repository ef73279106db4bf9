"""Runs a program within limits of time, memory and output, in a process group that ends with this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import IO

LAUNCHER = Path(__file__).with_name("launcher.py")
MESSAGE_BYTES = 64 << 10  # of standard error, the last ones
BEAT_SECONDS = 0.2  # between two calls of `beat` while the program runs
JOIN_SECONDS = 5.0  # for what is left in the pipes of a program that has ended
_CHUNK = 256 << 10


@dataclass(frozen=True)
class Limits:
    """What a program may take: `seconds` from its start to its end, bytes of `output`, bytes of address space."""

    seconds: float
    output: int = 0
    memory: int = 0


@dataclass(frozen=True)
class Result:
    """A program that has ended: its exit status, standard output, and the end of its standard error."""

    status: int
    output: bytearray
    messages: bytearray


class OutOfTime(Exception):
    """The program ran longer than its limit and was killed."""


class TooMuchOutput(Exception):
    """The program wrote more than its limit and was killed."""


def _no_beat() -> None:
    """Default `beat`: nothing to do, and nothing that ends the program early."""


def run(
    command: list[str],
    limits: Limits,
    *,
    pieces: Iterable[memoryview | bytes] | None = None,
    beat: Callable[[], None] = _no_beat,
) -> Result:
    """Runs a command and returns its result; `pieces` are written to its standard input.

    `beat` is called several times a second and may raise to end the program. Raises OutOfTime and TooMuchOutput.
    A program that cannot be started ends with status 127, and a message. Nothing of the program's process group is
    left running, however this function ends.
    """
    # -I and -S: no environment variable and no package changes what the launcher does, and it starts in some 15 ms.
    launched = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(limits.memory), *command]
    process = subprocess.Popen(
        launched,
        stdin=subprocess.DEVNULL if pieces is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        process_group=0,
    )
    reader = _Reader(process, limits.output)
    feeder = None if pieces is None or process.stdin is None else _Feeder(process.stdin, pieces)
    works = (reader.read_output, reader.read_messages, *(() if feeder is None else (feeder.write,)))
    threads = [Thread(target=work, daemon=True) for work in works]
    try:
        for thread in threads:
            thread.start()
        _wait(process, reader, limits, beat)
    finally:
        # Also after a normal end: a child of the program may be left.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for thread in threads:
            if thread.ident is not None:
                thread.join(JOIN_SECONDS)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
    if reader.is_over:
        raise TooMuchOutput
    if feeder is not None and feeder.error is not None:
        raise feeder.error
    return Result(process.returncode, reader.output, reader.messages)


def _wait(process: subprocess.Popen[bytes], reader: _Reader, limits: Limits, beat: Callable[[], None]) -> None:
    """Waits for the program's end, within the limits."""
    deadline = time.monotonic() + limits.seconds
    while True:
        left = deadline - time.monotonic()
        reader.changed.wait(max(0.0, min(BEAT_SECONDS, left)))
        if reader.is_over:
            raise TooMuchOutput
        if reader.changed.is_set():  # it has closed its messages, which a program does when it ends
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, min(BEAT_SECONDS, left)))
        if process.poll() is not None:
            return
        if left <= 0:
            raise OutOfTime
        beat()


class _Reader:
    """Reads the output up to `limit` bytes, and of the messages the last ones. `changed`: there is something to see."""

    def __init__(self, process: subprocess.Popen[bytes], limit: int) -> None:
        self._process = process
        self._limit = limit
        self.output = bytearray()
        self.messages = bytearray()
        self.is_over = False
        self.changed = Event()

    def read_output(self) -> None:
        """Reads standard output to its end, or until it is too much."""
        assert self._process.stdout is not None
        while piece := self._process.stdout.read(_CHUNK):
            self.output += piece
            if len(self.output) > self._limit:
                self.is_over = True
                self.changed.set()
                return

    def read_messages(self) -> None:
        """Reads standard error to its end."""
        assert self._process.stderr is not None
        while piece := self._process.stderr.read(_CHUNK):
            self.messages += piece
            del self.messages[:-MESSAGE_BYTES]
        self.changed.set()


class _Feeder:
    """Writes the pieces to standard input. `error` is what the pieces raised, which must not pass as their end."""

    def __init__(self, pipe: IO[bytes], pieces: Iterable[memoryview | bytes]) -> None:
        self._pipe = pipe
        self._pieces = pieces
        self.error: Exception | None = None

    def write(self) -> None:
        """Writes all pieces and closes the pipe."""
        # A broken pipe: the program ended early, and its status and messages say why.
        with suppress(BrokenPipeError), self._pipe:
            try:
                for piece in self._pieces:
                    rest = memoryview(piece).cast("B")
                    while rest:
                        rest = rest[self._pipe.write(rest) :]
            except BrokenPipeError:
                raise
            except (ValueError, TypeError, MemoryError, OSError) as error:
                self.error = error
