"""The page's HTML fragments from jobs and errors: status card, result, messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from wan_ui.engine.result import Progress
from wan_ui.engine.speedups import describe
from wan_ui.errors import WanUIError
from wan_ui.lora.remote import without_queries
from wan_ui.models import MODELS, label_of
from wan_ui.request import Generation
from wan_ui.scale import scale_from, scale_words
from wan_ui.speed_loras import SPEED_LORAS
from wan_ui.text import gigabytes
from wan_ui.ui.error_texts import problems
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of, translated
from wan_ui.wire import without_training_samples

if TYPE_CHECKING:
    from wan_ui.job import ClipRecord, Job
    from wan_ui.jobs.outlooks import JobOutlook

LIVE = ("in_queue", "in_progress")
UNFINISHED = ("failed", "canceled")
MOST_STILLS = 8  # of a comparison beside its status
_JOINT = " · "


@dataclass(frozen=True)
class Bar:
    """A progress bar; `done` None is the moving kind, for work of unknown length."""

    name: str
    done: str | None = None
    total: str = "1"


@dataclass(frozen=True)
class Line:
    """How far a job is: a heading, a bar and a few facts as text."""

    head: str
    bar: Bar
    facts: str = ""


@dataclass(frozen=True)
class Card:
    """What the status card shows. `problem` is a sentence in place of `text`, `code` the error's.

    `left` is the time left of the whole job. `tab_title` is what the browser's tab says meanwhile, see
    progress_title.js; "" for its usual title.
    """

    state: str
    head: str
    title: str = ""
    bar: Bar | None = None
    facts: str = ""
    left: str = ""
    text: str = ""
    problem: str = ""
    code: str | None = None
    tab_title: str = ""
    job_id: str = ""

    @property
    def html(self) -> Markup:
        """The card as HTML."""
        return render_template("status_card", card=self)


@dataclass(frozen=True)
class RunningJob:
    """The job that runs while another is shown, and how far it is."""

    job: Job
    progress: Progress | None


# Words and numbers


def phase_name(phase: str) -> str:
    """A phase of a render, such as `Denoising`."""
    return text_of(f"script.phase.{phase}")


def state_name(status: str) -> str:
    """A job's state, such as `Queued`."""
    return text_of(f"script.state.{status}")


def sentence(text: str) -> Markup:
    """Text as HTML; the flags of a command line in it are not broken over two lines."""
    return render_template("sentence", text=text)


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


def bytes_of(done: float, total: float) -> str:
    """`3.2 GB of 40.0 GB`."""
    return text_of("render.bytes", done=gigabytes(done), total=gigabytes(total))


def size(width: int, height: int) -> str:
    """`832 × 480`."""
    return f"{width} × {height}"


def change(asked: str, effective: str) -> str:
    """`asked → effective` where they differ, else the one value."""
    return asked if asked == effective else f"{asked} → {effective}"


def number(value: float) -> str:
    """16, 0.5, 1.2e-05: four significant digits."""
    return f"{value:.4g}"


def scale_text(body: Any) -> str:
    """A LoRA's scale in wire form: `0.5`, `1 to 0.2`, `1, 0.5`."""
    return number(body) if isinstance(body, int | float) else scale_words(scale_from(body))


def percent(value: float | None) -> str:
    """A fraction as a percentage, with enough digits that a small one does not read as zero; None: not a number."""
    if value is None:
        return text_of("render.unknown_share")
    share = value * 100
    if share >= 10:
        return f"{share:.0f} %"
    return f"{share:.2g} %" if share >= 0.01 or share == 0 else text_of("render.under")


def joined(*parts: str) -> str:
    """The parts that are not empty with ` · ` between them."""
    return _JOINT.join(part for part in parts if part)


def label(job: Job) -> str:
    """The model's name; the wire id where the table no longer has it."""
    return label_of(job.generations[0].model)


def took(job: Job) -> float | None:
    """Seconds from start to end, or None before the end."""
    if job.started_at is None or job.finished_at is None:
        return None
    return (datetime.fromisoformat(job.finished_at) - datetime.fromisoformat(job.started_at)).total_seconds()


def prompt_of(job: Job) -> str:
    """A job's first prompt, and how many more or how many cells it has."""
    if job.hidden:
        return text_of("render.someones_job")
    prompt = (" ".join(job.generations[0].prompt.split()) or no_prompt())[:240]
    if job.cells:
        return text_of("render.prompt_of_cells", prompt=prompt, cells=text_of("count.cells", count=len(job.cells)))
    more = len(job.generations) - 1
    return text_of("render.prompt_and_more", prompt=prompt, more=more) if more else prompt


def no_prompt() -> str:
    """What stands for an empty prompt."""
    return text_of("render.no_prompt")


# The status card


def progress_line(progress: Progress | None) -> Line:
    """How far a running render is."""
    if progress is None:
        return Line(text_of("render.starting"), Bar(text_of("render.starting")))
    head = phase_name(progress.phase)
    facts: list[str] = []
    bar = Bar(head)
    if progress.phase == "denoise" and progress.steps:
        bar = Bar(head, f"{progress.step:g}", f"{progress.steps:g}")
        facts.append(text_of("script.stage.step", step=progress.step, steps=progress.steps))
        if progress.seconds_per_step is not None:
            facts.append(text_of("script.stage.per_step", seconds=seconds(progress.seconds_per_step)))
        if progress.seconds_left is not None:
            facts.append(text_of("script.stage.left", seconds=seconds(progress.seconds_left)))
    elif progress.bytes_total:
        bar = Bar(head, f"{progress.bytes_done:g}", f"{progress.bytes_total:g}")
        facts.append(bytes_of(progress.bytes_done, progress.bytes_total))
        if progress.bytes_per_second is not None:
            facts.append(f"{gigabytes(progress.bytes_per_second)}/s")
    return Line(head, bar, joined(*facts, progress_note(progress)))


_CELL = re.compile(r"cell (\d+) of (\d+)")  # as the job's runner states it, and stage.js reads it


def progress_note(progress: Progress) -> str:
    """What a job's progress adds in words, in the page's language: the cell of a comparison, or what is loaded."""
    match = _CELL.fullmatch(progress.note or "")
    if match is not None:
        return text_of("script.stage.cell", number=match[1], cells=match[2])
    return translated(progress.note or "")


def now(
    lead: Job | None, progress: Progress | None, ahead: RunningJob | None, outlook: JobOutlook | None = None
) -> Markup:
    """The status card. `lead` is the job it is about; `ahead` the one that runs while `lead` waits.

    `progress` of a job that waits is that of the download of its LoRA. `outlook` is that of `lead`.
    """
    if lead is None:
        return Card("empty", text_of("render.ready")).html
    if lead.status == "in_queue":
        card = _waiting_card(lead, progress, ahead)
    elif lead.status == "in_progress":
        card = _running_card(lead, progress, outlook)
    else:
        card = _ended_card(lead)
    return replace(card, job_id=lead.id).html


def _waiting_card(job: Job, progress: Progress | None, ahead: RunningJob | None) -> Card:
    title, text = label(job), prompt_of(job)
    position, head = position_of(job), state_name(job.status)
    if progress is not None:
        line = progress_line(progress)
        facts = joined(line.facts, position)
        return Card("waiting", text_of("render.fetching"), title, line.bar, facts, text=text, tab_title=head)
    running = ""
    if ahead is not None:
        line = progress_line(ahead.progress)
        doing = ", ".join(filter(None, (line.head.lower(), line.facts)))
        running = text_of("render.now", model=label(ahead.job), doing=doing)
    return Card("waiting", head, title, Bar(head), joined(position, running), text=text, tab_title=head)


def position_of(job: Job) -> str:
    """A waiting job's place in the queue."""
    return text_of("render.position", position=job.position) if job.position else text_of("render.next")


def _running_card(job: Job, progress: Progress | None, outlook: JobOutlook | None) -> Card:
    title, text = label(job), prompt_of(job)
    if job.cancel_requested:
        head = text_of("render.cancelling")
        return Card("waiting", head, title, Bar(head), text_of("render.after_step"), text=text, tab_title=head)
    line, left = progress_line(progress), ""
    if outlook is not None and outlook.own.fraction is not None and progress is not None:
        line = replace(line, bar=Bar(line.head, f"{outlook.own.fraction:.4f}"), facts=_facts(outlook, progress))
        left = time_left(outlook, seconds)
    clip = ""
    if len(job.generations) > 1 and not job.cells:  # the progress of a comparison names its cell
        count = len(job.generations)
        clip = text_of("render.clip", number=min(len(job.clips) + 1, count), total=count)
    facts = joined(clip, line.facts)
    return Card("running", line.head, title, line.bar, facts, left, text, tab_title=_tab_title(progress, clip))


def _facts(outlook: JobOutlook, progress: Progress) -> str:
    """The steps of the whole job, as stage.js shows them from the events."""
    own = outlook.own
    is_denoising = progress.phase == "denoise" and progress.seconds_per_step is not None
    return joined(
        text_of("script.stage.step", step=own.steps_done, steps=own.steps_total) if own.steps_total else "",
        text_of("script.stage.per_step", seconds=seconds(progress.seconds_per_step or 0)) if is_denoising else "",
        progress_note(progress),
    )


def time_left(outlook: JobOutlook, words: Callable[[float], str]) -> str:
    """The time left of the whole job, as `words` puts a duration; "" while it is unknown."""
    if outlook.seconds_left is None:
        return ""
    key = "script.stage.about_left" if outlook.own.about else "script.stage.left"
    return text_of(key, seconds=words(outlook.seconds_left))


def made_of(job: Job) -> str:
    """`4 cells`, or `1 video`."""
    count = len(job.cells) or len(job.clips)
    return text_of("count.cells" if job.cells else "count.videos", count=count)


def _tab_title(progress: Progress | None, clip: str) -> str:
    """`video 2 of 3 · 43 % · 27 s left`, or the phase where it has no steps."""
    if progress is None or progress.phase != "denoise" or not progress.steps:
        return joined(clip, progress_line(progress).head)
    left = "" if progress.seconds_left is None else text_of("script.stage.left", seconds=seconds(progress.seconds_left))
    return joined(clip, f"{100 * progress.step // progress.steps} %", left)


def _ended_card(job: Job) -> Card:
    title, spent = label(job), took(job)
    if job.status == "succeeded":
        made = made_of(job)
        return Card(
            "done",
            state_name(job.status),
            title,
            Bar(state_name(job.status), "1"),
            text_of("render.made_in", made=made, seconds=seconds(spent or 0)),
            text=prompt_of(job),
            tab_title=f"✓ {state_name(job.status)}",
        )
    facts = joined(
        text_of("render.after", seconds=seconds(spent)) if spent is not None and spent >= 1 else "",
        text_of("render.clips_kept", count=len(job.clips)) if job.clips else "",
    )
    if job.status == "canceled":
        return Card("stopped", state_name(job.status), title, facts=facts, text=text_of("render.cancelled"))
    error = job.error or {"code": "", "message": text_of("render.no_reason")}
    return Card(
        "failed",
        state_name(job.status),
        title,
        facts=facts,
        problem=translated(error["message"]),
        code=error["code"],
        tab_title=f"✗ {state_name(job.status)}",
    )


def trouble(error: WanUIError) -> Markup:
    """The status card while the jobs cannot be read."""
    return Card("failed", text_of("render.no_answer"), problem=translated(error.message)).html


# The result


@dataclass(frozen=True)
class EffectLine:
    """What the LoRAs of one transformer did: `state` is "" (all well), "lost" or "dead"."""

    slot: str
    state: str
    text: str
    files: str


@dataclass(frozen=True)
class ShownClip:
    """One finished video beside the values it was made with.

    `request` is its request as JSON; `parts_before` names the clips that it continues, as in the gallery.
    """

    source: str
    poster: str
    file_name: str
    width: int
    height: int
    name: str
    facts: Sequence[tuple[str, str]]
    effect: Markup | str
    index: int
    seed: int
    request: str
    is_fast: bool
    is_continuable: bool
    has_lora: bool
    parts_before: Sequence[str] = ()


@dataclass(frozen=True)
class ShownResult:
    """The finished videos of a job, or for a comparison how many cells are done. `titled`: each video is named.

    `stills`: the clips of a comparison that stand for it, evenly chosen.
    """

    job_id: str
    model: str
    prompt: str
    comparison: str = ""
    stills: Sequence[int] = ()
    clips: Sequence[ShownClip] = ()
    titled: bool = False
    took: str = ""


def effect(reports: Any) -> Markup | str:
    """What the LoRAs of a clip did: one line per slot, from its metadata's `lora`; "" where there is none."""
    if not isinstance(reports, Mapping) or not reports:
        return ""
    return render_template("effect", lines=[_effect_line(slot, report) for slot, report in reports.items()])


def _effect_line(slot: str, report: Mapping[str, Any]) -> EffectLine:
    in_file, in_use = report["modules_in_file"], report["modules_in_use"]
    dropped, change_of_first_step = report["dropped"], report.get("first_step_change")
    files = report.get("files", [])
    state = ""
    facts = [
        text_of("effect.modules", used=in_use, total=in_file),
        text_of("effect.weights", share=percent(report["weight_change"]["median"])),
    ]
    if files and all(file["network_multiplier"] == 0 for file in files):
        facts = [text_of("effect.not_attached")]
    elif change_of_first_step is not None and change_of_first_step == 0:
        state = "dead"
        facts.append(text_of("effect.dead"))
    elif change_of_first_step is not None:
        facts.append(text_of("effect.first_prediction", share=percent(change_of_first_step)))
    text = text_of("effect.facts", facts=text_of("effect.comma").join(facts))
    if dropped:
        state = state or ("lost" if 2 * in_use >= in_file else "dead")
        reasons = sorted({str(item["why"]) for item in dropped})
        text += " " + text_of("effect.left_out", count=len(dropped), reasons="; ".join(map(translated, reasons[:3])))
    names = " + ".join(f"{file['name']} × {scale_text(file['network_multiplier'])}" for file in files)
    return EffectLine(text_of(f"effect.{slot}"), state, text, names)


def base_fact(base: Mapping[str, Any]) -> str:
    """What a clip was loaded from, by the transformer's file, and how near its numbers are to the reference's."""
    first = next(item for item in base["components"] if item["component"] == "transformer")
    name = text_of("render.folder") if first["precision"] == "folder" else f"{first['name']} ({first['precision']})"
    return f"{name}: {text_of('base.' + base['grade'])}"


def _clip_facts(job: Job, clip: ClipRecord, generation: Generation) -> list[tuple[str, str]]:
    asked = size(generation.requested_width, generation.requested_height)
    facts = [
        (text_of("script.fact.size"), change(asked, size(clip.width, clip.height))),
        (text_of("script.fact.frames"), change(str(generation.requested_num_frames), str(clip.num_frames))),
        (text_of("script.fact.fps"), str(clip.fps)),
        (text_of("script.fact.length"), seconds(clip.num_frames / clip.fps)),
        (text_of("script.fact.seed"), str(clip.seed)),
    ]
    if generation.speed_lora is not None:
        facts.insert(0, (text_of("result.fast_look"), SPEED_LORAS[generation.speed_lora].label))
    if generation.speedup != "none":
        facts.append(
            (text_of("script.fact.speedup"), translated(describe(generation.speedup, clip.metadata.get("forwards"))))
        )
    base = clip.metadata.get("base")
    if base is not None and (base["grade"] != "green" or generation.base != "auto"):
        facts.append((text_of("script.fact.base"), base_fact(base)))
    if clip.metadata.get("tiled") and not generation.vae_tiling:
        facts.append((text_of("script.fact.decoded"), text_of("render.in_tiles")))
    spent = took(job) if len(job.generations) == 1 else None
    return facts if spent is None else [*facts, (text_of("script.fact.took"), seconds(spent))]


def request_of(job: Job, index: int) -> dict[str, Any]:
    """The request of one clip with the seed that was used, as other people may see it."""
    wire = without_queries(without_training_samples(job.request_of(index)))
    return {**wire, "prompts": [{**wire["prompts"][0], "seed": job.generations[index].seed}]}


def _clip(job: Job, clip: ClipRecord, parts_before: Sequence[str]) -> ShownClip:
    generation = job.generations[clip.index]
    return ShownClip(
        source=f"v1/requests/{job.id}/videos/{clip.index}",  # relative, so that the page works under a proxy's path
        poster=f"v1/gallery/{job.id}-{clip.index}/poster.jpg",  # the middle frame
        file_name=f"wan-{job.id[:8]}-{clip.index}.mp4",
        width=clip.width,
        height=clip.height,
        name=" ".join(generation.prompt.split())[:160] or no_prompt(),
        facts=_clip_facts(job, clip, generation),
        effect=effect(clip.metadata.get("lora")),
        index=clip.index,
        seed=clip.seed,
        request=json.dumps(request_of(job, clip.index), ensure_ascii=False),
        is_fast=generation.speed_lora is not None,
        is_continuable=generation.model in MODELS and MODELS[generation.model].control_image != "none",
        has_lora=any(not use.is_speed for use in generation.loras),
        parts_before=parts_before,
    )


def result(job: Job | None, parts_before: Mapping[int, Sequence[str]] = MappingProxyType({})) -> Markup:
    """The finished clips of a job with the values that were used beside each.

    `parts_before`: by the clip's index, the clips that it continues.
    """
    if job is not None and not job.clips and job.status in UNFINISHED:
        return _without_clips(job)
    if job is None or not job.clips:
        return render_template("result", result=None)
    if job.cells:
        # As links and not as players: the grid that plays them is in the Compare tab.
        done = sum(any(clip.index == cell.generation for clip in job.clips) for cell in job.cells)
        comparison = text_of("render.cells_finished", done=done, count=len(job.cells))
        stills = _spread([clip.index for clip in job.clips], MOST_STILLS)
        return render_template("result", result=ShownResult(job.id, label(job), prompt_of(job), comparison, stills))
    several = len(job.generations) > 1
    spent = took(job) if several else None
    shown = ShownResult(
        job.id,
        label(job),
        prompt_of(job),
        clips=[_clip(job, clip, parts_before.get(clip.index, ())) for clip in job.clips],
        titled=several,
        took="" if spent is None else seconds(spent),
    )
    return render_template("result", result=shown)


def _spread(indices: Sequence[int], most: int) -> list[int]:
    """At most `most` of the indices, the first and the last among them."""
    if len(indices) <= most:
        return list(indices)
    return [indices[round(place * (len(indices) - 1) / (most - 1))] for place in range(most)]


def _without_clips(job: Job) -> Markup:
    """A job that ended without a video: why, and how to run it again."""
    error = job.error if job.status == "failed" else None
    message = text_of("result.cancelled") if job.status == "canceled" else text_of("render.no_reason")
    return render_template(
        "no_result",
        job_id=job.id,
        model=label(job),
        prompt=prompt_of(job),
        state=state_name(job.status),
        message=message if error is None else translated(error["message"]),
        code="" if error is None else error["code"],
    )


# Messages


def problem(error: WanUIError, label_of: Callable[[str], str] = str) -> Markup:
    """A refused request: one sentence for each wrong field. `label_of` turns a field's `loc` into its label."""
    return render_template("problem", problems=problems(error, label_of))


def notes(texts: Sequence[str]) -> Markup:
    """What differs in values that were just filled in: one line each."""
    return render_template("notes", texts=texts)


def note(text: str) -> Markup | str:
    """A warning in a line of its own; "" for no text."""
    return paragraph("note", text) if text else ""


def hint(text: str) -> Markup:
    """A line of help under a control."""
    return paragraph("hint", text)


def paragraph(kind: str, text: str, role: str = "") -> Markup:
    """One paragraph of a CSS class: note, hint, wrong or banner, with an ARIA role where it is announced."""
    return render_template("paragraph", kind=kind, text=text, role=role)


def heading(text: str) -> Markup:
    """A heading in the right column."""
    return render_template("heading", text=text)
