"""Becomes another program, with a limit on its memory; the kernel ends it with the server. Run by path, alone.

`python -I -S launcher.py SERVER_PID MEMORY_BYTES PROGRAM ARGUMENT...`; a memory of 0 is no limit. A program with one
decodes a visitor's file, and has less of the processor than the server that answers the others.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

NICENESS = 5  # a third of the processor beside one thread of the server
NOT_STARTED = 127  # the exit status of shells for a program that cannot be started
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def _end_with(server: int) -> None:
    """Lets the kernel kill this process when the thread that started it ends. Linux only."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it ended before the call
        os._exit(NOT_STARTED)


def main() -> None:
    """Sets the limits and replaces this process by the program."""
    server, memory, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    _end_with(server)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        os.nice(NICENESS)
    if memory and sys.platform == "linux":  # macOS knows the limit and does not keep it
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        sys.exit(NOT_STARTED)


if __name__ == "__main__":
    main()
