"""The page: a tab per model beside what runs, the result and the lists; it submits, reads and cancels, no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import LocalContext

from wan_ui.access import Access
from wan_ui.errors import WanUIError
from wan_ui.identity import IDENTITY_SCOPE_KEY, Identity
from wan_ui.models import WanModel
from wan_ui.ui import form_schema, render
from wan_ui.ui.compare_tab import ID as COMPARE
from wan_ui.ui.compare_tab import CompareTab
from wan_ui.ui.events import EDIT, POLL, QUIET, Update, filled
from wan_ui.ui.gallery import ID as GALLERY
from wan_ui.ui.gallery import GalleryTab
from wan_ui.ui.load_request import RequestLoader
from wan_ui.ui.model_tab import ModelTab
from wan_ui.ui.model_tabs import ModelTabs, code_to_copy, stored
from wan_ui.ui.preview_panel import PreviewPanel
from wan_ui.ui.restore_box import RestoreBox
from wan_ui.ui.status_panel import Sharing, StatusPanel
from wan_ui.ui.training_job_tab import ID as TRAINER
from wan_ui.ui.training_job_tab import TrainingJobTab, as_block

if TYPE_CHECKING:
    from wan_ui.demo.checkpoints import Demo
    from wan_ui.jobs.service import JobService

OTHERS = (COMPARE, TRAINER, GALLERY)
"""The ids of the tabs that are no model's."""
_HERE = Path(__file__).parent
_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]

LAUNCH: dict[str, Any] = {
    "theme": gr.themes.Base(
        primary_hue=gr.themes.colors.indigo, neutral_hue=gr.themes.colors.zinc, font=_FONT, font_mono=_MONO
    ),
    "css": (_HERE / "style.css").read_text(encoding="utf-8"),
    "js": f"() => {{ {(_HERE / 'page.js').read_text(encoding='utf-8')} }}",
    "footer_links": [],
    "run_history": False,
}
"""The arguments of `launch()` that belong to the page's looks."""


def build(
    service: JobService,
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
    return Page(service, lambda: Access(asker(), shared), banner, demo, sharing).blocks


def asker() -> Identity:
    """Who sent the event that is being handled, by the gate's word in its request."""
    event = LocalContext.request.get()
    assert event is not None and event.request is not None
    who: Identity = event.request.scope[IDENTITY_SCOPE_KEY]
    return who


class Page:
    """Holds the rooms of the page; every method named `on_…` is an event's handler."""

    def __init__(
        self,
        service: JobService,
        access: Callable[[], Access],
        banner: str | None,
        demo: Demo | None,
        sharing: Sharing | None = None,
    ) -> None:
        self.service = service
        self.access = access
        self.blocks: gr.Blocks = gr.Blocks(title="wan-ui", analytics_enabled=False, fill_width=True)
        with self.blocks:
            self._lay_out(banner, demo, sharing)
            self._connect()
        self._keep_polls_light()

    def _keep_polls_light(self) -> None:
        """Lets events that show no progress keep their status at one component.

        Otherwise Gradio keeps one for every output that was ever written, and at each poll looks for all of them in
        the whole page: three quarters of a second of each second on two cores.
        """
        for event in self.blocks.fns.values():
            if event.show_progress == "hidden":
                event.show_progress_on = [self.side.seen]

    def _starting(self, row: WanModel, demo: Demo | None) -> dict[str, Any]:
        if demo is None:
            return {}
        from wan_ui.demo import examples

        first_frame = {} if row.control_image == "none" else {"ctrl_img": str(demo.first_frame)}
        listed = self.service.library.listing()  # another LoRA folder may have been named
        loras = {form_schema.lora_name(slot): path for slot, path in examples.loras_of(row).items() if path in listed}
        return {**examples.starting(row), **loras, **first_frame}

    def _lay_out(self, banner: str | None, demo: Demo | None, sharing: Sharing | None) -> None:
        gr.HTML('<header class="top"><h1>wan-ui</h1><p>LoRA inference for Wan video models</p></header>')
        if banner:
            gr.HTML(f'<p class="banner" role="note">{render.sentence(banner)}</p>')
        if demo is not None:
            from wan_ui.demo import examples

            gr.HTML(f'<p class="hint try">{escape(examples.TRY)}<br>{escape(examples.WORDS)}</p>')
        self.side = StatusPanel(self.service, self.access, sharing)
        self.forms = ModelTabs(self.service, self.access, OTHERS)
        compared = (stored("comparison", None), stored("draft:comparison", None))
        pin, trained = stored("pin", None), stored("trainer", None)
        with gr.Row(elem_id="desk"):
            with gr.Tabs(overflow_behavior="wrap", elem_id="models") as tabs:
                self.forms.lay_out(tabs, lambda row: self._starting(row, demo))
                self.compare = CompareTab(self.service, self.access, self.forms, self.side, compared)
                self.trainer = TrainingJobTab(self.service, self.access, trained)
                self.gallery = GalleryTab(self.service, self.access)
            with gr.Column(elem_id="side"):
                self.side.lay_out_now()
                self.match = PreviewPanel(self.service, self.access, pin)
                self.side.lay_out_lists()
                with gr.Column(elem_classes="list"):
                    self.restore = RestoreBox()
                self.drawer = RequestLoader(self.service, self.access, self.forms, self.compare, self.side)
                with gr.Accordion("As AI Toolkit sample block", open=False, elem_id="block"):
                    self.block = code_to_copy("For a job's config.yaml", 24)
        self.side.lay_out_pulse()

    def _connect(self) -> None:
        forms, side = self.forms, self.side
        forms.connect()
        for tab in forms.rows.values():
            tab.generate.click(
                lambda seen, pin, *held, tab=tab: self.on_generate(tab, seen, pin, held),
                [side.seen, self.match.pin, *tab.inputs],
                [tab.problem, side.picked, *side.view],
                api_visibility="private",
                show_progress="minimal",
                show_progress_on=[tab.problem],
                preprocess=False,
                concurrency_limit=8,
            )
        side.connect(self.blocks)
        side.finished.click(
            self.on_pick,
            [*side.looking, forms.place, self.compare.seen],
            [side.picked, forms.tabs, forms.place, *side.view, *self.compare.view],
            **QUIET,
        )
        drafts = [tab.draft for tab in forms.rows.values()]
        opened = self.blocks.load(forms.on_open, [forms.place, forms.uploads, *drafts], forms.filled, **POLL)
        opened.then(**filled("#models"))
        self.compare.connect(opened)
        self.drawer.connect()
        self.match.connect(self.drawer)
        self.restore.connect(self.drawer)
        self.trainer.connect(self.drawer, self.match, opened)
        self.gallery.connect(self.drawer)
        forms.text.change(as_block, [forms.text], [self.block], **EDIT)

    def on_generate(self, tab: ModelTab, seen: Mapping[str, Any], pin: Any, raw: Sequence[Any]) -> Update:
        held, picture = self.forms.held(tab, raw)
        try:
            if picture.error is not None:
                raise picture.error
            self.service.submit(self.match.pinned(form_schema.body(tab.row, held), pin), self.access())
        except WanUIError as error:
            return {tab.problem: render.problem(error, lambda location: form_schema.label_of(tab.row, location))}
        return {tab.problem: "", **self.side.follow(seen)}

    def on_pick(
        self, picked: str | None, seen: Mapping[str, Any], place: Any, compared: Any, event: gr.EventData
    ) -> Update:
        """A job of the list is shown where it belongs; the Compare tab has no room for a job that is no comparison."""
        chosen = str(event.job)
        found = {self.side.picked: chosen, **self.side.look(chosen, seen)}
        if place != COMPARE:
            return found
        try:
            job = self.service.job(chosen, self.access())
        except WanUIError as error:
            raise gr.Error(error.message, print_exception=False) from error
        if job.cells:
            return {**found, self.compare.shown: chosen, **self.compare.look(chosen, compared)}
        model = job.generations[0].model
        return {**found, self.forms.tabs: gr.Tabs(selected=model), self.forms.place: model}
