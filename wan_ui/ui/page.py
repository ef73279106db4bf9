"""The Gradio page: Generate, Compare, Training job and Gallery. It submits, reads and cancels jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import Context, LocalContext

from wan_ui._version import __version__
from wan_ui.access import Access
from wan_ui.errors import WanUIError
from wan_ui.identity import IDENTITY_SCOPE_KEY, Identity
from wan_ui.language import DEFAULT, choices, current_language, in_language, languages, messages_path, section
from wan_ui.models import MODELS, WanModel
from wan_ui.ui import form_schema, lora_card, render
from wan_ui.ui.compare_tab import ID as COMPARE
from wan_ui.ui.compare_tab import CompareTab
from wan_ui.ui.error_texts import concerns_loras
from wan_ui.ui.events import (
    EDIT,
    POLL,
    QUIET,
    Update,
    answered,
    error_toast,
    filled,
    look_ended,
    run_after,
    submitting,
    tell_answered,
)
from wan_ui.ui.form import Form, FormState, code_to_copy, stored
from wan_ui.ui.gallery import ID as GALLERY
from wan_ui.ui.gallery import GalleryTab
from wan_ui.ui.load_request import GENERATE, RequestJson, RequestLoader
from wan_ui.ui.preview_panel import PreviewPanel
from wan_ui.ui.restore_box import RestoreBox
from wan_ui.ui.result_actions import ResultActions
from wan_ui.ui.sparse_blocks import SparseBlocks
from wan_ui.ui.static_files import component_script
from wan_ui.ui.status_panel import Sharing, StatusPanel
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import language, text_of, translated
from wan_ui.ui.training_job_tab import ID as TRAINER
from wan_ui.ui.training_job_tab import TrainingJobTab, as_block

if TYPE_CHECKING:
    from wan_ui.demo.checkpoints import Demo
    from wan_ui.jobs.service import JobService

TABS = (GENERATE, COMPARE, TRAINER, GALLERY)
"""The ids of the page's tabs."""
API_KEYS = ("api_info", "api_info_as_input", "api_info_as_output", "example_inputs", "component_class_id")
_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]

LAUNCH: dict[str, Any] = {
    "theme": gr.themes.Base(
        primary_hue=gr.themes.colors.pink, neutral_hue=gr.themes.colors.neutral, font=_FONT, font_mono=_MONO
    ),
    "js": "() => window.wanUiPage()",
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
) -> PageBlocks:
    """The page over a job service. Serve it behind web.auth, which identifies the visitor of each event.

    `banner` is a line on top; `demo` gives the starting values of its checkpoints; `shared`: visitors see each
    other's finished jobs; `sharing`: there may be a public link.
    """

    def laid_out() -> PageBlocks:
        return Page(service, lambda: Access(asker(), shared), banner, demo, sharing).blocks

    first_id = Context.id
    blocks = laid_out()
    for other in languages()[1:]:
        # Laid out once more, with the same ids, for its configuration alone: events are handled by the first one.
        Context.id = first_id
        with in_language(other):
            blocks.add_language(other, laid_out().get_config_file())
    return blocks


def asker() -> Identity:
    """The visitor who sent the event that is being handled, as web.auth noted it in the request's scope."""
    event = LocalContext.request.get()
    assert event is not None and event.request is not None
    who: Identity = event.request.scope[IDENTITY_SCOPE_KEY]
    return who


class PageBlocks(SparseBlocks):
    """Blocks whose configuration, which the page's document carries, leaves out what only the API's page shows.

    All events are private, so nobody asks for the schemas of components; they were a fifth of the document. The
    configuration that is read while a request is answered has the texts of the request's language.
    """

    def __init__(self, **options: Any) -> None:
        """`options` are those of gr.Blocks."""
        self._components: dict[str, Any] = {}
        self._configs: dict[str, Any] = {}
        super().__init__(**options)

    @property
    def config(self) -> Any:  # a TypedDict that Gradio does not export
        """The configuration in the current language. Gradio sets it, in English, when the page is launched."""
        wanted = current_language.get()
        if wanted not in self._configs:
            own = self._configs[DEFAULT]
            components = with_strings_of(own["components"], self._components[wanted])
            texts = {"texts": section(wanted, "script"), "messages": messages_path(wanted)}
            self._configs[wanted] = {**own, "components": components, **texts}
        return self._configs[wanted]

    @config.setter
    def config(self, config: Any) -> None:
        self._configs = {DEFAULT: config}

    def shown_types(self) -> list[str]:
        """The types of components that a browser draws, in the page's order, each once."""
        components = self.get_config_file()["components"]
        return list(dict.fromkeys(each["type"] for each in components if each["props"].get("visible") is not False))

    def add_language(self, code: str, config: Any) -> None:
        """Takes the texts of a language from the configuration of the same page laid out in it."""
        self._components[code] = config["components"]

    def get_config_file(self) -> Any:  # a TypedDict that Gradio does not export
        """The configuration without the API schemas and example inputs of components."""
        config: Any = super().get_config_file()
        for component in config["components"]:
            for name in API_KEYS:
                component.pop(name, None)
        # Gradio would hold a connection open for each tab, and browsers open six to a server over HTTP/1.1: with six
        # tabs nothing else could be asked. What it serves for, forgetting a closed tab's state at once, is not needed.
        config["connect_heartbeat"] = False
        config |= {"texts": section(DEFAULT, "script"), "messages": ""}
        return config


def with_strings_of(own: Any, other: Any) -> Any:
    """A copy of nested JSON values, with the strings of others of the same shape in place of its own."""
    if isinstance(own, dict):
        return {name: with_strings_of(value, other.get(name)) for name, value in own.items()}
    if isinstance(own, list | tuple) and isinstance(other, list | tuple) and len(own) == len(other):
        return [with_strings_of(value, its) for value, its in zip(own, other, strict=True)]
    return other if isinstance(own, str) and isinstance(other, str) else own


def _demo_lines(demo: Demo | None) -> tuple[str, ...]:
    """What the demo's model understands."""
    if demo is None:
        return ()
    from wan_ui.demo import examples

    return translated(examples.TRY), translated(examples.WORDS)


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
        self.status_panel = StatusPanel(service, access, sharing)  # begins with the line of the public link
        gr.HTML(render_template("page_header"), elem_id="header")
        self.form = Form(service, access, lambda model: self._starting(model, demo))
        compared = (stored("comparison", None), stored("draft:comparison", None))
        pin, trained = stored("pin", None), stored("trainer", None)
        # Empty until the page has opened the tab it was left with: before, Gradio itself selects the first one.
        self.opened = gr.JSON({}, visible=False)
        self.confirmed = gr.State(())
        with gr.Tabs(elem_id="top") as self.tabs:
            with gr.Tab(text_of("tab.generate"), id=GENERATE) as self.generate_tab:
                self._lay_out_generate(banner, demo, pin)
            self.compare = CompareTab(service, access, self.form, self.status_panel, self.tabs, compared)
            self.loader = RequestLoader(service, access, self.form, self.compare, self.status_panel, self.json)
            self.trainer = TrainingJobTab(service, access, trained)
            self.gallery = GalleryTab(service, access)
        tools = render_template(
            "page_tools",
            version=__version__,
            signs_in=sharing is not None,
            languages=choices(),
            chosen=language(),
        )
        # Its script also lets the page look when something has changed.
        self.pulse = gr.HTML(tools, elem_id="tools", js_on_load=component_script("look"))
        gr.HTML(render_template("page_footer", version=__version__), elem_id="footer")

    def _lay_out_generate(self, banner: str | None, demo: Demo | None, pin: gr.BrowserState) -> None:
        self.form.lay_out_strip()
        with gr.Row(elem_id="workspace"):
            with gr.Column(elem_id="bench"):
                if banner or demo is not None:
                    gr.HTML(render_template("banner", text=translated(banner or ""), lines=_demo_lines(demo)))
                self.form.lay_out()
            with gr.Column(elem_id="side"):
                self.status_panel.lay_out_now()
                self.preview_panel = PreviewPanel(self.service, self.access, pin)
                self.status_panel.lay_out_lists()
                self.restore = RestoreBox()
                self.json = RequestJson(self.form)
                with gr.Accordion(text_of("json.block"), open=False, elem_id="block"):
                    self.block = code_to_copy(text_of("json.block_label"), 24)

    def _connect(self) -> None:
        form, panel = self.form, self.status_panel
        form.connect()
        self._connect_generate()
        panel.connect(self.blocks)
        compare, sample = self.compare, self.preview_panel
        looked = self.pulse.click(
            self.on_look,
            [compare.shown, compare.seen, *panel.looking, *sample.looking],
            [*compare.view, *panel.view, *sample.view],
            **POLL,
        )
        run_after(looked, look_ended())
        picked = panel.finished.click(self.on_pick, panel.looking, [panel.picked, *panel.view], **QUIET)
        run_after(picked, answered())
        tell_answered(picked, "wan-ui-picked", "finished")
        opened = self.blocks.load(
            self.on_open,
            [form.uploads, form.open_tab, form.draft, *form.old_drafts.values()],
            [self.opened, self.tabs, form.open_tab, *form.filled],
            **POLL,
        )
        run_after(opened, filled("#form"))
        # Gradio selects the first tab itself when a page opens, before the page has selected the one it was left with.
        self.generate_tab.select(
            None, [self.opened, form.open_tab], [form.open_tab],
            js=f"(opened, tab) => opened && opened.tab ? '{GENERATE}' : tab", **POLL,
        )  # fmt: skip
        self.compare.connect(opened, self.opened)
        self.loader.connect()
        ResultActions(self.service, self.access, self.loader).connect()
        self.preview_panel.connect(self.loader)
        self.restore.connect(self.loader)
        self.trainer.connect(self.loader, self.preview_panel, opened)
        self.gallery.connect(self.loader)
        form.text.change(as_block, [form.text], [self.block], **EDIT)

    def _connect_generate(self) -> None:
        form, panel = self.form, self.status_panel
        inputs = [panel.seen, self.preview_panel.pin, self.confirmed, form.uploads, *form.inputs]
        problems = [form.parts.problem, form.parts.lora_problem, self.confirmed]
        options = submitting(form.parts.problem)
        shown = [*problems, panel.picked, *panel.view]
        run_after(form.parts.generate.click(self.on_generate, inputs, shown, **options), answered())
        run_after(form.parts.problem.click(self.on_answer, inputs, [*shown, *form.filled], **options), answered())

    def on_open(self, uploads: Any, open_tab: Any, draft: Any, *old_drafts: Any) -> Update:
        """A page opens: the form as it was left, and the tab that was open."""
        updates = self.form.on_open(uploads, open_tab, draft, *old_drafts)
        # Until version 0.3 each model had a tab of its own.
        tab = GENERATE if open_tab in MODELS else open_tab
        if tab not in TABS:
            return {**updates, self.opened: {"tab": GENERATE}}
        return {**updates, self.opened: {"tab": tab}, self.tabs: gr.Tabs(selected=tab), self.form.open_tab: tab}

    def on_generate(
        self, seen: Mapping[str, Any], pin: Any, confirmed: Sequence[Any], uploads: Any, *raw: Any
    ) -> Update:
        """ "Generate": asks once before a LoRA runs on a model that it was not made for."""
        state = self.form.read(raw, uploads)
        asked = self.form.lora_for_another_model(state)
        if asked is not None:
            index, card = asked
            if [state.loras.chosen[index].source, state.model.id] not in [list(pair) for pair in confirmed]:
                return {self.form.parts.problem: lora_card.question(card, index)}
        return self._submit(state, seen, pin)

    def _submit(self, state: FormState, seen: Mapping[str, Any], pin: Any) -> Update:
        parts = self.form.parts
        try:
            body = self.preview_panel.pinned(state.body(), pin)
            self.service.submit(body, self.access())
        except WanUIError as error:
            problem = render.problem(error, lambda location: form_schema.label_of(state.model, location))
            if concerns_loras(error):
                return {parts.lora_problem: problem, parts.problem: ""}
            return {parts.problem: problem, parts.lora_problem: ""}
        return {parts.problem: "", parts.lora_problem: "", **self.status_panel.follow(seen)}

    def on_answer(
        self, event: gr.EventData, seen: Any, pin: Any, confirmed: Sequence[Any], uploads: Any, *raw: Any
    ) -> Update:
        """The answer to whether a LoRA is to run on a model that it was not made for."""
        pressed: Mapping[str, Any] = event.pressed
        state = self.form.read(raw, uploads)
        asked = self.form.lora_for_another_model(state)
        if asked is None:
            return {self.form.parts.problem: ""}
        if pressed.get("do") == "open":
            return self.form.press(state, pressed)
        pair = [state.loras.chosen[asked[0]].source, state.model.id]
        return {self.confirmed: (*confirmed, pair), **self._submit(state, seen, pin)}

    def on_look(self, request: gr.Request, shown: Any, board: Any, picked: Any, seen: Any, *sample: Any) -> Update:
        """Something has changed, see look.js: one look at the queue, the comparison and the training sample."""
        status = self.status_panel.look(picked, seen)
        news = status.get(self.status_panel.seen)
        return {
            **status,
            **self.compare.look_again(request, shown, board),
            **self.preview_panel.look(news if isinstance(news, Mapping) and "shown" in news else seen, *sample),
        }

    def on_pick(self, picked: str | None, seen: Mapping[str, Any], event: gr.EventData) -> Update:
        """A finished job was chosen: its result. Or it is removed."""
        chosen: str | None = str(event.job)
        if event.do == "remove":
            try:
                self.service.delete_entry(str(event.job), self.access())
            except WanUIError as error:
                raise error_toast(error) from error
            chosen = picked if picked != chosen else None
        return {self.status_panel.picked: chosen, **self.status_panel.look(chosen, seen)}
