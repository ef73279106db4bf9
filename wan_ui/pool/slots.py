"""What a slot is: a place that holds one loaded model and renders one clip at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wan_ui.engine.result import Clip, OnProgress
from wan_ui.engine.split import GroupPlace
from wan_ui.request import Generation

Check = Callable[[], None]
"""Called several times a second while a clip is rendered; what it raises ends the render."""


@dataclass(frozen=True)
class SlotDevice:
    """A slot's device: `name` for people and the database, `visible` the value of CUDA_VISIBLE_DEVICES in its process.

    `device` is what its engine is given; None: the GPU that it sees. `model` is the GPU's, where it is known.
    """

    name: str
    visible: str = ""
    device: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Memory:
    """Memory that models are loaded into, in bytes: the GPUs' together, or the machine's where the CPU renders."""

    free: int
    total: int


class Slot(Protocol):
    """One GPU. Only one thread at a time may render on it."""

    @property
    def name(self) -> str:
        """Its name, unique in the pool."""
        ...

    @property
    def device_name(self) -> str | None:
        """The GPU's model; None before it was first used."""
        ...

    @property
    def machine(self) -> str:
        """Only slots with the same one may render a clip together; "" is the server's own."""
        ...

    @property
    def is_started(self) -> bool:
        """Whether it may hold a loaded model now."""
        ...

    @property
    def joined(self) -> GroupPlace | None:
        """The place in the group that its process rendered with last, and is still connected to; None: in none."""
        ...

    def render(
        self,
        generation: Generation,
        on_progress: OnProgress,
        check: Check,
        place: GroupPlace | None = None,
        lossless: bool = False,
    ) -> Clip:
        """One clip, with a `place` together with the slots of a group: without frames where it does not lead.

        A slot of another machine returns encoded files in place of frames, with `lossless` also those without loss.
        What `on_progress` or `check` raises ends the render and is raised again.

        Raises SlotLost when the slot's process ended meanwhile; the next render starts another. Raises SlotUnfit when
        the slot cannot render this model: another one may.
        """
        ...

    def end(self) -> None:
        """Free the model: end the process, at once. From any thread; a render that is under way raises SlotLost."""
