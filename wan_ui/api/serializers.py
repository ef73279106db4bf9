"""Jobs, comparisons, gallery entries, imported training jobs and checklists as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wan_ui.api.schemas import CellStatus
from wan_ui.engine.result import Progress
from wan_ui.job import lora_use_body
from wan_ui.jobs.judging import MARKS
from wan_ui.lora.remote import shown_name, without_queries
from wan_ui.models import label_of
from wan_ui.scale import scale_body

if TYPE_CHECKING:
    from wan_ui.compare import PlannedCell
    from wan_ui.job import ClipRecord, Job
    from wan_ui.jobs.comparison_ranking import Place
    from wan_ui.jobs.gallery import Entry
    from wan_ui.jobs.judging import Judgement, Mark
    from wan_ui.jobs.outlooks import JobOutlook, QueueOutlook
    from wan_ui.jobs.runner import Running
    from wan_ui.jobs.sample_comparisons import ChecklistResult, ComparedSample
    from wan_ui.jobs.sample_renders import SampleRender
    from wan_ui.request import Generation, InferenceRequest
    from wan_ui.trainer.imported_job import ImportedJob

_PROMPT_FIELDS = (
    "prompt", "neg", "width", "height", "num_frames", "fps", "seed", "sample_steps", "guidance_scale", "image",
)  # fmt: skip


def _error_of(job: Job, as_text: bool) -> Mapping[str, Any] | str | None:
    return job.error if job.error is None or not as_text else str(job.error["message"])


def status_of(job: Job, error_as_text: bool = False) -> dict[str, Any]:
    """A job as RequestStatus, without its progress."""
    return {
        "request_id": job.id,
        "status": job.status,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "error": _error_of(job, error_as_text),
    }


def job_progress(outlook: JobOutlook | None, progress: Progress | None) -> dict[str, Any] | None:
    """How far a job is, as JobProgress; None for a finished one. `progress` is that of what it is doing now."""
    if outlook is None:
        return None
    own, running = outlook.own, outlook.running
    return {
        "phase": None if progress is None else progress.phase,
        "step": 0 if progress is None else progress.step,
        "steps": 0 if progress is None else progress.steps,
        "phase_fraction": None if progress is None else _phase_fraction(progress),
        "seconds_per_step": None if progress is None else _rounded(progress.seconds_per_step),
        "note": "" if progress is None else progress.note,
        "video": None if running is None else running.index,
        "steps_done": own.steps_done,
        "steps_total": own.steps_total,
        "fraction": _rounded(own.fraction, 4),
        "seconds_left": _rounded(outlook.seconds_left),
        "seconds_until_start": None if running is not None else _rounded(outlook.wait),
        "about": own.about,
    }


def _phase_fraction(progress: Progress) -> float | None:
    if progress.fraction is not None:
        return _rounded(progress.fraction, 4)
    if progress.phase == "denoise" and progress.steps:
        return _rounded(progress.step / progress.steps, 4)
    return _rounded(progress.bytes_done / progress.bytes_total, 4) if progress.bytes_total else None


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)


def picture_of(root: str, job_id: str, outlook: JobOutlook | None) -> dict[str, Any] | None:
    """A job's live picture: which one it is of its clip, and where it is; None before the first."""
    running = None if outlook is None else outlook.running
    if running is None or not running.pictures:
        return None
    return {
        "number": running.pictures,
        "video": running.index,
        "url": f"{root}/requests/{job_id}/live.webp?video={running.index}&number={running.pictures}",
    }


def queue_of(queue: QueueOutlook) -> dict[str, Any]:
    """The whole queue: the number of unfinished jobs and the seconds until all are finished."""
    return {"jobs": len(queue.jobs), "seconds_left": _rounded(queue.seconds_left), "about": queue.about}


def listed_job(root: str, job: Job, is_own: bool) -> dict[str, Any]:
    """A job in a list: what a page shows of it at a glance. Of another's job only model, position and status."""
    first = job.generations[0]
    return {
        "request_id": job.id,
        "status": job.status,
        "position": job.position,
        "model": first.model,
        "model_label": label_of(first.model),
        "prompt": "" if job.hidden else " ".join(first.prompt.split())[:160],
        "own": is_own,
        "hidden": job.hidden,
        "cancel_requested": job.cancel_requested,
        "videos": len(job.generations),
        "cells": len(job.cells),
        "made": len(job.clips),
        "failed": len(job.failures),
        "width": first.width,
        "height": first.height,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "error_code": None if job.error is None else job.error["code"],
        "thumbnail_url": f"{root}/gallery/{_entry_id(job)}/poster.jpg" if job.clips else None,
    }


def _entry_id(job: Job) -> str:
    """The gallery's id of a job's first clip, or of the comparison that it is."""
    return job.id if job.cells else f"{job.id}-{job.clips[0].index}"


def result_of(root: str, job: Job, running: Running | None, error_as_text: bool = False) -> dict[str, Any]:
    """A job as RequestResult. `root` is where the API is, `running` what of the job is rendered now."""
    return {
        "request_id": job.id,
        "status": job.status,
        "outputs": _outputs(root, job),
        "error": _error_of(job, error_as_text),
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "metadata": _metadata(root, job, running),
    }


def _video_url(root: str, job: Job, index: int) -> str:
    return f"{root}/requests/{job.id}/videos/{index}"


def _video(root: str, job: Job, clip: ClipRecord) -> dict[str, Any]:
    return {
        "format": "mp4",
        "width": clip.width,
        "height": clip.height,
        "num_frames": clip.num_frames,
        "fps": clip.fps,
        "file_path": clip.file,
        "url": _video_url(root, job, clip.index),
        "seed": clip.seed,
    }


def _outputs(root: str, job: Job) -> dict[str, Any] | None:
    if job.finished_at is None or not job.clips:
        return None
    if not job.cells:
        return {"images": [], "videos": [_video(root, job, clip) for clip in job.clips]}
    clips = {clip.index: clip for clip in job.clips}
    return {
        "images": [],
        "videos": [
            {**_video(root, job, clips[cell.generation]), "cell": _cell_position(cell)}
            for cell in job.cells
            if cell.generation in clips
        ],
    }


def _cell_position(cell: PlannedCell) -> dict[str, Any]:
    return {"page": cell.page, "page_label": cell.page_label, **cell.place}


def _metadata(root: str, job: Job, running: Running | None) -> dict[str, Any]:
    clips = {clip.index: clip for clip in job.clips}
    first = job.generations[0]
    metadata = {
        "model": first.model,
        "inference_time": _seconds_between(job.started_at, job.finished_at),
        "timings": _timings(job, clips),
        "recipe": first.recipe,
        "speedup": first.speedup,
        "speed_lora": first.speed_lora,
        "ignored": sorted({name for generation in job.generations for name in generation.ignored}),
        "adjusted": _adjusted(job.generations),
        "notes": [*job.notes, *gpu_notes(job)],
        "lora": without_queries([lora_use_body(use) for use in first.loras]),
        "prompts": [
            _prompt(generation, clips.get(index), bool(job.cells)) for index, generation in enumerate(job.generations)
        ],
    }
    return metadata | {"compare": _compare(root, job, running)} if job.cells else metadata


def _seconds_between(start: str | None, end: str | None) -> float | None:
    if start is None or end is None:
        return None
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 3)


def _timings(job: Job, clips: Mapping[int, ClipRecord]) -> dict[str, Any]:
    """Seconds under the reference server's names: `generate` is what a clip's phases from the text on took.

    `get_pipeline` is the rest of the request's time: loading, mostly, and writing. A clip that is not finished, or
    whose phases were not measured, has no `generate`.
    """
    generate = {
        index: round(sum(clip.metadata["seconds"].values()), 4)
        for index, clip in clips.items()
        if clip.metadata.get("seconds")
    }
    generating = round(sum(generate.values()), 4)
    total = _seconds_between(job.started_at, job.finished_at)
    return {
        "get_pipeline": None if total is None else max(0.0, round(total - generating, 4)),
        "inference_total": generating,
        "prompts": [
            {"generate": generate[index]} if index in generate else {} for index in range(len(job.generations))
        ],
    }


def _adjusted(generations: tuple[Generation, ...]) -> list[dict[str, Any]]:
    """What rounding changed: one entry per prompt and field."""
    return [
        {"prompt": index, "field": name, "requested": requested, "effective": effective}
        for index, generation in enumerate(generations)
        for name, requested, effective in (
            ("width", generation.requested_width, generation.width),
            ("height", generation.requested_height, generation.height),
            ("num_frames", generation.requested_num_frames, generation.num_frames),
        )
        if requested != effective
    ]


def _prompt(generation: Generation, clip: ClipRecord | None, is_cell: bool) -> dict[str, Any]:
    values = {name: getattr(generation, name) for name in _PROMPT_FIELDS}
    values["clip"] = None if clip is None else dict(clip.metadata)
    if is_cell:
        loras = without_queries([lora_use_body(use) for use in generation.loras])
        values |= {"recipe": generation.recipe, "speedup": generation.speedup, "lora": loras}
    return values


def _compare(root: str, job: Job, running: Running | None) -> dict[str, Any]:
    """The grid of a comparison with the state of its cells, finished or not."""
    compare = without_queries(job.request["compare"])
    finished = {clip.index for clip in job.clips}
    columns = {cell.column: cell.column_label for cell in job.cells}
    rows = {cell.row: cell.row_label for cell in job.cells}
    pages = {cell.page: cell.page_label for cell in job.cells}
    return {
        "columns": _axis(compare.get("columns", {}), list(columns.values())),
        "rows": _axis(compare.get("rows", {}), list(rows.values())),
        "pages": _axis(compare.get("pages", {}), list(pages.values())),
        "baseline": compare.get("baseline", True),
        "cells": [_cell(root, job, cell, cell.generation in finished, running) for cell in job.cells],
        "gpu_models": list(job.gpu_models),
    }


def gpu_notes(job: Job) -> list[str]:
    """The note on a comparison that was rendered on several models of GPU."""
    if not job.cells or len(job.gpu_models) < 2:
        return []
    return [
        f"This comparison was rendered on several models of GPU ({', '.join(job.gpu_models)}): its videos may differ "
        "in their last bits because of that alone."
    ]


def _axis(axis: Mapping[str, Any], labels: list[str]) -> dict[str, Any]:
    values = list(axis.get("values", ()))
    # The baseline's column, or the only one of an axis that is not compared, has no value.
    unset = [None] * (len(labels) - len(values))
    return {"field": axis.get("field") if values else None, "values": [*unset, *values], "labels": labels}


def _cell(root: str, job: Job, cell: PlannedCell, is_finished: bool, running: Running | None) -> dict[str, Any]:
    progress = progress_of(running, cell.generation)
    status = _cell_status(job, cell, is_finished, progress is not None)
    return {
        "column": cell.column,
        "row": cell.row,
        "page": cell.page,
        "status": status,
        "video": cell.generation if is_finished else None,
        "url": _video_url(root, job, cell.generation) if is_finished else None,
        "error": job.failures.get(cell.generation),
        "progress": _cell_progress(progress) if progress is not None and status == "running" else None,
    }


def _cell_progress(progress: Progress) -> dict[str, Any]:
    """A report as it is sent: live pictures have a route of their own."""
    return {name: value for name, value in asdict(progress).items() if name != "picture"}


def judging_body(mine: Judgement, everybody: Judgement | None) -> dict[str, Any]:
    """Marks and ranking of a comparison as schemas.JudgingBody; `everybody` None for callers who are not the owner."""
    return {"mine": _judgement(mine), "everybody": None if everybody is None else _judgement(everybody)}


def add_judging(compare: dict[str, Any], mine: Judgement, everybody: Judgement | None) -> None:
    """Adds to a result's `compare` the caller's mark of each cell, and `judging` as GET …/judging has it."""
    for cell in compare["cells"]:
        cell["mark"] = mark_of(mine, cell["video"])
    compare["judging"] = judging_body(mine, everybody)


def mark_of(mine: Judgement, video: int | None) -> Mark | None:
    """The one mark of a clip in the judgement of a single session."""
    return None if video is None else next(iter(mine.marks.get(video, ())), None)


def _judgement(judgement: Judgement) -> dict[str, Any]:
    ranking = judgement.ranking
    return {
        "marks": [
            {"video": video, **{mark: counts.get(mark, 0) for mark in MARKS}}
            for video, counts in sorted(judgement.marks.items())
        ],
        "voters": judgement.voters,
        "votes": ranking.votes,
        "cells": [_place(place) for place in ranking.cells],
        "columns": [_place(place) for place in ranking.columns],
        "rows": [_place(place) for place in ranking.rows],
        "pages": [_place(place) for place in ranking.pages],
    }


def _place(place: Place) -> dict[str, Any]:
    rounded = {"share": round(place.share, 4), "margin": round(place.margin, 4)}
    return {**asdict(place), **rounded, "text": place.text}


def progress_of(running: Running | None, generation: int) -> Progress | None:
    """The progress of a cell that is being rendered or, while the next one is rendered, written."""
    if running is not None and running.index == generation:
        return running.progress
    return Progress("encode") if running is not None and running.writing == generation else None


def _cell_status(job: Job, cell: PlannedCell, is_finished: bool, is_running: bool) -> CellStatus:
    if is_finished:
        return "succeeded"
    if cell.generation in job.failures:
        return "failed"
    if job.finished_at is not None:
        return "missing"
    return "running" if is_running else "waiting"


def entry_body(entry: Entry, may_change: bool, may_share: bool) -> dict[str, Any]:
    """A gallery entry as GalleryEntry, with LoRA addresses without their query strings."""
    generation, job_id, is_comparison = entry.generation, entry.job_id, entry.index is None
    return {
        "id": entry.id,
        "request_id": job_id,
        "kind": "comparison" if is_comparison else "video",
        "video": entry.index,
        "model": entry.model,
        "model_label": label_of(entry.model),
        "recipe": generation.recipe,
        "speedup": generation.speedup,
        "speed_lora": generation.speed_lora,
        "prompt": generation.prompt,
        "neg": generation.neg,
        "width": entry.width,
        "height": entry.height,
        "num_frames": entry.num_frames,
        "fps": entry.fps,
        "seed": entry.seed,
        "sample_steps": generation.sample_steps,
        "guidance_scale": generation.guidance_scale,
        "has_first_frame": generation.image is not None,
        "loras": _entry_loras(entry),
        "cells": entry.cells,
        "videos": entry.videos,
        "made": entry.made,
        "kept": entry.kept,
        "may_change": may_change,
        "may_share": may_share,
        "finished": entry.final,
        "made_at": entry.made_at,
        "url": f"requests/{job_id}/grid.mp4" if is_comparison else f"requests/{job_id}/videos/{entry.index}",
        "poster_url": f"gallery/{entry.id}/poster.jpg",
        "json_url": f"gallery/{entry.id}/settings.json",
    }


def _entry_loras(entry: Entry) -> list[dict[str, Any]]:
    """Each use of a file in a clip; each file of a comparison."""
    if entry.index is None:
        return [{**asdict(lora), "slot": None, "network_multiplier": None} for lora in entry.loras]
    names = {lora.sha256: lora.name for lora in entry.loras if lora.sha256}
    return [
        {
            "name": names.get(use.sha256 or "") or shown_name(use.path),
            "sha256": use.sha256 or "",
            "slot": use.slot,
            "network_multiplier": scale_body(use.scale),
        }
        for use in entry.generation.loras
    ]


def imported_job_body(root: str, job: ImportedJob, requests: list[InferenceRequest]) -> dict[str, Any]:
    """A training job as schemas.ImportedJob; `requests` are those of its samples, in their order."""
    samples_url = f"{root}/jobs/{job.id}/samples"
    return {
        **job.imported.body(),
        "id": job.id,
        "requests": [request.model_dump(mode="json", exclude_none=True) for request in requests],
        "checkpoints": [
            {
                "name": checkpoint.name,
                "step": checkpoint.step,
                "trained_step": checkpoint.trained,
                "files": dict(checkpoint.files),
            }
            for checkpoint in job.checkpoints
        ],
        "sample_files": [
            {
                "step": sample.step,
                "index": sample.index,
                "url": f"{samples_url}/{sample.step}/{sample.index}",
                "thumbnail_url": f"{samples_url}/{sample.step}/{sample.index}/thumbnail",
            }
            for sample in job.samples
        ],
        "notes": [*job.imported.notes, *job.notes],
    }


def sample_render_body(root: str, render: SampleRender) -> dict[str, Any]:
    """A render of a training job's sample as schemas.RenderOfSample."""
    return {
        "step": render.step,
        "sample": render.sample,
        "request_id": render.request_id,
        "video": render.video,
        "status": render.status,
        "url": f"{root}/requests/{render.request_id}/videos/{render.video}" if render.is_done else None,
        "poster_url": f"{root}/gallery/{render.request_id}-{render.video}/poster.jpg" if render.is_done else None,
    }


def checklist_body(result: ChecklistResult) -> dict[str, Any]:
    """A checklist as schemas.Checklist."""
    return {
        "rows": [row.body() for row in result.rows],
        "text": result.text,
        "comparison": None if result.beside is None else _compared_sample(result.beside),
    }


def _compared_sample(sample: ComparedSample) -> dict[str, Any]:
    facts = sample.facts
    size = {"width": facts.width, "height": facts.height, "num_frames": facts.num_frames, "fps": facts.fps}
    return {**sample.comparison, "exact": sample.exact, **size}
