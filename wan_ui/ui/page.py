"""The page: a tab per model beside what runs, the result and the lists; it submits, reads and cancels, no more."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import gradio as gr
from gradio.components import Component
from gradio.context import LocalContext
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from wan_ui.errors import RequestNotFound, WanUIError
from wan_ui.jobs.previews import wire_of
from wan_ui.jobs.visitor_desk import VisitorDesk
from wan_ui.models import MODELS, WanModel
from wan_ui.request import InferenceRequest, parse
from wan_ui.restore import hashes_of, restored
from wan_ui.ui import card, form, lora_card
from wan_ui.ui.arrived import arrived, decoded
from wan_ui.ui.compare_tab import ID as COMPARE
from wan_ui.ui.compare_tab import CompareTab
from wan_ui.ui.gallery import ID as GALLERY
from wan_ui.ui.gallery import GalleryTab
from wan_ui.ui.match import Match
from wan_ui.ui.restore_box import RestoreBox
from wan_ui.ui.tab import Picture, Tab, request_text, say
from wan_ui.ui.tab import build as build_tab
from wan_ui.ui.trainer_tab import ID as TRAINER
from wan_ui.ui.trainer_tab import TrainerTab, as_block
from wan_ui.visitors import IN_SCOPE, Who

if TYPE_CHECKING:
    from wan_ui.demo.checkpoints import Demo
    from wan_ui.jobs.desk import Desk
    from wan_ui.jobs.store import Job
    from wan_ui.request import Generation

RECENT = 40  # jobs looked at; the list of finished ones is at most as long
QUEUE_SHOWN = 60  # jobs of the line; a longer one would cost every page's every poll
REMEMBERED = 40  # uploads a browser keeps in mind
UPLOAD = "upload://"
# Not a secret: what it scrambles stays in its owner's browser. A fixed one is what lets it outlive a server restart.
STORAGE_SECRET = "wan-ui"
_HERE = Path(__file__).parent
_PICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-job]');
  if (button) trigger('click', {job: button.dataset.job});
});
"""
_PULSE = (_HERE / "pulse.js").read_text(encoding="utf-8")
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
_POLL: dict[str, Any] = {**_QUIET, "queue": False}
_EDIT: dict[str, Any] = {**_QUIET, "concurrency_limit": None}
_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]

# Gradio shows a tab that needs a second line in both lines.
_ONCE = "".join(
    f'#models > .tab-wrapper [data-tab-id="{tab}"] ~ [data-tab-id="{tab}"] {{ display: none; }}\n'
    for tab in (*MODELS, COMPARE, TRAINER, GALLERY)
)

LAUNCH: dict[str, Any] = {
    "theme": gr.themes.Base(
        primary_hue=gr.themes.colors.indigo, neutral_hue=gr.themes.colors.zinc, font=_FONT, font_mono=_MONO
    ),
    "css": (_HERE / "style.css").read_text(encoding="utf-8") + _ONCE,
    "js": f"() => {{ {(_HERE / 'page.js').read_text(encoding='utf-8')} }}",
    "footer_links": [],
    "run_history": False,
}
"""The arguments of `launch()` that belong to the page's looks."""

Update = dict[Any, Any]
"""What a handler changes; outputs it leaves out stay as they are."""

Choices = list[tuple[str, str]]


class Link(Protocol):
    """The public link, see tunnel.Tunnel."""

    @property
    def url(self) -> str | None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True)
class Sharing:
    """A link and what to sign in with."""

    link: Link
    user: str
    password: str


def build(
    desk: Desk,
    *,
    banner: str | None = None,
    demo: Demo | None = None,
    shared: bool = False,
    sharing: Sharing | None = None,
) -> gr.Blocks:
    """The page over a desk, to be served behind the gate, which says who asks.

    `banner` is a line on top; `demo` gives the starting values of its checkpoints; `shared`: visitors see each
    other's finished jobs; `sharing`: there may be a public link.
    """
    return Page(VisitorDesk(desk, asker, shared), banner, demo, sharing).blocks


def asker() -> Who:
    """Who sent the event that is being handled, by the gate's word in its request."""
    event = LocalContext.request.get()
    assert event is not None and event.request is not None
    who: Who = event.request.scope[IN_SCOPE]
    return who


def _stored(name: str, default: Any) -> gr.BrowserState:
    return gr.BrowserState(default, storage_key=f"wan-ui:{name}", secret=STORAGE_SECRET)


def _upload_names(value: Any) -> dict[str, str]:
    """Uploads a browser remembers, by source: the name each file had."""
    found = value.items() if isinstance(value, Mapping) else ()
    return {source: str(name) for source, name in found if str(source).startswith(UPLOAD)}


class Page:
    """Holds the components and the desk; every method named `on_…` is an event's handler."""

    def __init__(
        self, desk: VisitorDesk, banner: str | None, demo: Demo | None, sharing: Sharing | None = None
    ) -> None:
        self.desk = desk
        self.sharing = sharing
        self.picture_of = lru_cache(maxsize=256)(self._picture_of)
        self.blocks: gr.Blocks = gr.Blocks(title="wan-ui", analytics_enabled=False, fill_width=True)
        with self.blocks:
            self._lay_out(banner, demo)
            self._connect()
        self._keep_polls_light()

    def _keep_polls_light(self) -> None:
        """Lets events that show no progress keep their status at one component.

        Otherwise Gradio keeps one for every output that was ever written, and at each poll looks for all of them in
        the whole page: three quarters of a second of each second on two cores.
        """
        for event in self.blocks.fns.values():
            if event.show_progress == "hidden":
                event.show_progress_on = [self.seen]

    def _starting(self, row: WanModel, demo: Demo | None) -> dict[str, Any]:
        if demo is None:
            return {}
        from wan_ui.demo import checkpoints, offer

        first_frame = {} if row.control_image == "none" else {"ctrl_img": str(demo.first_frame)}
        if not demo.trained:
            return {**checkpoints.DEMO_DEFAULTS, **first_frame}
        listed = self.desk.library.listing()  # another LoRA folder may have been named
        loras = {form.lora_name(slot): path for slot, path in offer.loras_of(row).items() if path in listed}
        return {**offer.starting(row), **loras, **first_frame}

    def _lay_out(self, banner: str | None, demo: Demo | None) -> None:
        gr.HTML('<header class="top"><h1>wan-ui</h1><p>LoRA inference for Wan video models</p></header>')
        if banner:
            gr.HTML(f'<p class="banner" role="note">{escape(banner)}</p>')
        if demo is not None and demo.trained:
            from wan_ui.demo import offer

            gr.HTML(f'<p class="hint try">{escape(offer.TRY)}<br>{escape(offer.WORDS)}</p>')
        with gr.Row(elem_id="link-line", visible=False) as self.link_line:
            self.link = gr.HTML("", elem_id="link")
            self.stop_sharing = gr.Button("Stop sharing", size="sm", scale=0, visible=False, elem_id="stop-sharing")
        self.place = _stored("tab", None)
        self.uploads = _stored("uploads", {})
        drafts = {row_id: _stored(f"draft:{row_id}", None) for row_id in MODELS}
        stored = (_stored("comparison", None), _stored("draft:comparison", None))
        pin, opened = _stored("pin", None), _stored("trainer", None)
        self.picked = gr.State(None)
        # In the browser, not in gr.State: answers may overtake each other, and only there is it what the page shows.
        self.seen = gr.JSON({}, visible=False)
        # Until the page has shown the tab it was left with, Gradio's own first choice is nobody's.
        self.opened = gr.JSON({}, visible=False)
        self.pasted = gr.State(None)
        self.filled_in = gr.State({})
        choices = self.choices({})
        with gr.Row(elem_id="desk"):
            with gr.Tabs(overflow_behavior="wrap", elem_id="models") as self.tabs:
                self.rows = {
                    row.id: build_tab(row, self._starting(row, demo), choices, drafts[row.id])
                    for row in MODELS.values()
                }
                self.compare = CompareTab(self.desk, stored)
                self.trainer = TrainerTab(self.desk, opened)
                self.gallery = GalleryTab(self.desk)
            with gr.Column(elem_id="side"):
                with gr.Column(elem_id="now"):
                    self.now = gr.HTML(card.now(None, None, None))
                    self.cancel = gr.Button("Cancel", interactive=False, size="sm", elem_id="cancel")
                with gr.Column(elem_id="result"):
                    self.result = gr.HTML(card.result(None))
                    self.reuse = gr.Button("Use these settings", interactive=False, size="sm", elem_id="reuse")
                self.match = Match(self.desk, pin)
                with gr.Column(elem_classes="list"):
                    gr.HTML("<h2>Queue</h2>")
                    self.queue = gr.HTML(card.queue((), (), None), js_on_load=_PICK)
                with gr.Column(elem_classes="list"):
                    gr.HTML("<h2>Finished</h2>")
                    self.finished = gr.HTML(card.finished((), None), js_on_load=_PICK)
                with gr.Column(elem_classes="list"):
                    self.restore = RestoreBox()
                with gr.Accordion("Request as JSON", open=False, elem_id="json") as self.drawer:
                    self.text = gr.Textbox(
                        label="This form's request",
                        lines=8,
                        max_lines=16,
                        interactive=False,
                        buttons=["copy"],
                        elem_classes="code",
                    )
                    self.paste = gr.Textbox(
                        label="Paste a request",
                        lines=4,
                        max_lines=12,
                        elem_classes="code",
                        placeholder=f'{{"model": "{next(iter(MODELS))}", "prompts": [{{"prompt": "…"}}]}}',
                    )
                    self.paste_problem = gr.HTML(elem_classes="problems")
                    self.load = gr.Button("Load into the form", size="sm")
                    with gr.Column(visible=False) as self.many:
                        self.which = gr.Dropdown([], label="Prompt to show in the form", elem_classes="chooser")
                        self.run_all = gr.Button("Run all prompts as one job", size="sm")
                with gr.Accordion("As AI Toolkit sample block", open=False, elem_id="block"):
                    self.block = gr.Textbox(
                        label="For a job's config.yaml",
                        lines=8,
                        max_lines=24,
                        interactive=False,
                        buttons=["copy"],
                        elem_classes="code",
                    )
        self.pulse = gr.HTML("", js_on_load=_PULSE, elem_id="pulse")

    def _connect(self) -> None:
        filled = self._fill_outputs()
        self.view = view = [self.now, self.cancel, self.result, self.reuse, self.queue, self.finished, self.seen]
        view += [self.link_line, self.link, self.stop_sharing]
        for tab in self.rows.values():
            self._connect_tab(tab, view)
        looking = [self.picked, self.seen]
        self.pulse.click(self.look, looking, view, **_POLL)
        self.cancel.click(self.on_cancel, looking, view, **_QUIET)
        self.stop_sharing.click(self.on_stop_sharing, looking, view, **_QUIET)
        self.queue.click(self.on_remove, looking, view, **_QUIET)
        self.finished.click(
            self.on_pick,
            [*looking, self.place, self.compare.seen],
            [self.picked, self.tabs, self.place, *view, *self.compare.view],
            **_QUIET,
        )
        loaded = [self.paste_problem, self.pasted, self.many, self.which, self.run_all, self.drawer, *filled]
        loaded += self.compare.forms
        self.loaded = loaded
        self.load.click(self.on_load_text, [self.paste, self.uploads], loaded, **_QUIET)
        self.reuse.click(self.on_reuse, [self.seen, self.uploads], loaded, **_QUIET)
        self.which.input(self.on_which, [self.pasted, self.which, self.uploads], loaded, **_QUIET)
        self.run_all.click(self.on_run_all, [self.pasted, *looking], [self.paste_problem, self.picked, *view], **_QUIET)
        drafts = [tab.draft for tab in self.rows.values()]
        held = [component for tab in self.rows.values() for component in tab.inputs]
        presses = [about.click for tab in self.rows.values() for about in tab.cards.values()]
        gr.on(
            presses,
            self.on_card,
            [self.uploads, self.filled_in, *held],
            [self.filled_in, *filled],
            concurrency_limit=8,
            **_QUIET,
        )
        self.blocks.load(self.look, looking, view, **_POLL)
        opened = self.blocks.load(self.on_open, [self.place, self.uploads, *drafts], filled, **_POLL)
        self.compare.connect(self, opened)
        self.match.connect(self)
        self.restore.connect(self)
        self.trainer.connect(self, self.match, opened)
        self.gallery.connect(self)
        self.text.change(as_block, [self.text], [self.block], **_EDIT)

    def _connect_tab(self, tab: Tab, view: Sequence[Component]) -> None:
        said = [*tab.said.values(), *([tab.shape] if tab.shape is not None else []), self.text, tab.draft]
        edits: list[Any] = []
        for name, component in tab.components.items():
            if isinstance(component, gr.Image):
                edits += [component.upload, component.clear]
            elif name not in tab.cards and name != "trigger_word":
                # Not change: it also answers what this page itself writes, in the midst of its writing.
                edits.append(component.input)
        # Queued, because only then does always_last hold back: unqueued answers may overtake each other.
        gr.on(edits, lambda *held: self.on_edit(tab, held), tab.inputs, said, trigger_mode="always_last", **_EDIT)
        tab.container.select(
            lambda opened, *held: self.on_tab(tab, opened, held),
            [self.opened, *tab.inputs],
            [self.text, self.place],
            **_EDIT,
        )
        sizes = [tab.components["width"], tab.components["height"], *said]
        for preset, button in tab.presets:
            button.click(
                lambda *held, preset=preset: self.on_size(tab, held, (preset.width, preset.height)),
                tab.inputs,
                sizes,
                **_EDIT,
            )
        if tab.shape is not None:
            tab.shape.click(lambda *held: self.on_shape(tab, held), tab.inputs, sizes, **_EDIT)
        choosers = self._choosers()
        told = [*said, *self._told(tab)]
        own = [tab.components[name] for name in tab.cards]
        tab.refresh.click(
            lambda names, *held: self.on_refresh(tab, names, held),
            [self.uploads, *tab.inputs],
            [*choosers, *told],
            **_EDIT,
        )
        tab.components["trigger_word"].input(
            lambda names, *held: self.on_told(tab, names, held),
            [self.uploads, *tab.inputs],
            told,
            trigger_mode="always_last",
            **_EDIT,
        )
        for slot, another in tab.another.items():
            rows = [tab.rows[place.lora] for place in form.places(tab.row) if place.lora in tab.rows]
            another.click(
                lambda height, slot=slot: self.on_another(tab, slot, height),
                [tab.height],
                [tab.height, *rows, *tab.another.values()],
                **_EDIT,
            )
        for place in form.places(tab.row):
            tab.components[place.lora].input(
                lambda names, filled, *held, place=place: self.on_lora(tab, place, names, filled, held),
                [self.uploads, self.filled_in, *tab.inputs],
                [self.filled_in, *own, *told],
                trigger_mode="always_last",
                **_EDIT,
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
        tab.generate.click(
            lambda seen, pin, *held: self.on_generate(tab, seen, pin, held),
            [self.seen, self.match.pin, *tab.inputs],
            [tab.problem, self.picked, *view],
            api_visibility="private",
            show_progress="minimal",
            show_progress_on=[tab.problem],
            preprocess=False,
            concurrency_limit=8,
        )

    def _choosers(self) -> list[Component]:
        return [tab.components[name] for tab in self.rows.values() for name in tab.cards]

    def _told(self, tab: Tab) -> list[Any]:
        """What belongs to a tab's LoRA files: cards, the pair's note, the rows that are seen."""
        return [*tab.cards.values(), tab.pair, *tab.rows.values(), *tab.another.values(), tab.height]

    def _fill_outputs(self) -> list[Component | gr.Tabs]:
        found: list[Any] = [self.tabs, self.text, self.place, self.opened]
        for tab in self.rows.values():
            found += [*tab.inputs, *tab.said.values(), *([tab.shape] if tab.shape is not None else []), tab.draft]
            found += [*self._told(tab), tab.problem]
        return found

    # What a tab holds

    def choices(self, uploads: Mapping[str, str]) -> Choices:
        """(label, source) of every LoRA that can be chosen: none, this browser's uploads, the LoRA folder."""
        return [
            (form.NO_LORA_LABEL, form.NO_LORA),
            *((f"{name} (uploaded)", source) for source, name in reversed(list(uploads.items()))),
            *((path, path) for path in self.desk.library.listing()),
        ]

    def _picture_of(self, path: Path) -> tuple[str, tuple[int, int]]:
        data = path.read_bytes()
        sha256 = self.desk.images.put_bytes(data)
        with Image.open(io.BytesIO(data)) as image:
            return UPLOAD + sha256, image.size

    def held(self, tab: Tab, raw: Sequence[Any]) -> tuple[form.Values, Picture]:
        """A tab's values with the first frame stored and as its reference, from raw component values."""
        found = tab.named(raw)
        payload = found.pop("ctrl_img", None)
        path = payload.get("path") if isinstance(payload, Mapping) else None
        if not path:
            return found, Picture()
        try:
            # Gradio keeps an upload under the hash of its bytes, so a path never changes its meaning.
            reference, size = self.picture_of(arrived(path, self.desk.may_open))
            self.desk.keep_image(reference.removeprefix(UPLOAD))
        except WanUIError as error:
            return found, Picture(error=error)
        return {**found, "ctrl_img": reference}, Picture(reference, size)

    def said(self, tab: Tab, held: form.Values, picture: Picture) -> Update:
        return {**say(tab, held, picture), self.text: request_text(tab.row, held), tab.draft: held}

    def told(self, tab: Tab, held: form.Values, names: Mapping[str, str]) -> Update:
        """The cards of a tab's LoRA files and the note on a pair. `names` are this browser's uploads."""
        row, trigger = tab.row, str(held.get("trigger_word") or "")
        found: Update = {}
        cards: dict[str, lora_card.Card | None] = {}
        for place in form.places(row):
            seen = cards[place.lora] = lora_card.look(self.desk, row, place.slot, held.get(place.lora) or "")
            beside = ""
            if seen is not None and place.number == 1:
                other = self._partner(tab, place, seen, names)
                if other is not None and held.get(other[0]) != other[1]:
                    beside = names.get(other[1], other[1])
            found[tab.cards[place.lora]] = lora_card.html(seen, row, place.lora, trigger, beside)
        first = {slot: form.lora_name(slot) for slot in row.slots}
        found[tab.pair] = lora_card.pair(
            self.desk,
            row,
            {slot: held.get(name) or "" for slot, name in first.items()},
            {slot: cards[name] for slot, name in first.items()},
        )
        return found

    def _partner(
        self, tab: Tab, place: form.Place, seen: lora_card.Card, names: Mapping[str, str]
    ) -> tuple[str, str] | None:
        """The control and the source of the other half of a file that stands where its name says it belongs."""
        if seen.slot != place.slot or seen.state == "bad" or seen.partner is None:
            return None
        if seen.partner.startswith(UPLOAD) and seen.partner not in names:
            return None  # another visitor's
        other = next(slot for slot in tab.row.slots if slot != place.slot)
        return form.lora_name(other), seen.partner

    def _pair_up(
        self, tab: Tab, place: form.Place, held: form.Values, names: Mapping[str, str], filled: Mapping[str, str]
    ) -> tuple[form.Values, dict[str, str]]:
        """The values with the other half of a pair beside the half just chosen, and what was so filled in.

        What the person chose is never replaced; what was filled in goes with the file that it was filled in for.
        """
        filled = {**filled}
        filled.pop(f"{tab.row.id}:{place.lora}", None)
        if not tab.row.two_transformers or place.number != 1 or not held.get(place.lora):
            return held, filled
        seen = lora_card.look(self.desk, tab.row, place.slot, held[place.lora])
        partner = None if seen is None else self._partner(tab, place, seen, names)
        (other,) = (form.lora_name(slot) for slot in tab.row.slots if slot != place.slot)
        key = f"{tab.row.id}:{other}"
        ours = bool(held.get(other)) and filled.get(key) == held.get(other)
        if partner is not None and (ours or not held.get(other)):
            return {**held, other: partner[1]}, {**filled, key: partner[1]}
        if partner is None and ours:
            filled.pop(key)
            return {**held, other: form.NO_LORA}, filled
        return held, filled

    def _rows(self, tab: Tab, height: Mapping[str, int]) -> Update:
        """Shows as many rows of each slot as `height` says."""
        found: Update = {tab.height: dict(height)}
        for place in form.places(tab.row):
            if place.lora in tab.rows:
                seen = place.number <= height[place.slot]
                found[tab.rows[place.lora]] = gr.Column(visible=seen)
        for slot, button in tab.another.items():
            found[button] = gr.Button(visible=height[slot] < form.MOST_STACKED)
        return found

    def _offer(self, choices: Choices, *tabs: Tab) -> Update:
        """The LoRA files to choose from, in the choosers of some tabs, of all when none is given."""
        return {
            tab.components[name]: gr.Dropdown(choices=choices)
            for tab in tabs or self.rows.values()
            for name in tab.cards
        }

    def fill(self, tab: Tab, held: form.Values, names: Mapping[str, str]) -> Update:
        """Shows values in a tab; a first frame that is gone is left out. `names` are this browser's uploads."""
        found: Update = {}
        choices = self.choices(names)
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
        told = {**self.told(tab, held, names), **self._rows(tab, form.shown_rows(tab.row, held))}
        return {**found, **self.said(tab, held, picture), **told, tab.problem: ""}

    def _shown_image(self, reference: str | None) -> tuple[str | None, Picture]:
        """A kept first frame as a file that Gradio may show: the very bytes, so that it stays the same image."""
        if not reference:
            return None, Picture()
        try:
            data = self.desk.images.data(reference.removeprefix(UPLOAD))
        except WanUIError as error:
            return None, Picture(error=error)
        with Image.open(io.BytesIO(data)) as image:
            size, extension = image.size, (image.format or "PNG").lower()
        path = save_bytes_to_cache(data, f"first-frame.{extension}", cache_dir=self._image_cache())
        return path, Picture(reference, size)

    def put_first_frame(self, tab: Tab, held: form.Values, reference: str) -> Update:
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

    def left(self, tab: Tab, draft: Any) -> form.Values | None:
        """A tab's values as a browser left them over its starting ones; None for a tab that it never changed."""
        kept = form.kept(tab.row, draft)
        return {**self.starting_values(tab)[0], **kept} if kept else None

    def starting_values(self, tab: Tab) -> tuple[form.Values, Picture]:
        """What a tab holds when a page opens. From here and not from the page: a load's inputs slow a page for good."""
        return self.held(tab, [component.get_config()["value"] for component in tab.inputs])

    def on_open(self, place: Any, uploads: Any, *drafts: Any) -> Update:
        """A page that opens: drafts, the tab that was open, and the notes and request that belong to them."""
        names = _upload_names(uploads)
        choices = self.choices(names)
        was_left = isinstance(place, str) and place in (*self.rows, COMPARE, TRAINER, GALLERY)
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
                shown = {**self.said(tab, held, picture), **self._offer(choices, tab), **self.told(tab, held, names)}
                del shown[tab.draft]  # an untouched form keeps following the server's starting values
            if tab.row.id != opened:
                del shown[self.text]
            found |= shown
        return found

    def on_edit(self, tab: Tab, raw: Sequence[Any]) -> Update:
        return self.said(tab, *self.held(tab, raw))

    def on_tab(self, tab: Tab, opened: Any, raw: Sequence[Any]) -> Update:
        held, _ = self.held(tab, raw)
        return {self.text: request_text(tab.row, held), **({self.place: tab.row.id} if opened else {})}

    def on_size(self, tab: Tab, raw: Sequence[Any], size: tuple[int, int]) -> Update:
        held, picture = self.held(tab, raw)
        held |= {"width": size[0], "height": size[1]}
        return {
            tab.components["width"]: size[0],
            tab.components["height"]: size[1],
            **self.said(tab, held, picture),
        }

    def on_shape(self, tab: Tab, raw: Sequence[Any]) -> Update:
        held, picture = self.held(tab, raw)
        size = form.size(tab.row, held)
        if picture.size is None or size is None:
            return self.said(tab, held, picture)
        return self.on_size(tab, raw, form.image_shape(tab.row, held["recipe"], size[:2], picture.size))

    def on_refresh(self, tab: Tab, uploads: Any, raw: Sequence[Any]) -> Update:
        names = _upload_names(uploads)
        return {**self._offer(self.choices(names)), **self.on_told(tab, uploads, raw)}

    def on_told(self, tab: Tab, uploads: Any, raw: Sequence[Any]) -> Update:
        held, picture = self.held(tab, raw)
        return {**self.said(tab, held, picture), **self.told(tab, held, _upload_names(uploads))}

    def on_another(self, tab: Tab, slot: str, height: Any) -> Update:
        return self._rows(tab, {**height, slot: min(height[slot] + 1, form.MOST_STACKED)})

    def on_lora(
        self, tab: Tab, place: form.Place, uploads: Any, filled: Mapping[str, str], raw: Sequence[Any]
    ) -> Update:
        """A file was chosen or typed: its card, and the other half of its pair."""
        held, picture = self.held(tab, raw)
        return self._chosen(tab, place, held, picture, _upload_names(uploads), filled)

    def _chosen(
        self,
        tab: Tab,
        place: form.Place,
        held: form.Values,
        picture: Picture,
        names: Mapping[str, str],
        filled: Mapping[str, str],
    ) -> Update:
        paired, filled = self._pair_up(tab, place, held, names, filled)
        changed = {name: paired[name] for name in tab.cards if paired.get(name) != held.get(name)}
        return {
            **{tab.components[name]: gr.Dropdown(value=value) for name, value in changed.items()},
            self.filled_in: filled,
            **self.said(tab, paired, picture),
            **self.told(tab, paired, names),
        }

    def on_upload(
        self,
        tab: Tab,
        place: form.Place,
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
            source = self.desk.library.add_upload(arrived(file["path"], self.desk.may_open), name)
        except WanUIError as error:
            return {tab.uploads[place.lora]: None, tab.problem: card.problem(error)}
        names = {**_upload_names(uploads)}
        names.pop(source, None)
        names[source] = name
        names = dict(list(names.items())[-REMEMBERED:])
        chosen = self._chosen(tab, place, {**held, place.lora: source}, picture, names, filled)
        choices = self.choices(names)
        values = chosen[tab.draft]
        return {
            **chosen,
            **self._offer(choices),
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
            None if tab is None else next((one for one in form.places(tab.row) if one.lora == told.get("place")), None)
        )
        if tab is None or place is None:
            return {self.filled_in: filled}
        parts = iter(raw)
        values = {one.row.id: self.held(one, list(islice(parts, len(one.components)))) for one in self.rows.values()}
        names = _upload_names(uploads)
        held, picture = values[tab.row.id]
        source = held.get(place.lora) or ""
        match told.get("do"):
            case "trigger":
                seen = lora_card.look(self.desk, tab.row, place.slot, source)
                if seen is not None and not held.get("trigger_word"):
                    held = {**held, "trigger_word": seen.trigger_word}
                return {
                    tab.components["trigger_word"]: held["trigger_word"],
                    **self.said(tab, held, picture),
                    **self.told(tab, held, names),
                }
            case "partner":
                seen = lora_card.look(self.desk, tab.row, place.slot, source)
                partner = None if seen is None else self._partner(tab, place, seen, names)
                moved = {} if partner is None else dict([partner])
            case "swap":
                (other,) = (slot for slot in tab.row.slots if slot != place.slot)
                there = form.lora_name(other, place.number)
                moved = {there: source, place.lora: held.get(there) or form.NO_LORA}
            case "open" if told.get("model") in self.rows:
                return self._open_with(self.rows[told["model"]], source, values, names, filled)
            case "fetch":
                try:
                    self.desk.inspect(source)
                except WanUIError as error:
                    return {tab.cards[place.lora]: lora_card.html(lora_card.refused(source, error), tab.row, "", "")}
                return self._chosen(tab, place, held, picture, names, filled)
            case _:
                return {self.filled_in: filled}
        held = {**held, **moved}
        return {
            **{tab.components[name]: gr.Dropdown(value=value) for name, value in moved.items()},
            **self.said(tab, held, picture),
            **self.told(tab, held, names),
        }

    def _open_with(
        self,
        tab: Tab,
        source: str,
        values: Mapping[str, tuple[form.Values, Picture]],
        names: Mapping[str, str],
        filled: Mapping[str, str],
    ) -> Update:
        """Another tab with a file chosen there, on the side that the file is for."""
        held, picture = values[tab.row.id]
        side = self.desk.inspect_lora(source)["slot"]
        place = form.Place(side if side in tab.row.slots else next(iter(tab.row.slots)))
        return {
            tab.components[place.lora]: gr.Dropdown(value=source),
            **self._chosen(tab, place, {**held, place.lora: source}, picture, names, filled),
            self.tabs: gr.Tabs(selected=tab.row.id),
            self.place: tab.row.id,
        }

    # Jobs

    def on_generate(self, tab: Tab, seen: Mapping[str, Any], pin: Any, raw: Sequence[Any]) -> Update:
        held, picture = self.held(tab, raw)
        try:
            if picture.error is not None:
                raise picture.error
            self.desk.submit(self.match.pinned(form.body(tab.row, held), pin))
        except WanUIError as error:
            return {tab.problem: card.problem(error, lambda location: form.label_of(tab.row, location))}
        return {tab.problem: "", **self.follow(seen)}

    def follow(self, seen: Mapping[str, Any]) -> Update:
        """The right column after a job was added: the card turns to it."""
        return {self.picked: None, **self.look(None, seen)}

    def on_cancel(self, picked: str | None, seen: Mapping[str, Any]) -> Update:
        """Cancels the job that the card shows, which is the one the person saw."""
        if seen.get("cancel") and seen.get("lead"):
            self.desk.cancel(str(seen["lead"]))
        return self.look(picked, seen)

    def on_stop_sharing(self, picked: str | None, seen: Mapping[str, Any]) -> Update:
        """Closes the public link, for the owner alone; the password is asked for as before."""
        if self.sharing is not None and self.desk.who.owner:
            self.sharing.link.stop()
        return self.look(picked, seen)

    def on_remove(self, picked: str | None, seen: Mapping[str, Any], event: gr.EventData) -> Update:
        try:
            self.desk.cancel(str(event.job))
        except WanUIError as error:
            raise gr.Error(error.message, print_exception=False) from error
        return self.look(picked, seen)

    def on_pick(
        self, picked: str | None, seen: Mapping[str, Any], place: Any, compared: Any, event: gr.EventData
    ) -> Update:
        """A job of the list is shown where it belongs; the Compare tab has no room for a job that is no comparison."""
        chosen = str(event.job)
        found = {self.picked: chosen, **self.look(chosen, seen)}
        if place != COMPARE:
            return found
        try:
            job = self.desk.job(chosen)
        except WanUIError as error:
            raise gr.Error(error.message, print_exception=False) from error
        if job.cells:
            return {**found, self.compare.shown: chosen, **self.compare.look(chosen, compared)}
        model = job.generations[0].model
        return {**found, self.tabs: gr.Tabs(selected=model), self.place: model}

    def look(self, picked: str | None, seen: Mapping[str, Any] | None) -> Update:
        """What the right column shows now; parts that are as they were are left out."""
        seen = seen if isinstance(seen, Mapping) else {}
        try:
            line, recent = self.desk.line(QUEUE_SHOWN), self.desk.recent(RECENT)
            own = {job.id for job in (*line, *recent) if self.desk.is_mine(job)}
            lead = _lead(line, recent, own)
            shown = self._shown(picked, recent, own)
            running = line[0] if line and line[0].status == "in_progress" else None
            ahead = None
            if running is not None and (lead is None or running.id != lead.id):
                ahead = (running, self.desk.progress(running.id))
            progress = self.desk.progress(lead.id) if lead is not None else None
        except WanUIError as error:
            return self._changed({"now": card.trouble(error)}, seen)
        ended = [job for job in recent if job.status not in card.LIVE]
        # The card's button ends only what this browser began; another's job that it shows stands in the queue too.
        others = [job for job in line if lead is None or job.id != lead.id or lead.id not in own]
        waiting = ((job.id, self.desk.progress(job.id)) for job in others if job.status == "in_queue")
        fetching = {job_id: progress for job_id, progress in waiting if progress is not None}
        stoppable = lead is not None and lead.id in own and lead.status in card.LIVE and not lead.cancel_requested
        removable = {job.id for job in others if self.desk.may_change(job)}
        return self._changed(
            {
                "now": card.now(lead, progress, ahead),
                "cancel": stoppable,
                "result": card.result(shown),
                "reuse": shown is not None,
                "queue": card.queue(others, own, ahead, fetching, removable),
                "finished": card.finished(ended, shown.id if shown else None),
                "link": self._link(),
                "stop": self._link() != "" and self.desk.who.owner,
                "lead": lead.id if lead else None,
                "shown": shown.id if shown else None,
            },
            seen,
        )

    def _link(self) -> str:
        """What the page says of the public link: to all that it is on, to the owner how to come in."""
        url = None if self.sharing is None else self.sharing.link.url
        if self.sharing is None or url is None:
            return ""
        if not self.desk.who.owner:
            return '<p class="banner" role="note">This page is open to everybody who has its link and password.</p>'
        said = {
            "Link": f'<a href="{escape(url, quote=True)}" rel="noreferrer">{escape(url)}</a>',
            "Name": f"<code>{escape(self.sharing.user)}</code>",
            "Password": f"<code>{escape(self.sharing.password)}</code>",
        }
        facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in said.items())
        return (
            '<div class="banner" role="note"><p><strong>The public link is on.</strong> Whoever has it and the '
            f"password can use this page.</p><dl>{facts}</dl></div>"
        )

    def _changed(self, wanted: Mapping[str, Any], seen: Mapping[str, Any]) -> Update:
        """Updates for the parts that differ from what the page has; a video is never replaced by itself."""
        marks = {name: _mark(value) for name, value in wanted.items()}
        changed = {name: value for name, value in wanted.items() if seen.get(name, "") != marks[name]}
        if not changed:
            return {self.seen: gr.skip()}
        made: Update = {self.seen: {**seen, **marks}}
        html = {"now": self.now, "result": self.result, "queue": self.queue, "finished": self.finished}
        html["link"] = self.link
        if "link" in changed:
            made[self.link_line] = gr.Row(visible=bool(changed["link"]))
        if "stop" in changed:
            made[self.stop_sharing] = gr.Button(visible=changed["stop"])
        buttons = {"cancel": self.cancel, "reuse": self.reuse}
        for name, value in changed.items():
            if name in html:
                made[html[name]] = value
            elif name in buttons:
                made[buttons[name]] = gr.Button(interactive=value)
        return made

    def _shown(self, picked: str | None, recent: Sequence[Job], own: Collection[str]) -> Job | None:
        """The job whose clips are shown: the picked one, else the newest own one with clips, else the newest."""
        if picked:
            try:
                return self.desk.job(picked)
            except RequestNotFound:
                pass  # a list that was left open over a change of data folder
        with_clips = [job for job in recent if job.clips]
        return next((job for job in with_clips if job.id in own), with_clips[0] if with_clips else None)

    # Requests as JSON

    def on_load_text(self, text: Any, uploads: Any) -> Update:
        try:
            return self.open_request(decoded(str(text or "")), 0, uploads)
        except WanUIError as error:
            return {self.paste_problem: card.problem(error)}

    def on_which(self, pasted: Any, index: Any, uploads: Any) -> Update:
        try:
            return self.open_request(pasted, int(index or 0), uploads)
        except WanUIError as error:
            return {self.paste_problem: card.problem(error)}

    def on_reuse(self, seen: Mapping[str, Any], uploads: Any) -> Update:
        """The shown job's request back in the form, with the seeds that were really used."""
        try:
            return self.reopen(self.desk.job(str(seen.get("shown"))), None, uploads)
        except WanUIError as error:
            return {self.paste_problem: card.problem(error), self.drawer: gr.Accordion(open=True)}

    def reopen(self, job: Job, index: int | None, uploads: Any) -> Update:
        """A job's request, or one of its clips', in the form: seeds as they were used, LoRA files found by content.

        Raises what open_request raises.
        """
        wire = dict(job.request if index is None else wire_of(job, index))
        made = job.generations if index is None else job.generations[index : index + 1]
        return self.reopen_request(wire, made, uploads)

    def reopen_request(self, wire: Mapping[str, Any], made: Sequence[Generation], uploads: Any) -> Update:
        """A stored request in the form, with the seeds of what it made, one for each prompt, and its LoRA files found.

        What is not as it was stands in the form's tab. Raises what open_request raises.
        """
        prompts = [{**item, "seed": generation.seed} for item, generation in zip(wire["prompts"], made, strict=False)]
        notes = []
        for item in prompts:
            image = str(item.get("ctrl_img") or "").removeprefix(UPLOAD)
            if image and not self.desk.images.has(image):
                del item["ctrl_img"]
                notes.append("The image it starts from is not here any more: choose one again.")
        sha256s = hashes_of(asdict(use) for generation in made for use in generation.loras)
        found = restored({**wire, "prompts": prompts}, self.desk.library, sha256s)
        shown = self.open_request(found.request, 0, uploads)
        notes += found.notes
        if not notes:
            return shown
        said = card.notes(tuple(dict.fromkeys(notes)))
        row = self.rows[found.request["model"]]
        return {**shown, (self.compare.said if wire.get("compare") else row.problem): said}

    def open_request(self, body: Any, index: int, uploads: Any) -> Update:
        """Shows one prompt of a request in its model's tab; with several prompts, lets choose or run them all."""
        request = parse(body)
        row, held = form.values(request, index, self._is_combined)
        tab = self.rows[row.id]
        if held.get("ctrl_img"):
            held["ctrl_img"] = UPLOAD + self.desk.images.put(held["ctrl_img"])
        names = _upload_names(uploads)
        for name in tab.cards:
            source = held[name]
            if source.startswith(UPLOAD) and source not in names:
                names[source] = self.desk.library.locate(source).name
        several = len(request.prompts) > 1
        found: Update = {
            **self.fill(tab, held, names),
            self.tabs: gr.Tabs(selected=row.id),
            self.place: row.id,
            self.paste_problem: "",
            self.pasted: body if several else None,
            self.many: gr.Column(visible=several),
        }
        if several:
            found[self.which] = gr.Dropdown(choices=_prompt_names(request), value=index)
            found[self.run_all] = gr.Button(f"Run all {len(request.prompts)} prompts as one job")
            found[self.drawer] = gr.Accordion(open=True)
        if request.compare is not None:
            found |= self.compare.open(row, held, request.compare)
        return found

    def _is_combined(self, path: str) -> bool:
        try:
            return self.desk.lora_at_hand(path) and self.desk.inspect_lora(path)["slot"] == "combined"
        except WanUIError:
            return False  # the card says what is wrong with it

    def on_run_all(self, pasted: Any, picked: str | None, seen: Mapping[str, Any]) -> Update:
        try:
            self.desk.submit(pasted)
        except WanUIError as error:
            return {self.paste_problem: card.problem(error)}
        return {self.paste_problem: "", **self.follow(seen)}


def _mark(value: Any) -> Any:
    """What stands for a part of the page in `seen`: long HTML as its hash, as it travels with every poll."""
    if isinstance(value, str) and len(value) > 64:
        return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return value


def _lead(line: Sequence[Job], recent: Sequence[Job], own: Collection[str]) -> Job | None:
    """The job the card is about: one's own that is next to end, else one's own failure, else whatever runs."""
    live = next((job for job in line if job.id in own), None)
    if live is not None:
        return live
    ended = next((job for job in recent if job.id in own), None)
    running = line[0] if line else None
    if ended is not None and (running is None or ended.status == "failed"):
        return ended
    return running


def _prompt_names(request: InferenceRequest) -> list[tuple[str, int]]:
    """(label, index) of each prompt of a request."""
    return [
        (f"{index + 1}. {' '.join(item.prompt.split())[:80] or '(no prompt)'}", index)
        for index, item in enumerate(request.prompts)
    ]
