"""A slot whose engine runs in a process of its own, which sees one GPU: the server's side."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.engine.split import GroupPlace
from wan_ui.errors import Cancelled, RestartNeeded, SlotLost, WanUIError
from wan_ui.pool.messages import Answer, Cancel, Command, EngineOptions, Failed, Ready, RenderClip, Rendered, Reported
from wan_ui.pool.slots import Check, SlotDevice
from wan_ui.request import Generation

log = logging.getLogger(__name__)

PROGRAM = ("-m", "wan_ui.pool.slot_process")


@dataclass(frozen=True)
class ProcessLimits:
    """`poll`: seconds between two checks for a cancel. `cancel`: until a process that does not end a render is killed.

    `start`: until a process that does not build its engine is killed.
    """

    poll: float = 0.2
    cancel: float = 60.0
    start: float = 600.0


@dataclass(frozen=True)
class _Process:
    """A started process and the server's end of its pipe."""

    popen: subprocess.Popen[bytes]
    connection: Connection


class ProcessSlot:
    """One GPU with a process that is started for the first render and holds the loaded model between renders.

    The process ends by itself when the server's end of the pipe closes, so none outlives a killed server. `program` are
    the arguments of the Python interpreter that runs the process; the last one, added here, is the pipe's descriptor.
    """

    def __init__(
        self,
        device: SlotDevice,
        options: EngineOptions,
        limits: ProcessLimits | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._device = device
        self._options = replace(options, device=device.device)
        self._limits = limits or ProcessLimits()
        self._program = tuple(program)
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._ready: Ready | None = None
        self._is_ready = False
        self._number = 0

    @property
    def name(self) -> str:
        """The device's name."""
        return self._device.name

    @property
    def device_name(self) -> str | None:
        """The GPU's model, as the process said when it was first ready."""
        return None if self._ready is None else self._ready.device_name

    @property
    def is_started(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The process's id."""
        process = self._process
        return None if process is None else process.popen.pid

    def render(
        self, generation: Generation, on_progress: OnProgress, check: Check, place: GroupPlace | None = None
    ) -> Clip:
        """One clip, rendered by the process, which is started if there is none. See Slot.render.

        With a `place` the process renders it together with those of the group's other slots.
        """
        process = self._process
        if process is None or process.popen.poll() is not None:  # one that ended while nothing was rendered
            self.end()
            process = self._start(on_progress, check)
        self._number += 1
        number = self._number
        self._send(process, RenderClip(number, generation, place))
        while True:
            answer = self._receive(process)
            match answer:
                case None:
                    self._call(check, process, number)
                case Reported(number=of, progress=progress) if of == number:
                    self._call(partial(on_progress, progress), process, number)
                case Rendered(number=of, clip=clip) if of == number:
                    return clip
                case Failed(number=of, error=error) if of == number:
                    raise self._failure(error)

    def _call(self, report: Callable[[], None], process: _Process, number: int) -> None:
        """Calls the server's side of a render. A cancel from it is passed on; any other error ends the process."""
        try:
            report()
        except Cancelled:
            self._stop_render(process, number)
            raise
        except WanUIError:
            self.end()
            raise

    def _failure(self, error: WanUIError) -> WanUIError:
        """The error of a render, as SlotLost where the process cannot go on after it."""
        if not isinstance(error, RestartNeeded):
            return error
        self.end()
        return SlotLost(f"{self.name}: {error.message}", after=error.code)

    def end(self) -> None:
        """Kills the process, which holds nothing but weights."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.popen.kill()
            process.popen.wait()  # its end of the pipe is closed now, which a thread that reads the other end sees

    def _start(self, on_progress: OnProgress, check: Check) -> _Process:
        """Starts the process and waits for its engine."""
        on_progress(Progress("checking", note=f"Starting {self.name}"))
        own, others = Pipe()
        with others:
            popen = subprocess.Popen(
                [sys.executable, *self._program, str(others.fileno())],
                env=_environment(os.environ, self._device),
                pass_fds=[others.fileno()],
                stdin=subprocess.DEVNULL,
            )
        process = _Process(popen, own)
        with self._lock:
            self._process, self._is_ready = process, False
        self._send(process, self._options)
        deadline = time.monotonic() + self._limits.start
        while not isinstance(answer := self._receive(process), Ready):
            if isinstance(answer, Failed):
                self.end()
                raise SlotLost(f"{self.name} cannot be used: {answer.error.message}", started=False)
            if time.monotonic() > deadline:
                self.end()
                raise SlotLost(f"{self.name} was not ready after {self._limits.start:g} s.", started=False)
            self._check_start(check)
        self._ready, self._is_ready = answer, True
        log.info("slot ready", extra={"slot": self.name, "pid": popen.pid, "device": answer.device_name})
        return process

    def _check_start(self, check: Check) -> None:
        """A cancel during the start ends the process: it holds nothing yet."""
        try:
            check()
        except Cancelled:
            self.end()
            raise

    def _send(self, process: _Process, command: Command | EngineOptions) -> None:
        try:
            process.connection.send(command)
        except OSError as error:
            raise self._lost(process) from error

    def _receive(self, process: _Process) -> Answer | None:
        """The next answer, or None when there is none for a moment. Raises SlotLost when the process ended."""
        try:
            if not process.connection.poll(self._limits.poll):
                return None
            answer: Answer = process.connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost(process) from error
        return answer

    def _lost(self, process: _Process) -> SlotLost:
        """The error for a process that ended, which is cleared away."""
        started = self._is_ready
        self.end()
        code = process.popen.wait()
        log.error("slot ended", extra={"slot": self.name, "pid": process.popen.pid, "exit_code": code})
        return SlotLost(f"The process of {self.name} ended (exit code {code}).", started=started)

    def _stop_render(self, process: _Process, number: int) -> None:
        """Tells the process to stop, and kills it if it does not within its limit."""
        deadline = time.monotonic() + self._limits.cancel
        try:
            self._send(process, Cancel(number))
            while time.monotonic() < deadline:
                answer = self._receive(process)
                if isinstance(answer, Rendered | Failed) and answer.number == number:
                    if isinstance(answer, Failed) and isinstance(answer.error, RestartNeeded):
                        self.end()
                    return
        except SlotLost:
            return  # it ended, which is as good
        log.warning("slot did not stop", extra={"slot": self.name, "seconds": self._limits.cancel})
        self.end()


def _environment(environment: Mapping[str, str], device: SlotDevice) -> dict[str, str]:
    """The process sees one GPU, set before it imports torch, and this same package, wherever it was started."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH", ""))))
    return {**environment, "CUDA_VISIBLE_DEVICES": device.visible, "PYTHONPATH": path}
