"""What the MP4 of a clip, and that of a comparison's grid, carry about themselves; it knows no file and no reader.

`request` in wire form, every value as it was used; `loras`: its LoRA files by path, with name and SHA-256; `render`:
what was computed and by what (recipe, sampler, seconds by phase, checkpoint, versions, device, LoRA use). A clip has
its `generation` beside that, a comparison's cell also its `cell` and the whole `comparison`.

Never an id of a request or of an imported training job: whoever holds a clip must not be able to read or cancel what
it belongs to. Of addresses nothing behind a question mark: a token may stand there. No path of this machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wan_ui import __version__
from wan_ui.jobs.sample_comparisons import wire_of
from wan_ui.jobs.store import generation_body
from wan_ui.lora.remote import shown_name, without_queries
from wan_ui.request import without_training_samples

if TYPE_CHECKING:
    from wan_ui.engine.result import Clip
    from wan_ui.jobs.store import Job
    from wan_ui.request import Generation

_SHARED = ("recipe", "speedup", "dtype", "memory", "attention", "device", "versions", "checkpoint")
"""What all clips of a grid have in common; the recipe or speed-up may be an axis, and the request says so then."""


def of_clip(job: Job, index: int, clip: Clip, spent: Mapping[str, float]) -> dict[str, Any]:
    """What the file of generation `index` of a job carries. `spent`: seconds by phase, until the file is written."""
    generation = job.generations[index]
    seconds = {**spent, **clip.metadata.get("seconds", {})}
    about = {
        "wan_ui": __version__,
        "request": _seeded(wire_of(job, index), generation.seed),
        "generation": generation_body(generation),
        "render": {**clip.metadata, "seconds": _rounded(seconds)},
    }
    cells = [cell for cell in job.cells if cell.generation == index]
    if not cells:
        return _public({**about, "loras": _loras((generation,), (clip.metadata,))})
    places = ("column", "row", "column_label", "row_label")
    return _public(
        {
            **about,
            "loras": _loras(job.generations, (clip.metadata, *(made.metadata for made in job.clips))),
            "cell": {name: getattr(cells[0], name) for name in places},
            "comparison": _seeded(job.request, job.generations[0].seed),
        }
    )


def of_grid(job: Job) -> dict[str, Any]:
    """What the file of a comparison's grid carries: the whole comparison."""
    first = job.clips[0].metadata if job.clips else {}
    seconds: Counter[str] = Counter()
    for clip in job.clips:
        seconds.update(clip.metadata.get("seconds", {}))
    return _public(
        {
            "wan_ui": __version__,
            "request": _seeded(job.request, job.generations[0].seed),
            "render": {
                **{name: first[name] for name in _SHARED if name in first},
                "seconds": _rounded(seconds),
            },
            "loras": _loras(job.generations, [clip.metadata for clip in job.clips]),
        }
    )


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {phase: round(spent, 4) for phase, spent in seconds.items()}


def _public(about: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = without_queries(about)
    return found


def _seeded(request: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A request of one prompt with the seed that was used, drawn or not."""
    kept = without_training_samples(request)
    return {**kept, "prompts": [{**kept["prompts"][0], "seed": seed}]}


def _loras(generations: Iterable[Generation], metadata: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each file that the generations wear, once: as the request names it, as people do, and by its content."""
    names = {
        str(file["sha256"]): str(file["name"])
        for said in metadata
        for slot in said.get("lora", {}).values()
        for file in slot["files"]
    }
    return [
        {"path": path, "name": names.get(sha256 or "", shown_name(path)), "sha256": sha256}
        for path, sha256 in dict.fromkeys((use.path, use.sha256) for one in generations for use in one.loras)
    ]
