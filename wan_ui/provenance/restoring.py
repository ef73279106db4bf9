"""Reads the settings inside a video and compares them with what is on this machine now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wan_ui import __version__
from wan_ui.access import Access
from wan_ui.errors import CheckpointIncomplete, CheckpointNotFound, InvalidRequest, VideoInvalid
from wan_ui.field_errors import check_count
from wan_ui.lora.fit import Configs, no_configs
from wan_ui.media import boxes
from wan_ui.media.image import UPLOAD
from wan_ui.models import MODELS, Speedup, WanModel
from wan_ui.provenance.lora_search import hashes_of, locate_loras
from wan_ui.request import InferenceRequest, parse
from wan_ui.text import one_line
from wan_ui.wire import wire_form

if TYPE_CHECKING:
    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore

MOST_LORAS = 256  # of a comparison: 64 values of two files each, and a stack
SHORT = 7  # digits of a commit, as the hub shows them
COMPUTED_BY = ("torch", "diffusers", "transformers", "peft")

MISSING_IMAGE = "Its first frame is not on this server: choose the image again, or use the video's own first frame."
MISSING_IN_GRID = (
    "Its first frame is not on this server: choose the image again, or drop the video of one of its cells, which "
    "offers its own first frame."
)
FROM_VIDEO = "It starts from the video's own first frame, which is close to the image but compressed."

MISSING_LAST = "Its last frame is not on this server: choose the image again, or use the video's own last frame."
LAST_FROM_VIDEO = "It ends with the video's own last frame, which is close to the image but compressed."

FirstFrame = Literal["none", "here", "missing", "from_video"]
"""Whether a request needs no first (or last) frame, has its own, lacks it, or has the video's own instead."""


class _Part(BaseModel):
    """A part of the metadata; fields that another version added are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class EmbeddedLora(_Part):
    """A LoRA file: its path in the request and its SHA-256."""

    path: str = Field(max_length=4096)
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")


class EmbeddedCheckpoint(_Part):
    """A checkpoint, see checkpoints.folders.Checkpoints.identity."""

    repo: str = Field(max_length=300)
    revision: str | None = Field(None, max_length=100)
    files: str | None = Field(None, max_length=100)


class EmbeddedRender(_Part):
    """What the video was computed with."""

    versions: dict[str, str] = Field(default_factory=dict, max_length=50)
    device: str | None = Field(default=None, max_length=300)
    checkpoint: tuple[EmbeddedCheckpoint, ...] = Field(default=(), max_length=20)
    seconds: dict[str, float] = Field(default_factory=dict, max_length=50)


class EmbeddedGeneration(_Part):
    """The LoRA files of this one video, a subset of a comparison's."""

    loras: tuple[EmbeddedLora, ...] = Field(default=(), max_length=MOST_LORAS)


class EmbeddedCell(_Part):
    """Which cell of a comparison a video is."""

    column_label: str = Field("", max_length=1000)
    row_label: str = Field("", max_length=1000)
    page_label: str = Field("", max_length=1000)


class EmbeddedMetadata(_Part):
    """What embedded_metadata wrote into the file, as far as it is read again."""

    wan_ui: str = Field("", max_length=40)
    request: dict[str, Any]
    comparison: dict[str, Any] | None = None
    loras: tuple[EmbeddedLora, ...] = Field(default=(), max_length=MOST_LORAS)
    generation: EmbeddedGeneration | None = None
    render: EmbeddedRender = EmbeddedRender()
    cell: EmbeddedCell | None = None


class Bases(Protocol):
    """What models can be loaded from: the choice that a request's `base` makes, and its listing."""

    def check_base(self, model: WanModel, base: str | tuple[tuple[str, str], ...]) -> None:
        """Raises BaseNotFound, or what is wrong with a file, for a base that cannot be used."""

    def base_listing(self, model: WanModel) -> Mapping[str, Any]:
        """The body of GET /v1/models/{id}/bases."""

    def answer(self, model: WanModel, component: str, name: str) -> None:
        """Keeps that a file is this component of this model. Raises BaseNotFound."""


@dataclass(frozen=True)
class Environment:
    """What this server renders with, as far as it is known.

    `versions` by name. `checkpoint` gives a model's Checkpoints.identity, or raises CheckpointNotFound or
    CheckpointIncomplete. `device` gives the device's name, None before the engine is loaded. `check_speedup` raises
    SpeedupNotSupported for what the device cannot do. `transformer_config` gives a transformer's config.json by model
    and component, None while it is not on disk. `bases` are what models can be loaded from.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Callable[[WanModel], Sequence[Mapping[str, str | None]] | None] | None = None
    device: Callable[[], str | None] | None = None
    check_speedup: Callable[[Speedup], None] | None = None
    transformer_config: Configs = no_configs
    bases: Bases | None = None


UNKNOWN_ENVIRONMENT = Environment()


@dataclass(frozen=True)
class Restoration:
    """A video's settings as a request. `notes` are sentences on what differs from then; none: everything was found.

    `request` is in wire form, of one prompt or of a comparison. If the video is a cell, `comparison` is the whole
    comparison, and `cell` names the cell by the labels of its column and row.
    `made` says what it was made with: wan_ui, versions, device, checkpoint, seconds.
    """

    request: dict[str, Any]
    notes: tuple[str, ...]
    first_frame: FirstFrame
    made: dict[str, Any]
    comparison: dict[str, Any] | None = None
    cell: str | None = None
    last_frame: FirstFrame = "none"

    @property
    def wants_last_frame(self) -> bool:
        """Whether the video's own last frame could replace the missing one."""
        return self.last_frame == "missing" and "compare" not in self.request

    def ending_with(self, sha256: str) -> Restoration:
        """The same with the stored image `sha256`, the video's own last frame, in place of the missing one."""
        kept = self._with_frame("ctrl_img_last", sha256, {MISSING_LAST: LAST_FROM_VIDEO})
        return replace(kept, last_frame="from_video")

    @property
    def wants_first_frame(self) -> bool:
        """Whether the video's own first frame could replace the missing one; a grid's shows all cells, so it cannot."""
        return self.first_frame == "missing" and "compare" not in self.request

    def starting_from(self, sha256: str) -> Restoration:
        """The same with the stored image `sha256`, the video's own first frame, in place of the missing one."""
        kept = self._with_frame("ctrl_img", sha256, {MISSING_IMAGE: FROM_VIDEO})
        return replace(kept, first_frame="from_video")

    def _with_frame(self, field: str, sha256: str, said: Mapping[str, str]) -> Restoration:
        """The same with a stored image in a field of the prompt; `said` has the note in place of another."""
        image = UPLOAD + sha256
        return replace(
            self,
            request=_with_image(self.request, field, image),
            comparison=None if self.comparison is None else _with_image(self.comparison, field, image),
            notes=tuple(said.get(note, note) for note in self.notes),
        )


def installed() -> dict[str, str]:
    """Versions of the libraries that compute a video, without importing them; missing ones are left out."""
    versions = {"wan-ui": __version__}
    for name in COMPUTED_BY:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def read(path: Path) -> EmbeddedMetadata:
    """The metadata of a video, validated except for its requests. Raises VideoInvalid."""
    text = boxes.comment(path)
    if text is None:
        raise VideoInvalid(
            "This MP4 contains no settings. Messengers, editors and converters remove them: choose the file as it was "
            "downloaded from wan-ui."
        )
    try:
        data = json.loads(text.decode("utf-8"))
        check_count(data)
    except (ValueError, RecursionError, InvalidRequest) as error:
        raise _foreign() from error
    if not isinstance(data, dict) or not isinstance(data.get("request"), dict):
        raise _foreign()
    try:
        return EmbeddedMetadata.model_validate(data)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
        raise VideoInvalid(
            f"The settings in this MP4 are damaged ({one_line(where, 80)}). Choose the file as it was "
            "downloaded from wan-ui."
        ) from error


def restoration(
    carried: EmbeddedMetadata, library: Library, images: ImageStore, here: Environment, access: Access
) -> Restoration:
    """The settings of a video, with its files located on this machine. Raises VideoInvalid."""
    request = _checked(carried.request, carried)
    own = carried.loras if carried.generation is None else carried.generation.loras
    again = locate_loras(wire_form(request), library, hashes_of(use.model_dump() for use in own), access)
    notes = list(again.notes)
    whole = None
    if carried.comparison is not None:
        every = hashes_of(use.model_dump() for use in carried.loras)
        whole = locate_loras(wire_form(_checked(carried.comparison, carried)), library, every, access)
        notes += whole.notes
    row = MODELS[request.model]
    wire, first_frame = _with_own_image(again.request, "ctrl_img", images, access)
    wire, last_frame = _with_own_image(wire, "ctrl_img_last", images, access)
    if last_frame == "missing":
        notes.append(MISSING_LAST)
    if first_frame == "missing":
        notes.append(MISSING_IN_GRID if request.compare is not None else MISSING_IMAGE)
    notes += [*_checkpoint_notes(carried.render.checkpoint, row, here), *_version_notes(carried, here)]
    if whole is not None:
        comparison, _ = _with_own_image(whole.request, "ctrl_img", images, access)
        comparison, _ = _with_own_image(comparison, "ctrl_img_last", images, access)
    return Restoration(
        request=wire,
        notes=tuple(dict.fromkeys(notes)),
        first_frame=first_frame,
        made={"wan_ui": carried.wan_ui, **carried.render.model_dump(mode="json")},
        comparison=None if whole is None else comparison,
        cell=None if carried.cell is None else _place(carried.cell),
        last_frame=last_frame,
    )


def _place(cell: EmbeddedCell) -> str:
    return one_line(" · ".join(filter(None, (cell.column_label, cell.row_label, cell.page_label))), 120)


def _foreign() -> VideoInvalid:
    return VideoInvalid(
        "This MP4 was not made by wan-ui: its metadata is another program's. Choose a video that wan-ui made."
    )


def _checked(request: Mapping[str, Any], carried: EmbeddedMetadata) -> InferenceRequest:
    model = request.get("model")
    if isinstance(model, str) and model not in MODELS:
        raise VideoInvalid(
            f"This video was made with the model {one_line(model, 80)}, which version {__version__} does not have. "
            "Update wan-ui, or choose another video."
        )
    try:
        return parse(request)
    except InvalidRequest as error:
        by = one_line(carried.wan_ui, 40) or "another version"
        raise VideoInvalid(
            f"The settings in this MP4, written by wan-ui {by}, cannot be read by this version ({__version__}): "
            f"{one_line(error.message, 200)}. Update wan-ui, or choose another video.",
            **error.details,
        ) from error


def _with_own_image(
    wire: dict[str, Any], field: str, images: ImageStore, access: Access
) -> tuple[dict[str, Any], FirstFrame]:
    """The request, without the image in `field` if that is not found or not the caller's."""
    item, *rest = wire["prompts"]
    image = item.get(field)
    if not image:
        return wire, "none"
    if image.startswith(UPLOAD) and images.has(image.removeprefix(UPLOAD), access):
        return wire, "here"
    kept = {name: value for name, value in item.items() if name != field}
    return {**wire, "prompts": [kept, *rest]}, "missing"


def _with_image(wire: Mapping[str, Any], field: str, image: str) -> dict[str, Any]:
    item, *rest = wire["prompts"]
    return {**wire, "prompts": [{**item, field: image}, *rest]}


def _checkpoint_notes(then: Sequence[EmbeddedCheckpoint], row: WanModel, here: Environment) -> list[str]:
    if not then or here.checkpoint is None:
        return []
    try:
        now = here.checkpoint(row)
    except CheckpointNotFound:
        return [f"The checkpoint of {row.label} is not on this machine yet."]
    except CheckpointIncomplete:
        return [f"The checkpoint of {row.label} on this machine is incomplete."]
    if now is None:
        return []
    by_repo = {checkpoint["repo"]: checkpoint for checkpoint in now}
    notes = []
    for used in then:
        repo, other = one_line(used.repo, 120), by_repo.get(used.repo)
        if other is None:
            notes.append(f"It was made with the checkpoint {repo}, which {row.label} does not use here.")
        elif used.revision and other["revision"] and used.revision != other["revision"]:
            was, now_at = one_line(used.revision)[:SHORT], other["revision"][:SHORT]
            notes.append(f"The checkpoint {repo} was at revision {was}; here it is at {now_at}.")
        elif used.files != other["files"]:
            notes.append(f"The checkpoint {repo} here is not the one it was made with: its files differ.")
    return notes


def _version_notes(carried: EmbeddedMetadata, here: Environment) -> list[str]:
    """One sentence about versions, one about the device."""
    notes = []
    then_by = {**({"wan-ui": carried.wan_ui} if carried.wan_ui else {}), **carried.render.versions}
    differ = [
        (name, was, here.versions[name])
        for name, was in then_by.items()
        if name in here.versions and _public(was) != _public(here.versions[name])
    ]
    if differ:
        then = _listed([f"{name} {one_line(was, 40)}" for name, was, _ in differ])
        now = _listed([one_line(now, 40) for _, _, now in differ])
        notes.append(f"It was made with {then}; here {'is' if len(differ) == 1 else 'are'} {now}.")
    device = None if here.device is None else here.device()
    if device is not None and carried.render.device and carried.render.device != device:
        notes.append(f"It was rendered on {_device(carried.render.device)}; here on {_device(device)}.")
    if notes:
        notes[-1] += " The frames may differ slightly."
    return notes


def _device(name: str) -> str:
    return "a CPU" if name == "cpu" else one_line(name, 120)


def _public(text: str) -> str:
    """A version without its build label, which differs between devices for the same code."""
    return text.partition("+")[0]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]
