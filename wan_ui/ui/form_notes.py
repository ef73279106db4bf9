"""The notes beside the form's controls as their values change, and its request as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from wan_ui.engine.recipes import RECIPES
from wan_ui.errors import InvalidRequest, WanUIError
from wan_ui.models import SIZE_480P_NOTE, WanModel
from wan_ui.ui import form_schema, render
from wan_ui.ui.error_texts import between
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of, translated


@dataclass(frozen=True)
class FormImage:
    """An image of the form: its reference on the wire and its size in pixels, or what is wrong with it."""

    reference: str | None = None
    size: tuple[int, int] | None = None
    error: WanUIError | None = None


def prompt_note(values: Mapping[str, Any]) -> Markup | str:
    """What to say of the trigger word and the prompt."""
    trigger, prompt = values.get("trigger_word"), str(values.get("prompt") or "")
    if "[trigger]" in prompt and not trigger:
        return render.note(text_of("form.trigger_unknown"))
    if trigger and "[trigger]" not in prompt and trigger not in prompt:
        return render_template("insert_trigger", text=text_of("form.trigger_unused"))
    return ""


def image_note(model: WanModel, values: Mapping[str, Any], image: FormImage) -> tuple[Markup | str, bool]:
    """The note on the first frame, and whether "Use image aspect ratio" would change anything."""
    if image.error is not None:
        return render.paragraph("wrong", translated(image.error.message), role="alert"), False
    size = form_schema.size(model, values)
    if image.size is None or size is None:
        if image.size is None and model.control_image == "optional":
            return render.hint(text_of("form.first_frame_is_optional")), False
        return "", False
    recipe = RECIPES[values["recipe"]].id
    given, used = render.size(*image.size), render.size(*size[2:])
    if form_schema.stretches(model, recipe, size[2:], image.size):
        return render.note(text_of("form.image_distorted", given=given, used=used)), True
    return render.hint(text_of("form.image_resized", given=given, used=used)), False


def last_image_note(image: FormImage) -> Markup | str:
    """What is wrong with the last frame."""
    return "" if image.error is None else render.paragraph("wrong", translated(image.error.message), role="alert")


def size_note(model: WanModel, values: Mapping[str, Any]) -> Markup:
    """The size and length that will be used, or which of the numbers are out of bounds."""
    size, frames = form_schema.size(model, values), form_schema.frames(model, values)
    if size is None or frames is None:
        return _bounds_note(model, values)
    asked, effective, fps = frames
    tuned = model.tuned_for
    too_large = tuned is not None and size[2] * size[3] > tuned.width * tuned.height and SIZE_480P_NOTE in model.notes
    return render_template(
        "effective_size",
        asked_width=size[0],
        asked_height=size[1],
        width=size[2],
        height=size[3],
        size=render.change(render.size(*size[:2]), render.size(*size[2:])),
        count=render.change(str(asked), str(effective)),
        unit=text_of("form.frames_unit", count=effective),
        length=render.seconds(effective / fps),
        divisor=model.divisor[RECIPES[values["recipe"]].id],
        warning=translated(SIZE_480P_NOTE) if too_large else "",
    )


def _bounds_note(model: WanModel, values: Mapping[str, Any]) -> Markup:
    """Which numbers are out of bounds. The style sheet hides a sentence whose field has its own message."""
    wrong = {
        control.name: text_of("error.whole_number", label=control.label, bounds=between(control.low, control.high))
        for control in form_schema.controls(model)
        if control.name in ("width", "height", "num_frames", "fps")
        and control.low is not None
        and control.high is not None
        and form_schema.whole(values.get(control.name), control.name) is None
    }
    return render_template("wrong_size", wrong=wrong)


def request_text(model: WanModel, values: form_schema.Values) -> str:
    """The form's request as JSON text, or why there is none yet."""
    try:
        return json.dumps(form_schema.body(model, values), indent=2, ensure_ascii=False)
    except InvalidRequest as error:
        return f"({translated(error.message)})"
