"""An actor without Ray: a SlotActor in a process of its own, which can be killed as Ray kills an actor."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.managers import BaseManager
from typing import Any, TypeVar

from wan_ui.pool.messages import Answer, Command, Ended, EngineOptions
from wan_ui.pool.processes import PROGRAM
from wan_ui.pool.ray_slots import ActorEnded, ClusterGpu
from wan_ui.pool.slot_actor import SlotActor
from wan_ui.pool.slots import Check

Value = TypeVar("Value")


class _Actors(BaseManager):
    """The process of an actor."""


_Actors.register("SlotActor", SlotActor)


class ActorProcess:
    """It is an ActorWorker."""

    pid = None

    def __init__(self, gpu: ClusterGpu) -> None:
        self._process = _Actors(ctx=multiprocessing.get_context("spawn"))
        self._process.start()
        self._actor: Any = self._process.SlotActor(PROGRAM)  # type: ignore[attr-defined]
        self._ending: str | None = None

    def has_ended(self) -> bool:
        return self._ending is not None

    def send(self, command: Command | EngineOptions) -> None:
        self._call(lambda: self._actor.send(command))

    def receive(self, seconds: float) -> Answer | None:
        answer: Answer | None = self._call(lambda: self._actor.receive(seconds))
        if isinstance(answer, Ended):
            self._ending = answer.ending
            raise ActorEnded(answer.ending)
        return answer

    def ask(self, method: str, *arguments: object, check: Check, seconds: float) -> Any:
        check()
        return self._call(lambda: getattr(self._actor, method)(*arguments))

    def kill(self) -> None:
        self._ending = self._ending or "the server ended it"
        self._process.shutdown()

    def ending(self) -> str:
        return self._ending or "unknown"

    def _call(self, call: Callable[[], Value]) -> Value:
        try:
            return call()
        except (EOFError, OSError) as error:
            self._ending = str(error)
            raise ActorEnded(self._ending) from error
