"""Stand-ins that need no checkpoint: a render to hold at any step, a writer, a LoRA library, an image store."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from tests.fake_frames import fake_frames
from tests.waiting import SECONDS
from wan_ui.engine.result import Clip, OnProgress, Phase, Progress
from wan_ui.errors import ControlImageInvalid, LoraNotFound
from wan_ui.jobs.limits import Limits
from wan_ui.jobs.runner import JobRunner
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.provenance.restoring import UNKNOWN_ENVIRONMENT, Environment
from wan_ui.request import Generation

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore

PATIENCE = SECONDS  # after which a test that waits has failed


class Gate:
    """A point where one thread stops until the test lets it on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def hold(self) -> None:
        """Called by the thread that is to stop here."""
        self._reached.set()
        assert self._open.wait(PATIENCE), "nobody opened the gate"

    def await_arrival(self) -> None:
        """Called by the test: returns once a thread stands at the gate."""
        assert self._reached.wait(PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


@dataclass
class FakeRender:
    """A render: `sample_steps` progress reports, then the decode. Nothing depends on time.

    `gates` hold it before a (seed, step); `errors` make a seed's render raise before its first step; `pictures` are the
    live pictures that a (seed, step) brings.
    `seen` lists every (seed, phase, step) that was reported and not refused by a cancel.
    """

    gates: dict[tuple[int, int], Gate] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)
    pictures: dict[tuple[int, int], bytes] = field(default_factory=dict)
    seen: list[tuple[int, str, int]] = field(default_factory=list)

    def __call__(self, generation: Generation, on_progress: OnProgress) -> Clip:
        def report(phase: Phase, step: int) -> None:
            picture = self.pictures.get((generation.seed, step)) if phase == "denoise" else None
            on_progress(Progress(phase, step, generation.sample_steps, picture=picture))
            self.seen.append((generation.seed, phase, step))

        report("loading", 0)
        if generation.seed in self.errors:
            raise self.errors[generation.seed]
        for step in range(1, generation.sample_steps + 1):
            if (gate := self.gates.get((generation.seed, step))) is not None:
                gate.hold()
            report("denoise", step)
        report("decode", generation.sample_steps)
        frames = fake_frames(generation)
        size = (generation.width, generation.height, generation.num_frames)
        return Clip(frames, *size, generation.fps, generation.seed, {"recipe": generation.recipe})

    def gate(self, seed: int, step: int) -> Gate:
        """A new gate before this step of this seed's render."""
        gate = self.gates[seed, step] = Gate()
        return gate

    def reset(self) -> None:
        """Opens and forgets all gates, errors and pictures, so that no later render meets them."""
        gates = list(self.gates.values())
        for planned in (self.gates, self.errors, self.pictures):
            planned.clear()
        for gate in gates:
            gate.open()

    def steps(self, seed: int) -> list[int]:
        """The denoising steps done for this seed."""
        return [step for at, phase, step in self.seen if at == seed and phase == "denoise"]


def fake_write_video(
    path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any], **_: Any
) -> None:
    """Not a video: a line of JSON with what the real writer would have been given."""
    path.write_text(json.dumps({"shape": frames.shape, "fps": fps, "metadata": metadata}))


class FakeHeader(str):
    """A header that is its name, of a file that holds one half or the whole of a pair as `slot` says."""

    slot = "unknown"


@dataclass(frozen=True)
class FakeLoraFile:
    name: str
    sha256: str
    header: FakeHeader


@dataclass
class FakeLibrary:
    """Has the named files, whose headers are only their names. `asked` lists the paths in the order looked for."""

    names: tuple[str, ...] = ("style.safetensors", "high.safetensors", "low.safetensors", "misfit.safetensors")
    asked: list[str] = field(default_factory=list)

    def locate(self, source: str, access: Access) -> FakeLoraFile:
        self.asked.append(source)
        if source not in self.names:
            raise LoraNotFound(f"There is no LoRA {source!r}.")
        return FakeLoraFile(source, hashlib.sha256(source.encode()).hexdigest(), FakeHeader(f"header of {source}"))


IMAGE_NOTE = "The image states an orientation."


@dataclass
class FakeImages:
    """Takes any text for an image but "broken", with a note about "turned". `taken` lists what was put in."""

    taken: list[str] = field(default_factory=list)

    def put(self, ctrl_img: str, access: Access) -> str:
        if ctrl_img == "broken":
            raise ControlImageInvalid("This is no image.")
        self.taken.append(ctrl_img)
        return hashlib.sha256(ctrl_img.encode()).hexdigest()

    def notes(self, sha256: str, access: Access) -> tuple[str, ...]:
        return (IMAGE_NOTE,) if sha256 == hashlib.sha256(b"turned").hexdigest() else ()


UNLIMITED = Limits()


def fake_service(
    store: Store,
    worker: JobRunner,
    data_dir: Path,
    environment: Environment | None = None,
    limits: Limits = UNLIMITED,
) -> JobService:
    """A job service over a fake library and image store, with no checkpoint on disk."""
    library, images = cast("Library", FakeLibrary()), cast("ImageStore", FakeImages())
    environment = environment or UNKNOWN_ENVIRONMENT
    return JobService(library, images, store, worker, data_dir, limits, environment)
