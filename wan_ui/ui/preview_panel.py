"""What the trainer showed beside the shown result: checklist, films, and changes that make them match. No renders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
from pydantic import ValidationError

from wan_ui.errors import PreviewNotFound, WanUIError
from wan_ui.request import TrainingSample, parse
from wan_ui.trainer import checklist
from wan_ui.ui import player, render
from wan_ui.ui.events import POLL, QUIET, Update
from wan_ui.ui.load_request import RequestLoader
from wan_ui.ui.uploaded_files import uploaded_files

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.job import Job
    from wan_ui.jobs.sample_comparisons import ChecklistResult, ComparedSample
    from wan_ui.jobs.service import JobService
    from wan_ui.trainer.checklist import Row

STATES: Mapping[str, str] = {"red": "differs", "amber": "unsure", "green": "matches"}
ROW_NAMES: Mapping[str, str] = {
    "checkpoint": "Model", "lora_sides": "LoRA files", "lora_step": "LoRA step", "size": "Size", "frames": "Frames",
    "fps": "FPS", "steps": "Steps", "sampler": "Sampler", "boundary": "Boundary", "guidance": "Guidance",
    "seed": "Seed", "prompt": "Prompt", "trigger": "Trigger word", "negative": "Negative prompt",
    "multiplier": "LoRA scale", "lora_applied": "LoRA applied", "control_image": "First frame",
    "control_resize": "Its resize", "quantisation": "Quantisation", "dtype": "Precision", "decode": "Decode",
    "versions": "Versions", "job": "Everything else",
}  # fmt: skip
FILES = [".webp", ".gif", ".mp4", ".png", ".jpg", ".jpeg"]
CHART = (320, 56)  # units of the drawing

_PICK = """
element.addEventListener('click', (event) => {
  const fix = event.target.closest('button[data-fix]');
  if (fix) trigger('click', {row: fix.dataset.fix});
  const copy = event.target.closest('button[data-copy]');
  if (!copy) return;
  const text = copy.parentElement.querySelector('pre');
  const marked = () => {
    const range = document.createRange();
    range.selectNodeContents(text);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };
  if (!navigator.clipboard) { marked(); return; }  // without TLS there is none
  navigator.clipboard.writeText(text.textContent).then(
    () => { copy.textContent = 'Copied'; setTimeout(() => { copy.textContent = 'Copy'; }, 2000); }, marked);
});
"""


class PreviewPanel:
    """Holds the panel's components; every method named `on_…` is an event's handler.

    `pin` is what the next render is compared with: a TrainingSample as a dict, kept by the browser, or None.
    """

    def __init__(self, service: JobService, access: Callable[[], Access], pin: gr.BrowserState) -> None:
        """Lays the panel out in the surrounding column."""
        self.service = service
        self.access = access
        self.pin = pin
        self.here = gr.State({})
        with gr.Column(elem_id="match", visible=False) as self.panel:
            self.head = gr.HTML()
            self.which = gr.Dropdown([], label="Video of this request", visible=False, elem_classes="chooser")
            self.player = player.build("match-player", visible=False)
            self.rows = gr.HTML(js_on_load=_PICK)
            with gr.Row(elem_classes="match-act"):
                self.all = gr.Button("Make it all match", size="sm", visible=False)
                self.stop = gr.Button("Stop comparing", size="sm", visible=False)
            self.file = gr.File(label="Bring the trainer's preview (WebP, GIF, MP4)", file_types=FILES, height=84,
                                elem_classes="upload")  # fmt: skip
            self.problem = gr.HTML(elem_classes="problems")

    def connect(self, drawer: RequestLoader) -> None:
        """Wires the events."""
        self.drawer, side = drawer, drawer.side
        looking: list[Any] = [side.seen, self.pin, self.which, self.here]
        view: list[Any] = [self.panel, self.head, self.which, self.player, self.rows, self.all, self.stop, self.here]
        side.pulse.click(self.look, looking, view, **POLL)
        # What is shown, or compared with, is another.
        gr.on([side.seen.change, self.pin.change], self.look, looking, view, trigger_mode="always_last", **POLL)
        self.which.input(self.look, looking, view, **QUIET)
        filled = [self.problem, self.pin, *drawer.loaded]
        given: list[Any] = [side.seen, self.which, drawer.forms.uploads]
        self.rows.click(self.on_fix, given, filled, **QUIET)
        self.all.click(self.on_all, given, filled, **QUIET)
        self.stop.click(self.on_stop, looking, [self.pin, *view], **QUIET)
        self.file.upload(
            self.on_file,
            [self.file, *looking],
            [self.file, self.problem, self.pin, *view],
            api_visibility="private",
            show_progress="hidden",
            preprocess=False,
            concurrency_limit=4,
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

    def look(self, seen: Any, pin: Any, which: Any, here: Any) -> Update:
        """What the panel shows now; parts that are as they were are left out."""
        known: Mapping[str, Any] = here if isinstance(here, Mapping) else {}
        shown = seen.get("shown") if isinstance(seen, Mapping) else None
        sample = pinned_sample(pin)
        try:
            job = self.service.job(shown, self.access()) if shown else None
            index = _index(job, which)
            linked = self.service.imported_jobs.linked(job.id, index) if job is not None else None
            key = [shown, index, linked, None if job is None else (job.status, len(job.clips)), pin]
            key = json.loads(json.dumps(key))
            if known.get("key") == key:
                return {self.here: gr.skip()}
            wanted = {**self._shows(job, index, sample), "key": key}
        except WanUIError as error:
            wanted = {**self._nothing(sample), "head": render.problem(error), "panel": True, "key": [error.message]}
        return self._changed(wanted, known)

    def _nothing(self, sample: TrainingSample | None) -> dict[str, Any]:
        return {"panel": sample is not None, "head": self._pinned_head(sample), "which": None, "grid": None,
                "rows": "", "all": False, "stop": sample is not None}  # fmt: skip

    def _shows(self, job: Job | None, index: int, sample: TrainingSample | None) -> dict[str, Any]:
        if job is None or job.cells or not job.clips:
            return self._nothing(sample)
        which = None
        if len(job.clips) > 1:
            which = {"choices": [(f"Video {one.index + 1}", one.index) for one in job.clips], "value": index}
        if not self.service.sample_comparisons.is_compared(job, index):
            return {**self._nothing(sample), "panel": True, "which": which}
        checked = self.service.sample_comparisons.check(job, index)
        reds = [row for row in checked.rows if row.state == "red"]
        return {
            "panel": True,
            "head": _head(self._name(checked.sample), checked),
            "which": which,
            "grid": None if checked.beside is None else films(job, index, checked.beside),
            "rows": rows_html(checked),
            "all": len([row for row in reds if row.fix is not None]) > 1,
            "stop": sample is not None,
        }

    def _name(self, sample: TrainingSample | None) -> str:
        """fox · sample 1 · step 500."""
        if sample is None or sample.job is None:
            return "an uploaded file"
        try:
            job = self.service.imported_jobs.job(sample.job)
        except PreviewNotFound:
            return "a training job that is not here any more"
        said = [job.imported.name or job.origin, f"sample {(sample.sample or 0) + 1}"]
        return " · ".join([*said, *([] if sample.step is None else [f"step {sample.step}"])])

    def _pinned_head(self, sample: TrainingSample | None) -> str:
        if sample is None:
            return (
                "<h2>Compare with a training preview</h2>"
                '<p class="hint">Bring the file that AI Toolkit drew, or open its job in the Trainer job tab.</p>'
            )
        picture = ""
        if (
            sample.file is None
            and sample.job is not None
            and self.service.imported_jobs.preview_file(sample) is not None
        ):
            film = f"v1/jobs/{sample.job}/samples/{sample.step}/{sample.sample}"  # relative, for a proxy's path
            picture = f'<img class="pinned" src="{film}" alt="The training preview">'
        return (
            "<h2>Against the training preview</h2>"
            f'<p class="match-name">{escape(self._name(sample))}</p>{picture}'
            '<p class="hint">What you generate next is compared with it.</p>'
        )

    def _changed(self, wanted: Mapping[str, Any], known: Mapping[str, Any]) -> Update:
        made: Update = {self.here: dict(wanted)}
        for name, value in wanted.items():
            if name in known and known[name] == value:
                continue
            match name:
                case "panel":
                    made[self.panel] = gr.Column(visible=value)
                case "head":
                    made[self.head] = value
                case "rows":
                    made[self.rows] = value
                case "which":
                    made[self.which] = gr.Dropdown(**(value or {"choices": [], "value": None}), visible=bool(value))
                case "grid":
                    made[self.player] = gr.HTML(value=value, visible=value is not None)
                case "all":
                    made[self.all] = gr.Button(visible=value)
                case "stop":
                    made[self.stop] = gr.Button(visible=value)
        return made

    # What is pressed

    def on_fix(self, seen: Any, which: Any, uploads: Any, event: gr.EventData) -> Update:
        return self._mend(seen, which, uploads, str(event.row))

    def on_all(self, seen: Any, which: Any, uploads: Any) -> Update:
        return self._mend(seen, which, uploads, None)

    def _mend(self, seen: Any, which: Any, uploads: Any, name: str | None) -> Update:
        """The shown clip's request in its form, with one row's change or all of them, to be compared again."""
        try:
            job = self.service.job(seen["shown"], self.access())
            index = _index(job, which)
            checked = self.service.sample_comparisons.check(job, index)
            wire = job.request_of(index)
            request = parse({**wire, "prompts": [{**wire["prompts"][0], "seed": job.generations[index].seed}]})
            chosen = [row for row in checked.rows if row.fix is not None and name in (None, row.row)]
            request = checklist.apply_all(chosen, request)
            filled = self.drawer.open_request(request.model_dump(mode="json", exclude_none=True), 0, uploads)
            linked = self.service.imported_jobs.linked(job.id, index)
        except WanUIError as error:
            return {self.problem: render.problem(error)}
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return {self.problem: render.note(f"This value cannot be set here: {first['msg']}.")}
        sample = {} if checked.sample is None else checked.sample.model_dump(exclude_none=True)
        pin = {**sample, **({} if linked is None else {"file": linked})}
        return {**filled, self.pin: pin, self.problem: ""}

    def on_stop(self, seen: Any, pin: Any, which: Any, here: Any) -> Update:
        return {self.pin: None, **self.look(seen, None, which, here)}

    def on_file(self, file: Any, seen: Any, pin: Any, which: Any, here: Any) -> Update:
        """An uploaded preview: beside the shown video if there is one, and pinned for the next."""
        if not isinstance(file, Mapping) or not file.get("path"):
            return {self.problem: ""}
        shown = seen.get("shown") if isinstance(seen, Mapping) else None
        sample = pinned_sample(pin)
        try:
            path = uploaded_files(file["path"], partial(self.service.may_open, access=self.access()))
            job = self.service.job(shown, self.access()) if shown else None
            if job is not None and job.clips and not job.cells and self.service.may_change(job, self.access()):
                index = _index(job, which)
                self.service.sample_comparisons.attach(job, index, path, self.access())
                sha256 = self.service.imported_jobs.linked(job.id, index)
            else:
                sha256 = self.service.imported_jobs.store_sample(path, self.access())
        except WanUIError as error:
            return {self.file: None, self.problem: render.problem(error)}
        pin = {**({} if sample is None else sample.model_dump(exclude_none=True)), "file": sha256}
        return {self.file: None, self.problem: "", self.pin: pin, **self.look(seen, pin, which, here)}


def pinned_sample(pin: Any) -> TrainingSample | None:
    """What a browser kept, if it is a training sample that names something."""
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


def films(job: Job, index: int, beside: ComparedSample) -> dict[str, Any]:
    """The player's value: the preview, the video and their difference, and the numbers of each frame."""
    generation, facts, found = job.generations[index], beside.facts, beside.comparison
    pairs = found["pairs"]
    token = hashlib.sha256(json.dumps([found, facts.width, facts.height]).encode()).hexdigest()[:12]
    base = f"v1/requests/{job.id}"
    size = (generation.width, generation.height)
    whole = [
        ("Preview", f"{base}/preview.mp4?video={index}&v={token}", (facts.width, facts.height), len(pairs),
         [("Size", render.size(facts.width, facts.height)), ("Frames", str(facts.num_frames)),
          ("FPS", "unknown" if facts.fps is None else str(facts.fps)), ("File", facts.format)]),
        ("This video", f"{base}/videos/{index}", size, generation.num_frames,
         [("Size", render.size(*size)), ("Frames", str(generation.num_frames)), ("FPS", str(generation.fps)),
          ("Seed", str(generation.seed))]),
        ("Difference × 4", f"{base}/difference.mp4?video={index}&v={token}", size, len(pairs),
         [("Black", "the same"), ("Bright", "far apart")]),
    ]  # fmt: skip
    return {
        "id": job.id,
        "plain": True,
        "columns": [name for name, *_ in whole],
        "rows": [""],
        "notes": [f"PSNR {psnr:.1f} dB · SSIM {ssim:.3f}" for psnr, ssim in
                  zip(found["psnr"], found["ssim"], strict=True)],
        "cells": [
            {"column": column, "row": 0, "label": name, "state": "done", "url": url, "width": width, "height": height,
             "frames": frames, "fps": generation.fps, "brief": render.size(width, height), "error": None,
             "facts": facts_}
            for column, (name, url, (width, height), frames, facts_) in enumerate(whole)
        ],
    }  # fmt: skip


def _head(name: str, checked: ChecklistResult) -> str:
    counts = {state: sum(row.state == state for row in checked.rows) for state in STATES}
    words = {"red": "different", "amber": "unsure", "green": "matching"}
    tally = "".join(
        f'<span><i class="light {state}" aria-hidden="true"></i>{count} {words[state]}</span>'
        for state, count in counts.items()
        if count
    )
    return (
        "<h2>Against the training preview</h2>"
        f'<p class="match-name">{escape(name)}</p><p class="tally" role="status">{tally}</p>{_verdict(checked.beside)}'
    )


def _verdict(beside: ComparedSample | None) -> str:
    """What the frames say."""
    if beside is None:
        return '<p class="hint">Bring the preview\'s file to compare the frames too.</p>'
    found = beside.comparison
    numbers = f"PSNR {found['mean_psnr']:.1f} dB, SSIM {found['mean_ssim']:.3f}"
    if found["causes"]:
        said = "".join(f"<li>{escape(cause['message'])}</li>" for cause in found["causes"])
        verdict = f'<div class="verdict far"><b>Another video</b> <span>{numbers}</span><ul>{said}</ul></div>'
    else:
        verdict = (
            f'<div class="verdict near"><b>The same video</b> <span>{numbers}</span>'
            "<p>But for the compression of the preview's file.</p></div>"
        )
    rough = (
        '<p class="hint">Compared with the MP4, whose own compression is in the numbers. Generate once more, and the '
        "render's own frames are kept and compared.</p>"
    )
    return verdict + ("" if beside.exact else rough) + chart(found["psnr"])


def chart(values: Sequence[float]) -> str:
    """PSNR by frame as a small line; "" for a single frame."""
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
    said = f"PSNR by frame, {low:.1f} to {high:.1f} dB"
    return (
        f'<figure class="chart"><svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{said}"><polyline points="{points}" vector-effect="non-scaling-stroke"/></svg>'
        f"<figcaption>{said}</figcaption></figure>"
    )


def rows_html(checked: ChecklistResult) -> str:
    """The checklist: what differs and what is unsure, then what matches behind a fold, and all of it as text."""
    wrong = [row for state in ("red", "amber") for row in checked.rows if row.state == state]
    right = [row for row in checked.rows if row.state == "green"]
    shown = "".join(map(_row, wrong)) or '<li class="all-right">Nothing differs.</li>'
    fold = (
        f"<details><summary>{render.plural(len(right), 'row')} matching</summary>"
        f'<ul class="checks">{"".join(map(_row, right))}</ul></details>'
        if right
        else ""
    )
    return (
        f'<ul class="checks">{shown}</ul>{fold}<details class="as-text"><summary>As text</summary>'
        f'<button type="button" class="small" data-copy>Copy</button><pre>{escape(checked.text)}</pre></details>'
    )


def _row(row: Row) -> str:
    both = row.preview if row.preview == row.run else f"preview {row.preview} · here {row.run}"
    name = ROW_NAMES.get(row.row, row.row)
    button = (
        f'<button type="button" class="small" data-fix="{row.row}" aria-label="Make it match: {name}">'
        "Make it match</button>"
        if row.state == "red" and row.fix is not None
        else ""
    )
    message = f"<p>{escape(row.message)}</p>" if row.state != "green" else ""
    return (
        f'<li data-row="{row.row}" data-state="{row.state}"><i class="light {row.state}" aria-hidden="true"></i>'
        f'<div><b>{name}</b> <em>{STATES[row.state]}</em><span class="values">{escape(both)}</span>{message}</div>'
        f"{button}</li>"
    )
