"""Loads requests into the form: pasted as JSON, of a finished job, or of a comparison's cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.errors import WanUIError
from wan_ui.job import lora_use_body
from wan_ui.models import MODELS, WanModel
from wan_ui.provenance.lora_search import hashes_of, locate_loras
from wan_ui.request import InferenceRequest, parse
from wan_ui.ui import form_schema, render
from wan_ui.ui.compare_tab import CompareTab
from wan_ui.ui.events import LOAD, QUIET, Update, error_toast
from wan_ui.ui.form import Form
from wan_ui.ui.lora_block import UPLOAD, upload_names
from wan_ui.ui.status_panel import StatusPanel
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of, translated
from wan_ui.ui.uploaded_files import decoded

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.job import Job
    from wan_ui.jobs.service import JobService
    from wan_ui.request import Generation

GENERATE = "generate"  # the id of the tab with the form


class RequestJson:
    """The components of "Request as JSON"."""

    def __init__(self, form: Form) -> None:
        """Lays them out in the surrounding column."""
        self.pasted = gr.State(None)
        with gr.Accordion(text_of("json.title"), open=False, elem_id="json") as self.accordion:
            form.lay_out_text()
            gr.HTML(render_template("code_button"))
            self.paste = gr.Textbox(
                label=text_of("json.paste"),
                lines=4,
                max_lines=12,
                elem_classes="code",
                placeholder=f'{{"model": "{next(iter(MODELS))}", "prompts": [{{"prompt": "…"}}]}}',
            )
            self.problem = gr.HTML(elem_classes="problems")
            self.load = gr.Button(text_of("json.load"), size="sm")
            with gr.Column(visible=False) as self.many:
                self.which = gr.Dropdown([], label=text_of("json.which"), elem_classes="chooser")
                self.run_all = gr.Button(text_of("json.run_all"), size="sm")


class RequestLoader:
    """Puts requests into the form; every method named `on_…` is an event's handler."""

    def __init__(
        self,
        service: JobService,
        access: Callable[[], Access],
        form: Form,
        compare: CompareTab,
        status_panel: StatusPanel,
        json: RequestJson,
    ) -> None:
        self.service = service
        self.access = access
        self.form = form
        self.compare = compare
        self.status_panel = status_panel
        self.json = json

    @property
    def loaded(self) -> list[Any]:
        """Everything that a request in the form changes."""
        json = self.json
        own = [json.problem, json.pasted, json.many, json.which, json.run_all, json.accordion]
        return [*own, *self.compare.front, *self.form.filled, *self.compare.changed]

    def connect(self) -> None:
        """Wires the ways a request comes from the page itself."""
        uploads, panel, loaded, json = self.form.uploads, self.status_panel, self.loaded, self.json
        json.load.click(self.on_load_text, [json.paste, uploads], loaded, **LOAD)
        panel.reuse.click(self.on_reuse, [panel.seen, uploads], loaded, **LOAD)
        self.compare.player.click(self.on_cell, [uploads], loaded, **LOAD)
        json.which.input(self.on_which, [json.pasted, json.which, uploads], loaded, **LOAD)
        ran = [json.problem, panel.picked, *panel.view]
        json.run_all.click(self.on_run_all, [json.pasted, *panel.looking], ran, **QUIET)

    def on_load_text(self, text: Any, uploads: Any) -> Update:
        """The pasted request into the form."""
        try:
            return self.open_request(decoded(str(text or "")), 0, uploads)
        except WanUIError as error:
            return {self.json.problem: render.problem(error)}

    def on_which(self, pasted: Any, index: Any, uploads: Any) -> Update:
        """Another prompt of the pasted request into the form."""
        try:
            return self.open_request(pasted, int(index or 0), uploads)
        except WanUIError as error:
            return {self.json.problem: render.problem(error)}

    def on_reuse(self, seen: Mapping[str, Any], uploads: Any) -> Update:
        """The shown job's request back in the form, with the seeds that were used."""
        try:
            return self.reopen(self.service.job(str(seen.get("shown")), self.access()), None, uploads)
        except WanUIError as error:
            return {self.json.problem: render.problem(error), self.json.accordion: gr.Accordion(open=True)}

    def on_cell(self, uploads: Any, event: gr.EventData) -> Update:
        """The request of a comparison's cell in the form, with the seed that was used."""
        try:
            job = self.service.job(str(event.job), self.access())
            if not job.cells:  # one of two videos that are compared side by side
                return self.reopen(job, int(event.video), uploads)
            place = (event.page, event.column, event.row)
            cell = next(cell for cell in job.cells if (cell.page, cell.column, cell.row) == place)
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

        Notes in the form say what differs. Raises what open_request raises.
        """
        located, notes = self.located(wire, made)
        shown = self.open_request(located, 0, uploads)
        if not notes:
            return shown
        target = self.compare.count if wire.get("compare") else self.form.parts.problem
        return {**shown, target: render.notes(notes)}

    def located(self, wire: Mapping[str, Any], made: Sequence[Generation]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """A stored request with the seeds that were used and its LoRA files as they are here, and what differs."""
        prompts = [{**item, "seed": generation.seed} for item, generation in zip(wire["prompts"], made, strict=False)]
        notes = []
        for item in prompts:
            image = str(item.get("ctrl_img") or "").removeprefix(UPLOAD)
            if image and not self.service.images.has(image, self.access()):
                del item["ctrl_img"]
                notes.append(text_of("json.first_frame_gone"))
        sha256s = hashes_of(lora_use_body(use) for generation in made for use in generation.loras)
        located = locate_loras({**wire, "prompts": prompts}, self.service.library, sha256s, self.access())
        return dict(located.request), tuple(dict.fromkeys([*notes, *map(translated, located.notes)]))

    def open_request(self, body: Any, index: int, uploads: Any) -> Update:
        """Shows one prompt of a request in the form; with several prompts, lets choose or run them all."""
        request = parse(body)
        model, values = form_schema.values(request, index, self._is_combined)
        for name in ("ctrl_img", "ctrl_img_last"):
            if values.get(name):
                values[name] = UPLOAD + self.service.images.put(values[name], self.access())
        several = len(request.prompts) > 1
        json = self.json
        updates: Update = {
            **self.form.fill(model, values, self._names(model, values, uploads)),
            self.compare.tabs: gr.Tabs(selected=GENERATE),
            self.form.open_tab: GENERATE,
            json.problem: "",
            json.pasted: body if several else None,
            json.many: gr.Column(visible=several),
        }
        if several:
            updates[json.which] = gr.Dropdown(choices=_prompt_names(request), value=index)
            updates[json.run_all] = gr.Button(text_of("json.run_all_count", number=len(request.prompts)))
            updates[json.accordion] = gr.Accordion(open=True)
        if request.compare is not None:
            updates |= self.compare.open(model, values, request.compare)
        return updates

    def _names(self, model: WanModel, values: form_schema.Values, uploads: Any) -> dict[str, str]:
        """The names of this browser's uploads, and of those that the values name."""
        names = upload_names(uploads)
        for position in form_schema.lora_positions(model):
            source = values[position.lora]
            if source.startswith(UPLOAD) and source not in names:
                names[source] = self.service.library.locate(source, self.access()).name
        return names

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
            return {self.json.problem: render.problem(error)}
        return {self.json.problem: "", **self.status_panel.follow(seen)}


def _prompt_names(request: InferenceRequest) -> list[tuple[str, int]]:
    """(label, index) of each prompt of a request."""
    return [
        (f"{index + 1}. {' '.join(item.prompt.split())[:80] or render.no_prompt()}", index)
        for index, item in enumerate(request.prompts)
    ]
