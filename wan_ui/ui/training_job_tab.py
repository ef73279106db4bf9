"""The tab for an AI Toolkit training job: its samples and checkpoints, and reproducing them through the forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from markupsafe import Markup

from wan_ui.axes import OF_A_PROMPT
from wan_ui.engine.recipes import RECIPES
from wan_ui.errors import InvalidRequest, NotWatched, WanUIError
from wan_ui.models import MODELS
from wan_ui.request import MOST_CELLS, InferenceRequest, parse
from wan_ui.trainer.folder import CONFIG_NAMES
from wan_ui.trainer.sample_block import sample_block
from wan_ui.ui import render
from wan_ui.ui.events import LOAD, POLL, QUIET, Update
from wan_ui.ui.load_request import RequestLoader
from wan_ui.ui.preview_panel import PreviewPanel
from wan_ui.ui.static_files import component_script
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of, translated
from wan_ui.ui.uploaded_files import taken_file
from wan_ui.wire import wire_form

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService
    from wan_ui.trainer.imported_job import Checkpoint, ImportedJob
    from wan_ui.trainer.job import Sample

ID = "trainer"
FILES = [".yaml", ".yml", ".json", ".zip", ".safetensors", ".webp", ".gif", ".png", ".jpg", ".jpeg", ".mp4"]
MOST_NOTES = 12
_COLUMNS = ("script.fact.size", "script.fact.frames", "script.fact.seed", "script.fact.steps", "script.fact.guidance")

_UPLOAD: dict[str, Any] = {"api_visibility": "private", "preprocess": False, "concurrency_limit": 4}


class TrainingJobTab:
    """Holds the tab's components; every method named `on_…` is an event's handler."""

    def __init__(self, service: JobService, access: Callable[[], Access], opened: gr.BrowserState) -> None:
        """Lays the tab out inside the surrounding gr.Tabs. `opened` keeps the shown job's id in the browser."""
        self.service = service
        self.access = access
        self.opened = opened
        with gr.Tab(text_of("tab.training_job"), id=ID) as self.container:
            with gr.Column(elem_classes=["form", "trainer-form"]):
                gr.HTML(render_template("training_job_lead"))
                self.drop = gr.File(
                    label=text_of("trainer.drop"),
                    file_types=FILES,
                    file_count="multiple",
                    height=110,
                    elem_classes="upload",
                )
                with gr.Row(elem_classes="line"):
                    self.folder = gr.Dropdown(
                        [],
                        value=None,
                        label=text_of("trainer.folder"),
                        allow_custom_value=True,
                        elem_classes="chooser",
                    )
                    self.read = gr.Button(text_of("trainer.open"), size="sm", scale=0)
                self.problem = gr.HTML(elem_classes="problems")
                with gr.Column(visible=False, elem_classes="job") as self.body:
                    self.about = gr.HTML()
                    with gr.Row(elem_classes="line"):
                        self.checkpoint = gr.Dropdown([], label=text_of("trainer.checkpoint"), elem_classes="chooser")
                        self.all = gr.Button(text_of("trainer.reproduce_all"), size="sm", scale=0)
                    self.watch = gr.Checkbox(
                        label=text_of("trainer.watch"),
                        info=text_of("trainer.watch_info"),
                        visible=False,
                    )
                    self.wall = gr.HTML(js_on_load=component_script("wall"), elem_id="wall")
                    self.table = gr.HTML(js_on_load=component_script("pick_sample"), elem_id="samples")

    def connect(self, loader: RequestLoader, preview_panel: PreviewPanel, opened: Any) -> None:
        """Wires the events. `opened` is the event after which every form holds its values."""
        self.loader, self.preview_panel = loader, preview_panel
        self.form, self.compare, self.status_panel = loader.form, loader.compare, loader.status_panel
        form, compare, panel = self.form, self.compare, self.status_panel
        job_outputs: list[Any] = [
            self.opened, self.problem, self.body, self.about, self.checkpoint, self.all, self.table, self.wall,
            self.drop, self.folder, self.watch,
        ]  # fmt: skip
        followed: list[Any] = [panel.picked, *panel.view]
        outputs: list[Any] = [self.problem, preview_panel.pin, *loader.loaded, *compare.view, *followed]
        inputs: list[Any] = [self.opened, self.checkpoint, panel.seen, compare.seen, form.uploads]
        opened.then(self.on_open, [self.opened], job_outputs, **POLL)
        self.container.select(None, [], [form.open_tab], js=f"() => '{ID}'", **POLL)
        self.container.select(self.on_tab, [], [self.folder], **QUIET)
        self.drop.upload(self.on_drop, [self.drop], job_outputs, show_progress_on=[self.problem], **_UPLOAD)
        self.read.click(self.on_folder, [self.folder], job_outputs, show_progress_on=[self.problem], **_UPLOAD)
        self.checkpoint.input(self.on_checkpoint, [self.opened, self.checkpoint], [self.problem, self.table], **QUIET)
        self.watch.input(self.on_watch, [self.opened, self.watch], [self.problem, self.watch], **QUIET)
        self.table.click(self.on_press, inputs, outputs, **LOAD)
        self.wall.click(self.on_press, inputs, outputs, **LOAD)
        self.all.click(self.on_all, inputs, outputs, **LOAD)

    # A job

    def on_open(self, opened: Any) -> Update:
        """A page opens: the job it showed last."""
        if not isinstance(opened, str):
            return {self.folder: gr.Dropdown(choices=self._folders())}
        try:
            return self._show(self.service.imported_jobs.job(opened))
        except WanUIError:
            # The job is of a data folder that this server used before, or was deleted.
            return {self.opened: None, self.folder: gr.Dropdown(choices=self._folders())}

    def on_tab(self) -> Update:
        """The tab was selected: the job folders are listed again."""
        return {self.folder: gr.Dropdown(choices=self._folders())}

    def on_drop(self, files: Any) -> Update:
        """Files were uploaded: they are imported as one job."""
        given = [file for file in files if isinstance(file, Mapping) and file.get("path")] if files else []
        if not given:
            return {self.problem: ""}
        try:
            may_take = partial(self.service.may_take, access=self.access())
            with ExitStack() as stack:
                paths = [stack.enter_context(taken_file(file["path"], may_take)) for file in given]
                names = [str(file.get("orig_name") or Path(str(file["path"])).name) for file in given]
                named = list(zip(paths, names, strict=True))
                job = self.service.imported_jobs.import_files(named, self.access())
            return self._show(job)
        except WanUIError as error:
            return {self.problem: render.problem(error), self.drop: None}

    def on_folder(self, folder: Any) -> Update:
        """A folder under the LoRA folder was chosen: it is imported as a job."""
        try:
            return self._show(self.service.imported_jobs.import_folder(str(folder or ""), self.access()))
        except WanUIError as error:
            return {self.problem: render.problem(error)}

    def on_checkpoint(self, opened: Any, key: Any) -> Update:
        """Another checkpoint was chosen."""
        try:
            job = self.service.imported_jobs.job(str(opened))
            return {self.problem: "", self.table: self._table(job, job.checkpoint(key))}
        except WanUIError as error:
            return {self.problem: render.problem(error)}

    def _show(self, job: ImportedJob) -> Update:
        last, folders = job.checkpoint(None), self._folders()
        return {
            self.opened: job.id,
            self.problem: "",
            self.drop: None,
            self.folder: gr.Dropdown(choices=folders, value=job.folder if job.folder in folders else None),
            self.body: gr.Column(visible=True),
            self.about: about(job),
            self.checkpoint: gr.Dropdown(
                choices=[(_checkpoint_label(checkpoint), checkpoint.key) for checkpoint in job.checkpoints],
                value=None if last is None else last.key,
                visible=bool(job.checkpoints),
            ),
            self.all: gr.Button(visible=len(job.imported.samples) > 1),
            self.watch: gr.Checkbox(
                value=self.service.watcher.is_watched(job.id),
                visible=job.folder is not None and self.access().identity.owner,
            ),
            self.table: self._table(job, last),
            self.wall: wall(job),
        }

    def _folders(self) -> list[str]:
        """The folders of the library that hold a job's config."""
        return self.service.library.folders_with(CONFIG_NAMES)

    def _table(self, job: ImportedJob, checkpoint: Checkpoint | None) -> Markup:
        samples = self.service.imported_jobs.with_checkpoint(job, checkpoint).samples
        return render_template(
            "samples_table",
            samples=[_sample_row(sample) for sample in samples],
            heads=("#", text_of("field.prompt"), *map(text_of, _COLUMNS)),
            across=len(job.checkpoints) > 1,
        )

    def on_watch(self, opened: Any, wanted: Any) -> Update:
        """The switch was set: new saves of the job are rendered from now on, or no more."""
        try:
            if wanted:
                self.service.watcher.begin(str(opened), False, self.access())
            else:
                self.service.watcher.end(str(opened), self.access())
            return {self.problem: ""}
        except NotWatched:  # ended elsewhere
            return {self.problem: ""}
        except WanUIError as error:
            return {self.problem: render.problem(error), self.watch: not wanted}

    # Into the forms

    def on_press(self, opened: Any, key: Any, seen: Any, compared: Any, uploads: Any, event: gr.EventData) -> Update:
        """A button of the table or a sample file: what it does is in the event."""
        pressed: Mapping[str, Any] = event.pressed
        try:
            job = self.service.imported_jobs.job(str(opened))
            index = int(pressed["sample"])
            if pressed.get("do") == "across":
                return self._across(job, index, seen, compared, uploads)
            step = int(pressed["step"]) if pressed.get("step") else None
            checkpoint = job.checkpoint(key) if step is None else job.checkpoint_at(step)
            if pressed.get("do") == "render" and self._render(job, index, checkpoint, step):
                return {self.problem: "", **self.status_panel.follow(seen)}
            return self._reproduce(job, index, checkpoint, step, uploads)
        except WanUIError as error:
            return {self.problem: render.problem(error)}

    def _render(self, job: ImportedJob, index: int, checkpoint: Checkpoint | None, step: int | None) -> bool:
        """Renders a sample from where it is shown; False for one whose first frame has to be chosen in the form."""
        if any(sample.index == index and sample.missing_image is not None for sample in job.imported.samples):
            return False
        self.service.submit(wire_form(self.service.imported_jobs.request(job, index, checkpoint, step)), self.access())
        return True

    def _reproduce(
        self, job: ImportedJob, index: int, checkpoint: Checkpoint | None, step: int | None, uploads: Any
    ) -> Update:
        """The sample in its model's form, pinned, so that what is generated is compared with its preview."""
        request = self.service.imported_jobs.request(job, index, checkpoint, step)
        updates = self.loader.open_request(wire_form(request), 0, uploads)
        sample = next(sample for sample in job.imported.samples if sample.index == index)
        problem = self.form.parts.problem
        if sample.missing_image is not None:
            updates[problem] = render.note(text_of("trainer.choose_first_frame", name=sample.missing_image))
        elif job.imported.quantised is not None:
            updates[problem] = render.note(text_of("trainer.quantised", kind=job.imported.quantised))
        pin = request.prompts[0].training_sample
        pinned = None if pin is None else pin.model_dump(exclude_none=True)
        return {**updates, self.problem: "", self.preview_panel.pin: pinned}

    def _across(self, job: ImportedJob, index: int, seen: Any, compared: Any, uploads: Any) -> Update:
        """One sample with every checkpoint, as a comparison that runs at once."""
        request = self.service.imported_jobs.request(job, index, job.checkpoint(None))
        sample = request.prompts[0].training_sample
        wire = wire_form(request)
        if sample is not None:  # each cell has another step
            wire["prompts"][0]["training_sample"] = sample.model_copy(update={"step": None}).model_dump(
                exclude_none=True
            )
        two = MODELS[job.imported.model].two_transformers
        wire["compare"] = {
            "columns": {"field": "lora", "values": [_axis_value(checkpoint, two) for checkpoint in job.checkpoints]}
        }
        started = self.service.submit(wire, self.access())
        return {
            self.problem: "",
            **self.loader.open_request(wire, 0, uploads),
            self.compare.shown: started.id,
            **self.compare.look(started.id, compared),
            **self.status_panel.follow(seen),
        }

    def on_all(self, opened: Any, key: Any, seen: Any, compared: Any, uploads: Any) -> Update:
        """Every sample at once: as a comparison where they have one size, else as one request for each multiplier."""
        try:
            job = self.service.imported_jobs.job(str(opened))
            checkpoint = job.checkpoint(key)
            requests = [
                self.service.imported_jobs.request(job, sample.index, checkpoint) for sample in job.imported.samples
            ]
            bodies = [side_by_side(body) or body for body in together(requests)]
            for body in bodies:
                self.service.plan(body, self.access())  # all or none
            started = [self.service.submit(body, self.access()) for body in bodies]
            if not started:
                raise InvalidRequest(text_of("samples_table.this_job_has_no"))
        except WanUIError as error:
            return {self.problem: render.problem(error)}
        grid = next((job for job in started if job.cells), None)
        shown = {} if grid is None else self.compare.show(grid.id, compared)
        return {self.problem: "", **shown, **self.status_panel.follow(seen)}


def together(requests: Sequence[InferenceRequest]) -> list[dict[str, Any]]:
    """Requests that differ in their prompts alone as one body each, in order."""
    bodies: dict[str, dict[str, Any]] = {}
    for request in requests:
        wire = wire_form(request)
        key = json.dumps({**wire, "prompts": None}, sort_keys=True)
        if key in bodies:
            bodies[key]["prompts"] += wire["prompts"]
        else:
            bodies[key] = wire
    return list(bodies.values())


def side_by_side(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Prompts of one size as a comparison, a column each; None where they differ in more than a column may."""
    items = body["prompts"]
    own = {"prompt", *OF_A_PROMPT}
    rest = [{name: value for name, value in item.items() if name not in own} for item in items]
    random = any(item.get("seed", -1) == -1 for item in items)
    if not 1 < len(items) <= MOST_CELLS or random or any(values != rest[0] for values in rest):
        return None
    values = [{name: value for name, value in item.items() if name in own} for item in items]
    first = {name: value for name, value in items[0].items() if name != "training_sample"}
    return {**body, "prompts": [first], "compare": {"columns": {"field": "prompt", "values": values}}}


def _axis_value(checkpoint: Checkpoint, two: bool) -> Any:
    halves = {side: source for side, source in checkpoint.files.items() if side in ("high", "low")}
    return halves if two and halves else next(iter(checkpoint.files.values()))


def _checkpoint_label(checkpoint: Checkpoint) -> str:
    sides = " + ".join(text_of(f"trainer.side_{side}") for side in ("high", "low") if side in checkpoint.files)
    return checkpoint.label if len(checkpoint.files) < 2 else f"{checkpoint.label}, {sides}"


def about(job: ImportedJob) -> Markup:
    """What the job is, and what to know before rendering it."""
    imported = job.imported
    model, assumed = MODELS[imported.model], text_of("trainer.assumed")
    recipe = translated(RECIPES[imported.recipe].label)
    slots = f", {' + '.join(imported.slots)}" if model.two_transformers else ""
    checkpoints = str(len(job.checkpoints)) if job.checkpoints else text_of("trainer.none_here")
    pairs = [
        (text_of("script.fact.model"), model.label + (assumed if imported.model_assumed else "")),
        (text_of("trainer.match"), recipe + ("" if imported.recipe_known else assumed)),
        (text_of("field.trigger_word"), imported.trigger_word or text_of("script.fact.none")),
        (text_of("slot.single.lora"), imported.network_type + slots),
        (text_of("script.fact.base"), text_of("trainer.is_quantised") if imported.quantised else "bf16"),
        (text_of("trainer.checkpoints"), checkpoints),
    ]
    notes = list(dict.fromkeys([*imported.notes, *job.notes]))
    shown = [translated(note) for note in notes[:MOST_NOTES]]
    if len(notes) > MOST_NOTES:
        shown.append(text_of("error.and_more", more=len(notes) - MOST_NOTES))
    return render_template("training_job_about", title=imported.name or job.origin, pairs=pairs, notes=shown)


def _sample_row(sample: Sample) -> dict[str, Any]:
    """One sample of the config as the table's template takes it."""
    item = sample.request.prompts[0]
    prompt = " ".join(item.prompt.split()) or render.no_prompt()
    return {
        "index": sample.index,
        "number": sample.index + 1,
        "prompt": prompt[:400],
        "missing_image": sample.missing_image,
        "cells": [
            (text_of("script.fact.size"), render.size(item.width, item.height)),
            (text_of("script.fact.frames"), text_of("trainer.frames_at", frames=item.num_frames, fps=item.fps)),
            (text_of("script.fact.seed"), text_of("trainer.drawn") if item.seed == -1 else str(item.seed)),
            (text_of("script.fact.steps"), str(item.sample_steps)),
            (text_of("script.fact.guidance"), f"{item.guidance_scale:g}"),
        ],
    }


def wall(job: ImportedJob) -> Markup | str:
    """The job's sample files: a row for each step, a column for each sample; a press reproduces one."""
    if not job.samples:
        return ""
    steps = sorted({sample.step for sample in job.samples})
    columns = sorted({sample.index for sample in job.samples})
    reproducible = {sample.index for sample in job.imported.samples}
    files = {(sample.step, sample.index) for sample in job.samples}

    def cell(step: int, index: int) -> dict[str, Any] | None:
        if (step, index) not in files:
            return None
        return {
            "index": index,
            "film": f"v1/jobs/{job.id}/samples/{step}/{index}",  # relative, for a proxy's path
            "name": text_of("trainer.sample_at", number=index + 1, step=step),
            "reproducible": index in reproducible,
        }

    rows = [(step, [cell(step, index) for index in columns]) for step in steps]
    return render_template("samples_wall", job=job.id, columns=columns, rows=rows)


def as_block(text: Any) -> str:
    """A form's request, as its JSON text, as AI Toolkit's `sample:` block; what that cannot say, as comments."""
    try:
        made = sample_block(parse(json.loads(str(text))))
    except (WanUIError, ValueError):
        return ""  # the JSON above it says what is wrong
    notes = "".join(f"# {note}\n" for note in made.notes)
    return notes + made.text
