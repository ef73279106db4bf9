"""The training sample beside the shown result: checklist, both videos, and the changes that make them match."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
from markupsafe import Markup
from pydantic import ValidationError

from wan_ui import field_errors
from wan_ui.errors import PreviewNotFound, WanUIError
from wan_ui.models import MODELS
from wan_ui.request import TrainingSample, parse
from wan_ui.trainer import checklist
from wan_ui.ui import form_schema, player, render
from wan_ui.ui.error_texts import sentences
from wan_ui.ui.events import LOAD, POLL, QUIET, Update
from wan_ui.ui.load_request import RequestLoader
from wan_ui.ui.static_files import component_script
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of, translated
from wan_ui.ui.uploaded_files import taken_file
from wan_ui.wire import wire_form

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.job import Job
    from wan_ui.jobs.sample_comparisons import ChecklistResult, ComparedSample
    from wan_ui.jobs.service import JobService
    from wan_ui.trainer.checklist_rows import Row

STATES = ("red", "amber", "green")
FILES = [".webp", ".gif", ".mp4", ".png", ".jpg", ".jpeg"]
CHART = (320, 56)  # units of the drawing


class PreviewPanel:
    """Holds the panel's components; every method named `on_…` is an event's handler.

    `pin` is what the next render is compared with: a TrainingSample as a dict, kept by the browser, or None.
    """

    def __init__(self, service: JobService, access: Callable[[], Access], pin: gr.BrowserState) -> None:
        """Lays the panel out in the surrounding column."""
        self.service = service
        self.access = access
        self.pin = pin
        self.shown_state = gr.State({})
        with gr.Column(elem_id="match", visible=False) as self.panel:
            self.head = gr.HTML()
            self.which = gr.Dropdown([], label=text_of("sample.which"), visible=False, elem_classes="chooser")
            self.player = player.build("match-player", visible=False)
            self.rows = gr.HTML(js_on_load=component_script("pick_check"))
            self.all = gr.Button(text_of("sample.all"), size="sm", visible=False, elem_classes="match-act")
            self.stop = gr.Button(text_of("sample.stop"), size="sm", visible=False, elem_classes="match-act")
            self.file = gr.File(label=text_of("sample.upload"), file_types=FILES, height=84,
                                elem_classes="upload")  # fmt: skip
            self.problem = gr.HTML(elem_classes="problems")

    @property
    def looking(self) -> list[Any]:
        """The inputs of `look` beside the status panel's `seen`."""
        return [self.pin, self.which, self.shown_state]

    @property
    def view(self) -> list[Any]:
        """The outputs of `look`."""
        parts = [self.panel, self.head, self.which, self.player, self.rows, self.all, self.stop]
        return [*parts, self.shown_state]

    def connect(self, loader: RequestLoader) -> None:
        """Wires the events."""
        self.loader, panel = loader, loader.status_panel
        looking: list[Any] = [panel.seen, *self.looking]
        view = self.view
        self.pin.change(self.look, looking, view, trigger_mode="always_last", **POLL)
        self.which.input(self.look, looking, view, **QUIET)
        outputs = [self.problem, self.pin, *loader.loaded]
        inputs: list[Any] = [panel.seen, self.which, loader.form.uploads]
        self.rows.click(self.on_fix, inputs, outputs, **LOAD)
        self.all.click(self.on_all, inputs, outputs, **LOAD)
        self.stop.click(self.on_stop, looking, [self.pin, *view], **QUIET)
        self.file.upload(
            self.on_file,
            [self.file, *looking],
            [self.file, self.problem, self.pin, *view],
            concurrency_limit=4,
            **QUIET,
        )

    def pinned(self, body: dict[str, Any], pin: Any) -> dict[str, Any]:
        """A form's request with what it is to be compared with, if anything is pinned."""
        sample = pinned_sample(pin)
        if sample is None:
            return body
        item, *rest = body["prompts"]
        wire = sample.model_dump(exclude_none=True)
        return {**body, "prompts": [{**item, "training_sample": wire}, *rest]}

    # What is shown

    def look(self, seen: Any, pin: Any, which: Any, shown_state: Any) -> Update:
        """What the panel shows now; parts that did not change are left out."""
        known: Mapping[str, Any] = shown_state if isinstance(shown_state, Mapping) else {}
        shown = seen.get("shown") if isinstance(seen, Mapping) else None
        sample = pinned_sample(pin)
        try:
            job = self.service.job(shown, self.access()) if shown else None
            index = _index(job, which)
            linked = self.service.imported_jobs.linked(job.id, index) if job is not None else None
            key = [shown, index, linked, None if job is None else (job.status, len(job.clips)), pin]
            key = json.loads(json.dumps(key))
            if known.get("key") == key:
                return {self.shown_state: gr.skip()}
            wanted = {**self._parts(job, index, sample), "key": key}
        except WanUIError as error:
            wanted = {**self._empty_parts(sample), "head": render.problem(error), "panel": True, "key": [error.message]}
        return self._changed(wanted, known)

    def _empty_parts(self, sample: TrainingSample | None) -> dict[str, Any]:
        return {"panel": sample is not None, "head": self._pinned_head(sample), "which": None, "grid": None,
                "rows": "", "all": False, "stop": sample is not None}  # fmt: skip

    def _parts(self, job: Job | None, index: int, sample: TrainingSample | None) -> dict[str, Any]:
        if job is None or job.cells or not job.clips:
            return self._empty_parts(sample)
        which = None
        if len(job.clips) > 1:
            which = {
                "choices": [(text_of("sample.video", number=clip.index + 1), clip.index) for clip in job.clips],
                "value": index,
            }
        if not self.service.sample_comparisons.is_compared(job, index):
            return {**self._empty_parts(sample), "panel": True, "which": which}
        checked = self.service.sample_comparisons.check(job, index)
        differing = [check for check in checked.rows if check.state == "red"]
        return {
            "panel": True,
            "head": _compared_head(self._name(checked.sample), checked),
            "which": which,
            "grid": None if checked.beside is None else comparison_grid(job, index, checked.beside),
            "rows": checklist_html(checked),
            "all": len([check for check in differing if check.fix is not None]) > 1,
            "stop": sample is not None,
        }

    def _name(self, sample: TrainingSample | None) -> str:
        """fox · sample 1 · step 500."""
        if sample is None or sample.job is None:
            return text_of("sample.uploaded")
        try:
            job = self.service.imported_jobs.job(sample.job)
        except PreviewNotFound:
            return text_of("sample.deleted")
        step = "" if sample.step is None else text_of("lora_card.step", step=sample.step)
        return render.joined(
            job.imported.name or job.origin, text_of("sample.number", number=(sample.sample or 0) + 1), step
        )

    def _pinned_head(self, sample: TrainingSample | None) -> Markup:
        if sample is None:
            return render_template("preview_pinned", name=None)
        picture = ""
        if (
            sample.file is None
            and sample.job is not None
            and self.service.imported_jobs.preview_file(sample) is not None
        ):
            picture = f"v1/jobs/{sample.job}/samples/{sample.step}/{sample.sample}"  # relative, for a proxy's path
        return render_template("preview_pinned", name=self._name(sample), picture=picture)

    def _changed(self, wanted: Mapping[str, Any], known: Mapping[str, Any]) -> Update:
        updates: Update = {self.shown_state: dict(wanted)}
        for name, value in wanted.items():
            if name in known and known[name] == value:
                continue
            match name:
                case "panel":
                    updates[self.panel] = gr.Column(visible=value)
                case "head":
                    updates[self.head] = value
                case "rows":
                    updates[self.rows] = value
                case "which":
                    updates[self.which] = gr.Dropdown(**(value or {"choices": [], "value": None}), visible=bool(value))
                case "grid":
                    updates[self.player] = gr.HTML(value=value, visible=value is not None)
                case "all":
                    updates[self.all] = gr.Button(visible=value)
                case "stop":
                    updates[self.stop] = gr.Button(visible=value)
        return updates

    # What is pressed

    def on_fix(self, seen: Any, which: Any, uploads: Any, event: gr.EventData) -> Update:
        """ "Make it match" of one row of the checklist."""
        return self._apply_fixes(seen, which, uploads, str(event.row))

    def on_all(self, seen: Any, which: Any, uploads: Any) -> Update:
        """ "Make it all match"."""
        return self._apply_fixes(seen, which, uploads, None)

    def _apply_fixes(self, seen: Any, which: Any, uploads: Any, name: str | None) -> Update:
        """The shown clip's request in its form, with one row's change or all of them, to be compared again."""
        try:
            job = self.service.job(seen["shown"], self.access())
            index = _index(job, which)
            checked = self.service.sample_comparisons.check(job, index)
            wire = job.request_of(index)
            request = parse({**wire, "prompts": [{**wire["prompts"][0], "seed": job.generations[index].seed}]})
            chosen = [check for check in checked.rows if check.fix is not None and name in (None, check.row)]
            request = checklist.apply_all(chosen, request)
            filled = self.loader.open_request(wire_form(request), 0, uploads)
            linked = self.service.imported_jobs.linked(job.id, index)
        except WanUIError as error:
            return {self.problem: render.problem(error)}
        except ValidationError as error:
            refusal = field_errors.invalid_request(error.errors(include_url=False, include_input=False)[:1])
            (text,) = sentences(refusal, lambda location: form_schema.label_of(MODELS[wire["model"]], location))
            return {self.problem: render.note(text_of("sample.cannot_be_set", text=text))}
        sample = {} if checked.sample is None else checked.sample.model_dump(exclude_none=True)
        pin = {**sample, **({} if linked is None else {"file": linked})}
        return {**filled, self.pin: pin, self.problem: ""}

    def on_stop(self, seen: Any, pin: Any, which: Any, shown_state: Any) -> Update:
        """ "Stop comparing"."""
        return {self.pin: None, **self.look(seen, None, which, shown_state)}

    def on_file(self, file: Any, seen: Any, pin: Any, which: Any, shown_state: Any) -> Update:
        """An uploaded preview: beside the shown video if there is one, and pinned for the next."""
        if not isinstance(file, Mapping) or not file.get("path"):
            return {self.problem: ""}
        shown = seen.get("shown") if isinstance(seen, Mapping) else None
        sample = pinned_sample(pin)
        try:
            job = self.service.job(shown, self.access()) if shown else None
            with taken_file(file["path"], partial(self.service.may_take, access=self.access())) as path:
                if job is not None and job.clips and not job.cells and self.service.may_change(job, self.access()):
                    index = _index(job, which)
                    self.service.sample_comparisons.attach(job, index, path, self.access())
                    sha256 = self.service.imported_jobs.linked(job.id, index)
                else:
                    sha256 = self.service.imported_jobs.store_sample(path, self.access())
        except WanUIError as error:
            return {self.file: None, self.problem: render.problem(error)}
        pin = {**({} if sample is None else sample.model_dump(exclude_none=True)), "file": sha256}
        return {self.file: None, self.problem: "", self.pin: pin, **self.look(seen, pin, which, shown_state)}


def pinned_sample(pin: Any) -> TrainingSample | None:
    """The training sample that a browser kept; None unless it names a job or a file."""
    if not isinstance(pin, Mapping):
        return None
    try:
        sample = TrainingSample.model_validate(dict(pin))
    except ValidationError:
        return None
    return sample if sample.job is not None or sample.file is not None else None


def _index(job: Job | None, which: Any) -> int:
    made = [] if job is None else [clip.index for clip in job.clips]
    return which if isinstance(which, int) and which in made else made[0] if made else 0


def comparison_grid(job: Job, index: int, beside: ComparedSample) -> dict[str, Any]:
    """The player's value: the preview, the video and their difference, and the numbers of each frame."""
    generation, facts, numbers = job.generations[index], beside.facts, beside.comparison
    pairs = numbers["pairs"]
    token = hashlib.sha256(json.dumps([numbers, facts.width, facts.height]).encode()).hexdigest()[:12]
    base = f"v1/requests/{job.id}"
    size = (generation.width, generation.height)
    of_size, of_frames, of_fps = (text_of(f"script.fact.{name}") for name in ("size", "frames", "fps"))
    whole = [
        (text_of("sample.title"), f"{base}/preview.mp4?video={index}&v={token}", (facts.width, facts.height),
         len(pairs),
         [(of_size, render.size(facts.width, facts.height)), (of_frames, str(facts.num_frames)),
          (of_fps, text_of("script.fact.unknown") if facts.fps is None else str(facts.fps)),
          (text_of("script.fact.file"), facts.format)]),
        (text_of("sample.this_video"), f"{base}/videos/{index}", size, generation.num_frames,
         [(of_size, render.size(*size)), (of_frames, str(generation.num_frames)), (of_fps, str(generation.fps)),
          (text_of("script.fact.seed"), str(generation.seed))]),
        (text_of("sample.difference"), f"{base}/difference.mp4?video={index}&v={token}", size, len(pairs),
         [(text_of("sample.black"), text_of("sample.same")), (text_of("sample.bright"), text_of("sample.far_apart"))]),
    ]  # fmt: skip
    return {
        "id": job.id,
        "plain": True,
        "columns": [name for name, *_ in whole],
        "rows": [""],
        "notes": [f"PSNR {psnr:.1f} dB · SSIM {ssim:.3f}" for psnr, ssim in
                  zip(numbers["psnr"], numbers["ssim"], strict=True)],
        "cells": [
            {"column": column, "row": 0, "label": name, "state": "done", "url": url, "width": width, "height": height,
             "frames": frames, "fps": generation.fps, "brief": render.size(width, height), "error": None,
             "facts": facts_}
            for column, (name, url, (width, height), frames, facts_) in enumerate(whole)
        ],
    }  # fmt: skip


def _compared_head(name: str, checked: ChecklistResult) -> Markup:
    counts = [(state, sum(check.state == state for check in checked.rows)) for state in STATES]
    tally = [(state, text_of(f"sample.tally_{state}", count=count)) for state, count in counts if count]
    frames = None if checked.beside is None else _frames(checked.beside)
    return render_template("preview_compared", name=name, tally=tally, frames=frames)


def _frames(beside: ComparedSample) -> dict[str, Any]:
    """What comparing the frames gave: mean PSNR and SSIM, likely causes of a difference, PSNR by frame."""
    numbers = beside.comparison
    return {
        "numbers": f"PSNR {numbers['mean_psnr']:.1f} dB, SSIM {numbers['mean_ssim']:.3f}",
        "causes": [translated(cause["message"]) for cause in numbers["causes"]],
        "exact": beside.exact,
        "chart": chart(numbers["psnr"]),
    }


def chart(values: Sequence[float]) -> Markup | str:
    """PSNR by frame as a small line chart; "" for a single frame."""
    if len(values) < 2:
        return ""
    width, height = CHART
    low, high = min(values), max(values)
    span = max(high - low, 3.0)
    floor = (low + high - span) / 2
    points = " ".join(
        f"{index / (len(values) - 1) * width:.1f},{height - 4 - (value - floor) / span * (height - 8):.1f}"
        for index, value in enumerate(values)
    )
    label = text_of("sample.psnr_by_frame", low=f"{low:.1f}", high=f"{high:.1f}")
    return render_template("chart", width=width, height=height, points=points, label=label)


def checklist_html(checked: ChecklistResult) -> Markup:
    """The checklist: what differs and what is unknown, then what matches behind a fold, and all of it as text."""
    wrong = [_check(check) for state in ("red", "amber") for check in checked.rows if check.state == state]
    matching = [_check(check) for check in checked.rows if check.state == "green"]
    return render_template("checklist", wrong=wrong, matching=matching, text=checked.text)


def _check(check: Row) -> dict[str, Any]:
    """One row of the checklist as its template takes it."""
    same, sample = check.preview == check.run, translated(check.preview)
    return {
        "row": check.row,
        "state": check.state,
        "name": text_of(f"check.{check.row}"),
        "verdict": text_of(f"sample.state_{check.state}"),
        "compared": sample if same else text_of("sample.compared", sample=sample, run=translated(check.run)),
        "message": "" if check.state == "green" else translated(check.message),
        "fixable": check.state == "red" and check.fix is not None,
    }
