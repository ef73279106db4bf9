"""A slot on a machine of a Ray cluster: the actor of one GPU there, as the server sees it. It imports Ray when used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from wan_ui.engine.result import OnProgress, Progress
from wan_ui.errors import HostError, SlotUnfit, WanUIError
from wan_ui.pool.checkpoint_prints import CheckpointPrints
from wan_ui.pool.messages import Answer, Command, Ended, EngineOptions, RenderClip
from wan_ui.pool.node_files import CHUNK_BYTES, SentFile, part_name
from wan_ui.pool.processes import PROGRAM
from wan_ui.pool.slot_actor import SlotActor
from wan_ui.pool.slots import Check
from wan_ui.pool.worker_slot import ProcessLimits, Worker, WorkerSlot
from wan_ui.request import Generation

RECEIVE_SECONDS = 5.0  # for which the actor waits for an answer before it says that there is none
RENDER, CONTROL, FILES = "render", "control", "files"
ROUNDS = 3  # in which a machine is sent what it lacks: another slot of it may delete a file meanwhile
Value = TypeVar("Value")


@dataclass(frozen=True)
class LocalFile:
    """A file of the server that a clip needs, and what a machine is told of it."""

    path: Path
    sent: SentFile


class FilesOf(Protocol):
    """Which files of the server a generation needs; raises what is wrong with them."""

    def __call__(self, generation: Generation) -> tuple[LocalFile, ...]:
        """Its LoRAs and images."""
        ...


@dataclass(frozen=True)
class ClusterGpu:
    """A GPU of the cluster: the `number`th of the machine `node`, by its id in Ray. `name` is for people.

    `model` is the GPU's, where all of the machine are of one. `can_group`: see NodeFacts.
    """

    node: str
    number: int
    name: str
    model: str | None = None
    can_group: bool = False


class ActorEnded(ConnectionError):
    """An actor has ended, or the machine that it was on."""


class ActorWorker(Worker, Protocol):
    """An actor that renders for a slot. None of its calls but `ask` waits for the actor."""

    def ask(self, method: str, *arguments: object, check: Check, seconds: float) -> Any:
        """The result of another method, for which it waits; raises what `check` raises meanwhile, and ActorEnded."""
        ...


class RayWorker:
    """An actor of Ray. It is an ActorWorker."""

    def __init__(self, actor: Any) -> None:
        import ray

        self._ray = ray
        self._actor = actor
        self._receiving: Any = None
        self._ending = "the server ended it"
        self._is_ended = False

    @property
    def pid(self) -> int | None:
        """None: its process is on another machine."""
        return None

    def has_ended(self) -> bool:
        """Whether a call has failed already."""
        return self._is_ended

    def send(self, command: Command | EngineOptions) -> None:
        """Sends without waiting. Raises ActorEnded."""
        self._call(lambda: self._actor.send.options(concurrency_group=CONTROL).remote(command))

    def receive(self, seconds: float) -> Answer | None:
        """The next answer, or None if there is none within `seconds`. Raises ActorEnded."""
        if self._receiving is None:
            receive = self._actor.receive.options(concurrency_group=RENDER)
            self._receiving = self._call(lambda: receive.remote(RECEIVE_SECONDS))
        done, _ = self._ray.wait([self._receiving], timeout=seconds)
        if not done:
            return None
        receiving, self._receiving = self._receiving, None
        answer: Answer | None = self._call(lambda: self._ray.get(receiving))
        if isinstance(answer, Ended):
            self._is_ended, self._ending = True, answer.ending
            raise ActorEnded(answer.ending)
        return answer

    def ask(self, method: str, *arguments: object, check: Check, seconds: float) -> Any:
        """The result of another method. See ActorWorker.ask."""
        call = getattr(self._actor, method).options(concurrency_group=FILES)
        result = self._call(lambda: call.remote(*arguments))
        while not self._ray.wait([result], timeout=seconds)[0]:
            check()
        return self._call(lambda: self._ray.get(result))

    def kill(self) -> None:
        """Ends the actor's process, and with it the one that renders."""
        self._is_ended = True
        with suppress(self._ray.exceptions.RayError):  # its machine, or the cluster's head, is gone already
            self._ray.kill(self._actor)

    def ending(self) -> str:
        """How it ended."""
        return self._ending

    def _call(self, call: Callable[[], Value]) -> Value:
        """Raises ActorEnded in place of Ray's errors."""
        try:
            return call()
        except self._ray.exceptions.RayError as error:
            self._is_ended = True
            self._ending = str(error).strip().partition("\n")[0]
            raise ActorEnded(self._ending) from error


def launch_actor(gpu: ClusterGpu, program: Sequence[str] = PROGRAM) -> RayWorker:
    """Starts an actor on a GPU's machine. `program` as for SlotActor."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(concurrency_groups={RENDER: 1, CONTROL: 1, FILES: 1})(SlotActor)  # type: ignore[call-overload]
    actor = remote.options(
        num_cpus=0,
        num_gpus=1,
        max_restarts=0,
        max_task_retries=0,
        max_pending_calls=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(gpu.node, soft=False),
    )
    return RayWorker(actor.remote(tuple(program)))


class RaySlot(WorkerSlot[ActorWorker]):
    """One GPU of a cluster, with an actor that is started for the first render and is never restarted by Ray.

    Before each clip it is checked that the machine has the checkpoint that counts, and the machine is sent the files
    that it lacks. The actor belongs to this server's connection: when that ends, it ends too.
    """

    def __init__(
        self,
        gpu: ClusterGpu,
        options: EngineOptions,
        prints: CheckpointPrints,
        files_of: FilesOf,
        limits: ProcessLimits | None = None,
        launch: Callable[[ClusterGpu], ActorWorker] = launch_actor,
    ) -> None:
        super().__init__(gpu.name, replace(options, device=None), limits, gpu.model)
        self._gpu = gpu
        self._prints = prints
        self._files_of = files_of
        self._launch_on = launch

    @property
    def machine(self) -> str:
        """The machine, if its slots can render together; else this slot alone."""
        return self._gpu.node if self._gpu.can_group else self.name

    @property
    def device_name(self) -> str | None:
        """The GPU's model; where those of the machine differ, it is known only while there is an actor: Ray chooses."""
        return super().device_name if self._gpu.model is not None or self.is_started else None

    def _launch(self) -> ActorWorker:
        return self._launch_on(self._gpu)

    def _prepare(self, worker: ActorWorker, command: RenderClip, on_progress: OnProgress, check: Check) -> RenderClip:
        generation = command.generation
        files = self._files_of(generation)
        try:
            self._check_checkpoint(worker, generation, check)
            self._send_missing(worker, files, on_progress, check)
        except ActorEnded as error:
            raise self._lost(worker) from error
        return replace(command, files=tuple(file.sent for file in files))

    def _check_checkpoint(self, worker: ActorWorker, generation: Generation, check: Check) -> None:
        """Raises SlotUnfit unless the machine has the checkpoint that counts."""
        offered = self._ask(worker, "checkpoint", generation.model, generation.base, check=check)
        if isinstance(offered, WanUIError):
            raise SlotUnfit(f"{self.name} cannot render this: {offered.message}", after=offered.code)
        if not self._prints.agrees(generation.model, generation.base, offered):
            raise SlotUnfit(
                f"{self.name} has another checkpoint of {generation.model} than the server, or than the machine that "
                "rendered it first. Give all machines the same files."
            )

    def _send_missing(
        self, worker: ActorWorker, files: Sequence[LocalFile], on_progress: OnProgress, check: Check
    ) -> None:
        """Sends the machine what it lacks, piece by piece, and keeps it there for this render."""
        for _ in range(ROUNDS):
            missing: list[SentFile] = self._ask(worker, "lock", [file.sent for file in files], check=check)
            if not missing:
                return
            for file in files:
                if file.sent in missing:
                    self._send_file(worker, file, on_progress, check)
        raise HostError(f"{self.name} does not keep the files that it is sent. Make room on its disk.")

    def _send_file(self, worker: ActorWorker, file: LocalFile, on_progress: OnProgress, check: Check) -> None:
        part, sent = part_name(), 0
        try:
            with file.path.open("rb") as opened:
                while data := opened.read(CHUNK_BYTES):
                    note = f"Sending {file.sent.name or 'the first frame'} to {self.name}"
                    on_progress(Progress("downloading", bytes_done=sent, bytes_total=file.sent.size, note=note))
                    problem = self._ask(worker, "write", file.sent, part, sent, data, check=check)
                    if problem is not None:
                        raise problem
                    sent += len(data)
        except FileNotFoundError as error:
            raise HostError("A file that this video needs was deleted meanwhile.") from error

    def _ask(self, worker: ActorWorker, method: str, *arguments: object, check: Check) -> Any:
        return worker.ask(method, *arguments, check=check, seconds=self._limits.poll)
