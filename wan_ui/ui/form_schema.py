"""The form's controls from the request schema, and the form's values to a request and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import annotated_types
import gradio as gr
from gradio.components import Component
from pydantic import BaseModel

from wan_ui.engine.recipes import RECIPES
from wan_ui.engine.speedups import CHOICES
from wan_ui.errors import InvalidRequest
from wan_ui.models import DEFAULT_SEED, MODELS, RecipeId, WanModel
from wan_ui.request import (
    SAMPLERS,
    BaseFiles,
    InferenceRequest,
    LoraItem,
    PromptItem,
    assign_slots,
    find_model,
    find_speed_lora,
    never_combined,
    round_frames,
    snap_size,
)
from wan_ui.scale import LARGEST_SCALE, LEAST_SCALE
from wan_ui.ui import lora_strength, speed_choice
from wan_ui.ui.texts import text_of, translated

Kind = Literal[
    "text", "long_text", "integer", "number", "recipe", "image", "lora", "scale", "switch", "speedup", "sampler", "base"
]
Values = dict[str, Any]
"""What the form's controls hold, by control name. Images are "upload://<sha256>" or None."""

NO_LORA = ""
MOST_STACKED = 4  # LoRAs per slot that the form has room for; HTTP takes more
RECIPE_SAMPLER = ""  # the sampler that the recipe names
LARGEST_EXACT = 2**53 - 1  # a browser's number control holds integers exactly up to here
SLOTS = ("single", "high", "low")
"""The slots of all models that a LoRA can be for."""
_STEPS: Mapping[str, float] = {
    "guidance_scale": 0.1,
    "guidance_scale_2": 0.1,
    "flow_shift": 0.1,
    "boundary": 0.005,
    "network_multiplier": 0.05,
}  # of the arrows; typing is free
_REQUEST_FIELDS: tuple[tuple[str, Kind], ...] = (
    ("trigger_word", "text"),
    ("recipe", "recipe"),
    ("apply_exif", "switch"),
    ("vae_tiling", "switch"),
    ("speedup", "speedup"),
    ("base", "base"),
)
_PROMPT_FIELDS: tuple[tuple[str, Kind], ...] = (
    ("prompt", "long_text"),
    ("neg", "long_text"),
    ("width", "integer"),
    ("height", "integer"),
    ("num_frames", "integer"),
    ("fps", "integer"),
    ("sample_steps", "integer"),
    ("guidance_scale", "number"),
    ("seed", "integer"),
    ("ctrl_img", "image"),
    ("ctrl_img_last", "image"),
    ("sampler", "sampler"),
    ("flow_shift", "number"),
    ("boundary", "number"),
    ("switch_step", "integer"),
    ("guidance_scale_2", "number"),
)
_NUMBERS = ("integer", "number", "scale")
OPTIONAL_NUMBERS = ("flow_shift", "boundary", "switch_step", "guidance_scale_2")
"""Numbers that may stay empty: the recipe's own value is used."""


@dataclass(frozen=True)
class Control:
    """One control of the form: its name in Values, label, kind, starting value, and bounds taken from the schema."""

    name: str
    label: str
    kind: Kind
    default: Any
    low: float | None = None
    high: float | None = None
    step: float = 1


def bounds(schema: type[BaseModel], name: str) -> tuple[float | None, float | None]:
    """The `ge` and `le` of a schema's field; those of a LoRA scale are the same in all its forms."""
    if name == "network_multiplier":
        return LEAST_SCALE, LARGEST_SCALE
    low: Any = None
    high: Any = None
    for item in schema.model_fields[name].metadata:
        if isinstance(item, annotated_types.Ge):
            low = item.ge
        if isinstance(item, annotated_types.Le):
            high = item.le
    return low, high


@dataclass(frozen=True)
class LoraPosition:
    """Where one LoRA of the form is chosen: the slot, and its number there (from 1) in a stack."""

    slot: str
    number: int = 1

    @property
    def lora(self) -> str:
        """The name of the control for the file."""
        return lora_name(self.slot, self.number)

    @property
    def scale(self) -> str:
        """The name of the control for the scale."""
        return scale_name(self.slot, self.number)


def lora_name(slot: str, number: int = 1) -> str:
    """The name of the control for a LoRA file."""
    return f"lora_{slot}" if number == 1 else f"lora_{slot}_{number}"


def scale_name(slot: str, number: int = 1) -> str:
    """The name of the control for a LoRA scale."""
    return f"scale_{slot}" if number == 1 else f"scale_{slot}_{number}"


def lora_positions(model: WanModel) -> tuple[LoraPosition, ...]:
    """Where a model takes LoRAs, slot by slot."""
    return tuple(LoraPosition(slot, number) for slot in model.slots for number in range(1, MOST_STACKED + 1))


def applies(model: WanModel, field: str) -> bool:
    """Whether a model has the request field `field`."""
    if field in ("ctrl_img", "apply_exif"):
        return model.control_image != "none"
    if field == "ctrl_img_last":
        return model.takes_last_frame
    if field in ("boundary", "switch_step", "guidance_scale_2"):
        return model.two_transformers
    return True


def controls(model: WanModel, starting: Mapping[str, Any] | None = None) -> tuple[Control, ...]:
    """The model's controls. `starting` holds values, by control name, that stand in for the schema's defaults."""
    starting = starting or {}
    model_defaults = {"width": model.form_size.width, "height": model.form_size.height, "seed": DEFAULT_SEED}
    made: list[Control] = []

    def add(schema: type[BaseModel], field: str, kind: Kind, name: str, label: str) -> None:
        standard = model_defaults.get(name, schema.model_fields[field].default)
        if kind in ("text", "long_text", "sampler") and not isinstance(standard, str):
            standard = ""
        low, high = bounds(schema, field) if kind in _NUMBERS else (None, None)
        made.append(Control(name, label, kind, starting.get(name, standard), low, high, _STEPS.get(field, 1)))

    for field, kind in _PROMPT_FIELDS:
        if applies(model, field):
            add(PromptItem, field, kind, field, text_of(f"field.{field}"))
    for field, kind in _REQUEST_FIELDS:
        if applies(model, field):
            add(InferenceRequest, field, kind, field, text_of(f"field.{field}"))
    for position in lora_positions(model):
        suffix = f" {position.number}" if position.number > 1 else ""
        lora, scale = (text_of(f"slot.{position.slot}.{part}") + suffix for part in ("lora", "scale"))
        made.append(Control(position.lora, lora, "lora", starting.get(position.lora, NO_LORA)))
        add(LoraItem, "network_multiplier", "scale", position.scale, scale)
    return tuple(made)


def shared_controls(starting: Mapping[str, Any] | None = None) -> tuple[Control, ...]:
    """The controls of all models, each once, without the LoRAs; they start with the first model's values."""
    shared: dict[str, Control] = {}
    for model in MODELS.values():
        for control in controls(model, starting):
            if control.kind not in ("lora", "scale"):
                shared.setdefault(control.name, control)
    return tuple(shared.values())


def carried(values: Values, before: Mapping[str, Any], after: Mapping[str, Any]) -> Values:
    """The values for another model: what was typed stays; what the first model started with becomes the other's."""
    untouched = {
        name: start
        for name, start in after.items()
        if name in before and name in values and values[name] == before[name] and before[name] != start
    }
    return {**values, **untouched}


def make(control: Control, **options: Any) -> Component:
    """The Gradio component of a control; `options` are further arguments of it.

    Handlers read these with preprocess=False: Gradio's own bounds check would answer with a passing toast and none
    at all to unqueued events, so values are judged once, by the request's schema.
    """
    kind, label, value = control.kind, control.label, control.default
    options = {"elem_id": f"field-{control.name.replace('_', '-')}", **options}
    if kind == "recipe":
        recipes = [(translated(recipe.label), recipe.id) for recipe in RECIPES.values()]
        return gr.Radio(recipes, value=value, label=label, **options)
    if kind == "speedup":
        speedups = [(translated(choice.label), choice.id) for choice in CHOICES.values()]
        return gr.Radio(speedups, value=value, label=label, **options)
    if kind == "sampler":
        samplers = [(text_of("form.as_recipe"), RECIPE_SAMPLER), *((name, name) for name in SAMPLERS)]
        return gr.Dropdown(samplers, value=value, label=label, **{"elem_classes": "chooser", **options})
    if kind == "switch":
        return gr.Checkbox(value, label=label, **options)
    if kind == "image":
        sources: list[Any] = ["upload", "clipboard"]
        return gr.Image(value, label=label, type="filepath", sources=sources, height=132, buttons=[], **options)
    if kind in _NUMBERS:
        # Past 2**53 the attribute itself would be rounded; the schema still judges the value.
        high = None if control.high is not None and control.high > LARGEST_EXACT else control.high
        bounds_: dict[str, Any] = {"minimum": control.low, "maximum": high, "step": control.step, "min_width": 80}
        if control.name in OPTIONAL_NUMBERS:  # Gradio's number control makes 0 of an empty one
            return gr.Textbox(
                "", label=label, placeholder=text_of("form.as_recipe_number"), min_width=80, max_lines=1, **options
            )
        return gr.Number(value, label=label, **bounds_, **options)
    lines = 3 if control.name == "prompt" else 1
    return gr.Textbox(value, label=label, lines=lines, max_lines=12 if kind == "long_text" else 1, **options)


def number_typed(text: Any) -> Any:
    """What an optional number's text says: None where it is empty, and the text itself where it is no number."""
    if text is None or isinstance(text, int | float):
        return text
    try:
        number = float(str(text).strip() or "nan")
    except ValueError:
        return text
    if math.isnan(number):
        return None
    return int(number) if number == int(number) else number


def number_shown(value: Any) -> str:
    """An optional number as its text."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def body(model: WanModel, values: Mapping[str, Any]) -> dict[str, Any]:
    """The form's values as a request body with wire names. Raises InvalidRequest for a number left empty."""
    used = [position for position in lora_positions(model) if values.get(position.lora)]
    unused = {position.scale for position in lora_positions(model)}.difference(position.scale for position in used)
    for control in controls(model):
        if control.kind not in _NUMBERS or control.name in OPTIONAL_NUMBERS or control.name in unused:
            continue
        if values.get(control.name) is None:
            raise InvalidRequest(
                text_of("form.is_empty", label=control.label),
                fields=[{"loc": control.name, "msg": "is empty: enter a number"}],
            )
    request: dict[str, Any] = {"model": model.id, "recipe": values.get("recipe")}
    if values.get("trigger_word"):
        request["trigger_word"] = values["trigger_word"]
    request["prompts"] = [_prompt_item(model, values)]
    request["loras"] = [
        {
            "path": values[position.lora],
            **({"transformer": position.slot} if model.two_transformers else {}),
            "network_multiplier": _strength(values[position.scale], index),
        }
        for index, position in enumerate(used)
    ]
    if len({position.slot for position in used}) < len(used):
        request["stack"] = True
    for name in ("vae_tiling", "apply_exif"):
        if values.get(name) and applies(model, name):
            request[name] = True
    if values.get("speedup", "none") != "none":
        request["speedup"] = values["speedup"]
    if values.get("base") not in (None, "auto"):
        request["base"] = values["base"]
    return speed_choice.into_request(request, speed_choice.chosen(model, values))


def _strength(value: Any, index: int) -> Any:
    """A strength as the field of LoRA `index` holds it, in wire form. Raises InvalidRequest for a text that is none."""
    if not isinstance(value, str):
        return value
    try:
        return lora_strength.typed(value)
    except ValueError as error:
        loc, wrong = f"loras.{index}.network_multiplier", str(error)
        message = f"{text_of('form.lora_scale')} {translated(wrong)}"
        raise InvalidRequest(message, fields=[{"loc": loc, "msg": wrong}]) from error


def _prompt_item(model: WanModel, values: Mapping[str, Any]) -> dict[str, Any]:
    item: dict[str, Any] = {}
    for field, kind in _PROMPT_FIELDS:
        value = values.get(field)
        if not applies(model, field):
            continue
        if kind in ("image", "sampler") or field in OPTIONAL_NUMBERS:
            if value not in (None, ""):
                item[field] = value
        else:
            item[field] = value if value is not None else ""
    return item


def values(
    request: InferenceRequest, index: int = 0, is_combined: Callable[[str], bool] = never_combined
) -> tuple[WanModel, Values]:
    """The model and the values that show prompt `index` of a request; `ctrl_img` as the request has it.

    `is_combined` as in request.assign_slots. Raises what assign_slots and find_model raise, and InvalidRequest for a
    seed that no number control can hold and for a stack higher than the form has room for.
    """
    model = find_model(request.model)
    item = request.prompts[index]
    seed = DEFAULT_SEED + index if item.seed is None else item.seed
    if seed > LARGEST_EXACT:
        raise InvalidRequest(
            f"The seed is larger than {LARGEST_EXACT}, more than a form in a browser can hold exactly. "
            "Send this request over HTTP instead.",
            fields=[{"loc": f"prompts.{index}.seed", "msg": "too large for the form"}],
        )
    shown: Values = {field: getattr(item, field) for field, _ in _PROMPT_FIELDS if applies(model, field)}
    shown["seed"] = seed
    shown["sampler"] = item.sampler if item.sampler in SAMPLERS else RECIPE_SAMPLER
    shown["trigger_word"] = item.trigger_word or request.trigger_word or ""
    shown["recipe"] = request.recipe
    shown["vae_tiling"] = request.vae_tiling
    shown["speedup"] = request.speedup
    shown["base"] = request.base if isinstance(request.base, str) else dict(request.base.named)
    speed = find_speed_lora(request)
    if speed is not None:
        shown[speed_choice.NAME] = speed_choice.of_request(speed)
        shown |= {name: value for name, value in speed.settings.items() if name not in item.model_fields_set}
    uses = assign_slots(model, request.loras, request.stack, is_combined)
    for slot in model.slots:
        in_slot = [use for use in uses if use.slot == slot]
        if len(in_slot) > MOST_STACKED:
            raise InvalidRequest(
                f"The form has room for {MOST_STACKED} LoRAs per transformer, this request has {len(in_slot)}. Send it "
                "over HTTP instead.",
                fields=[{"loc": "loras", "msg": "too many for the form"}],
            )
        for number in range(1, MOST_STACKED + 1):
            use = in_slot[number - 1] if number <= len(in_slot) else None
            shown[lora_name(slot, number)] = use.path if use else NO_LORA
            usual = LoraItem.model_fields["network_multiplier"].default
            shown[scale_name(slot, number)] = lora_strength.shown(use.scale) if use else usual
    if applies(model, "apply_exif"):
        shown["apply_exif"] = request.apply_exif
    return model, shown


def kept(model: WanModel, draft: Any) -> Values:
    """The parts of a draft, as a browser kept it, that still fit a control; anything else is left out.

    Of the LoRAs those of `model`; of the rest also what only other models have.
    """
    if not isinstance(draft, Mapping):
        return {}
    known = {control.name: control for control in (*shared_controls(), *controls(model))}
    fitting = {name: draft[name] for name, control in known.items() if name in draft and _fits(control, draft[name])}
    speed = speed_choice.read(draft.get(speed_choice.NAME))
    return fitting if speed is None else {**fitting, speed_choice.NAME: speed}


def _fits(control: Control, value: Any) -> bool:
    """Whether a control can hold the value."""
    match control.kind:
        case "scale":
            return value is None or lora_strength.read(value) is not None
        case "integer" | "number":
            return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        case "recipe":
            return value in RECIPES
        case "speedup":
            return value in CHOICES
        case "sampler":
            return value in (RECIPE_SAMPLER, *SAMPLERS)
        case "switch":
            return isinstance(value, bool)
        case "image":
            return value is None or isinstance(value, str)
        case "base":
            return value in ("auto", "folder") or is_base(value)
        case _:
            return isinstance(value, str)


def is_base(value: Any) -> bool:
    """Whether a value names checkpoint files by component."""
    return isinstance(value, Mapping) and all(
        name in BaseFiles.model_fields and isinstance(file, str) for name, file in value.items()
    )


def label_of(model: WanModel, location: str) -> str:
    """The label of the control behind an error's `loc`, such as `prompts.0.width`; the `loc` where there is none."""
    parts = location.split(".")
    name = parts[-1]
    if parts[0] == "loras" and len(parts) > 1:
        return text_of("form.lora_scale" if "network_multiplier" in parts else "slot.single.lora")
    return next((control.label for control in controls(model) if control.name == name), location)


def whole(value: Any, name: str) -> int | None:
    """The value if it is a whole number within the schema's bounds of the field, else None."""
    low, high = bounds(PromptItem, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or int(value) != value:
        return None
    if (low is not None and value < low) or (high is not None and value > high):
        return None
    return int(value)


def size(model: WanModel, values: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """Asked width and height and effective width and height, in pixels; None while they are out of bounds."""
    width, height = whole(values.get("width"), "width"), whole(values.get("height"), "height")
    recipe = values.get("recipe")
    if width is None or height is None or not isinstance(recipe, str) or recipe not in RECIPES:
        return None
    return (width, height, *snap_size(model, RECIPES[recipe].id, width, height))


def frames(model: WanModel, values: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Asked frames, effective frames and frames per second; None while they are out of bounds."""
    count, fps = whole(values.get("num_frames"), "num_frames"), whole(values.get("fps"), "fps")
    if count is None or fps is None:
        return None
    return count, round_frames(model.frame_rule, count), fps


def stretches(model: WanModel, recipe: RecipeId, effective: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether the image's aspect differs from the effective size's by more than flooring to the multiple explains."""
    step = model.divisor[recipe]
    aspect = image[0] / image[1]
    return not effective[0] / (effective[1] + step) < aspect < (effective[0] + step) / effective[1]


def image_shape(model: WanModel, recipe: RecipeId, wanted: tuple[int, int], image: tuple[int, int]) -> tuple[int, int]:
    """A size of about the wanted area with the image's aspect, floored to the multiple and kept within bounds."""
    step = model.divisor[recipe]
    area, aspect = wanted[0] * wanted[1], image[0] / image[1]

    def fit(exact: float, name: str) -> int:
        low, high = bounds(PromptItem, name)
        smallest = math.ceil((low or step) / step) * step
        largest = math.floor(high / step) * step if high else math.inf
        return int(min(max(math.floor(exact + 1e-6) // step * step, smallest), largest))

    return fit(math.sqrt(area * aspect), "width"), fit(math.sqrt(area / aspect), "height")
