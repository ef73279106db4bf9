"""The grid player of a comparison: the Gradio component, and a job's cells as the data it shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.compare import NO_LORA, short_labels
from wan_ui.engine.recipes import RECIPES
from wan_ui.models import label_of
from wan_ui.scale import scale_from, scale_words
from wan_ui.ui import render
from wan_ui.ui.static_files import component_options, static_text
from wan_ui.ui.texts import text_of, translated

if TYPE_CHECKING:
    from wan_ui.compare import PlannedCell
    from wan_ui.job import ClipRecord, Job
    from wan_ui.jobs.runner import Running
    from wan_ui.request import Generation

PAIR = "pair:"


def build(elem_id: str = "player", visible: bool = True) -> gr.HTML:
    """The component. `value` is what `grid` gives, or None; the prop `progress` is what `advance` gives.

    A value may be `plain`: its cells belong to no comparison, so they have no downloads and no "Use settings".
    Its `notes` are a line for each frame, shown beside the frame's number.

    The click event carries `job`, `column` and `row` of the cell whose settings go into the form.
    """
    return gr.HTML(
        None,
        css_template=static_text("player.css"),
        elem_id=elem_id,
        visible=visible,
        progress=None,
        **component_options("player"),
    )


def grid(job: Job, running: Running | None, may_share: bool = False) -> dict[str, Any]:
    """A comparison's cells, JSON-ready. Changes when a cell begins or ends, not with its progress.

    `shared` are the facts that all cells have in common, and `prompt` the prompt, None where there are several.
    `column_heads`, `row_heads` and `page_heads` are the labels without what they have in common, which is
    `column_title` and so on. `pages` is [""] without a third axis. `baseline` is the column whose cells of a page all
    show the same video without LoRA, which is shown once.
    """
    columns, column_title, column_heads = _heads({cell.column: cell.column_label for cell in job.cells}.values())
    rows, row_title, row_heads = _heads({cell.row: cell.row_label for cell in job.cells}.values())
    pages, page_title, page_heads = _heads({cell.page: cell.page_label for cell in job.cells}.values())
    prompts = {generation.prompt for generation in job.generations}
    return {
        "id": job.id,
        "prompt": (prompts.pop() or render.no_prompt()) if len(prompts) == 1 else None,
        "shared": _shared_facts(job),
        "columns": columns,
        "rows": rows,
        "column_title": column_title,
        "column_heads": column_heads,
        "row_title": row_title,
        "row_heads": row_heads,
        "pages": pages,
        "page_title": page_title,
        "page_heads": page_heads,
        "baseline": _shared_baseline(job),
        "judged": True,
        "share": job.id if may_share else None,
        "cells": [_cell(job, cell, running) for cell in job.cells],
    }


def _heads(labels: Iterable[str]) -> tuple[list[str], str, list[str]]:
    """An axis's labels in the page's language, what they have in common, and each of them without it."""
    english = list(labels)
    shown = [translated(label) for label in english]
    title, heads = short_labels(english)
    for label, head, text in zip(english, heads, shown, strict=True):
        if label == f"{title} {head}" and text.endswith(head):  # "scale 0.5", in Chinese "强度 0.5"
            title = text.removesuffix(head).strip()
            break
    return shown, title, [translated(head) for head in heads]


def _shared_baseline(job: Job) -> int | None:
    """The column without LoRA of a grid with several rows, if the same video is in all of its cells."""
    first = [cell for cell in job.cells if cell.column == 0]
    is_baseline = any(cell.row > 0 for cell in first) and all(cell.column_label == NO_LORA for cell in first)
    shown = {(cell.page, cell.generation) for cell in first}
    return 0 if is_baseline and len(shown) == len({cell.page for cell in first}) else None


def pair_id(first: str, second: str) -> str:
    """What the Compare tab shows two videos of the gallery by: the ids of their entries."""
    return f"{PAIR}{first},{second}"


def paired(shown: str) -> tuple[str, str] | None:
    """The ids in a text that pair_id gave, None for any other text."""
    first, comma, second = shown.removeprefix(PAIR).partition(",")
    return (first, second) if shown.startswith(PAIR) and comma else None


def side_by_side(videos: Sequence[tuple[Job, ClipRecord]]) -> dict[str, Any]:
    """Videos of any jobs as one row of cells, JSON-ready; each is headed by what differs from the others."""
    facts = [_clip_facts(job, clip) for job, clip in videos]
    names = list(dict.fromkeys(name for video in facts for name in video))
    differing = [
        name for name in names if len({video.get(name) for video in facts}) > 1 and name != text_of("field.prompt")
    ]
    heads = [
        ", ".join(f"{name} {video[name]}" for name in differing if name in video)
        or text_of("player.video", number=number)
        for number, video in enumerate(facts, 1)
    ]
    cells = []
    for column, ((job, clip), head) in enumerate(zip(videos, heads, strict=True)):
        generation = job.generations[clip.index]
        cells.append(
            {
                "column": column,
                "row": 0,
                "label": head,
                "state": "done",
                "url": f"v1/requests/{job.id}/videos/{clip.index}",
                "poster": f"v1/gallery/{job.id}-{clip.index}/poster.jpg",
                "width": clip.width,
                "height": clip.height,
                "frames": clip.num_frames,
                "fps": clip.fps,
                "brief": "",
                "error": None,
                "facts": list(facts[column].items()),
                "check": None,
                "job": job.id,
                "video": clip.index,
                "prompt": generation.prompt,
            }
        )
    return {"id": "pair", "pair": True, "columns": heads, "rows": [""], "cells": cells}


def _clip_facts(job: Job, clip: ClipRecord) -> dict[str, str]:
    generation = job.generations[clip.index]
    model = label_of(generation.model)
    wire = job.request_of(clip.index)
    return {
        text_of("field.prompt"): generation.prompt,
        text_of("script.fact.model"): model,
        **dict(lora_facts(wire.get("loras", ()))),
        **dict(_generation_facts(generation)),
    }


def advance(running: Running | None) -> dict[str, Any] | None:
    """How far the running cell is, JSON-ready."""
    if running is None:
        return None
    progress = running.progress
    shown: dict[str, Any] = {"head": render.phase_name(progress.phase), "text": "", "value": 0, "max": 0}
    if progress.phase == "denoise" and progress.steps:
        shown |= {
            "text": text_of("script.stage.step", step=progress.step, steps=progress.steps),
            "value": progress.step,
            "max": progress.steps,
        }
        if progress.seconds_left is not None:
            shown["text"] += " · " + text_of("script.stage.left", seconds=render.seconds(progress.seconds_left))
    elif progress.bytes_total:
        shown |= {
            "text": render.bytes_of(progress.bytes_done, progress.bytes_total),
            "value": progress.bytes_done,
            "max": progress.bytes_total,
        }
    return shown


def state(job: Job, cell: PlannedCell, running: Running | None) -> str:
    """done, failed, running, writing, waiting, canceled, or missing where the job ended before the cell began."""
    if any(clip.index == cell.generation for clip in job.clips):
        return "done"
    if cell.generation in job.failures:
        return "failed"
    if job.status in render.LIVE:
        if running is not None and running.index == cell.generation:
            return "running"
        return "writing" if running is not None and running.writing == cell.generation else "waiting"
    return "canceled" if job.status == "canceled" else "missing"


def label(cell: PlannedCell) -> str:
    """A cell's name from the heads of its column and row."""
    return " · ".join(map(translated, cell.labels)) or text_of("player.the_video")


def _cell(job: Job, cell: PlannedCell, running: Running | None) -> dict[str, Any]:
    generation = job.generations[cell.generation]
    failure = job.failures.get(cell.generation)
    return {
        "column": cell.column,
        "row": cell.row,
        "page": cell.page,
        "label": label(cell),
        "state": state(job, cell, running),
        "url": f"v1/requests/{job.id}/videos/{cell.generation}",  # relative, for a proxy's path
        "width": generation.width,
        "height": generation.height,
        "frames": generation.num_frames,
        "fps": generation.fps,
        "brief": _brief(job, cell),
        "video": cell.generation,
        "error": None if failure is None else translated(str(failure["message"])),
        "facts": _facts(job, cell),
        "check": _checklist_url(job, cell, running),
    }


def _brief(job: Job, cell: PlannedCell) -> str:
    """The values that differ between the cells and are in no head of a column or row."""
    generation = job.generations[cell.generation]
    heads = " ".join(cell.labels)
    seeds, steps = ({getattr(one, name) for one in job.generations} for name in ("seed", "sample_steps"))
    seed = f"seed {generation.seed}"
    return render.joined(
        text_of("player.seed", seed=generation.seed) if len(seeds) > 1 and seed not in heads else "",
        text_of("count.steps", count=generation.sample_steps) if len(steps) > 1 and "steps" not in heads else "",
    )


def _checklist_url(job: Job, cell: PlannedCell, running: Running | None) -> str | None:
    """The address of a cell's checklist; None unless it is done and compared with a training sample."""
    compared = cell.request["prompts"][0].get("training_sample") is not None
    made = compared and state(job, cell, running) == "done"
    return f"v1/requests/{job.id}/checklist?video={cell.generation}" if made else None


def _facts(job: Job, cell: PlannedCell) -> list[tuple[str, str]]:
    # The cell's own LoRAs: a cell at scale 0 shares its video, and so its generation, with the base model's.
    return _generation_facts(job.generations[cell.generation]) + lora_facts(cell.request.get("loras", ()))


def _shared_facts(job: Job) -> list[tuple[str, str]]:
    """What all cells have in common; of LoRAs that differ between them, in scale for example, the names alone."""
    loras = [cell.request.get("loras", ()) for cell in job.cells]
    uses = [lora_facts(items) for items in loras]
    if any(facts != uses[0] for facts in uses):
        uses = [lora_facts(items, with_scale=False) for items in loras if items]  # a baseline has none
    return _common([_generation_facts(generation) for generation in job.generations]) + _common(uses)


def _common(lists: Sequence[list[tuple[str, str]]]) -> list[tuple[str, str]]:
    return [fact for fact in lists[0] if all(fact in facts for facts in lists)]


def _generation_facts(generation: Generation) -> list[tuple[str, str]]:
    return [
        (text_of("script.fact.seed"), str(generation.seed)),
        (text_of("script.fact.steps"), str(generation.sample_steps)),
        (text_of("script.fact.guidance"), f"{generation.guidance_scale:g}"),
        (text_of("script.fact.size"), render.size(generation.width, generation.height)),
        (
            text_of("script.fact.frames"),
            text_of("script.fact.frames_at", frames=generation.num_frames, fps=generation.fps),
        ),
        (text_of("script.fact.sampling"), translated(RECIPES[generation.recipe].label)),
    ]


def lora_facts(loras: Iterable[Mapping[str, Any]], with_scale: bool = True) -> list[tuple[str, str]]:
    """(slot, name × scale), or (slot, name), of each LoRA of a request in wire form."""
    facts = []
    for item in loras:
        name = PurePosixPath(str(item["path"])).name.removesuffix(".safetensors")
        slot = text_of(f"slot.{item.get('transformer') or 'single'}.lora")
        scale = f" × {scale_words(scale_from(item['network_multiplier']))}" if with_scale else ""
        facts.append((slot, name + scale))
    return facts or [(text_of("slot.single.lora"), text_of("script.fact.none"))]
