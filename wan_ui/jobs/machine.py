"""The machine that renders: its loaded models, free memory and free disk, and unloading the models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wan_ui.errors import OwnerOnly
from wan_ui.files import free_bytes

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.runner import JobRunner
    from wan_ui.pool.slots import Memory


@dataclass(frozen=True)
class MachineState:
    """What a caller sees: memory and disk only as the owner. `models` are the ids of the loaded ones."""

    is_owner: bool
    models: tuple[str, ...]
    memory: Memory | None = None
    disk_free: int | None = None


class Machine:
    """Answers about the machine that `runner` renders on. `free` returns the free bytes of a folder's disk."""

    def __init__(self, runner: JobRunner, data_dir: Path, free: Callable[[Path], int] = free_bytes) -> None:
        self._runner = runner
        self._data_dir = data_dir
        self._free = free

    def state(self, access: Access) -> MachineState:
        """The machine as it is now."""
        models = self._runner.models()
        if not access.identity.owner:
            return MachineState(False, models)
        return MachineState(True, models, self._runner.memory(), self._disk_free())

    def unload(self, access: Access) -> MachineState:
        """Free the loaded models; the state after that. Raises OwnerOnly, and ModelInUse while a clip is rendered."""
        if not access.identity.owner:
            raise OwnerOnly("Only the owner of this server may unload its model.")
        self._runner.unload()
        return self.state(access)

    def _disk_free(self) -> int | None:
        try:
            return self._free(self._data_dir)
        except OSError:  # the folder is gone: health says so
            return None
