"""The lists of jobs as HTML: the queue, and the strip of finished ones."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from markupsafe import Markup

from wan_ui.engine.result import Progress
from wan_ui.ui import render
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of

if TYPE_CHECKING:
    from wan_ui.job import Job

THUMBNAIL_WORDS = 28  # characters of a prompt in a thumbnail without a picture


def queue(
    jobs: Sequence[Job],
    mine: Collection[str],
    ahead: render.RunningJob | None,
    fetching: Mapping[str, Progress] = MappingProxyType({}),
    removable: Collection[str] = (),
) -> Markup:
    """The waiting jobs other than the status card's, in order; those `removable` can be removed, and run next.

    `fetching`: by job id, how far the downloads of LoRA files are that jobs wait for.
    """
    lines = [
        {
            "job_id": job.id,
            "position": job.position or "▸",
            "model": render.label(job),
            "prompt": render.prompt_of(job),
            "mine": job.id in mine,
            "text": _queue_text(job, ahead, fetching),
            "removable": job.id in removable,
            "is_running": job.status == "in_progress",
            "can_run_next": job.id in removable and job.status == "in_queue" and (job.position or 0) > 1,
            "has_live_picture": job.status == "in_progress" and not job.hidden,
            "picture": _first_frame(job),
            "words": _first_words(job),
        }
        for job in jobs
    ]
    return render_template("queue", lines=lines)


def _queue_text(job: Job, ahead: render.RunningJob | None, fetching: Mapping[str, Progress]) -> str:
    if ahead is not None and job.id == ahead.job.id:
        line = render.progress_line(ahead.progress)
        return render.joined(render.prompt_of(job) if job.hidden else "", line.head, line.facts)
    if job.id in fetching:
        return render.progress_line(fetching[job.id]).facts or text_of("render.fetching_its_lora")
    return render.prompt_of(job)


def _first_frame(job: Job) -> str:
    """The address of the picture that a job starts from; "" where it has none, or is somebody else's."""
    has_picture = not job.hidden and any(generation.image for generation in job.generations)
    return f"v1/requests/{job.id}/first_frame.jpg" if has_picture else ""


def _first_words(job: Job) -> str:
    """What stands in a thumbnail without a picture: the beginning of the prompt; "" for somebody else's job."""
    return "" if job.hidden else textwrap.shorten(job.generations[0].prompt, THUMBNAIL_WORDS, placeholder="…")


def _thumbnail(job: Job) -> str:
    """The poster of a job's first clip, or of its comparison; without clips, the picture that it starts from."""
    if not job.clips:
        return _first_frame(job)
    entry = job.id if job.cells else f"{job.id}-{job.clips[0].index}"
    return f"v1/gallery/{entry}/poster.jpg"


def finished(jobs: Sequence[Job], shown: str | None, removable: Collection[str] = ()) -> Markup:
    """The jobs that ended, newest first; a press shows one. `shown` is the id of the one whose result is shown.

    Those `removable` that have no clip can be removed; clips are deleted in the gallery, where it is asked before.
    """
    lines = []
    for job in jobs:
        spent = render.took(job)
        lines.append(
            {
                "job_id": job.id,
                "status": job.status,
                "model": render.label(job),
                "thumbnail": _thumbnail(job),
                "words": "" if job.clips else _first_words(job),
                "prompt": render.prompt_of(job),
                "current": job.id == shown,
                "state": render.joined(render.state_name(job.status), render.made_of(job) if job.cells else ""),
                "size": render.size(job.clips[0].width, job.clips[0].height) if job.clips and not job.cells else "",
                "removable": job.id in removable and not job.clips,
                "took": "" if spent is None else f" · {render.seconds(spent)}",
            }
        )
    return render_template("finished", lines=lines)
