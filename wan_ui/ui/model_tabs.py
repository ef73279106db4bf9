"""The models' tabs as one: what they hold and say, and all that is done in them; it knows no job."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from wan_ui.errors import WanUIError
from wan_ui.models import MODELS, WanModel
from wan_ui.ui import form_schema, lora_card, render
from wan_ui.ui.events import EDIT, QUIET, Update
from wan_ui.ui.lora_picker import UPLOAD, LoraPicker, upload_names
from wan_ui.ui.model_tab import ModelTab, Picture, request_text, say
from wan_ui.ui.model_tab import build as build_tab
from wan_ui.ui.uploaded_files import uploaded_files

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

REMEMBERED = 40  # uploads a browser keeps in mind
# Not a secret: what it scrambles stays in its owner's browser. A fixed one is what lets it outlive a server restart.
STORAGE_SECRET = "wan-ui"


def stored(name: str, default: Any) -> gr.BrowserState:
    """A value that the browser keeps."""
    return gr.BrowserState(default, storage_key=f"wan-ui:{name}", secret=STORAGE_SECRET)


def code_to_copy(label: str, max_lines: int) -> gr.Textbox:
    """Text of a program that is read and copied."""
    return gr.Textbox(
        label=label, lines=8, max_lines=max_lines, interactive=False, buttons=["copy"], elem_classes="code"
    )


class ModelTabs:
    """Holds the tabs of the models and what belongs to all of them; every method named `on_…` is an event's handler."""

    def __init__(self, service: JobService, access: Callable[[], Access], others: Collection[str]) -> None:
        """`others` are the ids of the tabs that are no model's."""
        self.service = service
        self.access = access
        self.others = others
        self.picture_of = lru_cache(maxsize=256)(self._picture_of)
        self.place = stored("tab", None)
        self.uploads = stored("uploads", {})
        self.drafts = {row_id: stored(f"draft:{row_id}", None) for row_id in MODELS}
        # Until the page has shown the tab it was left with, Gradio's own first choice is nobody's.
        self.opened = gr.JSON({}, visible=False)
        self.filled_in = gr.State({})
        self.rows: dict[str, ModelTab] = {}
        self.loras = LoraPicker(service, access, self.rows)

    def lay_out(self, tabs: gr.Tabs, starting: Callable[[WanModel], Mapping[str, Any]]) -> None:
        """A tab for each model inside `tabs`, with the values it starts with."""
        self.tabs = tabs
        choices = self.loras.choices({})
        for row in MODELS.values():
            self.rows[row.id] = build_tab(row, starting(row), choices, self.drafts[row.id])

    def lay_out_text(self) -> None:
        """The open tab's request as JSON, in the surrounding column."""
        self.text = code_to_copy("This form's request", 16)

    def connect(self) -> None:
        """Wires what is done in the tabs alone."""
        for tab in self.rows.values():
            self._connect_tab(tab)
        held = [component for tab in self.rows.values() for component in tab.inputs]
        presses = [about.click for tab in self.rows.values() for about in tab.cards.values()]
        gr.on(
            presses,
            self.on_card,
            [self.uploads, self.filled_in, *held],
            [self.filled_in, *self.filled],
            concurrency_limit=8,
            **QUIET,
        )

    def _connect_tab(self, tab: ModelTab) -> None:
        said = [*tab.said.values(), *([tab.shape] if tab.shape is not None else []), self.text, tab.draft]
        edits: list[Any] = []
        for name, component in tab.components.items():
            if isinstance(component, gr.Image):
                edits += [component.upload, component.clear]
            elif name not in tab.cards and name != "trigger_word":
                # Not change: it also answers what this page itself writes, in the midst of its writing.
                edits.append(component.input)
        # Queued, because only then does always_last hold back: unqueued answers may overtake each other.
        gr.on(edits, lambda *held: self.on_edit(tab, held), tab.inputs, said, trigger_mode="always_last", **EDIT)
        tab.container.select(
            lambda opened, *held: self.on_tab(tab, opened, held),
            [self.opened, *tab.inputs],
            [self.text, self.place],
            **EDIT,
        )
        sizes = [tab.components["width"], tab.components["height"], *said]
        for preset, button in tab.presets:
            button.click(
                lambda *held, preset=preset: self.on_size(tab, held, (preset.width, preset.height)),
                tab.inputs,
                sizes,
                **EDIT,
            )
        if tab.shape is not None:
            tab.shape.click(lambda *held: self.on_shape(tab, held), tab.inputs, sizes, **EDIT)
        choosers = self.loras.choosers
        told = [*said, *self.loras.said_by(tab)]
        own = [tab.components[name] for name in tab.cards]
        tab.refresh.click(
            lambda names, *held: self.on_refresh(tab, names, held),
            [self.uploads, *tab.inputs],
            [*choosers, *told],
            **EDIT,
        )
        tab.components["trigger_word"].input(
            lambda names, *held: self.on_told(tab, names, held),
            [self.uploads, *tab.inputs],
            told,
            trigger_mode="always_last",
            **EDIT,
        )
        for slot, another in tab.another.items():
            rows = [tab.rows[place.lora] for place in form_schema.places(tab.row) if place.lora in tab.rows]
            another.click(
                lambda height, slot=slot: self.on_another(tab, slot, height),
                [tab.height],
                [tab.height, *rows, *tab.another.values()],
                **EDIT,
            )
        for place in form_schema.places(tab.row):
            tab.components[place.lora].input(
                lambda names, filled, *held, place=place: self.on_lora(tab, place, names, filled, held),
                [self.uploads, self.filled_in, *tab.inputs],
                [self.filled_in, *own, *told],
                trigger_mode="always_last",
                **EDIT,
            )
            upload = tab.uploads[place.lora]
            upload.upload(
                lambda file, names, filled, *held, place=place: self.on_upload(tab, place, file, names, filled, held),
                [upload, self.uploads, self.filled_in, *tab.inputs],
                [upload, self.uploads, self.filled_in, tab.problem, *choosers, *told],
                api_visibility="private",
                show_progress="hidden",
                preprocess=False,
                concurrency_limit=4,
            )

    @property
    def filled(self) -> list[Component | gr.Tabs]:
        """Everything that filling the tabs changes."""
        found: list[Any] = [self.tabs, self.text, self.place, self.opened]
        for tab in self.rows.values():
            found += [*tab.inputs, *tab.said.values(), *([tab.shape] if tab.shape is not None else []), tab.draft]
            found += [*self.loras.said_by(tab), tab.problem]
        return found

    # What a tab holds

    def _may_open(self, file_id: str) -> bool:
        return self.service.may_open(file_id, self.access())

    def _picture_of(self, path: Path) -> tuple[str, tuple[int, int]]:
        data = path.read_bytes()
        sha256 = self.service.images.put_bytes(data, self.access())
        with Image.open(io.BytesIO(data)) as image:
            return UPLOAD + sha256, image.size

    def held(self, tab: ModelTab, raw: Sequence[Any]) -> tuple[form_schema.Values, Picture]:
        """A tab's values with the first frame stored and as its reference, from raw component values."""
        found = tab.named(raw)
        payload = found.pop("ctrl_img", None)
        path = payload.get("path") if isinstance(payload, Mapping) else None
        if not path:
            return found, Picture()
        try:
            # Gradio keeps an upload under the hash of its bytes, so a path never changes its meaning.
            reference, size = self.picture_of(uploaded_files(path, self._may_open))
            self.service.record_owner(reference.removeprefix(UPLOAD), self.access())
        except WanUIError as error:
            return found, Picture(error=error)
        return {**found, "ctrl_img": reference}, Picture(reference, size)

    def said(self, tab: ModelTab, held: form_schema.Values, picture: Picture) -> Update:
        return {**say(tab, held, picture), self.text: request_text(tab.row, held), tab.draft: held}

    def fill(self, tab: ModelTab, held: form_schema.Values, names: Mapping[str, str]) -> Update:
        """Shows values in a tab; a first frame that is gone is left out. `names` are this browser's uploads."""
        found: Update = {}
        choices = self.loras.choices(names)
        picture = Picture()
        for name, component in tab.components.items():
            if name not in held:
                continue
            value = held[name]
            if name == "ctrl_img":
                value, picture = self._shown_image(value)
            if isinstance(component, gr.Dropdown):
                found[component] = gr.Dropdown(choices=choices, value=value)
            else:
                found[component] = value
        held = {**held, "ctrl_img": picture.reference}
        told = {
            **self.loras.told(tab, held, names),
            **self.loras.shown_rows(tab, form_schema.shown_rows(tab.row, held)),
        }
        return {**found, **self.said(tab, held, picture), **told, tab.problem: ""}

    def _shown_image(self, reference: str | None) -> tuple[str | None, Picture]:
        """A kept first frame as a file that Gradio may show: the very bytes, so that it stays the same image."""
        if not reference:
            return None, Picture()
        try:
            data = self.service.images.data(reference.removeprefix(UPLOAD), self.access())
        except WanUIError as error:
            return None, Picture(error=error)
        with Image.open(io.BytesIO(data)) as image:
            size, extension = image.size, (image.format or "PNG").lower()
        path = save_bytes_to_cache(data, f"first-frame.{extension}", cache_dir=self._image_cache())
        return path, Picture(reference, size)

    def put_first_frame(self, tab: ModelTab, held: form_schema.Values, reference: str) -> Update:
        """Shows a kept image as a tab's first frame, beside the values that it holds."""
        shown, picture = self._shown_image(reference)
        held = {**held, "ctrl_img": picture.reference}
        return {tab.components["ctrl_img"]: shown, **self.said(tab, held, picture)}

    def _image_cache(self) -> str:
        return next(
            component.GRADIO_CACHE
            for tab in self.rows.values()
            for component in tab.inputs
            if isinstance(component, gr.Image)
        )

    # Editing

    def left(self, tab: ModelTab, draft: Any) -> form_schema.Values | None:
        """A tab's values as a browser left them over its starting ones; None for a tab that it never changed."""
        kept = form_schema.kept(tab.row, draft)
        return {**self.starting_values(tab)[0], **kept} if kept else None

    def starting_values(self, tab: ModelTab) -> tuple[form_schema.Values, Picture]:
        """What a tab holds when a page opens. From here and not from the page: a load's inputs slow a page for good."""
        return self.held(tab, [component.get_config()["value"] for component in tab.inputs])

    def on_open(self, place: Any, uploads: Any, *drafts: Any) -> Update:
        """A page that opens: drafts, the tab that was open, and the notes and request that belong to them."""
        names = upload_names(uploads)
        choices = self.loras.choices(names)
        was_left = isinstance(place, str) and (place in self.rows or place in self.others)
        opened = place if was_left else next(iter(self.rows))
        found: Update = {self.opened: {"tab": opened}}
        if was_left:
            found[self.tabs] = gr.Tabs(selected=opened)
        for tab, draft in zip(self.rows.values(), drafts, strict=True):
            left = self.left(tab, draft)
            if left is not None:
                shown = self.fill(tab, left, names)
            else:
                held, picture = self.starting_values(tab)
                shown = {
                    **self.said(tab, held, picture),
                    **self.loras.offer(choices, tab),
                    **self.loras.told(tab, held, names),
                }
                del shown[tab.draft]  # an untouched form keeps following the server's starting values
            if tab.row.id != opened:
                del shown[self.text]
            found |= shown
        return found

    def on_edit(self, tab: ModelTab, raw: Sequence[Any]) -> Update:
        return self.said(tab, *self.held(tab, raw))

    def on_tab(self, tab: ModelTab, opened: Any, raw: Sequence[Any]) -> Update:
        held, _ = self.held(tab, raw)
        return {self.text: request_text(tab.row, held), **({self.place: tab.row.id} if opened else {})}

    def on_size(self, tab: ModelTab, raw: Sequence[Any], size: tuple[int, int]) -> Update:
        held, picture = self.held(tab, raw)
        held |= {"width": size[0], "height": size[1]}
        return {
            tab.components["width"]: size[0],
            tab.components["height"]: size[1],
            **self.said(tab, held, picture),
        }

    def on_shape(self, tab: ModelTab, raw: Sequence[Any]) -> Update:
        held, picture = self.held(tab, raw)
        size = form_schema.size(tab.row, held)
        if picture.size is None or size is None:
            return self.said(tab, held, picture)
        return self.on_size(tab, raw, form_schema.image_shape(tab.row, held["recipe"], size[:2], picture.size))

    def on_refresh(self, tab: ModelTab, uploads: Any, raw: Sequence[Any]) -> Update:
        names = upload_names(uploads)
        return {**self.loras.offer(self.loras.choices(names)), **self.on_told(tab, uploads, raw)}

    def on_told(self, tab: ModelTab, uploads: Any, raw: Sequence[Any]) -> Update:
        held, picture = self.held(tab, raw)
        return {**self.said(tab, held, picture), **self.loras.told(tab, held, upload_names(uploads))}

    def on_another(self, tab: ModelTab, slot: str, height: Any) -> Update:
        return self.loras.shown_rows(tab, {**height, slot: min(height[slot] + 1, form_schema.MOST_STACKED)})

    def on_lora(
        self, tab: ModelTab, place: form_schema.Place, uploads: Any, filled: Mapping[str, str], raw: Sequence[Any]
    ) -> Update:
        """A file was chosen or typed: its card, and the other half of its pair."""
        held, picture = self.held(tab, raw)
        return self._chosen(tab, place, held, picture, upload_names(uploads), filled)

    def _chosen(
        self,
        tab: ModelTab,
        place: form_schema.Place,
        held: form_schema.Values,
        picture: Picture,
        names: Mapping[str, str],
        filled: Mapping[str, str],
    ) -> Update:
        paired, filled = self.loras.pair_up(tab, place, held, names, filled)
        changed = {name: paired[name] for name in tab.cards if paired.get(name) != held.get(name)}
        return {
            **{tab.components[name]: gr.Dropdown(value=value) for name, value in changed.items()},
            self.filled_in: filled,
            **self.said(tab, paired, picture),
            **self.loras.told(tab, paired, names),
        }

    def on_upload(
        self,
        tab: ModelTab,
        place: form_schema.Place,
        file: Any,
        uploads: Any,
        filled: Mapping[str, str],
        raw: Sequence[Any],
    ) -> Update:
        """Moves an uploaded file into the library and chooses it."""
        if not isinstance(file, Mapping) or not file.get("path"):
            return {tab.problem: ""}
        name = str(file.get("orig_name") or Path(file["path"]).name)
        held, picture = self.held(tab, raw)
        try:
            source = self.service.library.add_upload(uploaded_files(file["path"], self._may_open), name, self.access())
        except WanUIError as error:
            return {tab.uploads[place.lora]: None, tab.problem: render.problem(error)}
        names = {**upload_names(uploads)}
        names.pop(source, None)
        names[source] = name
        names = dict(list(names.items())[-REMEMBERED:])
        chosen = self._chosen(tab, place, {**held, place.lora: source}, picture, names, filled)
        choices = self.loras.choices(names)
        values = chosen[tab.draft]
        return {
            **chosen,
            **self.loras.offer(choices),
            **{tab.components[one]: gr.Dropdown(choices=choices, value=values[one]) for one in tab.cards},
            tab.uploads[place.lora]: None,
            self.uploads: names,
            tab.problem: "",
        }

    def on_card(self, event: gr.EventData, uploads: Any, filled: Mapping[str, str], *raw: Any) -> Update:
        """A button of a card: what it does, in which tab and for which control is in the event."""
        told: Mapping[str, Any] = event.pressed
        tab = self.rows.get(str(told.get("tab")))
        place = (
            None
            if tab is None
            else next((one for one in form_schema.places(tab.row) if one.lora == told.get("place")), None)
        )
        if tab is None or place is None:
            return {self.filled_in: filled}
        parts = iter(raw)
        values = {one.row.id: self.held(one, list(islice(parts, len(one.components)))) for one in self.rows.values()}
        names = upload_names(uploads)
        held, picture = values[tab.row.id]
        source = held.get(place.lora) or ""
        match told.get("do"):
            case "trigger":
                seen = lora_card.look(self.service, tab.row, place.slot, source, self.access())
                if seen is not None and not held.get("trigger_word"):
                    held = {**held, "trigger_word": seen.trigger_word}
                return {
                    tab.components["trigger_word"]: held["trigger_word"],
                    **self.said(tab, held, picture),
                    **self.loras.told(tab, held, names),
                }
            case "partner":
                seen = lora_card.look(self.service, tab.row, place.slot, source, self.access())
                partner = None if seen is None else self.loras.partner(tab, place, seen, names)
                moved = {} if partner is None else dict([partner])
            case "swap":
                (other,) = (slot for slot in tab.row.slots if slot != place.slot)
                there = form_schema.lora_name(other, place.number)
                moved = {there: source, place.lora: held.get(there) or form_schema.NO_LORA}
            case "open" if told.get("model") in self.rows:
                return self._open_with(self.rows[told["model"]], source, values, names, filled)
            case "fetch":
                try:
                    self.service.inspect(source, self.access())
                except WanUIError as error:
                    return {tab.cards[place.lora]: lora_card.html(lora_card.refused(source, error), tab.row, "", "")}
                return self._chosen(tab, place, held, picture, names, filled)
            case _:
                return {self.filled_in: filled}
        held = {**held, **moved}
        return {
            **{tab.components[name]: gr.Dropdown(value=value) for name, value in moved.items()},
            **self.said(tab, held, picture),
            **self.loras.told(tab, held, names),
        }

    def _open_with(
        self,
        tab: ModelTab,
        source: str,
        values: Mapping[str, tuple[form_schema.Values, Picture]],
        names: Mapping[str, str],
        filled: Mapping[str, str],
    ) -> Update:
        """Another tab with a file chosen there, on the side that the file is for."""
        held, picture = values[tab.row.id]
        side = self.service.inspect_lora(source, self.access())["slot"]
        place = form_schema.Place(side if side in tab.row.slots else next(iter(tab.row.slots)))
        return {
            tab.components[place.lora]: gr.Dropdown(value=source),
            **self._chosen(tab, place, {**held, place.lora: source}, picture, names, filled),
            self.tabs: gr.Tabs(selected=tab.row.id),
            self.place: tab.row.id,
        }
