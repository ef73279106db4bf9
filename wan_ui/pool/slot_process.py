"""A slot's process: `python -m wan_ui.pool.slot_process DESCRIPTOR` builds an engine and renders what the server sends.

It holds nothing but loaded weights: it reads LoRA files and images from the data folder, and writes no video and no
database. A thread reads the pipe, so that a cancel arrives during a render, and ends the process once the server is
gone.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NoReturn, Protocol

from wan_ui import logs
from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.engine.split import GroupPlace
from wan_ui.errors import Cancelled, RenderFailed, RequestError, RestartNeeded, WanUIError
from wan_ui.pool.messages import Answer, Cancel, Command, EngineOptions, Failed, Ready, RenderClip, Rendered, Reported
from wan_ui.pool.rendezvous import Rendezvous
from wan_ui.request import Generation

log = logging.getLogger(__name__)


class SlotEngine(Protocol):
    """What a slot's process needs of `wan_ui.inference.Engine`."""

    @property
    def device_name(self) -> str:
        """The GPU's model."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of what computes a clip."""
        ...

    def render(self, generation: Generation, on_progress: OnProgress) -> Clip:
        """One clip."""
        ...

    def join(self, place: GroupPlace) -> None:
        """Render together with other processes from now on."""

    def leave(self) -> None:
        """Render alone from now on."""

    def check(self) -> None:
        """Raises DeviceLost when the device cannot be used any more."""
        ...


Build = Callable[[EngineOptions], SlotEngine]


def build_engine(options: EngineOptions) -> SlotEngine:
    """The engine that renders, with a library of the same folders as the server's. Raises DeviceUnavailable."""
    from wan_ui.engine.live_picture import PictureSettings
    from wan_ui.inference import Engine
    from wan_ui.lora.library import COMFY_FOLDER, JOBS_FOLDER, Library
    from wan_ui.lora.received import ReceivedLoras
    from wan_ui.lora.remote import RemoteFiles

    uploads = options.data_dir / "uploads"
    jobs = () if options.jobs_dir is None else (options.jobs_dir,)
    library = None if options.received is None else ReceivedLoras(options.received)
    engine = Engine(
        options.models_dir,
        options.lora_dir,
        options.device,
        options.memory,
        options.data_dir,
        options.allow_url_hosts,
        library
        or Library(
            options.lora_dir,
            uploads,
            RemoteFiles(uploads, allow_hosts=options.allow_url_hosts),
            further={COMFY_FOLDER: lambda: engine.checkpoints.catalog.lora_folders(), JOBS_FOLDER: lambda: jobs},
        ),
        options.compile,
        options.comfy_dir,
        options.configs_dir,
        live_pictures=PictureSettings(options.latent_maps),
    )
    return engine


@contextmanager
def _joined(engine: SlotEngine, rendezvous: Rendezvous, place: GroupPlace | None) -> Iterator[None]:
    """Within it the engine renders at its place of a group, if it has one."""
    if place is not None:
        engine.join(rendezvous.local(place))
    try:
        yield
    finally:
        engine.leave()


class SlotProcess:
    """The process's side of the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._renders: queue.SimpleQueue[RenderClip] = queue.SimpleQueue()
        self._canceled = 0

    def run(self, build: Build) -> NoReturn:
        """Builds the engine and renders until the server ends the process or is gone."""
        options: EngineOptions = self._connection.recv()
        logs.begin(options.log_format)
        rendezvous = Rendezvous(options.data_dir)

        def clear() -> None:
            rendezvous.remove()
            if options.received is not None:  # a killed actor leaves its folder to this process
                shutil.rmtree(options.received.parent, ignore_errors=True)

        threading.Thread(target=self._listen, args=(clear,), name="wan-ui-slot-commands", daemon=True).start()
        gc.disable()  # nothing that is imported is garbage, and each later collection passes over it
        try:
            engine = build(options)
        except WanUIError as error:
            self._send(Failed(0, error))
            raise SystemExit(RestartNeeded.exit_code) from error
        gc.freeze()
        gc.enable()
        self._send(Ready(engine.device_name, engine.versions))
        while True:
            self._render(engine, rendezvous, self._renders.get())

    def _render(self, engine: SlotEngine, rendezvous: Rendezvous, command: RenderClip) -> None:
        number = command.number

        def on_progress(progress: Progress) -> None:
            if self._canceled >= number:
                raise Cancelled("Canceled.")
            self._send(Reported(number, progress))

        try:
            with _joined(engine, rendezvous, command.place):
                clip = engine.render(command.generation, on_progress)
        except Exception as error:  # noqa: BLE001 - the process's only broad except: the server records what went wrong
            self._fail(engine, command, error)
        else:
            self._send(Rendered(number, clip))

    def _fail(self, engine: SlotEngine, command: RenderClip, error: Exception) -> None:
        """Sends why a render ended; a device that is lost ends this process.

        In a group the device is not asked: it may wait for the other GPUs, and the server ends this process.
        """
        number = command.number
        failure: WanUIError
        if isinstance(error, WanUIError):
            failure = error
        else:
            log.error("unexpected error", exc_info=error)
            failure = RenderFailed("Unexpected error while generating. Details are in the server log.")
        # Tracebacks hold the tensors of a whole render.
        error.__cause__ = error.__context__ = error.__traceback__ = None
        is_in_group = command.place is not None and not isinstance(failure, RequestError)
        if not isinstance(failure, Cancelled) and not is_in_group:
            try:
                engine.check()
            except RestartNeeded as lost:
                lost.details["after"] = failure.code
                self._send(Failed(number, lost))
                raise SystemExit(lost.exit_code) from None
        self._send(Failed(number, failure))

    def _send(self, answer: Answer) -> None:
        with self._sending:
            self._connection.send(answer)

    def _listen(self, clear: Callable[[], None]) -> None:
        while True:
            try:
                command: Command = self._connection.recv()
            except (EOFError, OSError):
                clear()
                os._exit(0)  # the server is gone; the main thread may be in the middle of a step
            if isinstance(command, Cancel):
                self._canceled = max(self._canceled, command.number)
            else:
                self._renders.put(command)


def main(build: Build = build_engine) -> NoReturn:
    """Runs the process on the descriptor that its last argument names."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and systemd reach the server too, which ends this process
        signal.signal(number, signal.SIG_IGN)
    SlotProcess(Connection(int(sys.argv[-1]))).run(build)


if __name__ == "__main__":
    main()
