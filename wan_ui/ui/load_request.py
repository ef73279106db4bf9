"""Loads requests into the forms: pasted as JSON, of a finished job, or of a comparison's cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.errors import WanUIError
from wan_ui.job import lora_use_body
from wan_ui.models import MODELS
from wan_ui.provenance.lora_search import hashes_of, locate_loras
from wan_ui.request import InferenceRequest, parse
from wan_ui.ui import form_schema, render
from wan_ui.ui.compare_tab import CompareTab
from wan_ui.ui.events import QUIET, Update, error_toast
from wan_ui.ui.lora_picker import UPLOAD, upload_names
from wan_ui.ui.model_tabs import ModelTabs
from wan_ui.ui.status_panel import StatusPanel
from wan_ui.ui.uploaded_files import decoded

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.job import Job
    from wan_ui.jobs.service import JobService
    from wan_ui.request import Generation

FIRST_FRAME_GONE = "The first frame is no longer on this server: choose it again."


class RequestLoader:
    """Holds the components of "Request as JSON"; every method named `on_…` is an event's handler."""

    def __init__(
        self,
        service: JobService,
        access: Callable[[], Access],
        model_tabs: ModelTabs,
        compare: CompareTab,
        status_panel: StatusPanel,
    ) -> None:
        """Lays out "Request as JSON" in the surrounding column."""
        self.service = service
        self.access = access
        self.model_tabs = model_tabs
        self.compare = compare
        self.status_panel = status_panel
        self.pasted = gr.State(None)
        with gr.Accordion("Request as JSON", open=False, elem_id="json") as self.accordion:
            model_tabs.lay_out_text()
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

    @property
    def loaded(self) -> list[Any]:
        """Everything that a request in the forms changes."""
        own = [self.paste_problem, self.pasted, self.many, self.which, self.run_all, self.accordion]
        return [*own, *self.model_tabs.filled, *self.compare.changed]

    def connect(self) -> None:
        """Wires the ways a request comes from the page itself."""
        uploads, panel, loaded = self.model_tabs.uploads, self.status_panel, self.loaded
        self.load.click(self.on_load_text, [self.paste, uploads], loaded, **QUIET)
        panel.reuse.click(self.on_reuse, [panel.seen, uploads], loaded, **QUIET)
        self.compare.player.click(self.on_cell, [uploads], loaded, **QUIET)
        self.which.input(self.on_which, [self.pasted, self.which, uploads], loaded, **QUIET)
        ran = [self.paste_problem, panel.picked, *panel.view]
        self.run_all.click(self.on_run_all, [self.pasted, *panel.looking], ran, **QUIET)

    def on_load_text(self, text: Any, uploads: Any) -> Update:
        """The pasted request into its model's form."""
        try:
            return self.open_request(decoded(str(text or "")), 0, uploads)
        except WanUIError as error:
            return {self.paste_problem: render.problem(error)}

    def on_which(self, pasted: Any, index: Any, uploads: Any) -> Update:
        """Another prompt of the pasted request into the form."""
        try:
            return self.open_request(pasted, int(index or 0), uploads)
        except WanUIError as error:
            return {self.paste_problem: render.problem(error)}

    def on_reuse(self, seen: Mapping[str, Any], uploads: Any) -> Update:
        """The shown job's request back in the form, with the seeds that were used."""
        try:
            return self.reopen(self.service.job(str(seen.get("shown")), self.access()), None, uploads)
        except WanUIError as error:
            return {self.paste_problem: render.problem(error), self.accordion: gr.Accordion(open=True)}

    def on_cell(self, uploads: Any, event: gr.EventData) -> Update:
        """The request of a comparison's cell in its model's form, with the seed that was used."""
        try:
            job = self.service.job(str(event.job), self.access())
            if not job.cells:  # one of two videos that are compared side by side
                return self.reopen(job, int(event.video), uploads)
            cell = next(cell for cell in job.cells if (cell.column, cell.row) == (event.column, event.row))
            return self.reopen_request(cell.request, job.generations[cell.generation :], uploads)
        except WanUIError as error:
            raise error_toast(error) from error

    def reopen(self, job: Job, index: int | None, uploads: Any) -> Update:
        """A job's request, or one of its clips', in the form: seeds as they were used, LoRA files found by content.

        Raises what open_request raises.
        """
        wire = dict(job.request if index is None else job.request_of(index))
        made = job.generations if index is None else job.generations[index : index + 1]
        return self.reopen_request(wire, made, uploads)

    def reopen_request(self, wire: Mapping[str, Any], made: Sequence[Generation], uploads: Any) -> Update:
        """A stored request in the form, with the seeds of what it made, one for each prompt, and its LoRA files found.

        Notes in the form's tab say what differs. Raises what open_request raises.
        """
        prompts = [{**item, "seed": generation.seed} for item, generation in zip(wire["prompts"], made, strict=False)]
        notes = []
        for item in prompts:
            image = str(item.get("ctrl_img") or "").removeprefix(UPLOAD)
            if image and not self.service.images.has(image, self.access()):
                del item["ctrl_img"]
                notes.append(FIRST_FRAME_GONE)
        sha256s = hashes_of(lora_use_body(use) for generation in made for use in generation.loras)
        located = locate_loras({**wire, "prompts": prompts}, self.service.library, sha256s, self.access())
        shown = self.open_request(located.request, 0, uploads)
        notes += located.notes
        if not notes:
            return shown
        tab = self.model_tabs.by_model[located.request["model"]]
        target = self.compare.count if wire.get("compare") else tab.problem
        return {**shown, target: render.notes(tuple(dict.fromkeys(notes)))}

    def open_request(self, body: Any, index: int, uploads: Any) -> Update:
        """Shows one prompt of a request in its model's tab; with several prompts, lets choose or run them all."""
        request = parse(body)
        model, values = form_schema.values(request, index, self._is_combined)
        tab = self.model_tabs.by_model[model.id]
        if values.get("ctrl_img"):
            values["ctrl_img"] = UPLOAD + self.service.images.put(values["ctrl_img"], self.access())
        names = upload_names(uploads)
        for name in tab.loras.cards:
            source = values[name]
            if source.startswith(UPLOAD) and source not in names:
                names[source] = self.service.library.locate(source, self.access()).name
        several = len(request.prompts) > 1
        updates: Update = {
            **self.model_tabs.fill(tab, values, names),
            self.model_tabs.tabs: gr.Tabs(selected=model.id),
            self.model_tabs.open_tab: model.id,
            self.paste_problem: "",
            self.pasted: body if several else None,
            self.many: gr.Column(visible=several),
        }
        if several:
            updates[self.which] = gr.Dropdown(choices=_prompt_names(request), value=index)
            updates[self.run_all] = gr.Button(f"Run all {len(request.prompts)} prompts as one job")
            updates[self.accordion] = gr.Accordion(open=True)
        if request.compare is not None:
            updates |= self.compare.open(model, values, request.compare)
        return updates

    def _is_combined(self, path: str) -> bool:
        try:
            if self.service.needs_download(path):
                return False
            return bool(self.service.inspect_lora(path, self.access())["slot"] == "combined")
        except WanUIError:
            return False  # the LoRA's card says what is wrong with the file

    def on_run_all(self, pasted: Any, picked: str | None, seen: Mapping[str, Any]) -> Update:
        """All prompts of the pasted request as one job."""
        try:
            self.service.submit(pasted, self.access())
        except WanUIError as error:
            return {self.paste_problem: render.problem(error)}
        return {self.paste_problem: "", **self.status_panel.follow(seen)}


def _prompt_names(request: InferenceRequest) -> list[tuple[str, int]]:
    """(label, index) of each prompt of a request."""
    return [
        (f"{index + 1}. {' '.join(item.prompt.split())[:80] or '(no prompt)'}", index)
        for index, item in enumerate(request.prompts)
    ]
