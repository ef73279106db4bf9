"""The metadata that is written into the MP4 of a clip and of a comparison's grid.

`request` in wire form, with the values that were used; `loras`: its LoRA files by path, with name and SHA-256;
`render`: how it was computed (recipe, sampler, seconds by phase, checkpoint, versions, device, LoRA use). A clip also
has its `generation`, and a comparison's cell its `cell` and the whole `comparison`.

It never holds the id of a request or of an imported training job, because whoever has a clip must not be able to read
or cancel its job; no query of a URL, which may hold a token; and no path of this machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wan_ui import __version__
from wan_ui.job import generation_body
from wan_ui.lora.remote import shown_name, without_queries
from wan_ui.wire import without_training_samples

if TYPE_CHECKING:
    from wan_ui.engine.result import Clip
    from wan_ui.job import Job
    from wan_ui.request import Generation

_SHARED = ("recipe", "speedup", "dtype", "memory", "attention", "device", "versions", "checkpoint")
"""What all clips of a grid share; the recipe or speed-up may be an axis, and the request then says so."""


def of_clip(job: Job, index: int, clip: Clip, spent: Mapping[str, float]) -> dict[str, Any]:
    """The metadata of the clip of generation `index`. `spent`: seconds by phase until the file is written."""
    generation = job.generations[index]
    seconds = {**spent, **clip.metadata.get("seconds", {})}
    about = {
        "wan_ui": __version__,
        "request": _seeded(job.request_of(index), generation.seed),
        "generation": generation_body(generation),
        "render": {**clip.metadata, "seconds": _rounded(seconds)},
    }
    cells = [cell for cell in job.cells if cell.generation == index]
    if not cells:
        return _public({**about, "loras": _loras((generation,), (clip.metadata,))})
    return _public(
        {
            **about,
            "loras": _loras(job.generations, (clip.metadata, *(made.metadata for made in job.clips))),
            "cell": cells[0].place,
            "comparison": _seeded(job.request, job.generations[0].seed),
        }
    )


def of_parts(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metadata of clips that were joined: that of the first, and all of them as `parts`."""
    return {**parts[0], "parts": [dict(part) for part in parts]}


def of_grid(job: Job) -> dict[str, Any]:
    """The metadata of a comparison's grid: the whole comparison."""
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
    public: dict[str, Any] = without_queries(about)
    return public


def _seeded(request: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A request of one prompt with the seed that was used, random or not."""
    kept = without_training_samples(request)
    return {**kept, "prompts": [{**kept["prompts"][0], "seed": seed}]}


def _loras(generations: Iterable[Generation], metadata: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each LoRA file of the generations once: its path in the request, its name and its SHA-256."""
    names = {
        str(file["sha256"]): str(file["name"])
        for render in metadata
        for slot in render.get("lora", {}).values()
        for file in slot["files"]
    }
    return [
        {"path": path, "name": names.get(sha256 or "", shown_name(path)), "sha256": sha256}
        for path, sha256 in dict.fromkeys(
            (use.path, use.sha256) for generation in generations for use in generation.loras
        )
    ]
