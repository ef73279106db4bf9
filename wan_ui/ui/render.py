"""The page's small pieces of HTML: the live card, the result, the lists and the messages; it knows no controls."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wan_ui.engine.result import Progress
from wan_ui.engine.speedups import describe
from wan_ui.errors import WanUIError
from wan_ui.models import MODELS
from wan_ui.request import Generation

if TYPE_CHECKING:
    from wan_ui.job import ClipRecord, Job

PHASES = {
    "checking": "Checking the files",
    "downloading": "Downloading the model",
    "loading": "Loading the model",
    "lora": "Attaching the LoRA",
    "text": "Reading the prompt",
    "image": "Encoding the first frame",
    "denoise": "Denoising",
    "decode": "Decoding the video",
    "encode": "Writing the video",
}
STATES = {
    "in_queue": "Queued",
    "in_progress": "Running",
    "succeeded": "Done",
    "failed": "Failed",
    "canceled": "Cancelled",
}
LIVE = ("in_queue", "in_progress")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")
IN_TILES = "in tiles: the GPU had no room for whole frames, so faint seams may differ"
SLOT_HEADS = {"single": "LoRA", "high": "High", "low": "Low"}


def sentence(text: str) -> str:
    """Text as HTML; a command line's flags in it stay whole where the line breaks."""
    return _FLAG.sub(lambda flag: f'<span class="flag">{flag[0]}</span>', escape(text))


def seconds(value: float) -> str:
    """A duration as people say it: 0.8 s, 12 s, 2 min 5 s, 1 h 3 min."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def size(width: int, height: int) -> str:
    return f"{width} × {height}"


def change(asked: str, effective: str) -> str:
    """`asked → effective` where they differ, else the one value."""
    return asked if asked == effective else f"{asked} → {effective}"


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def label(job: Job) -> str:
    """The model's name; the wire id where the table no longer has it."""
    model = job.generations[0].model
    return MODELS[model].label if model in MODELS else model


def took(job: Job) -> float | None:
    """Seconds from start to end, or None before the end."""
    if job.started_at is None or job.finished_at is None:
        return None
    return (datetime.fromisoformat(job.finished_at) - datetime.fromisoformat(job.started_at)).total_seconds()


def _prompt(job: Job) -> str:
    if job.hidden:
        return "someone’s job"
    text = " ".join(job.generations[0].prompt.split()) or "(no prompt)"
    more = f" (+{len(job.generations) - 1} more)" if len(job.generations) > 1 else ""
    if job.cells:
        more = f" ({plural(len(job.cells), 'cell')})"
    return escape(text[:240]) + more


def _card(state: str, title: str, head: str, bar: str, facts: str, text: str) -> str:
    return (
        f'<section class="card {state}" aria-label="What runs now">'
        f'<div class="card-head"><strong class="chip" role="status">{head}</strong>'
        f'<span class="quiet">{escape(title)}</span></div>'
        f'<div class="bar">{bar}</div><div class="facts">{facts}</div><div class="text">{text}</div></section>'
    )


def _bar(done: float | None, total: float, name: str) -> str:
    """A <progress>; `done` None is the moving kind, for work of unknown length."""
    value = "" if done is None else f' value="{done:g}"'
    return f'<progress max="{total:g}"{value} aria-label="{escape(name)}"></progress>'


def progress_line(progress: Progress | None) -> tuple[str, str, str]:
    """Heading, bar and facts of a running render, as HTML."""
    if progress is None:
        return "Starting", _bar(None, 1, "Starting"), ""
    head = PHASES[progress.phase]
    facts: list[str] = []
    bar = _bar(None, 1, head)
    if progress.phase == "denoise" and progress.steps:
        bar = _bar(progress.step, progress.steps, head)
        facts.append(f"step {progress.step} of {progress.steps}")
        if progress.seconds_per_step is not None:
            facts.append(f"{seconds(progress.seconds_per_step)} per step")
        if progress.seconds_left is not None:
            facts.append(f"{seconds(progress.seconds_left)} left")
    elif progress.bytes_total:
        bar = _bar(progress.bytes_done, progress.bytes_total, head)
        facts.append(f"{gigabytes(progress.bytes_done)} of {gigabytes(progress.bytes_total)}")
        if progress.bytes_per_second is not None:
            facts.append(f"{gigabytes(progress.bytes_per_second)}/s")
    if progress.note:
        facts.append(escape(progress.note))
    return head, bar, " · ".join(facts)


def now(lead: Job | None, progress: Progress | None, ahead: tuple[Job, Progress | None] | None) -> str:
    """The live card. `lead` is the job it is about; `ahead` what runs while `lead` waits.

    `progress` of a job that waits is that of its LoRA's fetch.
    """
    if lead is None:
        return _card(
            "empty", "", "Ready", "", "", "Nothing is running. Fill in the form and press Generate, or Ctrl/⌘ + Enter."
        )
    title = label(lead)
    if lead.status == "in_queue":
        facts = f"position {lead.position}" if lead.position else "next"
        if progress is not None:
            _, bar, detail = progress_line(progress)
            facts = " · ".join(part for part in (detail, facts) if part)
            return _card("waiting", title, "Fetching the LoRA", bar, facts, _prompt(lead))
        if ahead is not None:
            head, _, detail = progress_line(ahead[1])
            facts += f" · now: {escape(label(ahead[0]))}, {head.lower()}{', ' + detail if detail else ''}"
        return _card("waiting", title, "Queued", _bar(None, 1, "Queued"), facts, _prompt(lead))
    if lead.status == "in_progress" and lead.cancel_requested:
        return _card("waiting", title, "Cancelling", _bar(None, 1, "Cancelling"), "after this step", _prompt(lead))
    if lead.status == "in_progress":
        head, bar, facts = progress_line(progress)
        if len(lead.generations) > 1 and not lead.cells:  # whose progress names the cell
            number = min(len(lead.clips) + 1, len(lead.generations))
            facts = " · ".join(part for part in (f"clip {number} of {len(lead.generations)}", facts) if part)
        return _card("running", title, head, bar, facts, _prompt(lead))
    spent = took(lead)
    facts = f"after {seconds(spent)}" if spent is not None and spent >= 1 else ""
    if lead.status == "succeeded":
        made = plural(len(lead.cells), "cell") if lead.cells else plural(len(lead.clips), "clip")
        facts = f"{made} in {seconds(spent or 0)}"
        return _card("done", title, "Done", _bar(1, 1, "Done"), facts, _prompt(lead))
    kept = f"{plural(len(lead.clips), 'finished clip')} kept" if lead.clips else ""
    facts = " · ".join(part for part in (facts, kept) if part)
    if lead.status == "canceled":
        text = "Cancelled. The form is as you left it: press Generate to run it again."
        return _card("stopped", title, "Cancelled", "", facts, text)
    error = lead.error or {"code": "", "message": "The reason was not recorded."}
    text = f'<p class="what">{sentence(error["message"])}</p><code>{escape(error["code"])}</code>'
    return _card("failed", title, "Failed", "", facts, text)


def trouble(error: WanUIError) -> str:
    """The card while the list of jobs cannot be read."""
    return _card("failed", "", "No answer", "", "", f'<p class="what">{sentence(error.message)}</p>')


def _facts(pairs: Sequence[tuple[str, str]]) -> str:
    return (
        '<dl class="used">' + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in pairs) + "</dl>"
    )


def number(value: float) -> str:
    """16, 0.5, 1.2e-05: as short as it stays clear."""
    return f"{value:.4g}"


def percent(value: float) -> str:
    """A share of 1 in percent, with the digits it needs to be told from nothing."""
    share = value * 100
    return f"{share:.0f} %" if share >= 10 else f"{share:.2g} %" if share >= 0.01 or share == 0 else "under 0.01 %"


def effect(reports: Any) -> str:
    """What the LoRAs of a clip really did: one line per slot, from its metadata's `lora`; "" where there is none."""
    if not isinstance(reports, Mapping) or not reports:
        return ""
    return f'<ul class="effect">{"".join(_effect(slot, report) for slot, report in reports.items())}</ul>'


def _effect(slot: str, report: Mapping[str, Any]) -> str:
    in_file, in_use = report["modules_in_file"], report["modules_in_use"]
    dropped, step = report["dropped"], report.get("first_step_change")
    median = report["weight_change"]["median"]
    files = report.get("files", [])
    name = " + ".join(f"{file['name']} × {number(file['network_multiplier'])}" for file in files)
    off = bool(files) and all(file["network_multiplier"] == 0 for file in files)
    describe = [f"{in_use} of {in_file} modules", f"weights changed by {percent(median)} (median)"]
    state = ""
    if off:
        describe = ["not attached: its scale is 0"]
    elif step is not None and step == 0:
        state = "dead"
        describe.append("the first prediction did not change: this LoRA has no effect here")
    elif step is not None:
        describe.append(f"first prediction by {percent(step)}")
    lost = ""
    if dropped:
        state = state or "lost"
        why = sorted({str(item["why"]) for item in dropped})
        lost = f" {plural(len(dropped), 'module')} left out: {escape('; '.join(why[:3]))}."
    head = escape(SLOT_HEADS.get(slot, slot))
    shown = f'<span class="file">{escape(name)}</span>' if name else ""
    return f'<li class="{state}"><b>{head}:</b> {escape(", ".join(describe))}.{lost}{shown}</li>'


def _clip(job: Job, clip: ClipRecord, generation: Generation) -> str:
    # Relative, so that the page also works under a proxy's path.
    source = f"v1/requests/{job.id}/videos/{clip.index}"
    asked = size(generation.requested_width, generation.requested_height)
    used = size(clip.width, clip.height)
    spent = took(job) if len(job.generations) == 1 else None
    lossy = generation.speedup != "none"
    facts = _facts(
        [
            ("Size", change(asked, used)),
            ("Frames", change(str(generation.requested_num_frames), str(clip.num_frames))),
            ("FPS", str(clip.fps)),
            ("Length", seconds(clip.num_frames / clip.fps)),
            ("Seed", str(clip.seed)),
            *([("Speed-up", describe(generation.speedup, clip.metadata.get("forwards")))] if lossy else []),
            *([("Decoded", IN_TILES)] if clip.metadata.get("tiled") and not generation.vae_tiling else []),
            *([("Took", seconds(spent))] if spent is not None else []),
        ]
    )
    name = escape(" ".join(generation.prompt.split())[:160] or "(no prompt)", quote=True)
    title = f'<span class="quiet line">{name}</span>' if len(job.generations) > 1 else ""
    loras = effect(clip.metadata.get("lora"))
    return (
        f'<figure><div class="screen"><video src="{source}" controls loop playsinline preload="metadata" '
        f'width="{clip.width}" height="{clip.height}" aria-label="Video: {name}"></video></div>'
        f'<figcaption>{title}{facts}{loras}<a class="save" href="{source}" '
        f'download="wan-{job.id[:8]}-{clip.index}.mp4">'
        "Save MP4</a></figcaption></figure>"
    )


def result(job: Job | None) -> str:
    """The finished clips of a job with what was really used beside each."""
    if job is None or not job.clips:
        return '<div class="result none"><div class="screen"><p>The video appears here.</p></div></div>'
    spent = took(job) if len(job.generations) > 1 else None
    head = f'<p class="result-head"><strong>{escape(label(job))}</strong><span class="quiet">{_prompt(job)}</span></p>'
    if job.cells:
        # As links and not as players: the grid that plays them is in the Compare tab.
        done = sum(any(clip.index == cell.generation for clip in job.clips) for cell in job.cells)
        link = f'<a class="save" href="?compare={job.id}">Open the comparison</a>'
        made = f"<p>{done} of {plural(len(job.cells), 'cell')} finished</p>"
        return f'<div class="result compared">{head}{made}{link}</div>'
    time = f'<p class="quiet">All rendered in {seconds(spent)}</p>' if spent is not None else ""
    many = " many" if len(job.clips) > 1 else ""
    clips = "".join(_clip(job, clip, job.generations[clip.index]) for clip in job.clips)
    return f'<div class="result{many}">{head}<div class="clips">{clips}</div>{time}</div>'


def queue(
    jobs: Sequence[Job],
    mine: Collection[str],
    ahead: tuple[Job, Progress | None] | None,
    fetching: Mapping[str, Progress] = MappingProxyType({}),
    removable: Collection[str] = (),
) -> str:
    """The jobs in line that the card is not about, in order; those `removable` with a button that takes them out.

    `fetching`: by job id, how far the LoRA files of those that wait for some are.
    """
    if not jobs:
        return '<p class="quiet none">Nothing else is waiting.</p>'
    lines = []
    for job in jobs:
        place = str(job.position) if job.position else "▸"
        describe = _prompt(job)
        if ahead is not None and job.id == ahead[0].id:
            head, _, detail = progress_line(ahead[1])
            describe = " · ".join(part for part in (_prompt(job) if job.hidden else "", head, detail) if part)
        elif job.id in fetching:
            describe = progress_line(fetching[job.id])[2] or "fetching its LoRA"
        yours = ' <span class="quiet">yours</span>' if job.id in mine else ""
        lines.append(
            f'<li><span class="place">{place}</span><span class="what"><b>{escape(label(job))}</b>{yours}'
            f'<span class="quiet line">{describe}</span></span>{_remove(job) if job.id in removable else ""}</li>'
        )
    return f'<ol class="jobs">{"".join(lines)}</ol>'


def _remove(job: Job) -> str:
    return (
        f'<button type="button" class="small" data-job="{job.id}" '
        f'aria-label="Remove from the queue: {escape(label(job))}, {_prompt(job)}">Remove</button>'
    )


def finished(jobs: Sequence[Job], shown: str | None) -> str:
    """The jobs that ended, newest first; a press shows one."""
    if not jobs:
        return '<p class="quiet none">Finished jobs are listed here.</p>'
    lines = []
    for job in jobs:
        spent = took(job)
        facts = STATES[job.status]
        if job.cells:
            facts += f" · {plural(len(job.cells), 'cell')}"
        elif job.clips:
            facts += f'<span class="size"> · {size(job.clips[0].width, job.clips[0].height)}</span>'
        if spent is not None:
            facts += f" · {seconds(spent)}"
        current = ' aria-current="true"' if job.id == shown else ""
        lines.append(
            f'<li><button type="button" class="show" data-job="{job.id}"{current}>'
            f'<span class="dot {job.status}" aria-hidden="true"></span>'
            f'<span class="what"><b>{escape(label(job))}</b><span class="quiet line">{_prompt(job)}</span></span>'
            f'<span class="quiet end">{facts}</span></button></li>'
        )
    return f'<ul class="jobs">{"".join(lines)}</ul>'


def problem(error: WanUIError, name_of: Callable[[str], str] = str) -> str:
    """A refused request: what is wrong and, for fields, which. `name_of` turns a field's `loc` into its label."""
    fields: Any = error.details.get("fields") or []
    if fields:
        items = "".join(
            f"<li><b>{escape(name_of(item['loc']))}</b>: {sentence(item['msg'])}</li>" for item in fields[:8]
        )
        more = f"<li>and {len(fields) - 8} more</li>" if len(fields) > 8 else ""
        return f'<div class="problem" role="alert">Please change this and try again:<ul>{items}{more}</ul></div>'
    return f'<div class="problem" role="alert">{sentence(error.message)}</div>'


def notes(texts: Sequence[str]) -> str:
    """What is to be known about what was just filled in: one line each."""
    lines = "".join(f"<li>{sentence(text)}</li>" for text in texts)
    return f'<div class="note again" role="status">Opened again, but not all is as it was:<ul>{lines}</ul></div>'


def note(text: str) -> str:
    return f'<p class="note">{sentence(text)}</p>' if text else ""
