"""The form's fast look: the chosen speed LoRA, what it sets, and the values that come back when it is switched off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wan_ui.lora.remote import shown_name
from wan_ui.lora.speed_files import find_speed_file
from wan_ui.models import WanModel
from wan_ui.request import PromptItem
from wan_ui.speed_loras import SPEED_FIELDS, SPEED_LORAS, SpeedLora, of_model
from wan_ui.ui.texts import text_of

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.lora.library import Library

NAME = "speed_lora"
"""Where the form's values hold the choice: None, or {"id": …, "full": the values that it replaced, by name}."""

Values = Mapping[str, Any]


def read(choice: Any) -> dict[str, Any] | None:
    """A choice as a browser sent or kept it; None where it is none."""
    if not isinstance(choice, Mapping) or choice.get("id") not in SPEED_LORAS:
        return None
    full = choice.get("full")
    kept = {name: full[name] for name in SPEED_FIELDS if name in full} if isinstance(full, Mapping) else {}
    return {"id": choice["id"], "full": {**_defaults(), **kept}}


def _defaults() -> dict[str, Any]:
    """The schema's own values of the fields that a speed LoRA sets."""
    defaults = {name: PromptItem.model_fields[name].default for name in SPEED_FIELDS}
    return {**defaults, "sampler": defaults["sampler"] or ""}


def chosen(model: WanModel, values: Values) -> SpeedLora | None:
    """The speed LoRA of the form's values, if it is one of the model's."""
    choice = read(values.get(NAME))
    speed = None if choice is None else SPEED_LORAS[choice["id"]]
    return speed if speed in of_model(model) else None


def of_request(speed: SpeedLora) -> dict[str, Any]:
    """The choice that shows a request with this speed LoRA; without it, the schema's defaults come back."""
    return {"id": speed.id, "full": _defaults()}


def into_request(request: dict[str, Any], speed: SpeedLora | None) -> dict[str, Any]:
    """The form's request with a speed LoRA, which sets what is equal to its own: a field that is given wins over it."""
    if speed is None:
        return request
    item = {name: value for name, value in request["prompts"][0].items() if speed.settings.get(name) != value}
    return {**request, "prompts": [item], "speed_lora": speed.id}


def switched_on(values: Values, speed: SpeedLora) -> dict[str, Any]:
    """The form's values with a speed LoRA and its settings."""
    full = {name: values.get(name) for name in SPEED_FIELDS}
    return {**values, **speed.settings, NAME: {"id": speed.id, "full": full}}


def switched_off(values: Values) -> dict[str, Any]:
    """The form's values without a speed LoRA, and with the settings that it had replaced."""
    choice = read(values.get(NAME))
    return dict(values) if choice is None else {**values, **choice["full"], NAME: None}


def for_model(model: WanModel, values: Values) -> dict[str, Any]:
    """The form's values on a model: a speed LoRA of another model is switched off."""
    return dict(values) if chosen(model, values) is not None else switched_off(values)


def pick(model: WanModel, speed_id: str, library: Library, access: Access) -> SpeedLora | None:
    """The speed LoRA with this id, else the first one of the model whose files are here, else its first one."""
    entries = of_model(model)
    named = next((speed for speed in entries if speed.id == speed_id), None)
    if named is not None or not entries:
        return named
    paths = library.listing()

    def is_here(speed: SpeedLora) -> bool:
        return all(find_speed_file(file, library, access, paths) is not None for file in speed.files.values())

    return next((speed for speed in entries if is_here(speed)), entries[0])


def facts(model: WanModel) -> list[dict[str, Any]]:
    """What the browser knows of a model's speed LoRAs: names, steps, and what each sets."""
    return [
        {
            "id": speed.id,
            "label": speed.label,
            "steps": speed.sample_steps,
            "sets": text_of(
                "form.speed_sets",
                steps=speed.sample_steps,
                guidance=f"{speed.guidance_scale:g}",
                sampler=speed.sampler,
                shift=f"{speed.flow_shift:g}",
            ),
        }
        for speed in of_model(model)
    ]


def shown(model: WanModel, values: Values, library: Library, access: Access) -> dict[str, Any] | None:
    """The choice for the browser, with where its files are and what else is known of it."""
    speed = chosen(model, values)
    if speed is None:
        return None
    paths = library.listing()
    located = {slot: find_speed_file(file, library, access, paths) for slot, file in speed.files.items()}
    missing = [speed.files[slot].hub for slot, path in located.items() if path is None]
    if not missing:
        names = ", ".join(shown_name(str(path)) for path in located.values())
        where = text_of("form.speed_here", files=names)
    elif library.may_download(access):
        where = text_of("form.speed_downloads", files=", ".join(missing))
    else:
        where = text_of("form.speed_missing", files=", ".join(missing))
    return {**(read(values.get(NAME)) or {}), "where": where, "missing": bool(missing), "note": speed.note}
