"""Which GPUs get a slot: what nvidia-smi lists, CUDA_VISIBLE_DEVICES and --gpus."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from wan_ui.config import Gpus, Settings, read
from wan_ui.errors import DeviceUnavailable
from wan_ui.pool.gpus import Gpu, SlotPool, gpu_memory, list_gpus, slot_devices, visible
from wan_ui.pool.slots import Memory, SlotDevice
from wan_ui.server import find_devices

TWO = (Gpu(0, "GPU-a", "NVIDIA H200"), Gpu(1, "GPU-b", "NVIDIA H200"))
LISTING = """#!/bin/sh
case "$1" in *memory.free*) echo "GPU-a, 1000, 2000"; echo "GPU-b, 500, 2000"; exit;; esac
echo "0, GPU-a, NVIDIA H200"
echo "1, GPU-b, NVIDIA H200"
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of this name that lists two GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text(LISTING)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("wanted", "gpus", "names"),
    [
        ("auto", TWO, ["GPU 0", "GPU 1"]),
        ("auto", TWO[:1], []),
        ("auto", (), []),
        ("none", TWO, []),
        ((1,), TWO, ["GPU 1"]),
        ((1, 0), TWO, ["GPU 1", "GPU 0"]),
    ],
)
def test_several_gpus_get_a_slot_each(wanted: Gpus, gpus: tuple[Gpu, ...], names: list[str]) -> None:
    devices = slot_devices(wanted, gpus)
    assert [device.name for device in devices] == names
    assert all(device.visible == gpus[int(device.name[-1])].uuid for device in devices)


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceUnavailable, match="GPU 2, and this machine has 2"):
        slot_devices((0, 2), TWO)


@pytest.mark.parametrize(
    ("value", "count"),
    [(None, 2), ("", 0), ("-1", 0), ("1", 1), ("GPU-b,0", 2), ("MIG-x", 0), ("0,1,7", 2), ("0,7,1", 1), ("0,0", 1)],
)
def test_cuda_visible_devices_narrows_them(value: str | None, count: int) -> None:
    assert len(visible(TWO, {} if value is None else {"CUDA_VISIBLE_DEVICES": value})) == count


def test_a_gpu_is_named_by_the_start_of_its_uuid_if_no_other_starts_so() -> None:
    gpus = (Gpu(0, "GPU-8932", "NVIDIA H200"), Gpu(1, "GPU-8a00", "NVIDIA H200"))
    assert [visible(gpus, {"CUDA_VISIBLE_DEVICES": name}) for name in ("GPU-89", "GPU-8")] == [gpus[:1], ()]


@pytest.mark.usefixtures("nvidia_smi")
def test_they_are_read_from_nvidia_smi() -> None:
    assert list_gpus() == TWO
    devices = find_devices(Settings())
    assert SlotPool(devices).device_name == "2 × NVIDIA H200"
    assert SlotPool(devices).render_device == "NVIDIA H200"  # as a clip's metadata names it
    assert find_devices(Settings(device="cuda:1")) == find_devices(Settings(gpus="none")) == ()


@pytest.mark.usefixtures("nvidia_smi")
def test_the_memory_of_the_slots_gpus_is_added_up() -> None:
    assert gpu_memory(find_devices(Settings())) == Memory(1500 << 20, 4000 << 20)
    assert gpu_memory(find_devices(Settings())[1:]) == Memory(500 << 20, 2000 << 20)
    assert gpu_memory([SlotDevice("GPU 0", device="cpu")]) is None


@pytest.mark.parametrize(
    ("text", "value"), [("auto", "auto"), ("none", "none"), ("0", (0,)), ("0, 1", (0, 1)), ("2,0", (2, 0))]
)
def test_the_flag_is_read(text: str, value: Gpus) -> None:
    assert read(["--gpus", text], {}).gpus == read([], {"WAN_UI_GPUS": text}).gpus == value


@pytest.mark.parametrize(
    "flags",
    [["--gpus", "0,0"], ["--gpus", "0,00"], ["--gpus", "0,"], ["--gpus", "a"], ["--gpus", "0", "--device", "cuda"]],
)
def test_a_wrong_flag_ends_the_program(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(flags, {})
    assert "--gpus" in capsys.readouterr().err


def test_devices_without_a_known_model_are_named() -> None:
    assert SlotPool([SlotDevice("GPU 0"), SlotDevice("GPU 1")]).device_name == "GPU 0, GPU 1"
    assert SlotPool([SlotDevice("GPU 0"), SlotDevice("GPU 1")]).render_device is None
