"""The grid player of a comparison: the Gradio component, and a job's cells as the data it shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.engine.recipes import RECIPES
from wan_ui.scale import scale_from, scale_words
from wan_ui.ui import render
from wan_ui.ui.static_files import shared_script, static_text

if TYPE_CHECKING:
    from wan_ui.compare import PlannedCell
    from wan_ui.job import Job
    from wan_ui.jobs.worker import Running

SLOT_WORDS: Mapping[str, str] = {"high": "High-noise LoRA", "low": "Low-noise LoRA"}


def build(elem_id: str = "player", visible: bool = True) -> gr.HTML:
    """The component. `value` is what `grid` gives, or None; the prop `progress` is what `advance` gives.

    A value may be `plain`: its cells belong to no comparison, so they have no downloads and no "Use these settings".
    Its `notes` are a line for each frame, shown beside the frame's number.

    The click event carries `job`, `column` and `row` of the cell whose settings go into the form.
    """
    return gr.HTML(
        None,
        html_template=static_text("player.html"),
        css_template=static_text("player.css"),
        js_on_load=shared_script("player"),
        apply_default_css=False,
        elem_id=elem_id,
        visible=visible,
        progress=None,
    )


def grid(job: Job, running: Running | None) -> dict[str, Any]:
    """A comparison's cells, JSON-ready. Changes when a cell begins or ends, not with its progress."""
    return {
        "id": job.id,
        "columns": list({cell.column: cell.column_label for cell in job.cells}.values()),
        "rows": list({cell.row: cell.row_label for cell in job.cells}.values()),
        "cells": [_cell(job, cell, running) for cell in job.cells],
    }


def advance(running: Running | None) -> dict[str, Any] | None:
    """How far the running cell is, JSON-ready."""
    if running is None:
        return None
    progress = running.progress
    shown: dict[str, Any] = {"head": render.PHASES[progress.phase], "text": "", "value": 0, "max": 0}
    if progress.phase == "denoise" and progress.steps:
        shown |= {"text": f"step {progress.step} of {progress.steps}", "value": progress.step, "max": progress.steps}
        if progress.seconds_left is not None:
            shown["text"] += f" · {render.seconds(progress.seconds_left)} left"
    elif progress.bytes_total:
        shown |= {
            "text": f"{render.gigabytes(progress.bytes_done)} of {render.gigabytes(progress.bytes_total)}",
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
    return " · ".join(filter(None, (cell.column_label, cell.row_label))) or "the video"


def _cell(job: Job, cell: PlannedCell, running: Running | None) -> dict[str, Any]:
    generation = job.generations[cell.generation]
    failure = job.failures.get(cell.generation)
    return {
        "column": cell.column,
        "row": cell.row,
        "label": label(cell),
        "state": state(job, cell, running),
        "url": f"v1/requests/{job.id}/videos/{cell.generation}",  # relative, for a proxy's path
        "width": generation.width,
        "height": generation.height,
        "frames": generation.num_frames,
        "fps": generation.fps,
        "brief": f"seed {generation.seed} · {render.plural(generation.sample_steps, 'step')}",
        "error": None if failure is None else str(failure["message"]),
        "facts": _facts(job, cell),
        "check": _checklist_url(job, cell, running),
    }


def _checklist_url(job: Job, cell: PlannedCell, running: Running | None) -> str | None:
    """The address of a cell's checklist; None unless it is done and compared with a training sample."""
    compared = cell.request["prompts"][0].get("training_sample") is not None
    made = compared and state(job, cell, running) == "done"
    return f"v1/requests/{job.id}/checklist?video={cell.generation}" if made else None


def _facts(job: Job, cell: PlannedCell) -> list[tuple[str, str]]:
    generation = job.generations[cell.generation]
    facts = [
        ("Seed", str(generation.seed)),
        ("Steps", str(generation.sample_steps)),
        ("Guidance", f"{generation.guidance_scale:g}"),
        ("Size", render.size(generation.width, generation.height)),
        ("Frames", f"{generation.num_frames} at {generation.fps} fps"),
        ("Match", RECIPES[generation.recipe].label),
    ]
    # The cell's own LoRAs: a cell at scale 0 shares its video, and so its generation, with the base model's.
    return facts + lora_facts(cell.request.get("loras", ()))


def lora_facts(loras: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(slot, name × scale) of each LoRA of a request in wire form."""
    facts = []
    for item in loras:
        name = PurePosixPath(str(item["path"])).name.removesuffix(".safetensors")
        slot = SLOT_WORDS.get(item.get("transformer") or "", "LoRA")
        facts.append((slot, f"{name} × {scale_words(scale_from(item['network_multiplier']))}"))
    return facts or [("LoRA", "none")]
