"""Runs functions in processes of their own, forked from one that has imported the engine: importing it takes seconds.

That one process serves all tests of a run of pytest, and ends with it.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.forked_imports"])
SECONDS = 280  # that a function may take


def run_forked(function: Callable[..., object], *arguments: Any, output: Path) -> tuple[int, str]:
    """The exit code of a process that calls the function, and what it printed; `output` is a file for that."""
    process = CONTEXT.Process(target=_call, args=(os.fspath(output), SECONDS, function, arguments))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, output.read_text()


def run_together(
    function: Callable[..., object], arguments: Sequence[tuple[Any, ...]], folder: Path, seconds: int = SECONDS
) -> list[str]:
    """What each call of the function printed: one process for each of the arguments, all at once.

    Fails the test, and ends the other processes, where one of them raises or exits with another code than 0, or is not
    done in time. `folder` takes the outputs.
    """
    outputs = [folder / f"output{number}.txt" for number in range(len(arguments))]
    processes = [
        CONTEXT.Process(target=_call, args=(os.fspath(output), seconds, function, own))
        for output, own in zip(outputs, arguments, strict=True)
    ]
    for process in processes:
        process.start()
    try:
        running = list(processes)
        while running:
            ended = wait([process.sentinel for process in running])
            for process in [process for process in running if process.sentinel in ended]:
                running.remove(process)
                process.join()
                assert process.exitcode == 0, (process.exitcode, outputs[processes.index(process)].read_text())
    finally:
        for process in processes:
            process.kill()  # the others may wait for one that failed
            process.join()
    return [output.read_text() for output in outputs]


class ForkedProgram:
    """A process that calls the function with the arguments, with what tests use of `subprocess.Popen`.

    `stdout` has what it prints, also on its standard error. The function ends the process, or it ends with 0. It gets
    the environment of the caller.
    """

    def __init__(self, function: Callable[..., object], *arguments: Any) -> None:
        reader, writer = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(target=_run_program, args=(writer, dict(os.environ), function, arguments))
        self._process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        if self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired([str(self._process)], timeout or 0)
        return self._process.exitcode


def _run_program(
    output: Connection, environment: dict[str, str], function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output.fileno(), stream.fileno())
    output.close()
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def _call(output: str, seconds: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    with Path(output).open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    signal.alarm(seconds)
    function(*arguments)
