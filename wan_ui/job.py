"""A job and its clips as the database holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from wan_ui.compare import PlannedCell
from wan_ui.errors import VideoNotFound
from wan_ui.request import Generation, LoraUse, TrainingSample
from wan_ui.scale import scale_body, scale_from

Status = Literal["in_queue", "in_progress", "succeeded", "failed", "canceled"]
FINAL: frozenset[Status] = frozenset({"succeeded", "failed", "canceled"})


@dataclass(frozen=True)
class ClipRecord:
    """A finished clip.

    `index` is that of its generation in the job, from 0. `file` is relative to the data folder. `width` and `height`
    are in pixels. `metadata` says how it was rendered (see engine.result.Clip).
    """

    index: int
    width: int
    height: int
    num_frames: int
    fps: int
    seed: int
    file: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """A queued request at one moment.

    `request` is the wire form without nulls, its images as `upload://<sha256>`. `clips` are those finished so far,
    by index. `error` is an error's `body()`. `attempts` counts the processes that ended while running the job.
    Times are ISO 8601 in UTC ending in Z. `position` is 1 for the next job to run, None unless in_queue. `ready` is
    False while its LoRA files are downloaded; such jobs come after those that could run now. `cells` are a
    comparison's, page by page and row by row, and `failures` the errors of its generations that could not be rendered,
    by index. `visitor` is the browser that sent it, None for a program; `from_guest`: not the owner. `hidden`:
    another's job, with everything but model, position and status left out.
    """

    id: str
    status: Status
    request: Mapping[str, Any]
    generations: tuple[Generation, ...]
    notes: tuple[str, ...]
    clips: tuple[ClipRecord, ...]
    error: Mapping[str, Any] | None
    attempts: int
    cancel_requested: bool
    created_at: str
    started_at: str | None
    finished_at: str | None
    position: int | None
    ready: bool = True
    cells: tuple[PlannedCell, ...] = ()
    failures: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    visitor: str | None = None
    from_guest: bool = False
    hidden: bool = False

    @property
    def gpu_models(self) -> tuple[str, ...]:
        """The GPUs' models that the finished clips were rendered on, in the clips' order; each once."""
        devices = (clip.metadata.get("device") for clip in self.clips)
        return tuple(dict.fromkeys(device for device in devices if isinstance(device, str)))

    def request_of(self, index: int) -> Mapping[str, Any]:
        """The request of one generation, with one prompt. Raises VideoNotFound for an index that the job lacks."""
        if not 0 <= index < len(self.generations):
            raise VideoNotFound(f"This request has no video {index}.")
        if self.cells:
            return next(cell.request for cell in self.cells if cell.generation == index)
        return {**self.request, "prompts": [self.request["prompts"][index]]}

    def training_sample(self, index: int) -> TrainingSample | None:
        """The trainer's sample that a generation is compared with, as its request names it. Raises VideoNotFound."""
        fields = self.request_of(index)["prompts"][0].get("training_sample")
        return None if fields is None else TrainingSample.model_validate(fields)


def lora_use_body(use: LoraUse) -> dict[str, Any]:
    """A LoRA of a generation as it is stored in the database and in MP4s, and sent by the API."""
    body = {"slot": use.slot, "path": use.path, "multiplier": scale_body(use.scale), "sha256": use.sha256}
    return {**body, "speed": True} if use.is_speed else body


def lora_use_from(body: Mapping[str, Any]) -> LoraUse:
    """The LoRA that lora_use_body wrote. Raises KeyError for another mapping."""
    return LoraUse(
        body["slot"], body["path"], scale_from(body["multiplier"]), body.get("sha256"), bool(body.get("speed"))
    )


def generation_body(generation: Generation) -> dict[str, Any]:
    """A generation as it is stored in the database and in MP4s, JSON-ready.

    Sampling values that were left to the recipe, and a base that was left to the server, are left out, as versions
    before them wrote it.
    """
    body = {name: value for name, value in asdict(generation).items() if value is not None or name == "image"}
    base = body.pop("base")
    chosen = {} if base == "auto" else {"base": base if isinstance(base, str) else dict(base)}
    return {**body, "loras": [lora_use_body(use) for use in generation.loras], **chosen}


def generation_from(body: Mapping[str, Any]) -> Generation:
    """The generation that generation_body wrote. Raises KeyError or TypeError for another mapping."""
    loras = tuple(lora_use_from(use) for use in body["loras"])
    base = body.get("base", "auto")
    named = base if isinstance(base, str) else tuple((str(component), str(name)) for component, name in base.items())
    return Generation(**{**body, "loras": loras, "ignored": tuple(body["ignored"]), "base": named})
