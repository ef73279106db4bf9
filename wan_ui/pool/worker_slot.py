"""A slot whose engine runs elsewhere, in a process or an actor: the server's side of its renders, cancels and ends."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.engine.split import GroupPlace
from wan_ui.errors import Cancelled, RestartNeeded, SlotLost, WanUIError
from wan_ui.pool.messages import Answer, Cancel, Command, EngineOptions, Failed, Ready, RenderClip, Rendered, Reported
from wan_ui.pool.slots import Check
from wan_ui.request import Generation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProcessLimits:
    """`poll`: seconds between two checks for a cancel. `cancel`: until a process that does not end a render is killed.

    `start`: until a process that does not build its engine is killed.
    """

    poll: float = 0.2
    cancel: float = 60.0
    start: float = 600.0


class Worker(Protocol):
    """What renders for a slot, once it was started: a process, or an actor on another machine."""

    @property
    def pid(self) -> int | None:
        """The id of its process, where that runs on this machine."""
        ...

    def has_ended(self) -> bool:
        """Whether it is known to have ended."""
        ...

    def send(self, command: Command | EngineOptions) -> None:
        """Sends without waiting for an answer. Raises OSError when it has ended."""

    def receive(self, seconds: float) -> Answer | None:
        """Its next answer, or None if there is none within `seconds`. Raises OSError or EOFError when it has ended."""
        ...

    def kill(self) -> None:
        """Ends it at once, from any thread."""

    def ending(self) -> str:
        """How it ended, in a few words, after `kill`."""
        ...


AnyWorker = TypeVar("AnyWorker", bound=Worker)


class WorkerSlot(ABC, Generic[AnyWorker]):
    """One GPU with a worker that is started for the first render and holds the loaded model between renders.

    A kind of slot says how its worker is launched, and may do something before each render.
    """

    def __init__(
        self, name: str, options: EngineOptions, limits: ProcessLimits | None = None, gpu_model: str | None = None
    ) -> None:
        """`gpu_model` is the GPU's model, where it is known before a worker has started."""
        self._name = name
        self._gpu_model = gpu_model
        self._options = options
        self._limits = limits or ProcessLimits()
        self._lock = threading.Lock()
        self._worker: AnyWorker | None = None
        self._ready: Ready | None = None
        self._is_ready = False
        self._joined: GroupPlace | None = None
        self._number = 0

    @abstractmethod
    def _launch(self) -> AnyWorker:
        """Starts a worker, without waiting for its engine."""

    def _prepare(self, worker: AnyWorker, command: RenderClip, on_progress: OnProgress, check: Check) -> RenderClip:
        """What is sent for a render. Raises what keeps the worker from rendering it, or what `check` raises."""
        return command

    @property
    def name(self) -> str:
        """The device's name."""
        return self._name

    @property
    def device_name(self) -> str | None:
        """The GPU's model, as the worker said when it was first ready, or as it was known before."""
        return self._gpu_model if self._ready is None else self._ready.device_name

    @property
    def machine(self) -> str:
        """The server's own machine. See Slot.machine."""
        return ""

    @property
    def is_started(self) -> bool:
        """Whether there is a worker that is not known to have ended."""
        worker = self._worker
        return worker is not None and not worker.has_ended()

    @property
    def joined(self) -> GroupPlace | None:
        """The place in the group that the worker rendered with last. See Slot.joined."""
        worker = self._worker
        return None if worker is None or worker.has_ended() else self._joined

    @property
    def pid(self) -> int | None:
        """The id of the worker's process, where that runs on this machine."""
        worker = self._worker
        return None if worker is None else worker.pid

    def render(
        self,
        generation: Generation,
        on_progress: OnProgress,
        check: Check,
        place: GroupPlace | None = None,
        lossless: bool = False,
    ) -> Clip:
        """One clip, rendered by the worker, which is started if there is none. See Slot.render.

        With a `place` the worker renders it together with those of the group's other slots.
        """
        worker = self._worker
        if worker is None or worker.has_ended():  # one that ended while nothing was rendered
            self.end()
            if place is not None and place.clip:
                raise SlotLost(f"The process of {self.name} ended, and the group with it.")
            worker = self._start(on_progress, check)
        self._number += 1
        number = self._number
        command = self._prepare(worker, RenderClip(number, generation, place, lossless), on_progress, check)
        self._joined = place or self._joined
        self._send(worker, command)
        while True:
            answer = self._receive(worker)
            match answer:
                case None:
                    self._call(check, worker, number)
                case Reported(number=of, progress=progress) if of == number:
                    self._call(partial(on_progress, progress), worker, number)
                case Rendered(number=of, clip=clip) if of == number:
                    return clip
                case Failed(number=of, error=error) if of == number:
                    raise self._failure(error)

    def end(self) -> None:
        """Kills the worker, which holds nothing but weights."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()

    def _call(self, report: Callable[[], None], worker: AnyWorker, number: int) -> None:
        """Calls the server's side of a render. A cancel from it is passed on; any other error ends the worker."""
        try:
            report()
        except Cancelled:
            self._stop_render(worker, number)
            raise
        except WanUIError:
            self.end()
            raise

    def _failure(self, error: WanUIError) -> WanUIError:
        """The error of a render, as SlotLost where the worker cannot go on after it."""
        if not isinstance(error, RestartNeeded):
            return error
        self.end()
        return SlotLost(f"{self.name}: {error.message}", after=error.code)

    def _start(self, on_progress: OnProgress, check: Check) -> AnyWorker:
        """Starts the worker and waits for its engine."""
        on_progress(Progress("checking", note=f"Starting {self.name}"))
        try:
            worker = self._launch()
        except OSError as error:
            raise SlotLost(f"{self.name} cannot be used: {error.strerror or error}", started=False) from error
        with self._lock:
            self._worker, self._is_ready, self._joined = worker, False, None
        self._send(worker, self._options)
        deadline = time.monotonic() + self._limits.start
        while not isinstance(answer := self._receive(worker), Ready):
            if isinstance(answer, Failed):
                self.end()
                raise SlotLost(f"{self.name} cannot be used: {answer.error.message}", started=False)
            if time.monotonic() > deadline:
                self.end()
                raise SlotLost(f"{self.name} was not ready after {self._limits.start:g} s.", started=False)
            self._check_start(check)
        self._ready, self._is_ready = answer, True
        log.info("slot ready", extra={"slot": self.name, "pid": worker.pid, "device": answer.device_name})
        return worker

    def _check_start(self, check: Check) -> None:
        """A cancel or a time limit during the start ends the worker: it holds nothing yet."""
        try:
            check()
        except WanUIError:
            self.end()
            raise

    def _send(self, worker: AnyWorker, command: Command | EngineOptions) -> None:
        try:
            worker.send(command)
        except OSError as error:
            raise self._lost(worker) from error

    def _receive(self, worker: AnyWorker) -> Answer | None:
        """The next answer, or None when there is none for a moment. Raises SlotLost when the worker ended."""
        try:
            return worker.receive(self._limits.poll)
        except (EOFError, OSError) as error:
            raise self._lost(worker) from error

    def _lost(self, worker: AnyWorker) -> SlotLost:
        """The error for a worker that ended, which is cleared away."""
        started = self._is_ready
        self.end()
        ending = worker.ending()
        log.error("slot ended", extra={"slot": self.name, "pid": worker.pid, "ending": ending})
        return SlotLost(f"The process of {self.name} ended ({ending}).", started=started)

    def _stop_render(self, worker: AnyWorker, number: int) -> None:
        """Tells the worker to stop, and kills it if it does not within its limit."""
        deadline = time.monotonic() + self._limits.cancel
        try:
            self._send(worker, Cancel(number))
            while time.monotonic() < deadline:
                answer = self._receive(worker)
                if isinstance(answer, Rendered | Failed) and answer.number == number:
                    if isinstance(answer, Failed) and isinstance(answer.error, RestartNeeded):
                        self.end()
                    return
        except SlotLost:
            return  # it ended, which is as good
        log.warning("slot did not stop", extra={"slot": self.name, "seconds": self._limits.cancel})
        self.end()
