"""Slots whose engine runs in a process of this machine that sees one GPU, and that process as the server sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from wan_ui.pool.messages import Answer, Command, EngineOptions
from wan_ui.pool.slots import SlotDevice
from wan_ui.pool.worker_slot import ProcessLimits, WorkerSlot

PROGRAM = ("-m", "wan_ui.pool.slot_process")
LOOPBACK: Mapping[str, str] = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""The processes of a group are on one machine. Without these both libraries listen on an address that other machines
reach, and ask nobody who connects for a password."""


@dataclass(frozen=True)
class SlotProcessHandle:
    """A started process and this end of its pipe. It is a Worker.

    The process ends by itself when this end of the pipe closes, so none outlives a killed server.
    """

    popen: subprocess.Popen[bytes]
    connection: Connection

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.popen.pid

    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self.popen.poll() is not None

    def send(self, command: Command | EngineOptions) -> None:
        """Sends a command. Raises OSError when the process has ended."""
        self.connection.send(command)

    def receive(self, seconds: float) -> Answer | None:
        """Its next answer, or None if there is none within `seconds`. Raises OSError or EOFError when it has ended."""
        if not self.connection.poll(seconds):
            return None
        answer: Answer = self.connection.recv()
        return answer

    def kill(self) -> None:
        """Kills the process."""
        self.popen.kill()
        self.popen.wait()  # its end of the pipe is closed now, which a thread that reads the other end sees

    def ending(self) -> str:
        """Its exit code, once it has ended."""
        return f"exit code {self.popen.wait()}"


def start_process(program: Sequence[str], visible: str) -> SlotProcessHandle:
    """Starts a slot's process, which sees the GPU that `visible` names.

    `program` are the arguments of the Python interpreter; the last one, added here, is the pipe's descriptor.
    """
    own, others = Pipe()
    with others:
        popen = subprocess.Popen(
            [sys.executable, *program, str(others.fileno())],
            env=_environment(os.environ, visible),
            pass_fds=[others.fileno()],
            stdin=subprocess.DEVNULL,
        )
    return SlotProcessHandle(popen, own)


class ProcessSlot(WorkerSlot[SlotProcessHandle]):
    """One GPU of this machine, with a process for its engine. `program` as for `start_process`."""

    def __init__(
        self,
        device: SlotDevice,
        options: EngineOptions,
        limits: ProcessLimits | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        super().__init__(device.name, replace(options, device=device.device), limits, device.model)
        self._visible = device.visible
        self._program = tuple(program)

    def _launch(self) -> SlotProcessHandle:
        return start_process(self._program, self._visible)


def _environment(environment: Mapping[str, str], visible: str) -> dict[str, str]:
    """The process sees one GPU, set before it imports torch, and this same package, wherever it was started."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH", ""))))
    own = {"CUDA_VISIBLE_DEVICES": visible, "PYTHONPATH": path}
    return {**(LOOPBACK if sys.platform == "linux" else {}), **environment, **own}
