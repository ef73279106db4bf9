"""All models' tabs: reading and filling their controls, drafts kept by the browser, and the events within the tabs."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from wan_ui.errors import WanUIError
from wan_ui.models import MODELS, WanModel
from wan_ui.ui import form_schema, lora_card, model_tab, render
from wan_ui.ui.events import EDIT, QUIET, Update
from wan_ui.ui.form_schema import LoraPosition
from wan_ui.ui.lora_picker import UPLOAD, LoraPicker, upload_names
from wan_ui.ui.model_tab import FirstFrame, ModelTab, request_text
from wan_ui.ui.uploaded_files import taken_file, uploaded_files

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

REMEMBERED = 40  # names of uploads that a browser keeps
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
class TabState:
    """What an event finds in a tab: its values and first frame, this browser's uploads, and filled-in halves.

    `names` are the uploads' names by source, `filled` the partners that were filled in, see LoraPicker.pair_up.
    """

    tab: ModelTab
    values: form_schema.Values
    image: FirstFrame
    names: Mapping[str, str]
    filled: Mapping[str, str]


class ModelTabs:
    """The models' tabs and what belongs to all of them; every method named `on_…` is an event's handler."""

    def __init__(self, service: JobService, access: Callable[[], Access], others: Collection[str]) -> None:
        """`others` are the ids of the tabs that belong to no model."""
        self.service = service
        self.access = access
        self.others = others
        self.stored_image = lru_cache(maxsize=256)(self._store_image)
        self.open_tab = stored("tab", None)
        self.uploads = stored("uploads", {})
        self.drafts = {model_id: stored(f"draft:{model_id}", None) for model_id in MODELS}
        # Empty until the page has opened the tab it was left with: before, Gradio itself selects the first one.
        self.opened = gr.JSON({}, visible=False)
        self.filled_in = gr.State({})
        self.by_model: dict[str, ModelTab] = {}
        self.loras = LoraPicker(service, access, self.by_model)

    def lay_out(self, tabs: gr.Tabs, starting: Callable[[WanModel], Mapping[str, Any]]) -> None:
        """A tab for each model inside `tabs`, with the values it starts with."""
        self.tabs = tabs
        choices = self.loras.choices({})
        for model in MODELS.values():
            self.by_model[model.id] = model_tab.build(model, starting(model), choices, self.drafts[model.id])

    def lay_out_text(self) -> None:
        """The open tab's request as JSON, in the surrounding column."""
        self.text = code_to_copy("This form's request", 16)

    @property
    def all_inputs(self) -> list[Component]:
        """The controls of all tabs, tab by tab."""
        return [component for tab in self.by_model.values() for component in tab.inputs]

    # Events

    def connect(self) -> None:
        """Wires the events within the tabs."""
        for tab in self.by_model.values():
            self._connect_values(tab)
            self._connect_lora_list(tab)
            for position in form_schema.lora_positions(tab.model):
                self._connect_lora(tab, position)
        presses = [card.click for tab in self.by_model.values() for card in tab.loras.cards.values()]
        gr.on(
            presses,
            self.on_card,
            [self.uploads, self.filled_in, *self.all_inputs],
            [self.filled_in, *self.filled],
            concurrency_limit=8,
            **QUIET,
        )

    def _described(self, tab: ModelTab) -> list[Any]:
        """The outputs of `describe`."""
        return [*tab.described, self.text, tab.draft]

    def _connect_values(self, tab: ModelTab) -> None:
        described = self._described(tab)
        edits: list[Any] = []
        for name, component in tab.components.items():
            if isinstance(component, gr.Image):
                edits += [component.upload, component.clear]
            elif name not in tab.loras.cards and name != "trigger_word":
                # Not `change`: that would also fire for what this page itself writes into the control.
                edits.append(component.input)
        # Queued, because `always_last` has no effect on unqueued events, whose answers may overtake each other.
        gr.on(edits, lambda *raw: self.on_edit(tab, raw), tab.inputs, described, trigger_mode="always_last", **EDIT)
        tab.container.select(
            lambda opened, *raw: self.on_tab(tab, opened, raw),
            [self.opened, *tab.inputs],
            [self.text, self.open_tab],
            **EDIT,
        )
        sizes = [tab.components["width"], tab.components["height"], *described]
        for preset, button in tab.presets:
            button.click(
                lambda *raw, preset=preset: self.on_size(tab, raw, (preset.width, preset.height)),
                tab.inputs,
                sizes,
                **EDIT,
            )
        if tab.shape is not None:
            tab.shape.click(lambda *raw: self.on_shape(tab, raw), tab.inputs, sizes, **EDIT)

    def _connect_lora_list(self, tab: ModelTab) -> None:
        outputs = [*self._described(tab), *self.loras.outputs(tab)]
        tab.loras.refresh.click(
            lambda names, *raw: self.on_refresh(tab, names, raw),
            [self.uploads, *tab.inputs],
            [*self.loras.choosers, *outputs],
            **EDIT,
        )
        tab.components["trigger_word"].input(
            lambda names, *raw: self.on_trigger_word(tab, names, raw),
            [self.uploads, *tab.inputs],
            outputs,
            trigger_mode="always_last",
            **EDIT,
        )
        positions = form_schema.lora_positions(tab.model)
        columns = [tab.loras.stacked[position.lora] for position in positions if position.lora in tab.loras.stacked]
        for slot, another in tab.loras.another.items():
            another.click(
                lambda height, slot=slot: self.on_another(tab, slot, height),
                [tab.loras.height],
                [tab.loras.height, *columns, *tab.loras.another.values()],
                **EDIT,
            )

    def _connect_lora(self, tab: ModelTab, position: LoraPosition) -> None:
        outputs = [*self._described(tab), *self.loras.outputs(tab)]
        own = [tab.components[name] for name in tab.loras.cards]
        tab.components[position.lora].input(
            lambda names, filled, *raw: self.on_lora(tab, position, names, filled, raw),
            [self.uploads, self.filled_in, *tab.inputs],
            [self.filled_in, *own, *outputs],
            trigger_mode="always_last",
            **EDIT,
        )
        upload = tab.loras.uploads[position.lora]
        upload.upload(
            lambda file, names, filled, *raw: self.on_upload(tab, position, file, names, filled, raw),
            [upload, self.uploads, self.filled_in, *tab.inputs],
            [upload, self.uploads, self.filled_in, tab.problem, *self.loras.choosers, *outputs],
            api_visibility="private",
            show_progress="hidden",
            preprocess=False,
            concurrency_limit=4,
        )

    @property
    def filled(self) -> list[Component | gr.Tabs]:
        """Everything that filling the tabs changes."""
        outputs: list[Any] = [self.tabs, self.text, self.open_tab, self.opened]
        for tab in self.by_model.values():
            outputs += [*tab.inputs, *tab.described, tab.draft, *self.loras.outputs(tab), tab.problem]
        return outputs

    # Reading and filling a tab

    def _may_open(self, folder_name: str) -> bool:
        return self.service.may_open(folder_name, self.access())

    def _store_image(self, path: Path) -> tuple[str, tuple[int, int]]:
        data = path.read_bytes()
        sha256 = self.service.images.put_bytes(data, self.access())
        with Image.open(io.BytesIO(data)) as picture:
            return UPLOAD + sha256, picture.size

    def read(self, tab: ModelTab, raw: Sequence[Any]) -> tuple[form_schema.Values, FirstFrame]:
        """A tab's values from raw component values; the first frame is stored and becomes its reference."""
        values = tab.named(raw)
        payload = values.pop("ctrl_img", None)
        path = payload.get("path") if isinstance(payload, Mapping) else None
        if not path:
            return values, FirstFrame()
        try:
            # Gradio stores an upload under the hash of its bytes, so a path always means the same image.
            reference, size = self.stored_image(uploaded_files(path, self._may_open))
            self.service.record_owner(reference.removeprefix(UPLOAD), self.access())
        except WanUIError as error:
            return values, FirstFrame(error=error)
        return {**values, "ctrl_img": reference}, FirstFrame(reference, size)

    def _state(self, tab: ModelTab, raw: Sequence[Any], uploads: Any, filled: Mapping[str, str]) -> TabState:
        values, image = self.read(tab, raw)
        return TabState(tab, values, image, upload_names(uploads), filled)

    def describe(self, tab: ModelTab, values: form_schema.Values, image: FirstFrame) -> Update:
        """The notes on a tab's values, its request as JSON, and its draft."""
        notes = model_tab.describe(tab, values, image)
        return {**notes, self.text: request_text(tab.model, values), tab.draft: values}

    def fill(self, tab: ModelTab, values: form_schema.Values, names: Mapping[str, str]) -> Update:
        """Shows values in a tab; a first frame that is gone is left out. `names` are this browser's uploads."""
        updates: Update = {}
        choices = self.loras.choices(names)
        image = FirstFrame()
        for name, component in tab.components.items():
            if name not in values:
                continue
            value = values[name]
            if name == "ctrl_img":
                value, image = self._shown_image(value)
            updates[component] = (
                gr.Dropdown(choices=choices, value=value) if isinstance(component, gr.Dropdown) else value
            )
        values = {**values, "ctrl_img": image.reference}
        return {
            **updates,
            **self.describe(tab, values, image),
            **self.loras.describe(tab, values, names),
            **self.loras.show_columns(tab, form_schema.visible_positions(tab.model, values)),
            tab.problem: "",
        }

    def _shown_image(self, reference: str | None) -> tuple[str | None, FirstFrame]:
        """A stored first frame as a file that Gradio may show, with its bytes unchanged so that it stays the same."""
        if not reference:
            return None, FirstFrame()
        try:
            data = self.service.images.data(reference.removeprefix(UPLOAD), self.access())
        except WanUIError as error:
            return None, FirstFrame(error=error)
        with Image.open(io.BytesIO(data)) as picture:
            size, extension = picture.size, (picture.format or "PNG").lower()
        path = save_bytes_to_cache(data, f"first-frame.{extension}", cache_dir=self._image_cache())
        return path, FirstFrame(reference, size)

    def put_first_frame(self, tab: ModelTab, values: form_schema.Values, reference: str) -> Update:
        """Shows a stored image as a tab's first frame, beside its other values."""
        shown, image = self._shown_image(reference)
        return {
            tab.components["ctrl_img"]: shown,
            **self.describe(tab, {**values, "ctrl_img": image.reference}, image),
        }

    def _image_cache(self) -> str:
        return next(component.GRADIO_CACHE for component in self.all_inputs if isinstance(component, gr.Image))

    # Opening the page

    def draft_values(self, tab: ModelTab, draft: Any) -> form_schema.Values | None:
        """A tab's draft over its starting values; None for a tab that this browser never changed."""
        kept = form_schema.kept(tab.model, draft)
        return {**self.starting_values(tab)[0], **kept} if kept else None

    def starting_values(self, tab: ModelTab) -> tuple[form_schema.Values, FirstFrame]:
        """What a tab holds when a page opens: from its configuration, because inputs slow down the load event."""
        return self.read(tab, [component.get_config()["value"] for component in tab.inputs])

    def on_open(self, open_tab: Any, uploads: Any, *drafts: Any) -> Update:
        """A page opens: drafts, the tab that was open, and the notes and request that belong to them."""
        names = upload_names(uploads)
        choices = self.loras.choices(names)
        known = isinstance(open_tab, str) and (open_tab in self.by_model or open_tab in self.others)
        opened = open_tab if known else next(iter(self.by_model))
        updates: Update = {self.opened: {"tab": opened}}
        if known:
            updates[self.tabs] = gr.Tabs(selected=opened)
        for tab, draft in zip(self.by_model.values(), drafts, strict=True):
            drafted = self.draft_values(tab, draft)
            if drafted is not None:
                shown = self.fill(tab, drafted, names)
            else:
                values, image = self.starting_values(tab)
                shown = {
                    **self.describe(tab, values, image),
                    **self.loras.offer(choices, tab),
                    **self.loras.describe(tab, values, names),
                }
                del shown[tab.draft]  # a tab without a draft keeps following the server's starting values
            if tab.model.id != opened:
                del shown[self.text]
            updates |= shown
        return updates

    # Editing

    def on_edit(self, tab: ModelTab, raw: Sequence[Any]) -> Update:
        """A control other than the LoRA lists and the trigger word was changed."""
        return self.describe(tab, *self.read(tab, raw))

    def on_tab(self, tab: ModelTab, opened: Any, raw: Sequence[Any]) -> Update:
        """A tab was selected: by a person, or at the start by Gradio, while `opened` is empty."""
        values, _ = self.read(tab, raw)
        return {self.text: request_text(tab.model, values), **({self.open_tab: tab.model.id} if opened else {})}

    def on_size(self, tab: ModelTab, raw: Sequence[Any], size: tuple[int, int]) -> Update:
        """A preset size was pressed."""
        values, image = self.read(tab, raw)
        values |= {"width": size[0], "height": size[1]}
        return {
            tab.components["width"]: size[0],
            tab.components["height"]: size[1],
            **self.describe(tab, values, image),
        }

    def on_shape(self, tab: ModelTab, raw: Sequence[Any]) -> Update:
        """ "Use the image's shape": about the same area with the first frame's aspect ratio."""
        values, image = self.read(tab, raw)
        size = form_schema.size(tab.model, values)
        if image.size is None or size is None:
            return self.describe(tab, values, image)
        return self.on_size(tab, raw, form_schema.image_shape(tab.model, values["recipe"], size[:2], image.size))

    def on_refresh(self, tab: ModelTab, uploads: Any, raw: Sequence[Any]) -> Update:
        """The LoRA folder is read again, for the lists of all tabs."""
        names = upload_names(uploads)
        return {**self.loras.offer(self.loras.choices(names)), **self.on_trigger_word(tab, uploads, raw)}

    def on_trigger_word(self, tab: ModelTab, uploads: Any, raw: Sequence[Any]) -> Update:
        """The trigger word was changed, which the LoRA cards speak about too."""
        values, image = self.read(tab, raw)
        return {**self.describe(tab, values, image), **self.loras.describe(tab, values, upload_names(uploads))}

    def on_another(self, tab: ModelTab, slot: str, height: Any) -> Update:
        """ "Add another LoRA" of a slot."""
        return self.loras.show_columns(tab, {**height, slot: min(height[slot] + 1, form_schema.MOST_STACKED)})

    # LoRA files

    def on_lora(
        self, tab: ModelTab, position: LoraPosition, uploads: Any, filled: Mapping[str, str], raw: Sequence[Any]
    ) -> Update:
        """A file was chosen or typed: its card, and the other half of its pair."""
        return self._choose(self._state(tab, raw, uploads, filled), position)

    def _choose(self, state: TabState, position: LoraPosition) -> Update:
        """The tab with the file that its values have at this position, and the other half of its pair."""
        tab = state.tab
        paired, filled = self.loras.pair_up(tab, position, state.values, state.names, state.filled)
        changed = {name: paired[name] for name in tab.loras.cards if paired.get(name) != state.values.get(name)}
        return {
            **{tab.components[name]: gr.Dropdown(value=value) for name, value in changed.items()},
            self.filled_in: filled,
            **self.describe(tab, paired, state.image),
            **self.loras.describe(tab, paired, state.names),
        }

    def on_upload(
        self,
        tab: ModelTab,
        position: LoraPosition,
        file: Any,
        uploads: Any,
        filled: Mapping[str, str],
        raw: Sequence[Any],
    ) -> Update:
        """Moves an uploaded file into the library and chooses it."""
        if not isinstance(file, Mapping) or not file.get("path"):
            return {tab.problem: ""}
        name = str(file.get("orig_name") or Path(file["path"]).name)
        try:
            with taken_file(file["path"], partial(self.service.may_take, access=self.access())) as taken:
                source = self.service.library.add_upload(taken, name, self.access())
        except WanUIError as error:
            return {tab.loras.uploads[position.lora]: None, tab.problem: render.problem(error)}
        state = self._state(tab, raw, uploads, filled)
        others = {known: label for known, label in state.names.items() if known != source}
        names = dict(list({**others, source: name}.items())[-REMEMBERED:])
        chosen = self._choose(replace(state, names=names, values={**state.values, position.lora: source}), position)
        choices = self.loras.choices(names)
        values = chosen[tab.draft]
        return {
            **chosen,
            **self.loras.offer(choices),
            **{tab.components[lora]: gr.Dropdown(choices=choices, value=values[lora]) for lora in tab.loras.cards},
            tab.loras.uploads[position.lora]: None,
            self.uploads: names,
            tab.problem: "",
        }

    def on_card(self, event: gr.EventData, uploads: Any, filled: Mapping[str, str], *raw: Any) -> Update:
        """A button of a card: what it does, in which tab and for which control is in the event."""
        pressed: Mapping[str, Any] = event.pressed
        parts = iter(raw)
        raw_by_model = {model_id: list(islice(parts, len(tab.components))) for model_id, tab in self.by_model.items()}
        tab = self.by_model.get(str(pressed.get("tab")))
        positions = () if tab is None else form_schema.lora_positions(tab.model)
        position = next((position for position in positions if position.lora == pressed.get("control")), None)
        if tab is None or position is None:
            return {self.filled_in: filled}
        state = self._state(tab, raw_by_model[tab.model.id], uploads, filled)
        match pressed.get("do"):
            case "trigger":
                return self._use_trigger_word(state, position)
            case "partner":
                return self._move(state, self._partner(state, position))
            case "swap":
                return self._move(state, _swapped(state, position))
            case "fetch":
                return self._fetch(state, position)
            case "open" if pressed.get("model") in self.by_model:
                other = self.by_model[pressed["model"]]
                source = state.values.get(position.lora) or ""
                return self._open_with(self._state(other, raw_by_model[other.model.id], uploads, filled), source)
        return {self.filled_in: filled}

    def _use_trigger_word(self, state: TabState, position: LoraPosition) -> Update:
        tab, values = state.tab, state.values
        card = lora_card.look(self.service, tab.model, position.slot, values.get(position.lora) or "", self.access())
        if card is not None and not values.get("trigger_word"):
            values = {**values, "trigger_word": card.trigger_word}
        return {
            tab.components["trigger_word"]: values["trigger_word"],
            **self.describe(tab, values, state.image),
            **self.loras.describe(tab, values, state.names),
        }

    def _partner(self, state: TabState, position: LoraPosition) -> Mapping[str, str]:
        """The other half of the pair, by the control it goes into."""
        source = state.values.get(position.lora) or ""
        card = lora_card.look(self.service, state.tab.model, position.slot, source, self.access())
        partner = None if card is None else self.loras.partner(state.tab, position, card, state.names)
        return {} if partner is None else dict([partner])

    def _move(self, state: TabState, sources: Mapping[str, str]) -> Update:
        """The tab with other files in some of its LoRA controls."""
        tab, values = state.tab, {**state.values, **sources}
        return {
            **{tab.components[name]: gr.Dropdown(value=source) for name, source in sources.items()},
            **self.describe(tab, values, state.image),
            **self.loras.describe(tab, values, state.names),
        }

    def _fetch(self, state: TabState, position: LoraPosition) -> Update:
        source = state.values.get(position.lora) or ""
        try:
            self.service.inspect(source, self.access())
        except WanUIError as error:
            target = lora_card.Target(state.tab.model, "")
            return {state.tab.loras.cards[position.lora]: lora_card.html(lora_card.refused(source, error), target)}
        return self._choose(state, position)

    def _open_with(self, state: TabState, source: str) -> Update:
        """Another tab with a file chosen there, in the slot that the file is for."""
        tab = state.tab
        slot = self.service.inspect_lora(source, self.access())["slot"]
        position = LoraPosition(slot if slot in tab.model.slots else next(iter(tab.model.slots)))
        return {
            tab.components[position.lora]: gr.Dropdown(value=source),
            **self._choose(replace(state, values={**state.values, position.lora: source}), position),
            self.tabs: gr.Tabs(selected=tab.model.id),
            self.open_tab: tab.model.id,
        }


def _swapped(state: TabState, position: LoraPosition) -> Mapping[str, str]:
    """The files of a pair's two controls, exchanged."""
    (other,) = (slot for slot in state.tab.model.slots if slot != position.slot)
    opposite = form_schema.lora_name(other, position.number)
    source = state.values.get(position.lora) or ""
    return {opposite: source, position.lora: state.values.get(opposite) or form_schema.NO_LORA}
