"""The Gradio page: tabs on the left, status, result and lists on the right. It submits, reads and cancels jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from wan_ui.ui.events import EDIT, POLL, QUIET, Update, answered, error_toast, filled
from wan_ui.ui.gallery import ID as GALLERY
from wan_ui.ui.gallery import GalleryTab
from wan_ui.ui.load_request import RequestLoader
from wan_ui.ui.model_tab import ModelTab
from wan_ui.ui.model_tabs import ModelTabs, code_to_copy, stored
from wan_ui.ui.preview_panel import PreviewPanel
from wan_ui.ui.restore_box import RestoreBox
from wan_ui.ui.static_files import page_script, static_text
from wan_ui.ui.status_panel import Sharing, StatusPanel
from wan_ui.ui.templating import render_template
from wan_ui.ui.training_job_tab import ID as TRAINER
from wan_ui.ui.training_job_tab import TrainingJobTab, as_block

if TYPE_CHECKING:
    from wan_ui.demo.checkpoints import Demo
    from wan_ui.jobs.service import JobService

OTHERS = (COMPARE, TRAINER, GALLERY)
"""The ids of the tabs that belong to no model."""
API_KEYS = ("api_info", "api_info_as_input", "api_info_as_output", "example_inputs")
_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]

LAUNCH: dict[str, Any] = {
    "theme": gr.themes.Base(
        primary_hue=gr.themes.colors.indigo, neutral_hue=gr.themes.colors.zinc, font=_FONT, font_mono=_MONO
    ),
    "css": "".join(map(static_text, ("style.css", "stage.css", "share.css"))),
    "js": page_script(),
    "footer_links": [],
    "run_history": False,
}
"""The arguments of `launch()` for the page's appearance."""


def build(
    service: JobService,
    *,
    banner: str | None = None,
    demo: Demo | None = None,
    shared: bool = False,
    sharing: Sharing | None = None,
) -> gr.Blocks:
    """The page over a job service. Serve it behind web.auth, which identifies the visitor of each event.

    `banner` is a line on top; `demo` gives the starting values of its checkpoints; `shared`: visitors see each
    other's finished jobs; `sharing`: there may be a public link.
    """
    return Page(service, lambda: Access(asker(), shared), banner, demo, sharing).blocks


def asker() -> Identity:
    """The visitor who sent the event that is being handled, as web.auth noted it in the request's scope."""
    event = LocalContext.request.get()
    assert event is not None and event.request is not None
    who: Identity = event.request.scope[IDENTITY_SCOPE_KEY]
    return who


class PageBlocks(gr.Blocks):
    """Blocks whose configuration, which the page's document carries, leaves out what only the API's page shows.

    All events are private, so nobody asks for the schemas of components; they were a fifth of the document.
    """

    def get_config_file(self) -> Any:  # a TypedDict that Gradio does not export
        """The configuration without the API schemas and example inputs of components."""
        config = super().get_config_file()
        for component in config["components"]:
            for name in API_KEYS:
                component.pop(name, None)
        # Gradio would hold a connection open for each tab, and browsers open six to a server over HTTP/1.1: with six
        # tabs nothing else could be asked. What it serves for, forgetting a closed tab's state at once, is not needed.
        config["connect_heartbeat"] = False
        return config


class Page:
    """Holds the parts of the page; every method named `on_…` is an event's handler."""

    def __init__(
        self,
        service: JobService,
        access: Callable[[], Access],
        banner: str | None,
        demo: Demo | None,
        sharing: Sharing | None = None,
    ) -> None:
        """Lays the page out and wires its events."""
        self.service = service
        self.access = access
        self.blocks = PageBlocks(title="wan-ui", analytics_enabled=False, fill_width=True)
        with self.blocks:
            self._lay_out(banner, demo, sharing)
            self._connect()
        self._keep_polls_light()

    def _keep_polls_light(self) -> None:
        """Makes events without progress display keep their status at one component.

        Otherwise Gradio keeps a status for every output that was ever written and searches the whole page for all of
        them at each poll, which took 0.75 s of every second on two cores.
        """
        for event in self.blocks.fns.values():
            if event.show_progress == "hidden":
                event.show_progress_on = [self.status_panel.seen]

    def _starting(self, model: WanModel, demo: Demo | None) -> dict[str, Any]:
        if demo is None:
            return {}
        from wan_ui.demo import examples

        first_frame = {} if model.control_image == "none" else {"ctrl_img": str(demo.first_frame)}
        listed = self.service.library.listing()  # another LoRA folder may have been named
        loras = {form_schema.lora_name(slot): path for slot, path in examples.loras_of(model).items() if path in listed}
        return {**examples.starting(model), **loras, **first_frame}

    def _lay_out(self, banner: str | None, demo: Demo | None, sharing: Sharing | None) -> None:
        service, access = self.service, self.access
        gr.HTML(render_template("page_header"))
        if banner:
            gr.HTML(render.paragraph("banner", banner, role="note"))
        if demo is not None:
            from wan_ui.demo import examples

            gr.HTML(render_template("demo_hint", lines=(examples.TRY, examples.WORDS)))
        self.status_panel = StatusPanel(service, access, sharing)
        self.model_tabs = ModelTabs(service, access, OTHERS)
        compared = (stored("comparison", None), stored("draft:comparison", None))
        pin, trained = stored("pin", None), stored("trainer", None)
        with gr.Row(elem_id="workspace"):
            with gr.Tabs(overflow_behavior="wrap", elem_id="models") as tabs:
                self.model_tabs.lay_out(tabs, lambda model: self._starting(model, demo))
                self.compare = CompareTab(service, access, self.model_tabs, self.status_panel, compared)
                self.trainer = TrainingJobTab(service, access, trained)
                self.gallery = GalleryTab(service, access)
            with gr.Column(elem_id="side"):
                self.status_panel.lay_out_now()
                self.preview_panel = PreviewPanel(service, access, pin)
                self.status_panel.lay_out_lists()
                with gr.Column(elem_classes="list"):
                    self.restore = RestoreBox()
                self.loader = RequestLoader(service, access, self.model_tabs, self.compare, self.status_panel)
                with gr.Accordion("As AI Toolkit sample block", open=False, elem_id="block"):
                    self.block = code_to_copy("For a job's config.yaml", 24)
        self.status_panel.lay_out_pulse()

    def _connect(self) -> None:
        tabs, panel = self.model_tabs, self.status_panel
        tabs.connect()
        for tab in tabs.by_model.values():
            tab.generate.click(
                lambda seen, pin, *raw, tab=tab: self.on_generate(tab, seen, pin, raw),
                [panel.seen, self.preview_panel.pin, *tab.inputs],
                [tab.problem, panel.picked, *panel.view],
                api_visibility="private",
                show_progress="minimal",
                show_progress_on=[tab.problem],
                preprocess=False,
                concurrency_limit=8,
            ).then(**answered())
        panel.connect(self.blocks)
        panel.finished.click(
            self.on_pick,
            [*panel.looking, tabs.open_tab, self.compare.seen],
            [panel.picked, tabs.tabs, tabs.open_tab, *panel.view, *self.compare.view],
            **QUIET,
        )
        drafts = [tab.draft for tab in tabs.by_model.values()]
        opened = self.blocks.load(tabs.on_open, [tabs.open_tab, tabs.uploads, *drafts], tabs.filled, **POLL)
        opened.then(**filled("#models"))
        self.compare.connect(opened)
        self.loader.connect()
        self.preview_panel.connect(self.loader)
        self.restore.connect(self.loader)
        self.trainer.connect(self.loader, self.preview_panel, opened)
        self.gallery.connect(self.loader)
        tabs.text.change(as_block, [tabs.text], [self.block], **EDIT)

    def on_generate(self, tab: ModelTab, seen: Mapping[str, Any], pin: Any, raw: Sequence[Any]) -> Update:
        """ "Generate" of a model's tab."""
        values, image = self.model_tabs.read(tab, raw)
        try:
            if image.error is not None:
                raise image.error
            self.service.submit(self.preview_panel.pinned(form_schema.body(tab.model, values), pin), self.access())
        except WanUIError as error:
            return {tab.problem: render.problem(error, lambda location: form_schema.label_of(tab.model, location))}
        return {tab.problem: "", **self.status_panel.follow(seen)}

    def on_pick(
        self, picked: str | None, seen: Mapping[str, Any], open_tab: Any, compared: Any, event: gr.EventData
    ) -> Update:
        """A finished job was chosen: its result, and from the Compare tab its board or its model's tab."""
        chosen = str(event.job)
        updates = {self.status_panel.picked: chosen, **self.status_panel.look(chosen, seen)}
        if open_tab != COMPARE:
            return updates
        try:
            job = self.service.job(chosen, self.access())
        except WanUIError as error:
            raise error_toast(error) from error
        if job.cells:
            return {**updates, self.compare.shown: chosen, **self.compare.look(chosen, compared)}
        model = job.generations[0].model
        return {**updates, self.model_tabs.tabs: gr.Tabs(selected=model), self.model_tabs.open_tab: model}
