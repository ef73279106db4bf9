"""What a video made here carries, read back and held against what is here now; it knows no page, job or framework."""

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
from wan_ui.errors import BaseNotFound, CheckpointIncomplete, CheckpointNotFound, InvalidRequest, VideoInvalid
from wan_ui.lora.fit import Configs, no_configs
from wan_ui.media import boxes
from wan_ui.media.image import UPLOAD
from wan_ui.models import MODELS, Speedup, WanModel
from wan_ui.provenance.lora_search import hashes_of, locate_loras
from wan_ui.request import InferenceRequest, parse
from wan_ui.text import one_line

if TYPE_CHECKING:
    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore

MOST_LORAS = 256  # of a comparison: 64 values of two files each, and a stack
SHORT = 7  # digits of a commit, as the hub shows them
COMPUTED_BY = ("torch", "diffusers", "transformers", "peft")

MISSING_IMAGE = "The image it starts from is not here: choose it again, or take the video's own first frame."
MISSING_IN_GRID = (
    "The image it starts from is not here: choose it again, or drop the video of one of its cells, which offers its "
    "own first frame."
)
FROM_VIDEO = "It starts from the video's own first frame, which is close to the image but was compressed."

FirstFrame = Literal["none", "here", "missing", "from_video"]
"""Whether the request needs none, has its own, lacks it, or starts from the video's own first frame instead."""


class _Part(BaseModel):
    """What another version added is let pass."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class EmbeddedLora(_Part):
    """A LoRA file as the request names it and by its content."""

    path: str = Field(max_length=4096)
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")


class EmbeddedCheckpoint(_Part):
    """See engine.checkpoints.Checkpoints.identity."""

    repo: str = Field(max_length=300)
    revision: str | None = Field(None, max_length=100)
    files: str | None = Field(None, max_length=100)


class EmbeddedRender(_Part):
    """What computed the video."""

    versions: dict[str, str] = Field(default_factory=dict, max_length=50)
    device: str | None = Field(default=None, max_length=300)
    checkpoint: tuple[EmbeddedCheckpoint, ...] = Field(default=(), max_length=20)
    seconds: dict[str, float] = Field(default_factory=dict, max_length=50)


class EmbeddedGeneration(_Part):
    """The one video: the files it wears, of which a comparison's `loras` has more."""

    loras: tuple[EmbeddedLora, ...] = Field(default=(), max_length=MOST_LORAS)


class EmbeddedCell(_Part):
    """Which cell of a comparison a video is."""

    column_label: str = Field("", max_length=1000)
    row_label: str = Field("", max_length=1000)


class EmbeddedMetadata(_Part):
    """What jobs.inside put into the file, as far as it is read again."""

    wan_ui: str = Field("", max_length=40)
    request: dict[str, Any]
    comparison: dict[str, Any] | None = None
    loras: tuple[EmbeddedLora, ...] = Field(default=(), max_length=MOST_LORAS)
    generation: EmbeddedGeneration | None = None
    render: EmbeddedRender = EmbeddedRender()
    cell: EmbeddedCell | None = None


def _unknown(row: WanModel) -> None:
    """Where nobody says which checkpoint there is."""


def _no_device() -> None:
    """Where nothing renders, or not yet."""


def _any_speedup(speedup: Speedup) -> None:
    """Where nobody knows yet what the device cannot do: the render itself says so."""


class Bases(Protocol):
    """What models can be loaded from: the choice that a request's `base` makes, and its listing."""

    def check_base(self, model: WanModel, base: str | tuple[tuple[str, str], ...]) -> None:
        """Raises BaseNotFound, or what is wrong with a file, for a base that cannot be used."""

    def base_listing(self, model: WanModel) -> Mapping[str, Any]:
        """The body of GET /v1/models/{id}/bases."""

    def answer(self, model: WanModel, component: str, name: str) -> None:
        """Keeps that a file is this component of this model. Raises BaseNotFound."""


class UnknownBases:
    """Where nobody knows which files there are: the render itself says so."""

    def check_base(self, model: WanModel, base: str | tuple[tuple[str, str], ...]) -> None:
        """Accepts every base."""

    def base_listing(self, model: WanModel) -> Mapping[str, Any]:
        """Lists nothing."""
        return {"model": model.id, "auto": None, "components": [], "questions": [], "unusable": [], "notes": []}

    def answer(self, model: WanModel, component: str, name: str) -> None:
        """Knows no file."""
        raise BaseNotFound(f"There is no checkpoint file {name}.", component=component, candidates=[])


@dataclass(frozen=True)
class Environment:
    """What this server would render with: versions by name, a row's Checkpoints.identity, the device's name.

    `transformer_config` gives a transformer's config.json by model and component, None while it is not on disk.
    `checkpoint` gives None where it cannot be told; it raises CheckpointNotFound or CheckpointIncomplete.
    `check_speedup` raises SpeedupNotSupported for what the device cannot do. `bases` are what models are loaded from.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Callable[[WanModel], Sequence[Mapping[str, str | None]] | None] = _unknown
    device: Callable[[], str | None] = _no_device
    check_speedup: Callable[[Speedup], None] = _any_speedup
    transformer_config: Configs = no_configs
    bases: Bases = UnknownBases()


UNKNOWN_ENVIRONMENT = Environment()


@dataclass(frozen=True)
class Restoration:
    """A video's settings, ready to be run here. `notes` are sentences on what is not as it was; none: all is here.

    `request` is in wire form, of one prompt, or a comparison's. `comparison` is that of the cell which the video is,
    and `cell` says which one, by the heads of its column and row.
    `made` says by what it was made: wan_ui, versions, device, checkpoint, seconds.
    """

    request: dict[str, Any]
    notes: tuple[str, ...]
    first_frame: FirstFrame
    made: dict[str, Any]
    comparison: dict[str, Any] | None = None
    cell: str | None = None

    @property
    def wants_first_frame(self) -> bool:
        """Whether the video's own first frame could take the missing one's place: a grid's shows all its cells."""
        return self.first_frame == "missing" and "compare" not in self.request

    def starting_from(self, sha256: str) -> Restoration:
        """The same with a kept image, the video's own first frame, where the one it started from is missing."""
        kept = UPLOAD + sha256
        return replace(
            self,
            request=_starting(self.request, kept),
            comparison=None if self.comparison is None else _starting(self.comparison, kept),
            first_frame="from_video",
            notes=tuple(FROM_VIDEO if note == MISSING_IMAGE else note for note in self.notes),
        )


def installed() -> dict[str, str]:
    """Versions of what computes a video, without importing any of it; what is not installed is left out."""
    restoration = {"wan-ui": __version__}
    for name in COMPUTED_BY:
        try:
            restoration[name] = version(name)
        except PackageNotFoundError:
            continue
    return restoration


def read(path: Path) -> EmbeddedMetadata:
    """What a video carries, checked but for its requests. Raises VideoInvalid, which says what to do."""
    text = boxes.comment(path)
    if text is None:
        raise VideoInvalid(
            "This MP4 carries no settings. Messengers, editors and converters remove them: choose the file as it was "
            "downloaded here."
        )
    try:
        restoration = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _foreign() from error
    if not isinstance(restoration, dict) or not isinstance(restoration.get("request"), dict):
        raise _foreign()
    try:
        return EmbeddedMetadata.model_validate(restoration)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
        raise VideoInvalid(
            f"The settings in this MP4 are damaged ({one_line(where, 80)}). Choose the file as it was downloaded here."
        ) from error


def restoration(
    carried: EmbeddedMetadata, library: Library, images: ImageStore, here: Environment, access: Access
) -> Restoration:
    """The settings a video carries, with its files found again here. Raises VideoInvalid."""
    request = _checked(carried.request, carried)
    own = carried.loras if carried.generation is None else carried.generation.loras
    again = locate_loras(_wire(request), library, hashes_of(use.model_dump() for use in own), access)
    notes = list(again.notes)
    whole = None
    if carried.comparison is not None:
        every = hashes_of(use.model_dump() for use in carried.loras)
        whole = locate_loras(_wire(_checked(carried.comparison, carried)), library, every, access)
        notes += whole.notes
    row = MODELS[request.model]
    wire, first_frame = _with_first_frame(again.request, images, access)
    if first_frame == "missing":
        notes.append(MISSING_IN_GRID if request.compare is not None else MISSING_IMAGE)
    notes += [*_checkpoint_notes(carried.render.checkpoint, row, here), *_version_notes(carried, here)]
    return Restoration(
        request=wire,
        notes=tuple(dict.fromkeys(notes)),
        first_frame=first_frame,
        made={"wan_ui": carried.wan_ui, **carried.render.model_dump(mode="json")},
        comparison=None if whole is None else _with_first_frame(whole.request, images, access)[0],
        cell=None if carried.cell is None else _place(carried.cell),
    )


def _place(cell: EmbeddedCell) -> str:
    return one_line(" · ".join(filter(None, (cell.column_label, cell.row_label))), 120)


def _foreign() -> VideoInvalid:
    return VideoInvalid(
        "This MP4 was not made by wan-ui: what it carries is another program's. Choose a video that was made here."
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
            f"The settings in this MP4, written by wan-ui {by}, are not understood by this version ({__version__}): "
            f"{one_line(error.message, 200)}. Update wan-ui, or choose another video.",
            **error.details,
        ) from error


def _wire(request: InferenceRequest) -> dict[str, Any]:
    return request.model_dump(mode="json", exclude_none=True)


def _with_first_frame(wire: dict[str, Any], images: ImageStore, access: Access) -> tuple[dict[str, Any], FirstFrame]:
    """The request, without a first frame that is not here."""
    item, *rest = wire["prompts"]
    image = item.get("ctrl_img")
    if not image:
        return wire, "none"
    if image.startswith(UPLOAD) and images.has(image.removeprefix(UPLOAD), access):
        return wire, "here"
    kept = {name: value for name, value in item.items() if name != "ctrl_img"}
    return {**wire, "prompts": [kept, *rest]}, "missing"


def _starting(wire: Mapping[str, Any], image: str) -> dict[str, Any]:
    item, *rest = wire["prompts"]
    return {**wire, "prompts": [{**item, "ctrl_img": image}, *rest]}


def _checkpoint_notes(then: Sequence[EmbeddedCheckpoint], row: WanModel, here: Environment) -> list[str]:
    if not then:
        return []
    try:
        now = here.checkpoint(row)
    except CheckpointNotFound:
        return [f"The checkpoint of {row.label} is not on this machine yet."]
    except CheckpointIncomplete:
        return [f"The checkpoint of {row.label} on this machine is incomplete."]
    if now is None:
        return []
    by_repo = {one["repo"]: one for one in now}
    notes = []
    for one in then:
        repo, other = one_line(one.repo, 120), by_repo.get(one.repo)
        if other is None:
            notes.append(f"It was made with the checkpoint {repo}, which {row.label} does not use here.")
        elif one.revision and other["revision"] and one.revision != other["revision"]:
            was, now_at = one_line(one.revision)[:SHORT], other["revision"][:SHORT]
            notes.append(f"The checkpoint {repo} was at revision {was}; here it is at {now_at}.")
        elif one.files != other["files"]:
            notes.append(f"The checkpoint {repo} here is not the one it was made with: its files differ.")
    return notes


def _version_notes(carried: EmbeddedMetadata, here: Environment) -> list[str]:
    """One sentence on versions, one on the device."""
    notes = []
    then_by = {**({"wan-ui": carried.wan_ui} if carried.wan_ui else {}), **carried.render.versions}
    differ = [
        (name, was, here.versions[name])
        for name, was in then_by.items()
        if name in here.versions and _public(was) != _public(here.versions[name])
    ]
    if differ:
        then = _listed([f"{name} {one_line(was, 40)}" for name, was, _ in differ])
        now = _listed([one_line(one, 40) for _, _, one in differ])
        notes.append(f"It was made with {then}; here {'is' if len(differ) == 1 else 'are'} {now}.")
    device = here.device()
    if device is not None and carried.render.device and carried.render.device != device:
        notes.append(f"It was rendered on {_device(carried.render.device)}; here on {_device(device)}.")
    if notes:
        notes[-1] += " The frames may differ slightly."
    return notes


def _device(name: str) -> str:
    return "a CPU" if name == "cpu" else one_line(name, 120)


def _public(text: str) -> str:
    """A version without the mark of its build: the same code for another device."""
    return text.partition("+")[0]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]
