"""A request's way in: from a decoded body to generations whose files are all here; it knows no doors and no jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.compare import Grid, Pair, PlannedCell, expand, plan_cells
from wan_ui.engine.speedups import CHOICES
from wan_ui.errors import LoraInvalid, LoraMismatch, LoraNotFound
from wan_ui.lora.fit import Configs, check_fit
from wan_ui.lora.remote import check_source, is_remote
from wan_ui.models import PAIR_NOTE, WanModel
from wan_ui.request import Compare, Generation, InferenceRequest, PromptItem, draw_seed, model_row, parse, resolve

if TYPE_CHECKING:
    from wan_ui.lora.header import LoraHeader
    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore

UPLOAD_PREFIX = "upload://"
_OTHER: Mapping[str, str] = {"high": "low", "low": "high"}

CheckFit = Callable[["LoraHeader", WanModel, str, Mapping[str, Any] | None], Sequence[str]]
"""A LoRA's header, a row, one of its slots and that transformer's config to sentences for the user, or LoraMismatch."""


@dataclass(frozen=True)
class Settled:
    """What a request comes to: `generations` to be rendered, in order, each LoRA file by its SHA-256.

    `notes` are sentences for the sender: what was adjusted or ignored, and what to expect. `cells` are a comparison's,
    row by row; then `generations` are its distinct videos in their cheapest order.
    """

    generations: tuple[Generation, ...]
    notes: tuple[str, ...]
    cells: tuple[PlannedCell, ...] = ()


@dataclass(frozen=True)
class Prepared(Settled):
    """A request that can wait in line: nothing it needs can go missing with the sender.

    `request` is what was sent with each control image as `upload://<sha256>`, `wire` the same as a JSON-ready dict
    without nulls. `awaited` are the addresses among its LoRAs: they are to be fetched, and `settle` then says what
    the generations, notes and cells are.
    """

    request: InferenceRequest = field(kw_only=True)
    wire: dict[str, Any] = field(kw_only=True)
    awaited: tuple[str, ...] = field(kw_only=True)


def prepare(
    body: Any,
    library: Library,
    images: ImageStore,
    configs: Configs,
    access: Access,
    draw: Callable[[], int] = draw_seed,
    check_fit: CheckFit = check_fit,
) -> Prepared:
    """Checks a decoded JSON body and fetches what it names, the cheapest refusals first.

    In this order: schema; a comparison's values, all of them; model, LoRA slots and control image rules; LoRA files,
    and whether they fit; control images, stored last so that a refused request leaves nothing behind. Equal control
    images are taken in once. Of LoRAs that have to be fetched only the address is looked at. Uploads that `access` may
    not use are refused as missing.
    Raises what request.parse, compare.expand, request.resolve, Library.locate, check_fit and ImageStore.put raise.
    """
    request = parse(body)
    row = model_row(request.model)
    named = _named_loras(request)
    awaited = tuple(path for path in named if is_remote(path))
    for source in awaited:
        check_source(source)
    # One that leaves its transformer out may turn out to be combined, and is refused by settle if it does not.
    undecided = {path for path in awaited if named[path]}

    def pair(path: str) -> Mapping[str, str] | None:
        if path in awaited:
            return dict.fromkeys(row.slots, path) if path in undecided else None
        return _pair(library, access, path)

    # The images stay as they were written until the LoRA files are found.
    drafts, grid = _drafts(request, pair, draw)
    drafts, lora_notes = _locate(row, drafts, library, configs, check_fit, access, awaited)
    used = {use.path for draft in drafts for use in draft.loras}
    hashes = {text: images.put(text, access) for text in dict.fromkeys(one.image for one in drafts) if text is not None}
    stored = _with_images(request, hashes)
    drafts = tuple(replace(draft, image=None if draft.image is None else hashes[draft.image]) for draft in drafts)
    settled = _settled(row, drafts, grid, lora_notes, hashes)
    return Prepared(
        settled.generations,
        settled.notes,
        settled.cells,
        request=stored,
        wire=stored.model_dump(mode="json", exclude_none=True),
        awaited=tuple(source for source in awaited if source in used),
    )


def settle(
    request: InferenceRequest,
    generations: tuple[Generation, ...],
    library: Library,
    configs: Configs,
    check_fit: CheckFit = check_fit,
) -> Settled:
    """What a prepared request comes to, once what it awaited has been fetched.

    `generations` are those it was prepared with: the seeds that were drawn are theirs. Access to uploads was checked
    when it was prepared.
    Raises what compare.expand, request.resolve, Library.locate and check_fit raise.
    """
    row = model_row(request.model)
    drawn = iter([one.seed for one, item in zip(generations, request.prompts, strict=False) if item.seed == -1])
    drafts, grid = _drafts(request, partial(_pair, library, LOCAL_ACCESS), partial(next, drawn))
    drafts, lora_notes = _locate(row, drafts, library, configs, check_fit, LOCAL_ACCESS)
    drafts = tuple(
        replace(draft, image=None if draft.image is None else draft.image.removeprefix(UPLOAD_PREFIX))
        for draft in drafts
    )
    return _settled(row, drafts, grid, lora_notes)


def _drafts(
    request: InferenceRequest, pair: Pair, draw: Callable[[], int]
) -> tuple[tuple[Generation, ...], Grid | None]:
    """One generation per prompt or, with the grid, per cell; their images are as written, their files not located."""

    def is_combined(path: str) -> bool:
        try:
            halves = pair(path) or {}
        except (LoraNotFound, LoraInvalid):
            return False  # said later, where all files are located
        return len(halves) > 1 and len(set(halves.values())) == 1

    def resolved(one: InferenceRequest) -> tuple[Generation, ...]:
        return resolve(one, store_image=lambda ctrl_img: ctrl_img, draw=draw, is_combined=is_combined)

    if request.compare is None:
        return resolved(request), None
    grid = expand(request, request.compare, pair, draw)
    return tuple(draft for cell in grid.cells for draft in resolved(cell.request)), grid


def _settled(
    row: WanModel,
    drafts: tuple[Generation, ...],
    grid: Grid | None,
    lora_notes: tuple[str, ...],
    hashes: Mapping[str, str] = MappingProxyType({}),
) -> Settled:
    if grid is None:
        return Settled(drafts, (*lora_notes, *_notes(row, drafts)))
    cells = tuple(replace(cell, request=_with_images(cell.request, hashes)) for cell in grid.cells)
    generations, planned = plan_cells(replace(grid, cells=cells), drafts)
    return Settled(generations, tuple(dict.fromkeys((*lora_notes, *_notes(row, drafts, cells=True)))), planned)


def _with_images(request: InferenceRequest, hashes: Mapping[str, str]) -> InferenceRequest:
    """The request with each image that has a hash as `upload://<sha256>`."""

    def stored(item: PromptItem) -> PromptItem:
        if not item.ctrl_img or item.ctrl_img not in hashes:
            return item.model_copy(update={"ctrl_img": item.ctrl_img or None})
        return item.model_copy(update={"ctrl_img": UPLOAD_PREFIX + hashes[item.ctrl_img]})

    return request.model_copy(update={"prompts": tuple(map(stored, request.prompts))})


def _named_loras(request: InferenceRequest) -> dict[str, bool]:
    """Every LoRA path of a request and of its axes, and whether it is left open which transformer it is for."""
    named = {item.path: item.transformer is None for item in request.loras}
    compare = request.compare or Compare.model_validate({})
    for axis in (compare.columns, compare.rows):
        if axis is not None and axis.field == "lora":
            for value in axis.values:
                open_to_both = not isinstance(value, Mapping)
                for path in (value,) if open_to_both else value.values():
                    if isinstance(path, str):
                        named[path] = named.get(path, False) or open_to_both
    return named


def _pair(library: Library, access: Access, path: str) -> Mapping[str, str] | None:
    """A file's pair by slot: the file itself for the halves it holds, a partner beside it for the other.

    None for a file that does not say its half, and for an address that was not fetched because nothing wears it.
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
    if slot not in _OTHER:
        return None
    partner = None if is_remote(path) else library.partner(path, access)
    return {slot: path} if partner is None else {slot: path, _OTHER[slot]: partner}


def _locate(
    row: WanModel,
    drafts: tuple[Generation, ...],
    library: Library,
    configs: Configs,
    check_fit: CheckFit,
    access: Access,
    awaited: Sequence[str] = (),
) -> tuple[tuple[Generation, ...], tuple[str, ...]]:
    """The generations with the SHA-256 of each file that is not awaited; each file is looked at once per slot."""
    found: dict[tuple[str, str], str] = {}
    notes: list[str] = []
    several = len({use.path for draft in drafts for use in draft.loras}) > 1
    for use in (use for draft in drafts for use in draft.loras):
        if use.path not in awaited and (use.slot, use.path) not in found:
            file = library.locate(use.path, access)
            try:
                notes.extend(check_fit(file.header, row, use.slot, configs(row, row.slots[use.slot])))
            except LoraMismatch as error:
                if several:
                    raise LoraMismatch(f"{file.name}: {error.message}", **error.details) from error
                raise
            found[use.slot, use.path] = file.sha256
    located = tuple(
        replace(draft, loras=tuple(replace(use, sha256=found.get((use.slot, use.path))) for use in draft.loras))
        for draft in drafts
    )
    return located, tuple(dict.fromkeys(notes))


def _notes(row: WanModel, generations: tuple[Generation, ...], cells: bool = False) -> tuple[str, ...]:
    """Sentences about the generations, by prompt where there are several; those of `cells` are of one prompt."""
    notes: list[str] = []
    attached = max(len([use for use in one.loras if use.multiplier != 0]) for one in generations)
    if row.two_transformers and attached == 1:
        notes.append(PAIR_NOTE)
    for index, one in enumerate(generations):
        where = f"Prompt {index + 1}: " if len(generations) > 1 and not cells else ""
        asked, size = (one.requested_width, one.requested_height), (one.width, one.height)
        if asked != size:
            notes.append(
                f"{where}{asked[0]} × {asked[1]} became {size[0]} × {size[1]}: {row.label} takes sides that are "
                f"multiples of {row.divisor[one.recipe]}."
            )
        if one.requested_num_frames != one.num_frames:
            notes.append(f"{where}{one.requested_num_frames} frames became {one.num_frames}: Wan makes 4N + 1 of them.")
        if row.tuned_for and one.width * one.height > row.tuned_for.width * row.tuned_for.height:
            notes.append(
                f"{where}{row.label} is tuned for sizes up to about {row.tuned_for.width} × {row.tuned_for.height}; "
                "above, expect less stable motion and slower renders."
            )
        if one.speedup != "none":
            choice = CHOICES[one.speedup]
            notes.append(f"{choice.label}: {choice.sentence}")
        if one.ignored:
            notes.append(f"{where}Ignored, as the reference server does: {', '.join(one.ignored)}.")
    return tuple(notes)
