"""A slot's part on another machine: an actor that starts the slot's process there, and passes on what both sides say.

The process is that of a slot on the server's own machine. The actor keeps the files that the server sends, encodes the
finished clip where its process leads, and ends the process with itself. Ray is not imported here. It calls the methods
in threads: `receive` in one, `send` in another, and what concerns files in a third, so that a cancel never waits.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.config import OPTIONS
from wan_ui.engine.result import Progress
from wan_ui.errors import Cancelled, HostError, WanUIError
from wan_ui.lora.received import write_index
from wan_ui.media.clip_encoding import encoded
from wan_ui.models import MODELS
from wan_ui.pool.checkpoint_prints import checkpoint_print, sources_of
from wan_ui.pool.gpus import list_gpus
from wan_ui.pool.messages import Answer, Cancel, Command, Ended, EngineOptions, Failed, RenderClip, Rendered, Reported
from wan_ui.pool.node_files import NodeFiles, SentFile
from wan_ui.pool.processes import SlotProcessHandle, start_process
from wan_ui.pool.rendezvous import leave_mark, sees_mark
from wan_ui.provenance.restoring import installed

POLL_SECONDS = 1.0
DEFAULT_FOLDER = "~/.cache/wan-ui"
CACHE_BYTES = 50 * 10**9  # of LoRAs and images on a machine


@dataclass(frozen=True)
class NodeFacts:
    """What a machine says of itself: the versions of what computes a clip, and the models that it has complete.

    `gpu_model` is that of its GPUs, where all are of one. `can_group`: whether they can render one video together.
    """

    versions: Mapping[str, str]
    models: tuple[str, ...]
    gpu_model: str | None = None
    can_group: bool = False


def node_facts(options: EngineOptions, mark: str | None = None) -> NodeFacts:
    """The facts of the machine that this runs on, for a server with these options. `mark` is that of a Marker."""
    local = node_options(options, os.environ)
    sources, gpus = sources_of(local), {gpu.model for gpu in list_gpus()}
    return NodeFacts(
        installed(),
        tuple(model.id for model in MODELS.values() if sources.present(model)),
        gpus.pop() if len(gpus) == 1 else None,
        mark is not None and sees_mark(local.data_dir, mark),
    )


class Marker:
    """An actor that leaves a mark. It has a process of its own, so `node_facts` always runs in another one."""

    def leave(self, options: EngineOptions) -> str:
        """Leaves a mark on this machine for `node_facts`, and returns its name."""
        return leave_mark(node_options(options, os.environ).data_dir)


def node_options(options: EngineOptions, environment: Mapping[str, str]) -> EngineOptions:
    """The server's options with this machine's folders.

    Each is what its environment variable says, as for a server; else the server's own, where this machine has such a
    folder. Checkpoints are otherwise those of the Hugging Face cache.
    """

    def folder(name: str, of_server: Path | None) -> Path | None:
        text = environment.get(OPTIONS[name].variable)
        if text:
            return Path(text).expanduser()
        return of_server if of_server is not None and of_server.is_dir() else None

    data = Path(environment.get(OPTIONS["data_dir"].variable) or DEFAULT_FOLDER).expanduser() / "node"
    return replace(
        options,
        models_dir=folder("models_dir", options.models_dir),
        comfy_dir=folder("comfy_dir", options.comfy_dir),
        configs_dir=folder("configs_dir", options.configs_dir),
        jobs_dir=None,
        lora_dir=data / "loras",
        data_dir=data,
        latent_maps=options.latent_maps if options.latent_maps is not None and options.latent_maps.is_dir() else None,
    )


class SlotActor:
    """The actor of one GPU. `program` are the arguments of the Python interpreter that runs its process."""

    def __init__(self, program: Sequence[str], cache_bytes: int = CACHE_BYTES) -> None:
        self._program = tuple(program)
        self._cache_bytes = cache_bytes
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._process: SlotProcessHandle | None = None
        self._canceled = 0
        self._encoding: dict[int, bool] = {}  # by number, where this process leads: whether without loss too
        self._index = Path(tempfile.mkdtemp(prefix="wan-ui-actor-")) / "loras.json"
        self._files: NodeFiles | None = None
        self._sources: CheckpointSources | None = None

    def send(self, command: Command | EngineOptions) -> None:
        """The first message starts the process; each further one is passed on to it."""
        if isinstance(command, EngineOptions):
            self._begin(command)
            return
        if isinstance(command, Cancel):
            self._canceled = max(self._canceled, command.number)
        elif isinstance(command, RenderClip):
            if command.place is None or not command.place.rank:
                self._encoding = {command.number: command.lossless}
            self._write_index(command.files)
            command = replace(command, files=())
        self._pass_on(command)

    def receive(self, seconds: float) -> Answer | None:
        """The next answer of the process, or None if there is none within `seconds`."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return None

    def checkpoint(self, model: str, base: str | tuple[tuple[str, str], ...]) -> str | WanUIError:
        """What tells the checkpoint of a model here from others, or why it cannot be used."""
        if self._sources is None:
            return HostError("The slot has no options yet.")
        return checkpoint_print(self._sources, model, base)

    def lock(self, files: Sequence[SentFile]) -> list[SentFile]:
        """Keeps these files until the next call; returns those that are not on this machine."""
        if self._files is None:
            return list(files)
        missing = self._files.lock(files)
        if not missing:
            self._files.trim()
        return missing

    def write(self, file: SentFile, part: str, offset: int, data: bytes) -> WanUIError | None:
        """Takes a piece of a file, see NodeFiles.write; returns what is wrong."""
        if self._files is None:
            return HostError("The slot has no options yet.")
        try:
            self._files.write(file, part, offset, data)
        except WanUIError as error:
            return error
        return None

    def _begin(self, options: EngineOptions) -> None:
        """Prepares the folders and starts the process. What is wrong is answered as by the process itself."""
        local = replace(node_options(options, os.environ), received=self._index)
        try:
            self._files = NodeFiles(local.data_dir, self._cache_bytes)
        except OSError as error:
            self._answers.put(Failed(0, HostError(f"The folder {local.data_dir} cannot be used ({error.strerror}).")))
            return
        self._sources = sources_of(local)
        self._write_index(())
        self._process = start_process(self._program, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        self._pass_on(local)
        threading.Thread(target=self._listen, args=(self._process,), name="wan-ui-slot-answers", daemon=True).start()

    def _pass_on(self, message: Command | EngineOptions) -> None:
        try:
            if self._process is not None:
                self._process.send(message)
        except OSError:
            return  # it has ended, which the thread that listens to it reports

    def _listen(self, process: SlotProcessHandle) -> None:
        """Queues the process's answers, a finished clip encoded; one of a process that does not lead has no frames."""
        try:
            with suppress(EOFError, OSError):
                while True:
                    answer = process.receive(POLL_SECONDS)
                    if isinstance(answer, Rendered) and answer.number in self._encoding:
                        answer = self._encoded(answer)
                    if answer is not None:
                        self._answers.put(answer)
        finally:  # also after an unexpected error: the server must not wait for an answer that never comes
            process.kill()
            shutil.rmtree(self._index.parent, ignore_errors=True)
            self._answers.put(Ended(process.ending()))

    def _encoded(self, answer: Rendered) -> Rendered | Failed:
        """A finished clip as files, or why it could not be encoded."""
        number = answer.number

        def check() -> None:
            if self._canceled >= number:
                raise Cancelled("Canceled.")

        try:
            return Rendered(number, encoded(answer.clip, self._encoding[number], check, self._reporter(number)))
        except OSError as error:
            return Failed(number, HostError(f"The video cannot be encoded on its machine ({error.strerror})."))
        except WanUIError as error:
            error.__cause__ = error.__context__ = error.__traceback__ = None
            return Failed(number, error)

    def _reporter(self, number: int) -> Callable[[float], None]:
        """Reports how much of a clip is encoded, in steps of a twentieth."""
        reported = -1

        def on_fraction(fraction: float) -> None:
            nonlocal reported
            if int(fraction * 20) > reported:
                reported = int(fraction * 20)
                self._answers.put(Reported(number, Progress("encode", fraction=fraction)))

        return on_fraction

    def _write_index(self, files: Sequence[SentFile]) -> None:
        if self._files is None:
            return
        loras = {file.source: (self._files.path(file), file.sha256, file.name) for file in files if file.kind == "lora"}
        write_index(self._index, loras)
