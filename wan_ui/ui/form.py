"""The form of the Generate page: reading and filling it, its model, the draft that the browser keeps, its events."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from wan_ui.errors import InvalidRequest, WanUIError
from wan_ui.models import MODELS, WanModel
from wan_ui.ui import form_layout, form_notes, form_schema, lora_block, lora_card, render, speed_choice
from wan_ui.ui.events import EDIT, QUIET, Update, filled, run_after
from wan_ui.ui.form_notes import FormImage
from wan_ui.ui.lora_block import UPLOAD, LoraBlock, Loras, upload_names
from wan_ui.ui.texts import text_of
from wan_ui.ui.uploaded_files import taken_file, uploaded_files

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

REMEMBERED = 40  # names of uploads that a browser keeps
IMAGES = ("ctrl_img", "ctrl_img_last")
NO_IMAGE = FormImage()
# Not a secret: what it encrypts stays in its owner's browser. A fixed one lets it outlive a restart of the server.
STORAGE_SECRET = "wan-ui"


def stored(name: str, default: Any) -> gr.BrowserState:
    """A value that the browser keeps."""
    return gr.BrowserState(default, storage_key=f"wan-ui:{name}", secret=STORAGE_SECRET)


def code_to_copy(label: str, max_lines: int) -> gr.Textbox:
    """A read-only text box with a copy button."""
    return gr.Textbox(
        label=label, lines=8, max_lines=max_lines, interactive=False, buttons=["copy"], elem_classes="code"
    )


@dataclass(frozen=True)
class FormState:
    """What the form holds: its model, the values of all controls, its images and LoRAs, and this browser's uploads.

    `values` have the LoRAs of the model too; `names` are the uploads' names by source. `lora_turn` counts the strengths
    that the browser had set when it sent this, see lora_block.js; None for values from elsewhere.
    """

    model: WanModel
    values: form_schema.Values
    loras: Loras
    first_frame: FormImage = NO_IMAGE
    last_frame: FormImage = NO_IMAGE
    names: Mapping[str, str] = field(default_factory=dict)
    lora_turn: int | None = None

    def with_loras(self, loras: Loras) -> FormState:
        """The same with other LoRAs."""
        return replace(self, loras=loras, values={**self.values, **lora_block.to_values(self.model, loras.chosen)})

    def with_values(self, **values: Any) -> FormState:
        """The same with other values of some controls."""
        return replace(self, values={**self.values, **values})

    def body(self) -> dict[str, Any]:
        """The request. Raises what is wrong with an image that its model uses, or what form_schema.body raises."""
        if self.image_error is not None:
            raise self.image_error
        return form_schema.body(self.model, self.values)

    @property
    def image_error(self) -> WanUIError | None:
        """What is wrong with an image that the model uses."""
        images = {"ctrl_img": self.first_frame, "ctrl_img_last": self.last_frame}
        errors = (image.error for name, image in images.items() if form_schema.applies(self.model, name))
        return next((error for error in errors if error is not None), None)


class Form:
    """The form and what belongs to it; every method named `on_…` is an event's handler."""

    def __init__(
        self,
        service: JobService,
        access: Callable[[], Access],
        starting: Callable[[WanModel], Mapping[str, Any]],
    ) -> None:
        """`starting` gives values by control name that stand in for the schema's defaults."""
        self.service = service
        self.access = access
        self.block = LoraBlock(service, access)
        self.starting = {
            model.id: {control.name: control.default for control in form_schema.controls(model, starting(model))}
            for model in MODELS.values()
        }
        self.stored_image = lru_cache(maxsize=256)(self._store_image)
        self.open_tab = stored("tab", None)
        self.uploads = stored("uploads", {})
        self.draft = stored("draft:form", None)
        # Read once, when a page opens: until version 0.3 each model had a form and a draft of its own.
        self.old_drafts = {model_id: stored(f"draft:{model_id}", None) for model_id in MODELS}

    def lay_out_strip(self) -> None:
        """The model tabs, in the surrounding column."""
        self.strip = form_layout.model_strip(next(iter(MODELS)))

    def lay_out(self) -> None:
        """The controls, in the surrounding column, with the first model's starting values."""
        model = next(iter(MODELS.values()))
        values = self.starting[model.id]
        self.parts = form_layout.lay_out(self.strip, values, lora_block.bare(lora_block.from_values(model, values)))

    def lay_out_text(self) -> None:
        """The form's request as JSON, in the surrounding column."""
        self.text = code_to_copy(text_of("form.request"), 16)

    @property
    def inputs(self) -> list[Component]:
        """Model, controls and LoRAs, as `read` takes them."""
        return self.parts.inputs

    @property
    def filled(self) -> list[Any]:
        """Everything that filling the form changes."""
        parts = self.parts
        return [*self.inputs, *parts.described, parts.problem, parts.lora_problem, self.text, self.draft, self.uploads]

    @property
    def _described(self) -> list[Any]:
        """The outputs of `describe`."""
        return [*self.parts.described, self.text, self.draft]

    # Events

    def connect(self) -> None:
        """Wires the events within the form."""
        parts = self.parts
        edits: list[Any] = [parts.loras.input]
        for component in parts.components.values():
            if isinstance(component, gr.Image):
                edits += [component.upload, component.clear]
            else:
                # Not `change`: that would also fire for what this page itself writes into the control.
                edits.append(component.input)
        # Queued, because `always_last` has no effect on unqueued events, whose answers may overtake each other.
        gr.on(edits, self.on_edit, self.inputs, self._described, trigger_mode="always_last", **EDIT)
        whole = [self.uploads, *self.inputs]
        switched = parts.strip.select(self.on_model, whole, self.filled, **EDIT)
        pressed = parts.loras.click(self.on_lora, whole, self.filled, concurrency_limit=8, **QUIET)
        for event in (switched, pressed):
            run_after(event, filled("#form"))
        parts.shape.click(self.on_shape, self.inputs, [*self._sizes, *self._described], **EDIT)

    @property
    def _sizes(self) -> list[Any]:
        return [self.parts.components["width"], self.parts.components["height"]]

    def on_edit(self, *raw: Any) -> Update:
        """A control other than the choice of LoRAs was changed."""
        return self.describe(self.read(raw))

    def on_model(self, event: gr.EventData, uploads: Any, *raw: Any) -> Update:
        """Another model was chosen: what was typed stays, what was untouched becomes what that model starts with."""
        previous = MODELS.get(str(event.previous))
        state = self.read(raw, uploads)
        if previous is None or previous.id == state.model.id:
            return self.describe(state)
        # The values of the browser, read as the previous model's form.
        return self.show(self.switched(self.read((previous.id, *raw[1:]), uploads), state.model), before=state)

    def on_shape(self, *raw: Any) -> Update:
        """ "Use image aspect ratio": about the same area with the first frame's aspect ratio."""
        state = self.read(raw)
        size = form_schema.size(state.model, state.values)
        if state.first_frame.size is None or size is None:
            return self.describe(state)
        recipe = state.values["recipe"]
        width, height = form_schema.image_shape(state.model, recipe, size[:2], state.first_frame.size)
        sizes = dict(zip(self._sizes, (width, height), strict=True))
        return {**sizes, **self.describe(state.with_values(width=width, height=height))}

    # Reading and filling

    def _may_open(self, folder_name: str) -> bool:
        return self.service.may_open(folder_name, self.access())

    def _store_image(self, path: Path) -> tuple[str, tuple[int, int]]:
        data = path.read_bytes()
        sha256 = self.service.images.put_bytes(data, self.access())
        with Image.open(io.BytesIO(data)) as picture:
            return UPLOAD + sha256, picture.size

    def read(self, raw: Sequence[Any], uploads: Any = None) -> FormState:
        """The form's state from raw component values; images are stored and become their references."""
        model_id, *values, block = raw
        model = MODELS.get(str(model_id)) or next(iter(MODELS.values()))
        named = dict(zip(self.parts.components, values, strict=True))
        first, last = (self._read_image(named[name]) for name in IMAGES)
        loras = lora_block.read(block)
        kept = Loras(tuple(lora for lora in loras.chosen if lora.slot in model.slots), loras.aside)
        named = {**named, "ctrl_img": first.reference, "ctrl_img_last": last.reference}
        named |= {name: form_schema.number_typed(named[name]) for name in form_schema.OPTIONAL_NUMBERS}
        named |= lora_block.to_values(model, kept.chosen)
        named[speed_choice.NAME] = speed_choice.read(block.get("speed")) if isinstance(block, Mapping) else None
        return FormState(model, named, kept, first, last, upload_names(uploads), lora_block.read_turn(block))

    def _read_image(self, payload: Any) -> FormImage:
        path = payload.get("path") if isinstance(payload, Mapping) else None
        if not path:
            return NO_IMAGE
        try:
            # Gradio stores an upload under the hash of its bytes, so a path always means the same image.
            reference, size = self.stored_image(uploaded_files(path, self._may_open))
            self.service.record_owner(reference.removeprefix(UPLOAD), self.access())
        except WanUIError as error:
            return FormImage(error=error)
        return FormImage(reference, size)

    def describe(self, state: FormState) -> Update:
        """The notes on the values, the request as JSON, and the draft."""
        model, values = state.model, state.values
        image, usable = form_notes.image_note(model, values, state.first_frame)
        notes = {
            "prompt": form_notes.prompt_note(values),
            "image": image,
            "size": form_notes.size_note(model, values),
            "last_image": form_notes.last_image_note(state.last_frame),
        }
        return {
            **{component: notes[name] for name, component in self.parts.notes.items()},
            self.parts.shape: gr.Button(interactive=usable),
            self.text: form_notes.request_text(model, values),
            self.draft: self._draft_of(state),
        }

    def _draft_of(self, state: FormState) -> dict[str, Any]:
        aside = [{"source": lora.source, "slot": lora.slot, "scale": lora.scale} for lora in state.loras.aside]
        return {"model": state.model.id, "values": state.values, "aside": aside}

    def _lora_value(self, state: FormState, notice: str = "") -> dict[str, Any]:
        value = self.block.value(state.model, state.loras, state.names, notice)
        speed = speed_choice.shown(state.model, state.values, self.service.library, self.access())
        return {**value, "speed": speed, "turn": state.lora_turn}

    def show(self, state: FormState, before: FormState | None = None, notice: str = "") -> Update:
        """Fills the form; with `before`, only what differs from it. `notice` is said in the LoRA block."""
        updates: Update = {}
        for name, component in self.parts.components.items():
            if name not in state.values or (before is not None and before.values.get(name) == state.values[name]):
                continue
            value = state.values[name]
            if name in IMAGES:
                value, image = self._shown_image(value)
                state = _with_image(state, name, image)
            updates[component] = form_schema.number_shown(value) if name in form_schema.OPTIONAL_NUMBERS else value
        if before is None or before.model.id != state.model.id:
            updates[self.parts.strip] = state.model.id
        return {
            **updates,
            **self.describe(state),
            self.parts.loras: self._lora_value(state, notice),
            self.parts.problem: "",
            self.parts.lora_problem: "",
        }

    def fill(
        self, model: WanModel, values: form_schema.Values, names: Mapping[str, str], aside: lora_block.Chosen = ()
    ) -> Update:
        """Shows values in the form; an image that is gone is left out. `names` are this browser's uploads."""
        loras = Loras(lora_block.from_values(model, values), aside)
        return self.show(FormState(model, values, loras, names=names).with_loras(loras))

    def _shown_image(self, reference: str | None) -> tuple[str | None, FormImage]:
        """A stored image as a file that Gradio may show, with its bytes unchanged so that it stays the same."""
        if not reference:
            return None, NO_IMAGE
        try:
            data = self.service.images.data(reference.removeprefix(UPLOAD), self.access())
        except WanUIError as error:
            return None, FormImage(error=error)
        with Image.open(io.BytesIO(data)) as picture:
            size, extension = picture.size, (picture.format or "PNG").lower()
        path = save_bytes_to_cache(data, f"first-frame.{extension}", cache_dir=self._image_cache())
        return path, FormImage(reference, size)

    def _image_cache(self) -> str:
        return str(self.parts.components["ctrl_img"].GRADIO_CACHE)

    def put_first_frame(self, model: WanModel, state: FormState, reference: str) -> Update:
        """Shows a stored image as the first frame of a model's form, whose other values stay as they are."""
        if not form_schema.applies(model, "ctrl_img"):
            raise InvalidRequest(f"{model.label} takes no first frame.")
        wanted = state if state.model.id == model.id else self.switched(state, model)
        return self.show(wanted.with_values(ctrl_img=reference), before=state)

    # The model

    def switched(self, state: FormState, model: WanModel) -> FormState:
        """The form for another model: what was typed stays, and LoRAs that it cannot take are set aside."""
        before, after = self.starting[state.model.id], self.starting[model.id]
        values = {name: value for name, value in state.values.items() if not name.startswith(("lora_", "scale_"))}
        values = speed_choice.for_model(model, values)
        values = form_schema.carried(values, _without_images(before), _without_images(after))
        started = lora_block.from_values(state.model, before)
        if state.loras.chosen == started and started != lora_block.from_values(model, after):
            loras = Loras(lora_block.from_values(model, after), state.loras.aside)
        else:
            loras = self.block.moved(state.loras, model)
        return replace(state, model=model, values=values).with_loras(loras)

    # Drafts

    def state_of_draft(self, draft: Any, uploads: Any = None) -> FormState | None:
        """The form as the browser kept it; None where it kept nothing that can be read."""
        if not isinstance(draft, Mapping) or draft.get("model") not in MODELS:
            return None
        model = MODELS[draft["model"]]
        kept = form_schema.kept(model, draft.get("values"))
        if not kept:
            return None
        values = {**self.first_state().values, **self.starting[model.id], **kept}
        loras = Loras(lora_block.from_values(model, values), lora_block.read({"aside": draft.get("aside")}).aside)
        return FormState(model, values, loras, names=upload_names(uploads)).with_loras(loras)

    def first_state(self) -> FormState:
        """What the form holds when a page opens: from its configuration, because inputs slow down the load event."""
        return self.read(self._first_values)

    @cached_property
    def _first_values(self) -> list[Any]:
        return [component.get_config()["value"] for component in self.inputs]

    def old_draft(self, open_tab: Any, drafts: Sequence[Any]) -> dict[str, Any] | None:
        """The draft of the tab that was open, as the browser kept it when each model had a form; else the first one."""
        by_model = {model_id: draft for model_id, draft in zip(MODELS, drafts, strict=True) if draft}
        model_id = open_tab if open_tab in by_model else next(iter(by_model), None)
        return None if model_id is None else {"model": model_id, "values": by_model[model_id]}

    def on_open(self, uploads: Any, open_tab: Any, draft: Any, *old_drafts: Any) -> Update:
        """A page opens: the draft, or the values it starts with, and the notes and request that belong to them."""
        names = upload_names(uploads)
        kept = draft if isinstance(draft, Mapping) else self.old_draft(open_tab, old_drafts)
        state = self.state_of_draft(kept, uploads)
        if state is not None:
            return self.show(state)
        state = replace(self.first_state(), names=names)
        shown = {**self.describe(state), self.parts.loras: self._lora_value(state)}
        del shown[self.draft]  # a form without a draft keeps following the server's starting values
        return shown

    # LoRA files

    def on_lora(self, event: gr.EventData, uploads: Any, *raw: Any) -> Update:
        """Something in the LoRA block was pressed, chosen or dropped: what, and for which LoRA, is in the event."""
        pressed: Mapping[str, Any] = event.pressed
        state = self.read(raw, uploads)
        if pressed.get("do") == "upload":
            return self._upload(state, pressed)
        if pressed.get("do") == "choose":
            return self._choose(state, str(pressed.get("source") or ""), pressed)
        if pressed.get("do") == "speed":
            return self._switch_speed(state, pressed)
        return self.press(state, pressed)

    def _switch_speed(self, state: FormState, pressed: Mapping[str, Any]) -> Update:
        """The fast look was switched on, with one of the model's speed LoRAs, or off."""
        values = speed_choice.switched_off(state.values)
        if pressed.get("on") is True:
            wanted = str(pressed.get("id") or "")
            speed = speed_choice.pick(state.model, wanted, self.service.library, self.access())
            values = values if speed is None else speed_choice.switched_on(values, speed)
        return self.show(replace(state, values=values), before=state)

    def press(self, state: FormState, pressed: Mapping[str, Any]) -> Update:
        """What a button of a LoRA's card does; which LoRA is in `pressed`."""
        index = _index(pressed.get("index"), len(state.loras.chosen))
        if index is None:
            return self.show(state, before=state)
        try:
            return self.show(self._pressed(state, index, pressed), before=state)
        except WanUIError as error:
            return {self.parts.loras: self._lora_value(state), self.parts.lora_problem: render.problem(error)}

    def _pressed(self, state: FormState, index: int, pressed: Mapping[str, Any]) -> FormState:
        """The form after a button of a LoRA's card."""
        chosen, names = state.loras.chosen, state.names
        lora = chosen[index]
        match pressed.get("do"):
            case "remove":
                return state.with_loras(replace(state.loras, chosen=lora_block.without(chosen, index)))
            case "slot" | "swap":
                slot = pressed.get("slot") if pressed.get("do") == "slot" else lora_block.other_slot(lora.slot)
                return state.with_loras(replace(state.loras, chosen=_in_slot(chosen, index, str(slot), state.model)))
            case "partner":
                return state.with_loras(
                    replace(state.loras, chosen=self.block.with_partner(state.model, chosen, index, names))
                )
            case "trigger":
                card = self.block.card(state.model, lora)
                if card is not None and not state.values.get("trigger_word"):
                    return state.with_values(trigger_word=card.trigger_word)
            case "open" if pressed.get("model") in MODELS:
                return self._on_its_model(state, index, MODELS[pressed["model"]])
            case "fetch":
                return self._fetched(state, index)
        return state

    def _on_its_model(self, state: FormState, index: int, model: WanModel) -> FormState:
        """The form of another model with one of the LoRAs, and the others that this model takes."""
        source = state.loras.chosen[index].source
        switched = self.switched(state, model)
        if all(lora.source != source for lora in switched.loras.chosen):
            loras = self.block.choose(model, switched.loras, source, True, None, state.names)
            return switched.with_loras(loras)
        place = next(place for place, lora in enumerate(switched.loras.chosen) if lora.source == source)
        paired = self.block.paired(model, switched.loras.chosen, place, state.names)
        return switched.with_loras(replace(switched.loras, chosen=paired))

    def _fetched(self, state: FormState, index: int) -> FormState:
        lora = state.loras.chosen[index]
        self.service.inspect(lora.source, self.access())
        return state.with_loras(
            replace(state.loras, chosen=self.block.paired(state.model, state.loras.chosen, index, state.names))
        )

    def _choose(self, state: FormState, source: str, pressed: Mapping[str, Any], names: Any = None) -> Update:
        """A file or an address was chosen: it chooses its model, and the other half of a pair comes with it."""
        source = self.service.library.relative(source.strip())
        if not source:
            return self.show(state, before=state)
        before, notice = state, ""
        wanted = MODELS.get(str(pressed.get("model"))) or self.block.model_for(source, state.model)
        if wanted.id != state.model.id:
            state = self.switched(state, wanted)
            notice = text_of("form.switched", model=wanted.label)
        add, slot = pressed.get("add") is True, pressed.get("slot")
        loras = self.block.choose(wanted, state.loras, source, add, slot, state.names)
        updates = self.show(state.with_loras(loras), before=before, notice=notice)
        return updates if names is None else {**updates, self.uploads: names}

    def _upload(self, state: FormState, pressed: Mapping[str, Any]) -> Update:
        """Moves an uploaded file into the library and chooses it."""
        name = str(pressed.get("name") or "")
        try:
            with taken_file(pressed.get("file"), partial(self.service.may_take, access=self.access())) as taken:
                source = self.service.library.add_upload(taken, name, self.access())
        except WanUIError as error:
            return {self.parts.lora_problem: render.problem(error)}
        others = {known: label for known, label in (state.names).items() if known != source}
        names = dict(list({**others, source: name}.items())[-REMEMBERED:])
        return self._choose(replace(state, names=names), source, pressed, names)

    def lora_for_another_model(self, state: FormState) -> tuple[int, lora_card.Card] | None:
        """The first LoRA that runs here but was made for another model, with its card."""
        for index, lora in enumerate(state.loras.chosen):
            card = self.block.card(state.model, lora)
            if card is not None and card.state == "warn" and card.is_for_another(state.model):
                return index, card
        return None


def _with_image(state: FormState, name: str, image: FormImage) -> FormState:
    """The form's state with another first or last frame."""
    state = state.with_values(**{name: image.reference})
    return replace(state, first_frame=image) if name == "ctrl_img" else replace(state, last_frame=image)


def _without_images(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in IMAGES}


def _index(value: Any, count: int) -> int | None:
    """A LoRA's place in the block, from what a button says."""
    try:
        index = int(value)
    except (TypeError, ValueError):
        return None
    return index if 0 <= index < count else None


def _in_slot(chosen: lora_block.Chosen, index: int, slot: str, model: WanModel) -> lora_block.Chosen:
    """The LoRAs with one of them in another slot; the first one that is there takes its place."""
    if slot not in model.slots or chosen[index].slot == slot:
        return chosen
    other = next((place for place, lora in enumerate(chosen) if lora.slot == slot), None)
    changed = list(chosen)
    changed[index] = replace(chosen[index], slot=slot, filled_in=False)
    if other is not None:
        changed[other] = replace(chosen[other], slot=chosen[index].slot, filled_in=False)
    return tuple(changed)
