"""The player of a comparison: its grid as data and the component that plays it; it knows neither form nor desk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.engine.recipes import RECIPES
from wan_ui.ui import render

if TYPE_CHECKING:
    from wan_ui.compare import PlannedCell
    from wan_ui.job import Job
    from wan_ui.jobs.worker import Running

_HERE = Path(__file__).parent
SLOT_WORDS: Mapping[str, str] = {"high": "High-noise LoRA", "low": "Low-noise LoRA"}


def build(elem_id: str = "player", visible: bool = True) -> gr.HTML:
    """The component. `value` is what `grid` gives, or None; the prop `progress` is what `advance` gives.

    A value may be `plain`: its cells belong to no comparison, so nothing is offered to be taken along or into a form.
    Its `notes` are a line for each frame, shown beside the frame's number.

    Its click event carries `job`, `column` and `row` of the cell whose settings are to go into the form.
    """
    return gr.HTML(
        None,
        html_template=(_HERE / "player.html").read_text(encoding="utf-8"),
        css_template=(_HERE / "player.css").read_text(encoding="utf-8"),
        js_on_load=(_HERE / "player.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
        visible=visible,
        progress=None,
    )


def grid(job: Job, running: Running | None) -> dict[str, Any]:
    """A comparison as it stands, JSON-ready. It changes when a cell begins or ends, not with its progress."""
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
    found: dict[str, Any] = {"head": render.PHASES[progress.phase], "text": "", "value": 0, "max": 0}
    if progress.phase == "denoise" and progress.steps:
        found |= {"text": f"step {progress.step} of {progress.steps}", "value": progress.step, "max": progress.steps}
        if progress.seconds_left is not None:
            found["text"] += f" · {render.seconds(progress.seconds_left)} left"
    elif progress.bytes_total:
        found |= {
            "text": f"{render.gigabytes(progress.bytes_done)} of {render.gigabytes(progress.bytes_total)}",
            "value": progress.bytes_done,
            "max": progress.bytes_total,
        }
    return found


def state(job: Job, cell: PlannedCell, running: Running | None) -> str:
    """done, failed, running, writing, waiting, canceled, or missing where the job ended before it."""
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
        "check": _check(job, cell, running),
    }


def _check(job: Job, cell: PlannedCell, running: Running | None) -> str | None:
    """Where a cell's checklist is; None for one that is compared with no training preview, or not made."""
    compared = cell.request["prompts"][0].get("training_sample") is not None
    made = compared and state(job, cell, running) == "done"
    return f"v1/requests/{job.id}/checklist?video={cell.generation}" if made else None


def _facts(job: Job, cell: PlannedCell) -> list[tuple[str, str]]:
    generation = job.generations[cell.generation]
    found = [
        ("Seed", str(generation.seed)),
        ("Steps", str(generation.sample_steps)),
        ("Guidance", f"{generation.guidance_scale:g}"),
        ("Size", render.size(generation.width, generation.height)),
        ("Frames", f"{generation.num_frames} at {generation.fps} fps"),
        ("Match", RECIPES[generation.recipe].label),
    ]
    # The cell's own: one at scale 0 shares its video with the base model's.
    for item in cell.request.get("loras", ()):
        name = PurePosixPath(str(item["path"])).name.removesuffix(".safetensors")
        slot = SLOT_WORDS.get(item.get("transformer") or "", "LoRA")
        found.append((slot, f"{name} × {item['network_multiplier']:g}"))
    if not cell.request.get("loras"):
        found.append(("LoRA", "none"))
    return found
