"""Turns a request's JSON body into generations whose LoRA files and images are all stored here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.axes import Pair
from wan_ui.compare import Grid, PlannedCell, expand
from wan_ui.engine.recipes import RECIPES, merged_kinds
from wan_ui.engine.speedups import CHOICES
from wan_ui.errors import ControlImageInvalid, InvalidRequest, LoraInvalid, LoraMismatch, LoraNotFound
from wan_ui.lora.fit import Configs, check_fit
from wan_ui.lora.remote import check_source, is_remote, shown_name
from wan_ui.lora.speed_files import locate_speed_files
from wan_ui.models import PAIR_NOTE, RecipeId, WanModel
from wan_ui.render_order import plan_cells
from wan_ui.request import (
    FOREIGN_FIELDS,
    FOREIGN_PROMPT_FIELDS,
    Axis,
    Generation,
    InferenceRequest,
    LoraUse,
    PromptItem,
    find_model,
    find_speed_lora,
    named_loras,
    parse,
    random_seed,
    resolve,
)
from wan_ui.scale import is_constant
from wan_ui.speed_loras import SPEED_LORAS, own_values
from wan_ui.text import is_web_address
from wan_ui.wire import wire_form

if TYPE_CHECKING:
    from wan_ui.lora.header import LoraHeader
    from wan_ui.lora.library import Library, LoraFile
    from wan_ui.media.image import ImageStore

UPLOAD_PREFIX = "upload://"
MAX_ADDRESSES = 16  # of a request's control images
FETCH_SECONDS = 30.0  # for all of them, after which no further one is downloaded
_OTHER_SIDE: Mapping[str, str] = {"high": "low", "low": "high"}

CheckFit = Callable[["LoraHeader", WanModel, str, Mapping[str, Any] | None], Sequence[str]]
"""A LoRA's header, a model, a slot of it, that transformer's config -> sentences for the user; raises LoraMismatch."""


@dataclass(frozen=True)
class ResolvedRequest:
    """What a request renders: `generations` in order, with each LoRA file's SHA-256.

    `notes` are sentences for the client: what was adjusted or ignored, and what to expect. `cells` are those of a
    comparison, row by row; then `generations` are its distinct videos in their cheapest order.
    """

    generations: tuple[Generation, ...]
    notes: tuple[str, ...]
    cells: tuple[PlannedCell, ...] = ()


@dataclass(frozen=True)
class PreparedRequest(ResolvedRequest):
    """A request that can be queued: all it needs is stored on the server.

    `request` is what was sent with each control image as `upload://<sha256>`, `wire` the same as a JSON-ready dict
    without nulls. `awaited` are the addresses among its LoRAs: they are still to be downloaded, and
    `resolve_downloaded` then returns the final generations, notes and cells.
    """

    request: InferenceRequest = field(kw_only=True)
    wire: dict[str, Any] = field(kw_only=True)
    awaited: tuple[str, ...] = field(kw_only=True)


@dataclass(frozen=True)
class _LoraChecks:
    """What LoRA files are looked up and checked with; `awaited` are addresses that are not downloaded yet.

    `speed_files` are the paths of the speed LoRA's files by slot.
    """

    library: Library
    configs: Configs
    access: Access
    check_fit: CheckFit
    awaited: tuple[str, ...] = ()
    speed_files: Mapping[str, str] = field(default_factory=dict)


def prepare(
    body: Any,
    library: Library,
    images: ImageStore,
    configs: Configs,
    access: Access,
    random_seed: Callable[[], int] = random_seed,
    check_fit: CheckFit = check_fit,
) -> PreparedRequest:
    """Checks a decoded JSON body and stores the images it names, the cheapest refusals first.

    In this order: schema; a comparison's values, all of them; model, LoRA slots and control image rules; LoRA files,
    and whether they fit; control images, stored last so that a refused request leaves nothing behind. Equal control
    images are stored once. The owner may give absolute LoRA paths below the folders of the library; they are stored
    as relative ones. Of LoRAs that have to be downloaded only the address is checked. Uploads that `access` may
    not use are refused as missing.
    Raises what request.parse, compare.expand, request.resolve, Library.locate, check_fit and ImageStore.put raise.
    """
    request = parse(body)
    if access.identity.owner and any(path.startswith("/") for path in named_loras(request)):
        request = _with_sources(request, library.relative)
    model = find_model(request.model)
    named = named_loras(request)
    speed = find_speed_lora(request)
    speed_files = {} if speed is None else locate_speed_files(speed, library, access)
    awaited = tuple(path for path in dict.fromkeys((*named, *speed_files.values())) if is_remote(path))
    for source in awaited:
        check_source(source)
    checks = _LoraChecks(library, configs, access, check_fit, awaited, speed_files)

    def pair(path: str) -> Mapping[str, str] | None:
        if path not in awaited:
            return _pair(library, access, path)
        # An address without a transformer may turn out to be a combined file; resolve_downloaded refuses it otherwise.
        return dict.fromkeys(model.slots, path) if named[path] else None

    drafts, grid, lora_notes = _expand(request, model, pair, random_seed, checks)
    used = {use.path for draft in drafts for use in draft.loras}
    written = dict.fromkeys(image for draft in drafts for image in (draft.image, draft.image_last) if image is not None)
    put = images.put_upright if request.apply_exif else images.put
    hashes = _stored_images(written, partial(put, access=access))
    image_notes = [note for sha256 in dict.fromkeys(hashes.values()) for note in images.notes(sha256, access)]
    stored = _with_images(request, hashes)
    drafts = tuple(_with_hashes(draft, hashes) for draft in drafts)
    resolved = _resolved(model, drafts, grid, (*lora_notes, *image_notes), hashes)
    return PreparedRequest(
        resolved.generations,
        resolved.notes,
        resolved.cells,
        request=stored,
        wire=wire_form(stored),
        awaited=tuple(source for source in awaited if source in used),
    )


def resolve_downloaded(
    request: InferenceRequest,
    generations: tuple[Generation, ...],
    library: Library,
    configs: Configs,
    check_fit: CheckFit = check_fit,
) -> ResolvedRequest:
    """What a prepared request renders, once the LoRA files it awaited are downloaded.

    `generations` are those it was prepared with, whose random seeds are kept. Access to uploads was checked then.
    Raises what compare.expand, request.resolve, Library.locate and check_fit raise.
    """
    model = find_model(request.model)
    seeds = iter([was.seed for was, item in zip(generations, request.prompts, strict=False) if item.seed == -1])
    # The very files that it was prepared with, which may have been found under another name.
    speed_files = {use.slot: use.path for was in generations for use in was.loras if use.is_speed}
    checks = _LoraChecks(library, configs, LOCAL_ACCESS, check_fit, speed_files=speed_files)
    pair = partial(_pair, library, LOCAL_ACCESS)
    drafts, grid, lora_notes = _expand(request, model, pair, partial(next, seeds), checks)
    # The stored request lacks the fields that were ignored; a comparison has one prompt, so all its cells share them.
    ignored = [was.ignored for was in generations]
    shared = tuple(dict.fromkeys(name for names in ignored for name in names))
    drafts = tuple(
        replace(
            draft,
            image=_kept_image(draft.image),
            image_last=_kept_image(draft.image_last),
            ignored=shared if grid is not None else ignored[index],
        )
        for index, draft in enumerate(drafts)
    )
    return _resolved(model, drafts, grid, lora_notes)


def _expand(
    request: InferenceRequest, model: WanModel, pair: Pair, random_seed: Callable[[], int], checks: _LoraChecks
) -> tuple[tuple[Generation, ...], Grid | None, tuple[str, ...]]:
    """One generation per prompt or, with the grid, per cell, with its LoRA files found; and notes about the files.

    The images stay as they were written: they are stored only once the LoRA files are known to fit.
    """

    def is_combined(path: str) -> bool:
        try:
            halves = pair(path) or {}
        except (LoraNotFound, LoraInvalid):
            return False  # reported below, where all files are looked up
        return len(halves) > 1 and len(set(halves.values())) == 1

    grid = None if request.compare is None else expand(request, request.compare, pair, random_seed)
    requests = (request,) if grid is None else tuple(cell.request for cell in grid.cells)
    drafts = tuple(
        generation
        for each in requests
        for generation in resolve(
            each, lambda ctrl_img: ctrl_img, random_seed, is_combined=is_combined, speed_files=checks.speed_files
        )
    )
    uses = [use for draft in drafts for use in draft.loras]
    several = len({use.path for use in uses}) > 1
    sha256s: dict[tuple[str, str], str] = {}
    notes: list[str] = []
    for recipe, use in dict.fromkeys((draft.recipe, use) for draft in drafts for use in draft.loras):
        if use.path not in checks.awaited and not is_constant(use.scale):
            _check_changing_scale(request, recipe, use, checks.library.locate(use.path, checks.access))
    for use in uses:
        if use.path in checks.awaited or (use.slot, use.path) in sha256s:
            continue
        file = checks.library.locate(use.path, checks.access)
        try:
            notes += checks.check_fit(file.header, model, use.slot, checks.configs(model, model.slots[use.slot]))
        except LoraMismatch as error:
            if not several:
                raise
            raise LoraMismatch(f"{file.name}: {error.message}", **error.details) from error
        sha256s[use.slot, use.path] = file.sha256
    located = tuple(
        replace(draft, loras=tuple(replace(use, sha256=sha256s.get((use.slot, use.path))) for use in draft.loras))
        for draft in drafts
    )
    for draft in located:
        _check_no_duplicate(draft)
    return located, grid, tuple(dict.fromkeys(notes))


def _check_no_duplicate(draft: Generation) -> None:
    """Raises InvalidRequest where a LoRA of the request has the content of the speed LoRA beside it.

    Of a speed LoRA that is still to be downloaded the published content is compared: whether this LoRA is found in its
    place depends on which files' hashes are known.
    """
    for speed in (use for use in draft.loras if use.is_speed):
        content = speed.sha256 or SPEED_LORAS[str(draft.speed_lora)].files[speed.slot].sha256
        for use in draft.loras:
            same = use.path == speed.path or (use.sha256 is not None and use.sha256 == content)
            if same and use.slot == speed.slot and not use.is_speed:
                message = (
                    f"{shown_name(use.path)} is the file of the speed LoRA {draft.speed_lora}: leave out one of them"
                )
                raise InvalidRequest(f"loras: {message}.", fields=[{"loc": "loras", "msg": message}])


def _check_changing_scale(request: InferenceRequest, recipe: RecipeId, use: LoraUse, file: LoraFile) -> None:
    """Raises InvalidRequest for a scale that changes over the steps, of a file with layers that are merged."""
    merged = merged_kinds(RECIPES[recipe], {module.kind for module in file.header.in_slot(use.slot)})
    if not merged:
        return
    index = next((index for index, item in enumerate(request.loras) if item.path == use.path), None)
    loc = "compare" if index is None else f"loras.{index}.network_multiplier"
    message = (
        f"{file.name} has layers that the recipe {recipe} merges into the weights ({', '.join(merged)}), so its scale "
        "cannot change over the steps: give one number"
    )
    raise InvalidRequest(f"{loc}: {message}.", fields=[{"loc": loc, "msg": message}])


def _resolved(
    model: WanModel,
    drafts: tuple[Generation, ...],
    grid: Grid | None,
    lora_notes: tuple[str, ...],
    hashes: Mapping[str, str] = MappingProxyType({}),
) -> ResolvedRequest:
    if grid is None:
        return ResolvedRequest(drafts, (*lora_notes, *_notes(model, drafts)))
    cells = tuple(replace(cell, request=_with_images(cell.request, hashes)) for cell in grid.cells)
    generations, planned = plan_cells(replace(grid, cells=cells), drafts)
    notes = dict.fromkeys((*lora_notes, *_notes(model, drafts, cells=True)))
    return ResolvedRequest(generations, tuple(notes), planned)


def _stored_images(written: Iterable[str], put: Callable[[str], str]) -> dict[str, str]:
    """The SHA-256 of each image once it is stored. Raises what ImageStore.put raises, and InvalidRequest.

    Images named by an address are few, and downloaded within FETCH_SECONDS in all, since each may keep its caller
    waiting.
    """
    images = tuple(written)
    if sum(map(is_web_address, images)) > MAX_ADDRESSES:
        problem = f"at most {MAX_ADDRESSES} of a request's images can be addresses; send the others as base64"
        raise InvalidRequest(f"prompts: {problem}.", fields=[{"loc": "prompts", "msg": problem}])
    deadline = time.monotonic() + FETCH_SECONDS
    hashes: dict[str, str] = {}
    for image in images:
        if time.monotonic() > deadline and is_web_address(image):
            raise ControlImageInvalid(
                f"The first frames could not be downloaded within {FETCH_SECONDS:g} s. Name fewer, or send them as "
                "base64."
            )
        hashes[image] = put(image)
    return hashes


def _kept_image(written: str | None) -> str | None:
    """The SHA-256 of an image that a stored request names."""
    return None if written is None else written.removeprefix(UPLOAD_PREFIX)


def _with_hashes(draft: Generation, hashes: Mapping[str, str]) -> Generation:
    """The generation with its images' SHA-256 instead of the images as written."""
    image, last = (None if written is None else hashes[written] for written in (draft.image, draft.image_last))
    return replace(draft, image=image, image_last=last)


def _with_images(request: InferenceRequest, hashes: Mapping[str, str]) -> InferenceRequest:
    """The request with each image that has a hash as `upload://<sha256>`, without the fields that are ignored."""
    takes_first_frame = find_model(request.model).control_image != "none"

    def stored(item: PromptItem) -> PromptItem:
        images = {"ctrl_img": item.ctrl_img if takes_first_frame else None, "ctrl_img_last": item.ctrl_img_last}
        kept = {
            name: UPLOAD_PREFIX + hashes[image] if image and image in hashes else image or None
            for name, image in images.items()
        }
        return item.model_copy(update={**dict.fromkeys(FOREIGN_PROMPT_FIELDS), **kept})

    return request.model_copy(update={**dict.fromkeys(FOREIGN_FIELDS), "prompts": tuple(map(stored, request.prompts))})


def _with_sources(request: InferenceRequest, source_of: Callable[[str], str]) -> InferenceRequest:
    """The request with every LoRA path, also those of its axes, replaced by what `source_of` makes of it."""

    def value_of(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {half: value_of(path) for half, path in value.items()}
        return source_of(value) if isinstance(value, str) else value

    def axis_of(axis: Axis) -> Axis:
        if axis.field != "lora":
            return axis
        return axis.model_copy(update={"values": tuple(map(value_of, axis.values))})

    update: dict[str, Any] = {
        "loras": tuple(item.model_copy(update={"path": source_of(item.path)}) for item in request.loras)
    }
    if request.compare is not None:
        axes: dict[str, Any] = {name: axis_of(axis) for name, axis in request.compare.axes.items()}
        update["compare"] = request.compare.model_copy(update=axes)
    return request.model_copy(update=update)


def _pair(library: Library, access: Access, path: str) -> Mapping[str, str] | None:
    """A file's pair by slot: the file itself for the halves it holds, its partner for the other.

    None for a file that does not state its half, and for an address that was not downloaded because it is not used.
    Raises what Library.locate raises for a path.
    """
    try:
        slot = library.locate(path, access).header.slot
    except LoraNotFound:
        if is_remote(path):
            return None
        raise
    if slot == "combined":
        return {"high": path, "low": path}
    if slot not in _OTHER_SIDE:
        return None
    partner = None if is_remote(path) else library.partner(path, access)
    return {slot: path} if partner is None else {slot: path, _OTHER_SIDE[slot]: partner}


def _notes(model: WanModel, generations: tuple[Generation, ...], cells: bool = False) -> tuple[str, ...]:
    """Sentences about the generations, by prompt where there are several; those of `cells` have one prompt."""
    notes: list[str] = []
    attached = max(
        len([use for use in generation.loras if use.scale != 0 and not use.is_speed]) for generation in generations
    )
    if model.two_transformers and attached == 1:
        notes.append(PAIR_NOTE)
    for index, generation in enumerate(generations):
        prefix = f"Prompt {index + 1}: " if len(generations) > 1 and not cells else ""
        notes += _generation_notes(model, generation, prefix)
    return tuple(notes)


def _generation_notes(model: WanModel, generation: Generation, prefix: str) -> Iterator[str]:
    asked, size = (generation.requested_width, generation.requested_height), (generation.width, generation.height)
    if asked != size:
        yield (
            f"{prefix}{asked[0]} × {asked[1]} became {size[0]} × {size[1]}: {model.label} takes sides that are "
            f"multiples of {model.divisor[generation.recipe]}."
        )
    if generation.requested_num_frames != generation.num_frames:
        yield (
            f"{prefix}{generation.requested_num_frames} frames became {generation.num_frames}: Wan makes 4N + 1 frames."
        )
    if model.tuned_for and size[0] * size[1] > model.tuned_for.width * model.tuned_for.height:
        yield (
            f"{prefix}{model.label} is tuned for sizes up to about {model.tuned_for.width} × {model.tuned_for.height}; "
            "above, expect less stable motion and slower renders."
        )
    if generation.speed_lora is not None:
        yield from _speed_notes(generation, prefix)
    if generation.speedup != "none":
        choice = CHOICES[generation.speedup]
        yield f"{choice.label}: {choice.sentence}"
    if "ctrl_img" in generation.ignored and model.control_image == "none":
        yield f"{prefix}{model.label} takes no first frame: the control image was ignored."
    if generation.ignored:
        yield f"{prefix}Ignored, as the reference server does: {', '.join(generation.ignored)}."


def _speed_notes(generation: Generation, prefix: str) -> Iterator[str]:
    speed = SPEED_LORAS[str(generation.speed_lora)]
    yield f"{prefix}A fast look with {speed.label}, {generation.sample_steps} steps. {speed.note}".rstrip()
    own = own_values(speed, generation)
    if own:
        values = ", ".join(f"{name} {value}" for name, value in own.items())
        yield f"{prefix}The request's own values in place of the speed LoRA's: {values}."
    if generation.guidance_scale <= 1 and generation.neg:
        yield f"{prefix}The negative prompt does nothing without guidance."
