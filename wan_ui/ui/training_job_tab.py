"""The Trainer job tab: an imported job's samples, checkpoints and previews, and its ways into the forms. No renders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.axes import OF_A_PROMPT
from wan_ui.engine.recipes import RECIPES
from wan_ui.errors import InvalidRequest, WanUIError
from wan_ui.models import MODELS
from wan_ui.request import MOST_CELLS, InferenceRequest, parse
from wan_ui.trainer.folder import CONFIG_NAMES
from wan_ui.trainer.sample_block import sample_block
from wan_ui.ui import render
from wan_ui.ui.events import QUIET, Update
from wan_ui.ui.load_request import RequestLoader
from wan_ui.ui.preview_panel import PreviewPanel
from wan_ui.ui.uploaded_files import uploaded_files

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService
    from wan_ui.trainer.imported_jobs import Checkpoint, ImportedJob
    from wan_ui.trainer.job import Sample

ID = "trainer"
FILES = [".yaml", ".yml", ".json", ".zip", ".safetensors", ".webp", ".gif", ".png", ".jpg", ".jpeg", ".mp4"]
MOST_NOTES = 12
SIDES: Mapping[str, str] = {"high": "high", "low": "low", "whole": ""}

_PICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button) return;
  trigger('click', {pressed: {...button.dataset}});
  if (button.dataset.do === 'reproduce') window.scrollTo({top: 0});
});
const moves = (event, still) => {
  const button = event.target.closest && event.target.closest('button[data-film]');
  const image = button && button.querySelector('img');
  if (!image || (still && button.contains(event.relatedTarget))) return;
  if (!image.dataset.still) image.dataset.still = image.getAttribute('src');
  const wanted = still ? image.dataset.still : button.dataset.film;
  if (image.getAttribute('src') !== wanted) image.setAttribute('src', wanted);
};
for (const name of ['pointerover', 'focusin']) element.addEventListener(name, (event) => moves(event, false));
for (const name of ['pointerout', 'focusout']) element.addEventListener(name, (event) => moves(event, true));
"""
_WAITS: dict[str, Any] = {"api_visibility": "private", "preprocess": False, "concurrency_limit": 4}


class TrainingJobTab:
    """Holds the tab's components; every method named `on_…` is an event's handler."""

    def __init__(self, service: JobService, access: Callable[[], Access], opened: gr.BrowserState) -> None:
        """Lays the tab out inside the surrounding gr.Tabs. `opened` keeps the shown job's id in the browser."""
        self.service = service
        self.access = access
        self.opened = opened
        with gr.Tab("Trainer job", id=ID) as self.container:
            with gr.Column(elem_classes=["form", "trainer-form"]):
                with gr.Column(elem_classes="section"):
                    gr.HTML(
                        '<p class="lead">Render a training job\'s previews again: drop its <code>config.yaml</code> '
                        "with its LoRA files, or a ZIP of the job's folder.</p>"
                    )
                    self.drop = gr.File(
                        label="config.yaml, LoRA files, or a ZIP of the job's folder",
                        file_types=FILES,
                        file_count="multiple",
                        height=110,
                        elem_classes="upload",
                    )
                    with gr.Row(elem_classes="line"):
                        self.folder = gr.Dropdown(
                            [],
                            value=None,
                            label="or a job's folder under the LoRA folder",
                            allow_custom_value=True,
                            elem_classes="chooser",
                        )
                        self.read = gr.Button("Open", size="sm", scale=0)
                    self.problem = gr.HTML(elem_classes="problems")
                with gr.Column(visible=False, elem_classes="job") as self.body:
                    self.about = gr.HTML()
                    with gr.Row(elem_classes="line"):
                        self.save = gr.Dropdown([], label="Checkpoint to render with", elem_classes="chooser")
                        self.all = gr.Button("Reproduce all", size="sm", scale=0)
                    self.table = gr.HTML(js_on_load=_PICK, elem_id="samples")
                    self.wall = gr.HTML(js_on_load=_PICK, elem_id="wall")

    def connect(self, drawer: RequestLoader, match: PreviewPanel, opened: Any) -> None:
        """Wires the events. `opened` is the event after which every form holds its values."""
        self.drawer, self.match = drawer, match
        self.forms, self.compare, self.side = drawer.forms, drawer.compare, drawer.side
        forms, compare, side = self.forms, self.compare, self.side
        own: list[Any] = [
            self.opened, self.problem, self.body, self.about, self.save, self.all, self.table, self.wall, self.drop,
            self.folder,
        ]  # fmt: skip
        followed: list[Any] = [side.picked, *side.view]
        into: list[Any] = [self.problem, match.pin, *drawer.loaded, *compare.view, *followed]
        given: list[Any] = [self.opened, self.save, side.seen, compare.seen, forms.uploads]
        opened.then(self.on_open, [self.opened], own, **QUIET)
        self.container.select(self.on_tab, [], [forms.place, forms.text, self.folder], **QUIET)
        self.drop.upload(self.on_drop, [self.drop], own, show_progress_on=[self.problem], **_WAITS)
        self.read.click(self.on_folder, [self.folder], own, show_progress_on=[self.problem], **_WAITS)
        self.save.input(self.on_save, [self.opened, self.save], [self.problem, self.table], **QUIET)
        self.table.click(self.on_press, given, into, **QUIET)
        self.wall.click(self.on_press, given, into, **QUIET)
        self.all.click(self.on_all, given, into, **QUIET)

    # A job

    def on_open(self, opened: Any) -> Update:
        if not isinstance(opened, str):
            return {self.folder: gr.Dropdown(choices=self._folders())}
        try:
            return self._shows(self.service.imported_jobs.job(opened))
        except WanUIError:
            return {self.opened: None, self.folder: gr.Dropdown(choices=self._folders())}  # of another data folder

    def on_tab(self) -> Update:
        return {self.forms.place: ID, self.forms.text: "", self.folder: gr.Dropdown(choices=self._folders())}

    def on_drop(self, files: Any) -> Update:
        given = [file for file in files if isinstance(file, Mapping) and file.get("path")] if files else []
        if not given:
            return {self.problem: ""}
        try:
            here = [
                (uploaded_files(file["path"], partial(self.service.may_open, access=self.access())), file)
                for file in given
            ]
            named = [(path, str(file.get("orig_name") or path.name)) for path, file in here]
            return self._shows(self.service.imported_jobs.import_files(named, self.access()))
        except WanUIError as error:
            return {self.problem: render.problem(error), self.drop: None}

    def on_folder(self, folder: Any) -> Update:
        try:
            return self._shows(self.service.imported_jobs.import_folder(str(folder or ""), self.access()))
        except WanUIError as error:
            return {self.problem: render.problem(error)}

    def on_save(self, opened: Any, key: Any) -> Update:
        try:
            job = self.service.imported_jobs.job(str(opened))
            return {self.problem: "", self.table: self._table(job, job.checkpoint(key))}
        except WanUIError as error:
            return {self.problem: render.problem(error)}

    def _shows(self, job: ImportedJob) -> Update:
        last = job.checkpoint(None)
        return {
            self.opened: job.id,
            self.problem: "",
            self.drop: None,
            self.folder: gr.Dropdown(choices=self._folders(), value=None),
            self.body: gr.Column(visible=True),
            self.about: about(job),
            self.save: gr.Dropdown(
                choices=[(_save_label(one), one.key) for one in job.checkpoints],
                value=None if last is None else last.key,
                visible=bool(job.checkpoints),
            ),
            self.all: gr.Button(visible=len(job.imported.samples) > 1),
            self.table: self._table(job, last),
            self.wall: wall(job),
        }

    def _folders(self) -> list[str]:
        """The folders under the LoRA folder that hold a job's config."""
        root = self.service.library.lora_dir
        folders = dict.fromkeys(str(PurePosixPath(path).parent) for path in self.service.library.listing())
        return [name for name in folders if any((root / name / config).is_file() for config in CONFIG_NAMES)]

    def _table(self, job: ImportedJob, save: Checkpoint | None) -> str:
        samples = self.service.imported_jobs.with_checkpoint(job, save).samples
        across = len(job.checkpoints) > 1
        rows = "".join(_sample_row(one, across) for one in samples)
        heads = "".join(f"<th>{name}</th>" for name in ("#", "Prompt", "Size", "Frames", "Seed", "Steps", "Guidance"))
        if not rows:
            return '<p class="hint">This job has no sample that can be rendered.</p>'
        return (
            f'<div class="samples"><table><thead><tr>{heads}<th><span class="sr">Actions</span></th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )

    # Into the forms

    def on_press(self, opened: Any, key: Any, seen: Any, compared: Any, uploads: Any, event: gr.EventData) -> Update:
        """A button of the table or a preview: what it does is in the event."""
        told: Mapping[str, Any] = event.pressed
        try:
            job = self.service.imported_jobs.job(str(opened))
            index = int(told["sample"])
            if told.get("do") == "across":
                return self._across(job, index, seen, compared, uploads)
            step = int(told["step"]) if told.get("step") else None
            save = job.checkpoint(key) if step is None else job.checkpoint_at(step)
            return self._reproduce(job, index, save, step, uploads)
        except WanUIError as error:
            return {self.problem: render.problem(error)}

    def _reproduce(
        self, job: ImportedJob, index: int, save: Checkpoint | None, step: int | None, uploads: Any
    ) -> Update:
        """The sample in its model's form, pinned, so that what is generated is compared with its preview."""
        request = self.service.imported_jobs.request(job, index, save, step)
        found = self.drawer.open_request(_wire(request), 0, uploads)
        sample = next(one for one in job.imported.samples if one.index == index)
        tab = self.forms.rows[job.imported.model]
        if sample.missing_image is not None:
            found[tab.problem] = render.note(f"Choose this sample's first frame: {sample.missing_image}.")
        elif job.imported.quantised is not None:
            found[tab.problem] = render.note(
                f"The trainer's base was quantised ({job.imported.quantised}): its preview can be approached, not "
                "equalled."
            )
        pin = request.prompts[0].training_sample
        return {**found, self.problem: "", self.match.pin: None if pin is None else pin.model_dump(exclude_none=True)}

    def _across(self, job: ImportedJob, index: int, seen: Any, compared: Any, uploads: Any) -> Update:
        """One sample with every checkpoint, as a comparison that runs at once."""
        request = self.service.imported_jobs.request(job, index, job.checkpoint(None))
        sample = request.prompts[0].training_sample
        wire = _wire(request)
        if sample is not None:  # each cell has another step
            wire["prompts"][0]["training_sample"] = sample.model_copy(update={"step": None}).model_dump(
                exclude_none=True
            )
        two = MODELS[job.imported.model].two_transformers
        wire["compare"] = {"columns": {"field": "lora", "values": [_axis_value(one, two) for one in job.checkpoints]}}
        started = self.service.submit(wire, self.access())
        return {
            self.problem: "",
            **self.drawer.open_request(wire, 0, uploads),
            self.compare.shown: started.id,
            **self.compare.look(started.id, compared),
            **self.side.follow(seen),
        }

    def on_all(self, opened: Any, key: Any, seen: Any, compared: Any, uploads: Any) -> Update:
        """Every sample at once: as a comparison where they have one size, else as one request for each multiplier."""
        try:
            job = self.service.imported_jobs.job(str(opened))
            bodies = together([
                self.service.imported_jobs.request(job, one.index, job.checkpoint(key)) for one in job.imported.samples
            ])  # fmt: skip
            bodies = [side_by_side(body) or body for body in bodies]
            for body in bodies:
                self.service.plan(body, self.access())  # all or none
            started = [self.service.submit(body, self.access()) for body in bodies]
            if not started:
                raise InvalidRequest("This job has no sample that can be rendered.")
        except WanUIError as error:
            return {self.problem: render.problem(error)}
        grid = next((one for one in started if one.cells), None)
        shown = {} if grid is None else self.compare.shows(grid.id, compared)
        return {self.problem: "", **shown, **self.side.follow(seen)}


def together(requests: Sequence[InferenceRequest]) -> list[dict[str, Any]]:
    """Requests that differ in their prompts alone as one body each, in order."""
    bodies: dict[str, dict[str, Any]] = {}
    for request in requests:
        wire = _wire(request)
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
    drawn = any(item.get("seed", -1) == -1 for item in items)
    if not 1 < len(items) <= MOST_CELLS or drawn or any(one != rest[0] for one in rest):
        return None
    values = [{name: value for name, value in item.items() if name in own} for item in items]
    first = {name: value for name, value in items[0].items() if name != "training_sample"}
    return {**body, "prompts": [first], "compare": {"columns": {"field": "prompt", "values": values}}}


def _wire(request: InferenceRequest) -> dict[str, Any]:
    return request.model_dump(mode="json", exclude_none=True)


def _axis_value(save: Checkpoint, two: bool) -> Any:
    halves = {side: source for side, source in save.files.items() if side in ("high", "low")}
    return halves if two and halves else next(iter(save.files.values()))


def _save_label(save: Checkpoint) -> str:
    sides = " + ".join(side for side in ("high", "low") if side in save.files)
    return save.label if len(save.files) < 2 else f"{save.label}, {sides}"


def about(job: ImportedJob) -> str:
    """What the job is, and what to know before rendering it."""
    one = job.imported
    row = MODELS[one.model]
    facts = [
        ("Model", row.label + (", assumed" if one.model_assumed else "")),
        ("Match", RECIPES[one.recipe].label + ("" if one.recipe_known else ", assumed")),
        ("Trigger word", one.trigger_word or "none"),
        ("LoRA", one.network_type + (f", {' + '.join(one.slots)}" if row.two_transformers else "")),
        ("Base", "quantised" if one.quantised else "bf16"),
        ("Checkpoints", str(len(job.checkpoints)) if job.checkpoints else "none here"),
    ]
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    notes = list(dict.fromkeys([*one.notes, *job.notes]))
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes[:MOST_NOTES])
    more = f"<li>and {len(notes) - MOST_NOTES} more</li>" if len(notes) > MOST_NOTES else ""
    fold = (
        f'<details class="job-notes"><summary>{render.plural(len(notes), "note")} on this job</summary>'
        f"<ul>{listed}{more}</ul></details>"
        if notes
        else ""
    )
    return f'<div class="summary"><h2>{escape(one.name or job.origin)}</h2><dl class="used">{shown}</dl>{fold}</div>'


def _sample_row(one: Sample, across: bool) -> str:
    item = one.request.prompts[0]
    number = one.index + 1
    prompt = " ".join(item.prompt.split()) or "(no prompt)"
    needs = (
        f'<span class="needs">needs its first frame: {escape(one.missing_image)}</span>' if one.missing_image else ""
    )
    seed = "drawn" if item.seed == -1 else str(item.seed)
    frames = f"{item.num_frames} at {item.fps}"
    cells = [
        ("Size", render.size(item.width, item.height)),
        ("Frames", frames),
        ("Seed", seed),
        ("Steps", str(item.sample_steps)),
        ("Guidance", f"{item.guidance_scale:g}"),
    ]
    shown = "".join(f'<td data-name="{name}">{escape(value)}</td>' for name, value in cells)
    compare = (
        f'<button type="button" class="small quiet" data-do="across" data-sample="{one.index}" '
        f'aria-label="Sample {number} across checkpoints">Across checkpoints</button>'
        if across
        else ""
    )
    return (
        f'<tr><td class="number">{number}</td><td class="prompt"><span>{escape(prompt[:400])}</span>{needs}</td>{shown}'
        f'<td class="act-on"><button type="button" class="small" data-do="reproduce" data-sample="{one.index}" '
        f'aria-label="Reproduce sample {number}">Reproduce</button>{compare}</td></tr>'
    )


def wall(job: ImportedJob) -> str:
    """The job's sample files: a row for each step, a column for each sample; a press reproduces one."""
    if not job.samples:
        return ""
    steps = sorted({one.step for one in job.samples})
    columns = sorted({one.index for one in job.samples})
    known = {one.index for one in job.imported.samples}
    files = {(one.step, one.index) for one in job.samples}

    def cell(step: int, index: int) -> str:
        if (step, index) not in files:
            return "<td></td>"
        film = f"v1/jobs/{job.id}/samples/{step}/{index}"  # relative, for a proxy's path
        name = f"sample {index + 1} at step {step}"
        picture = f'<img src="{film}/thumbnail" loading="lazy" alt="Preview of {name}">'
        if index not in known:
            return f"<td>{picture}</td>"
        return (
            f'<td><button type="button" data-do="reproduce" data-sample="{index}" data-step="{step}" '
            f'data-film="{film}" aria-label="Reproduce {name}">{picture}</button></td>'
        )

    head = "".join(f'<th scope="col">Sample {index + 1}</th>' for index in columns)
    body = "".join(
        f'<tr><th scope="row">{step}</th>{"".join(cell(step, index) for index in columns)}</tr>' for step in steps
    )
    return (
        '<h3>Previews</h3><p class="hint">Press one to reproduce it with the checkpoint of its step.</p>'
        f'<div class="wall" tabindex="0" role="region" aria-label="Previews by step"><table style="--columns: '
        f'{len(columns)}"><thead><tr><th scope="col">Step</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def as_block(text: Any) -> str:
    """A form's request, as its JSON text, as AI Toolkit's `sample:` block; what that cannot say, as comments."""
    try:
        made = sample_block(parse(json.loads(str(text))))
    except (WanUIError, ValueError):
        return ""  # the JSON above it says what is wrong
    notes = "".join(f"# {note}\n" for note in made.notes)
    return notes + made.text
