"""Which GPUs the server uses: those that nvidia-smi lists, as --gpus says; torch is not asked and not imported."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wan_ui.config import Gpus, Settings
from wan_ui.errors import DeviceUnavailable
from wan_ui.models import Speedup
from wan_ui.pool.slots import Memory, SlotDevice

LIST_SECONDS = 20.0
MEMORY_QUERY = ("--query-gpu=uuid,memory.free,memory.total", "--format=csv,noheader,nounits")  # in MiB
QUERY = ("--query-gpu=index,uuid,name", "--format=csv,noheader")


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine: its number in PCI order, its UUID and its model."""

    index: int
    uuid: str
    model: str


def list_gpus() -> tuple[Gpu, ...]:
    """The GPUs that nvidia-smi lists; none where there is no such program or it fails."""
    listing = _ask(QUERY)
    rows = [[field.strip() for field in line.split(",", 2)] for line in listing.splitlines()]
    return tuple(Gpu(int(row[0]), row[1], row[2]) for row in rows if len(row) == 3 and row[0].isdigit())


def _ask(query: Sequence[str]) -> str:
    """What nvidia-smi prints; nothing where there is no such program or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        return subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=LIST_SECONDS, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES names, by number or the start of a UUID, in its order; all where it is not set.

    As for CUDA itself what follows a name that is no GPU's is not visible. None is used twice.
    """
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return tuple(gpus)
    found: list[Gpu] = []
    for name in map(str.strip, text.split(",")):
        is_uuid = name.startswith("GPU-")
        named = [gpu for gpu in gpus if (gpu.uuid.startswith(name) if is_uuid else str(gpu.index) == name)]
        if len(named) != 1 or named[0] in found:
            break
        found += named
    return tuple(found)


def slot_devices(wanted: Gpus, gpus: Sequence[Gpu]) -> tuple[SlotDevice, ...]:
    """The devices of the slots with processes of their own; none: the server's own process renders.

    "auto" uses all GPUs where there are several. Raises DeviceUnavailable for a number that none has.
    """
    if wanted == "none" or (wanted == "auto" and len(gpus) < 2):
        return ()
    numbers = range(len(gpus)) if wanted == "auto" else wanted
    if missing := [number for number in numbers if number >= len(gpus)]:
        raise DeviceUnavailable(f"--gpus names GPU {missing[0]}, and this machine has {len(gpus)} that can be used.")
    return tuple(SlotDevice(f"GPU {number}", gpus[number].uuid, model=gpus[number].model) for number in numbers)


def gpu_memory(devices: Sequence[SlotDevice]) -> Memory | None:
    """The memory of the slots' GPUs together, by nvidia-smi; None where it does not say, as for slots on the CPU."""
    listing = _ask(MEMORY_QUERY)
    rows = [[field.strip() for field in line.split(",", 2)] for line in listing.splitlines()]
    visible_here = {device.visible for device in devices}
    found = [(int(row[1]), int(row[2])) for row in rows if len(row) == 3 and row[0] in visible_here]
    return Memory(sum(free for free, _ in found) << 20, sum(total for _, total in found) << 20) if found else None


FindDevices = Callable[[Settings], Sequence[SlotDevice]]


class SlotPool:
    """What the server says about its slots' GPUs in place of an engine of its own."""

    def __init__(self, devices: Sequence[SlotDevice]) -> None:
        self._devices = tuple(devices)

    @property
    def device_name(self) -> str:
        """The GPUs' models with their numbers: `2 × NVIDIA H200`."""
        models = Counter(device.model or device.name for device in self._devices)
        return ", ".join(f"{count} × {model}" if count > 1 else model for model, count in models.items())

    @property
    def render_device(self) -> str | None:
        """The model of GPU that renders, which a clip's metadata names as its device; None where they differ."""
        models = {device.model or device.name for device in self._devices}
        return models.pop() if len(models) == 1 else None

    def check_speedup(self, speedup: Speedup) -> None:
        """Returns: what a GPU cannot do is known to its own process, which refuses it when the clip is rendered."""
