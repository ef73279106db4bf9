"""A request's way in: from a decoded body to generations whose files are all here; it knows no doors and no jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.lora.header import check_fit
from wan_ui.lora.sources import check_source, is_remote
from wan_ui.models import PAIR_NOTE, WanModel
from wan_ui.request import Generation, InferenceRequest, LoraUse, draw_seed, model_row, parse, resolve, settle_slots

if TYPE_CHECKING:
    from wan_ui.lora.header import LoraHeader
    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore

UPLOAD_PREFIX = "upload://"

Configs = Callable[[WanModel, str], Mapping[str, Any] | None]
"""A row and a component's name ("transformer_2") to that component's config.json; None while it is not on disk."""

CheckFit = Callable[["LoraHeader", WanModel, str, Mapping[str, Any] | None], Sequence[str]]
"""A LoRA's header, a row, one of its slots and that transformer's config to sentences for the user, or LoraMismatch."""


@dataclass(frozen=True)
class Prepared:
    """A request that can wait in line: nothing it needs can go missing with the sender.

    `request` is what was sent with each control image as `upload://<sha256>`, `wire` the same as a JSON-ready dict
    without nulls. `generations` carry each LoRA file's SHA-256. `notes` are sentences for the sender: what was
    adjusted or ignored, and what to expect. `awaited` are the addresses among its LoRAs: they are to be fetched, and
    `settle` then says what the generations and notes are.
    """

    request: InferenceRequest
    wire: dict[str, Any]
    generations: tuple[Generation, ...]
    notes: tuple[str, ...]
    awaited: tuple[str, ...]


def prepare(
    body: Any,
    library: Library,
    images: ImageStore,
    configs: Configs,
    draw: Callable[[], int] = draw_seed,
    check_fit: CheckFit = check_fit,
) -> Prepared:
    """Checks a decoded JSON body and fetches what it names, the cheapest refusals first.

    In this order: schema; model, LoRA slots and control image rules; LoRA files, and whether they fit; control images,
    stored last so that a refused request leaves nothing behind. Equal control images are taken in once. Of LoRAs that
    have to be fetched only the address is looked at.
    Raises what request.parse, request.resolve, Library.locate, check_fit and ImageStore.put raise.
    """
    request = parse(body)
    row = model_row(request.model)
    awaited = tuple(dict.fromkeys(item.path for item in request.loras if is_remote(item.path)))
    for source in awaited:
        check_source(source)
    # One that leaves its transformer out may turn out to be combined, and is refused by settle if it does not.
    undecided = {item.path for item in request.loras if item.transformer is None}.intersection(awaited)

    def is_combined(path: str) -> bool:
        return path in undecided if path in awaited else _is_combined(library, path)

    # The images stay as they were written until the LoRA files are found.
    drafts = resolve(request, store_image=lambda ctrl_img: ctrl_img, draw=draw, is_combined=is_combined)
    loras, lora_notes = _locate(row, drafts[0].loras, library, configs, check_fit, awaited)
    hashes = {text: images.put(text) for text in dict.fromkeys(draft.image for draft in drafts) if text is not None}
    generations = tuple(
        replace(draft, loras=loras, image=None if draft.image is None else hashes[draft.image]) for draft in drafts
    )
    stored = request.model_copy(
        update={
            "prompts": tuple(
                item.model_copy(update={"ctrl_img": UPLOAD_PREFIX + hashes[item.ctrl_img] if item.ctrl_img else None})
                for item in request.prompts
            )
        }
    )
    return Prepared(
        request=stored,
        wire=stored.model_dump(mode="json", exclude_none=True),
        generations=generations,
        notes=(*lora_notes, *_notes(row, generations)),
        awaited=awaited,
    )


def settle(
    request: InferenceRequest,
    generations: tuple[Generation, ...],
    library: Library,
    configs: Configs,
    check_fit: CheckFit = check_fit,
) -> tuple[tuple[Generation, ...], tuple[str, ...]]:
    """A prepared request's generations and notes, once what it awaited has been fetched.

    Raises what request.settle_slots, Library.locate and check_fit raise.
    """
    row = model_row(request.model)
    uses = settle_slots(row, request.loras, request.stack, partial(_is_combined, library))
    loras, lora_notes = _locate(row, uses, library, configs, check_fit)
    generations = tuple(replace(generation, loras=loras) for generation in generations)
    return generations, (*lora_notes, *_notes(row, generations))


def _is_combined(library: Library, path: str) -> bool:
    """Whether a file holds both halves of a pair; one that is not here is said later, where all files are located."""
    try:
        return library.locate(path).header.slot == "combined"
    except (LoraNotFound, LoraInvalid):
        return False


def _locate(
    row: WanModel,
    uses: tuple[LoraUse, ...],
    library: Library,
    configs: Configs,
    check_fit: CheckFit,
    awaited: Sequence[str] = (),
) -> tuple[tuple[LoraUse, ...], tuple[str, ...]]:
    located: list[LoraUse] = []
    notes: list[str] = []
    for use in uses:
        if use.path in awaited:
            located.append(use)
            continue
        file = library.locate(use.path)
        notes.extend(check_fit(file.header, row, use.slot, configs(row, row.slots[use.slot])))
        located.append(replace(use, sha256=file.sha256))
    return tuple(located), tuple(dict.fromkeys(notes))


def _notes(row: WanModel, generations: tuple[Generation, ...]) -> tuple[str, ...]:
    notes: list[str] = []
    if row.two_transformers and len([use for use in generations[0].loras if use.multiplier != 0]) == 1:
        notes.append(PAIR_NOTE)
    for index, one in enumerate(generations):
        where = f"Prompt {index + 1}: " if len(generations) > 1 else ""
        asked, size = (one.requested_width, one.requested_height), (one.width, one.height)
        if asked != size:
            notes.append(
                f"{where}{asked[0]} × {asked[1]} became {size[0]} × {size[1]}: {row.label} takes sides that are "
                f"multiples of {row.divisor[one.recipe]}."
            )
        if one.requested_num_frames != one.num_frames:
            notes.append(
                f"{where}{one.requested_num_frames} frames became {one.num_frames}: Wan makes 4N + 1 of them."
            )
        if row.tuned_for and one.width * one.height > row.tuned_for.width * row.tuned_for.height:
            notes.append(
                f"{where}{row.label} is tuned for sizes up to about {row.tuned_for.width} × {row.tuned_for.height}; "
                "above, expect less stable motion and slower renders."
            )
        if one.ignored:
            notes.append(f"{where}Ignored, as the reference server does: {', '.join(one.ignored)}.")
    return tuple(notes)
