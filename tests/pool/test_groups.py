"""Slots that render one clip together: real engines over gloo on the CPU, of this server and of a cluster's machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.fakes import PATIENCE
from tests.golden_cases import CHECKPOINTS, LORAS, cases, differences
from tests.pool.actor_process import ActorProcess
from tests.pool.ray_cluster import LONG, ray_machines
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.config import Settings
from wan_ui.engine.result import Clip, Progress, ignore_progress
from wan_ui.engine.split import Split, split_of
from wan_ui.errors import Cancelled, GroupLost
from wan_ui.intake import prepare
from wan_ui.lora.library import Library
from wan_ui.media import video
from wan_ui.media.image import ImageStore
from wan_ui.pool.checkpoint_prints import CheckpointPrints, sources_of
from wan_ui.pool.groups import SlotGroup
from wan_ui.pool.messages import EngineOptions
from wan_ui.pool.processes import ProcessSlot
from wan_ui.pool.ray_cluster import connect, files_of
from wan_ui.pool.ray_slots import ActorWorker, ClusterGpu, RaySlot, launch_actor
from wan_ui.pool.slot_actor import NodeFacts
from wan_ui.pool.slots import SlotDevice
from wan_ui.pool.worker_slot import ProcessLimits
from wan_ui.request import Generation

pytestmark = pytest.mark.slow
CASE = "wan22_14b_t2v"
LARGE = {"width": 832, "height": 480, "num_frames": 81}
AnySlot = ProcessSlot | RaySlot
RAY = pytest.param("ray", marks=pytest.mark.soak)


def no_check() -> None:
    """A check that lets the render go on."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of the server, and of a machine."""
    folder = tmp_path_factory.mktemp("group")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAN_UI_DATA_DIR", str(folder))  # inherited by all processes, and read by actors
        yield folder


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(LORAS)


@pytest.fixture(scope="module")
def images(data: Path) -> ImageStore:
    return ImageStore(data / "images", lambda url: b"")


@pytest.fixture(scope="module", params=["processes", "actors", RAY])
def slots(request: pytest.FixtureRequest, data: Path, library: Library, images: ImageStore) -> Iterator[list[AnySlot]]:
    """Two slots with real engines over the golden checkpoints: processes, actors without Ray, and with it."""
    options = EngineOptions.of(Settings(models_dir=CHECKPOINTS, lora_dir=LORAS, data_dir=data))
    limits = ProcessLimits(cancel=PATIENCE)

    def ray_slots(gpus: Sequence[ClusterGpu], launch: Callable[[ClusterGpu], ActorWorker]) -> list[AnySlot]:
        prints = CheckpointPrints(sources_of(options))
        return [RaySlot(gpu, options, prints, partial(files_of, library, images), limits, launch) for gpu in gpus]

    with ExitStack() as stack:
        made: list[AnySlot]
        if request.param == "processes":
            devices = [SlotDevice(f"GPU {number}", device="cpu") for number in range(2)]
            made = [ProcessSlot(device, options, limits) for device in devices]
        elif request.param == "actors":
            made = ray_slots(two_gpus("a"), ActorProcess)
        else:
            machines = stack.enter_context(ray_machines(data, gpus_of_head=2))
            made = ray_slots(gpus_of(machines.address, options), launch_actor)
        yield made
        for slot in made:
            slot.end()
        wait_until(lambda: not processes(data))


def two_gpus(machine: str) -> list[ClusterGpu]:
    return [ClusterGpu(machine, number, f"GPU {number}", can_group=True) for number in range(2)]


def gpus_of(address: str, options: EngineOptions) -> list[ClusterGpu]:
    """The GPUs of a cluster's only machine, which has said that they can render together."""
    client = connect(address, options)
    (machine,) = client.nodes()
    answer, answers = client.ask_facts(machine), list[NodeFacts]()

    def has_answered() -> bool:
        facts = answer()
        assert not isinstance(facts, str), facts
        answers.extend(() if facts is None else (facts,))
        return bool(answers)

    wait_until(has_answered, LONG)
    assert answers[0].can_group
    return two_gpus(machine.id)


@pytest.fixture(scope="module")
def generation(library: Library, images: ImageStore) -> Generation:
    (case,) = (case for case in cases() if case.name == CASE)
    sources = CheckpointSources(Checkpoints(CHECKPOINTS), models_dir=CHECKPOINTS)
    return prepare(case.request, library, images, sources.transformer_config, LOCAL_ACCESS).generations[0]


def processes(data: Path) -> dict[int, psutil.Process]:
    """The processes that render, by their ids."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        if "wan_ui.pool.slot_process" in (process.info["cmdline"] or []):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if process.environ().get("WAN_UI_DATA_DIR") == str(data):
                    found[process.pid] = process
    return found


def frames_of(clip: Clip, folder: Path) -> np.ndarray:
    """A clip's frames, or those of its file without loss."""
    if clip.files is None:
        return clip.frames
    assert clip.files.lossless is not None
    path = folder / "frames.mkv"
    path.write_bytes(clip.files.lossless)
    return video.read_lossless(path)


@pytest.mark.timeout(900)  # two starts of an engine for each kind of slot; half a minute on an idle machine
@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.soak)])
def test_joining_and_leaving_again_and_again_gives_the_golden_frames(
    slots: list[AnySlot], generation: Generation, times: int, data: Path, tmp_path: Path
) -> None:
    (case,) = (case for case in cases() if case.name == CASE)
    group = SlotGroup(slots, split_of(generation, 2))
    first = group.render(generation, ignore_progress, no_check, lossless=True)
    golden = frames_of(first, tmp_path)
    mean, most = differences(golden, case.cpu_frames)
    assert mean <= 0.1 and most <= 2
    started = processes(data).keys()
    assert len(started) == 2
    for number in range(times):
        varied = replace(generation, seed=generation.seed + number % 2)  # nothing is kept from the run before
        together = group.render(varied, ignore_progress, no_check, lossless=True)
        assert together.metadata["split"] == "guidance 2"
        alone = slots[number % 2].render(varied, ignore_progress, no_check, lossless=True)
        assert "split" not in alone.metadata
        frames = frames_of(together, tmp_path)
        assert np.array_equal(frames, frames_of(alone, tmp_path))
        if number % 2 == 0:
            assert np.array_equal(frames, golden)
        assert processes(data).keys() == started  # nothing was loaded again


@pytest.mark.parametrize(
    "slots", ["processes", pytest.param("actors", marks=pytest.mark.soak), RAY], indirect=True, scope="module"
)
def test_a_divided_sequence_gives_the_same_frames(slots: list[AnySlot], generation: Generation, tmp_path: Path) -> None:
    unguided = replace(generation, guidance_scale=1.0, guidance_scale_2=None)
    together = SlotGroup(slots, Split(1, 2)).render(unguided, ignore_progress, no_check, lossless=True)
    alone = slots[1].render(unguided, ignore_progress, no_check, lossless=True)
    assert together.metadata["split"] == "sequence 2"
    assert np.array_equal(frames_of(together, tmp_path), frames_of(alone, tmp_path))


@pytest.mark.parametrize("split", [Split(2), Split(1, 2)], ids=str)
def test_a_cancel_stops_all_and_ends_no_process(
    slots: list[AnySlot], generation: Generation, split: Split, data: Path
) -> None:
    group = SlotGroup(slots, split)
    if split.sequence > 1:
        generation = replace(generation, guidance_scale=1.0, guidance_scale_2=None)
    group.render(generation, ignore_progress, no_check)
    started = processes(data).keys()

    def on_progress(progress: Progress) -> None:
        if progress.phase == "denoise" and progress.step == 1:
            raise Cancelled("Canceled.")

    with pytest.raises(Cancelled):
        group.render(replace(generation, seed=77), on_progress, no_check)
    assert processes(data).keys() == started
    assert group.render(generation, ignore_progress, no_check).metadata["split"] == str(split)


def test_a_lost_member_ends_the_attempt_and_the_group(slots: list[AnySlot], generation: Generation, data: Path) -> None:
    """A process is killed, or an actor, whose process then ends by itself."""
    group, killed = SlotGroup(slots, Split(2)), threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.phase == "denoise" and not killed.is_set():
            killed.set()
            victim = processes(data)[max(processes(data))]
            actor = None if isinstance(slots[0], ProcessSlot) else victim.parent()
            (actor or victim).kill()

    with pytest.raises(GroupLost):
        group.render(replace(generation, seed=78), on_progress, no_check)
    assert not any(slot.is_started for slot in slots)
    wait_until(lambda: not processes(data))
    assert isinstance(slots[0], ProcessSlot) or list((data / "node" / "groups").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "gpus", "split"),
    [
        (LARGE, 1, Split()),
        (LARGE, 2, Split(2)),
        (LARGE, 7, Split(2, 2)),
        ({**LARGE, "guidance_scale": 1.0, "guidance_scale_2": None}, 4, Split(1, 2)),
        ({"guidance_scale": 1.0, "guidance_scale_2": 4.0}, 2, Split(2)),
        ({**LARGE, "model": "wan21_1b"}, 16, Split(2, 2)),
        (LARGE, 16, Split(2, 2)),
        ({}, 16, Split(2)),  # too few tokens to be divided
        ({"guidance_scale": 1.0, "guidance_scale_2": None}, 4, Split()),
        ({"speedup": "step_cache"}, 4, Split()),
        ({"speedup": "fp8_products"}, 4, Split()),
    ],
)
def test_what_is_divided(generation: Generation, changes: dict[str, Any], gpus: int, split: Split) -> None:
    assert split_of(replace(generation, **changes), gpus) == split
