"""A comparison in words: its axes as one types them, its time, summary and state; it knows no component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from wan_ui.axes import FIELDS, ONE_PER_LINE, SCALES, parse_values
from wan_ui.engine.recipes import RECIPES
from wan_ui.engine.speedups import CHOICES, describe
from wan_ui.errors import InvalidRequest
from wan_ui.models import MODELS, WanModel
from wan_ui.render_order import Order, estimate
from wan_ui.ui import form_schema, player, render

if TYPE_CHECKING:
    from wan_ui.job import ClipRecord, Job
    from wan_ui.request import Generation

NOTHING = ""
FIELD_LABELS: Mapping[str, str] = {
    "scale": "LoRA scale",
    "scale_high": "High-noise scale",
    "scale_low": "Low-noise scale",
    "lora": "LoRA file or checkpoint",
    "seed": "Seed",
    "sample_steps": "Steps",
    "guidance_scale": "Guidance scale",
    "prompt": "Prompt",
    "recipe": "Match",
    "num_frames": "Frames",
    "speedup": "Speed-up",
}
HINTS: Mapping[str, str] = {
    "scale": "0, 0.5, 1 or 0.2..1.0 step 0.2",
    "scale_high": "0, 0.5, 1 or 0.2..1.0 step 0.2",
    "scale_low": "0, 0.5, 1 or 0.2..1.0 step 0.2",
    "lora": "one file per line, as in the list of LoRAs",
    "seed": "42, 7 or 42..45",
    "sample_steps": "10, 25, 40",
    "guidance_scale": "1, 3.5, 5",
    "prompt": "one prompt per line",
    "recipe": ", ".join(RECIPES),
    "num_frames": "41, 81",
    "speedup": ", ".join(CHOICES),
    NOTHING: "",
}


def body(base: Mapping[str, Any], axes: Sequence[Any]) -> dict[str, Any]:
    """A request to compare, from a form's request and the axes' fields, values as typed, and the baseline.

    Raises InvalidRequest for values that cannot be read, and where nothing changes.
    """
    compare: dict[str, Any] = {"baseline": bool(axes[4])}
    for name, field, text in (("columns", axes[0], axes[1]), ("rows", axes[2], axes[3])):
        if field in FIELDS and str(text or "").strip():
            values = parse_values(str(text), field, f"compare.{name}.values")
            compare[name] = {"field": field, "values": list(values)}
    if len(compare) == 1:
        raise InvalidRequest("Choose what changes along the columns or rows, and type its values.")
    return {**base, "compare": compare}


def expected(generations: Sequence[Generation], jobs: Sequence[Job]) -> float | None:
    """Seconds for all of these, by the newest clip of the same model among `jobs`; None where there is none."""
    model = generations[0].model
    for job in jobs:
        if job.generations[0].model != model:
            continue
        for clip in reversed(job.clips):
            spent = clip.metadata.get("seconds")
            if not isinstance(spent, Mapping) or not spent.get("denoise"):
                continue
            made = job.generations[clip.index]
            work, steps = _work(made), _steps(clip, made)
            step, rest = spent["denoise"] / steps.rendered / work, spent.get("decode", 0) / work
            denoising = estimate(Order(tuple(generations), ()), partial(_scaled, step), steps.high_noise_of)
            return float(denoising + rest * sum(map(_work, generations)))
    return None


@dataclass(frozen=True)
class _Steps:
    """The denoising steps of a clip: in all, those of the high-noise transformer, and those it took itself."""

    total: int
    high_noise: int
    rendered: int

    def high_noise_of(self, one: Generation) -> int:
        """How many steps of another clip of the same model are high-noise ones."""
        return round(self.high_noise / self.total * one.sample_steps)


def _steps(clip: ClipRecord, made: Generation) -> _Steps:
    said = clip.metadata.get("steps", {})
    total = made.sample_steps
    return _Steps(total, said.get("high_noise", 0), max(1, total - said.get("shared", 0)))


def typed(field: str, values: Sequence[Any]) -> str:
    """An axis's values as one would type them. Raises InvalidRequest for values that no line of text can hold."""
    if field == "prompt" and any(isinstance(value, Mapping) for value in values):
        raise InvalidRequest(
            "The form takes prompts alone, and these have seeds or other values of their own. Send this comparison to "
            "POST /v1/inference instead."
        )
    # Of a pair one half stands for both.
    words = [str(next(iter(value.values()), "") if isinstance(value, Mapping) else value) for value in values]
    if field not in ONE_PER_LINE:
        return ", ".join(words)
    if any(len(word.splitlines()) != 1 or word != word.strip() for word in words):
        raise InvalidRequest("The form takes prompts of one line. Send this comparison to POST /v1/inference instead.")
    return "\n".join(words)


def _work(one: Generation) -> int:
    """How much there is to compute in a step, in pixels."""
    return one.width * one.height * one.num_frames


def _scaled(seconds_per_pixel: float, one: Generation) -> float:
    return seconds_per_pixel * _work(one)


def fields(row: WanModel | None) -> list[tuple[str, str]]:
    """(label, field) of what an axis may be, for a row."""
    two = row is None or row.two_transformers
    return [("Nothing", NOTHING)] + [
        (label, field) for field, label in FIELD_LABELS.items() if two or SCALES.get(field) is None
    ]


def name_of(base: Mapping[str, Any], location: str) -> str:
    """Who is meant by an error's `loc`."""
    parts = location.split(".")
    if parts[0] == "compare":
        return parts[1].capitalize() if len(parts) > 1 else "Comparison"
    return form_schema.label_of(MODELS[base["model"]], location) if base.get("model") in MODELS else location


def summary(row: WanModel, base: Mapping[str, Any]) -> str:
    prompt = base["prompts"][0]
    text = " ".join(str(prompt["prompt"]).split()) or "(no prompt)"
    facts = [
        ("Size", render.size(prompt["width"], prompt["height"])),
        ("Frames", f"{prompt['num_frames']} at {prompt['fps']} fps"),
        ("Steps", str(prompt["sample_steps"])),
        ("Guidance", f"{prompt['guidance_scale']:g}"),
        ("Seed", "drawn once for all cells" if prompt["seed"] == -1 else str(prompt["seed"])),
        ("Match", RECIPES[base["recipe"]].label if base["recipe"] in RECIPES else str(base["recipe"])),
    ]
    if base.get("speedup", "none") != "none":
        facts.append(("Speed-up", describe(base["speedup"])))
    if row.control_image != "none":
        facts.append(("First frame", "as in the form" if prompt.get("ctrl_img") else "none"))
    for item in base["loras"]:
        name = PurePosixPath(str(item["path"])).name.removesuffix(".safetensors")
        slot = player.SLOT_WORDS.get(item.get("transformer") or "", "LoRA")
        facts.append((slot, f"{name} × {item['network_multiplier']:g}"))
    if not base["loras"]:
        facts.append(("LoRA", "none"))
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<div class="summary"><p class="words">{escape(text[:300])}</p><dl class="used">{shown}</dl></div>'


def about(seconds: float) -> str:
    """A rough duration: 40 s, 6 min, 2 h 10 min."""
    if seconds < 55:
        return f"{max(1, round(seconds))} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rest(job: Job | None) -> str:
    """What the button that renders the rest is called; nothing where there is no rest."""
    if job is None or job.status not in ("failed", "canceled"):
        return ""
    if job.status == "failed" and job.failures:
        failed = sum(cell.generation in job.failures for cell in job.cells)
        return f"Retry failed ({failed})"
    return "Render the rest"


def status(job: Job | None, running: Any) -> str:
    """One line on the comparison."""
    if job is None:
        return '<p class="board-line quiet">No comparison yet.</p>'
    made = {clip.index for clip in job.clips}
    done, whole = sum(cell.generation in made for cell in job.cells), len(job.cells)
    kept = f"{done} of {render.plural(whole, 'cell')}"
    spent = render.took(job)
    if job.status == "in_queue":
        facts = f"position {job.position}" if job.position else "next"
        if done:
            facts += f" · {kept}"
    elif job.status == "in_progress":
        facts = f"{kept}{' · cancelling after this step' if job.cancel_requested else ''}"
    elif job.status == "succeeded":
        facts = render.plural(whole, "cell") + (f" in {render.seconds(spent)}" if spent else "")
    else:
        facts = f"{kept} kept" if done else ""
        if job.error and job.status == "failed":
            facts = " · ".join(filter(None, (facts, escape(str(job.error["message"])))))
    return (
        f'<p class="board-line {job.status}"><strong role="status">{render.STATES[job.status]}</strong> '
        f'<span>{escape(render.label(job))}</span> <span class="quiet">{f"· {facts}" if facts else ""}</span></p>'
    )
