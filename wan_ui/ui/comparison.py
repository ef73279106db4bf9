"""A comparison in words: axis values as typed, a rough duration, the summary and the status line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from wan_ui.axes import FIELDS, ONE_PER_LINE, SCALES, parse_values
from wan_ui.engine.recipes import RECIPES
from wan_ui.engine.speedups import CHOICES, describe
from wan_ui.errors import InvalidRequest
from wan_ui.models import MODELS, WanModel
from wan_ui.request import AXES
from wan_ui.ui import form_schema, player, render
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of, translated

if TYPE_CHECKING:
    from wan_ui.job import Job
    from wan_ui.jobs.outlooks import JobOutlook

NOTHING = ""
AXIS_FIELDS = (
    "scale", "scale_high", "scale_low", "lora", "seed", "sample_steps", "guidance_scale", "prompt", "recipe",
    "num_frames", "speedup", "base",
)  # fmt: skip
"""The fields that the page offers for an axis, in this order."""
_VALUE_HINTS: Mapping[str, str] = {"recipe": ", ".join(RECIPES), "speedup": ", ".join(CHOICES)}
"""Examples of an axis's values that are ids; those of the other fields are texts of the catalogue."""


SCALES_WITH_BASELINE = "0.5, 1, 1.5"
"""What an axis of scales starts with: beside a baseline without LoRA, which is scale 0."""


@dataclass(frozen=True)
class TypedAxes:
    """The axes as a person fills them in: field and text of the columns, the rows and the pages, and the baseline."""

    fields: tuple[str, ...] = ("scale", NOTHING, NOTHING)
    texts: tuple[str, ...] = (SCALES_WITH_BASELINE, "", "")
    baseline: bool = True

    @property
    def value(self) -> dict[str, Any]:
        """Of the component in the browser, and of the draft that it keeps."""
        pairs = zip(self.fields, self.texts, strict=True)
        return {"axes": [*(part for pair in pairs for part in pair), self.baseline]}

    @property
    def are_empty(self) -> bool:
        """Whether no axis has values."""
        return not any(text.strip() for text in self.texts)

    def of(self, model: WanModel) -> TypedAxes:
        """The same without the fields that a model's comparison does not take."""
        allowed = {field for _, field in fields(model)}
        return replace(self, fields=tuple(field if field in allowed else NOTHING for field in self.fields))


def typed_axes(value: Any) -> TypedAxes | None:
    """The axes of a value that `TypedAxes.value` gave, or a version that had no pages; None for anything else."""
    parts = value.get("axes") if isinstance(value, Mapping) else None
    if not isinstance(parts, list) or not parts or not isinstance(parts[-1], bool):
        return None
    texts = parts[:-1]
    if len(texts) not in (4, 6) or not all(isinstance(text, str) for text in texts):
        return None
    texts += [NOTHING, ""] * (len(AXES) - len(texts) // 2)
    return TypedAxes(tuple(texts[::2]), tuple(texts[1::2]), parts[-1])


def choices(model: WanModel | None) -> list[dict[str, Any]]:
    """The fields of an axis as its control lists them, each with an example of its values and what it starts with."""
    return [
        {
            "field": field,
            "label": label,
            "hint": _hint(field),
            "lines": 4 if field in ONE_PER_LINE else 1,
            "start": SCALES_WITH_BASELINE if field in SCALES else "",
        }
        for label, field in fields(model)
    ]


def _hint(field: str) -> str:
    if field == NOTHING:
        return ""
    return _VALUE_HINTS.get(field) or text_of(f"axis.hint_{field}")


def body(base: Mapping[str, Any], axes: TypedAxes) -> dict[str, Any]:
    """A request to compare, from a form's request and the axes.

    Raises InvalidRequest for values that cannot be read, and where nothing changes.
    """
    compare: dict[str, Any] = {"baseline": axes.baseline}
    for name, field, text in zip(AXES, axes.fields, axes.texts, strict=True):
        known = next((known for known in FIELDS if known == field), None)
        if known is not None and text.strip():
            values = parse_values(text, known, f"compare.{name}.values")
            compare[name] = {"field": field, "values": list(values)}
    if len(compare) == 1:
        raise InvalidRequest("Choose what changes along the columns, rows or pages, and type its values.")
    return {**base, "compare": compare}


def typed(field: str, values: Sequence[Any]) -> str:
    """An axis's values as a person would type them. Raises InvalidRequest for values that do not fit in one line."""
    if field == "prompt" and any(isinstance(value, Mapping) for value in values):
        raise InvalidRequest(
            "The form takes prompts alone, and these have seeds or other values of their own. Send this comparison to "
            "POST /v1/inference instead."
        )
    # Of a pair only one half is typed; the other is found by its name.
    words = [str(next(iter(value.values()), "") if isinstance(value, Mapping) else value) for value in values]
    if field not in ONE_PER_LINE:
        return ", ".join(words)
    if any(len(word.splitlines()) != 1 or word != word.strip() for word in words):
        raise InvalidRequest("The form takes prompts of one line. Send this comparison to POST /v1/inference instead.")
    return "\n".join(words)


def fields(model: WanModel | None) -> list[tuple[str, str]]:
    """(label, field) of what an axis may change, for a model or, with None, for any."""
    two = model is None or model.two_transformers
    return [(text_of("axis.nothing"), NOTHING)] + [
        (text_of(f"axis.{field}"), field) for field in AXIS_FIELDS if two or SCALES.get(field) is None
    ]


def name_of(base: Mapping[str, Any], location: str) -> str:
    """The label of the control behind an error's `loc`."""
    parts = location.split(".")
    if parts[0] == "compare":
        return text_of(f"axis.{parts[1]}") if len(parts) > 1 else text_of("axis.comparison")
    return form_schema.label_of(MODELS[base["model"]], location) if base.get("model") in MODELS else location


def summary(model: WanModel, base: Mapping[str, Any]) -> Markup:
    """The values that all cells share, from a form's request."""
    prompt = base["prompts"][0]
    text = " ".join(str(prompt["prompt"]).split()) or render.no_prompt()
    recipe = translated(RECIPES[base["recipe"]].label) if base["recipe"] in RECIPES else str(base["recipe"])
    pairs = [
        (text_of("script.fact.size"), render.size(prompt["width"], prompt["height"])),
        (
            text_of("script.fact.frames"),
            text_of("script.fact.frames_at", frames=prompt["num_frames"], fps=prompt["fps"]),
        ),
        (text_of("script.fact.steps"), str(prompt["sample_steps"])),
        (text_of("script.fact.guidance"), f"{prompt['guidance_scale']:g}"),
        (text_of("script.fact.seed"), text_of("axis.same_random") if prompt["seed"] == -1 else str(prompt["seed"])),
        (text_of("script.fact.sampling"), recipe),
    ]
    if base.get("speedup", "none") != "none":
        pairs.append((text_of("script.fact.speedup"), translated(describe(base["speedup"]))))
    if model.control_image != "none":
        pairs.append(
            (text_of("field.ctrl_img"), text_of("axis.as_in_form" if prompt.get("ctrl_img") else "script.fact.none"))
        )
    pairs += player.lora_facts(base["loras"])
    return render_template("comparison_summary", prompt=text[:300], pairs=pairs)


def about(seconds: float) -> str:
    """A rough duration: 40 s, 6 min, 2 h 10 min."""
    if seconds < 55:
        return f"{max(1, round(seconds))} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rest(job: Job | None) -> str:
    """The label of the button that renders what is missing; "" where nothing is missing."""
    if job is None or job.status not in ("failed", "canceled"):
        return ""
    if job.status == "failed" and job.failures:
        failed = sum(cell.generation in job.failures for cell in job.cells)
        return text_of("axis.retry_failed_count", count=failed)
    return text_of("axis.generate_missing")


def status(job: Job | None, outlook: JobOutlook | None = None) -> Markup:
    """One line on the comparison; `outlook` is its own, None once it has ended."""
    if job is None:
        return render_template("comparison_status", job=None)
    return render_template(
        "comparison_status",
        job=job,
        state=render.state_name(job.status),
        model=render.label(job),
        facts=_status_facts(job),
        left="" if outlook is None else render.time_left(outlook, about),
        done=_cells_done(job),
        total=len(job.cells) if job.status in render.LIVE else 0,
    )


def _cells_done(job: Job) -> int:
    finished = {clip.index for clip in job.clips}
    return sum(cell.generation in finished for cell in job.cells)


def _status_facts(job: Job) -> str:
    done, total = _cells_done(job), len(job.cells)
    progress = text_of("axis.videos_of", done=done, count=total)
    match job.status:
        case "in_queue":
            return render.joined(render.position_of(job), progress if done else "")
        case "in_progress":
            return render.joined(progress, text_of("axis.cancelling") if job.cancel_requested else "")
        case "succeeded":
            spent = render.took(job)
            made = text_of("count.videos", count=total)
            if len(job.gpu_models) > 1:
                made = render.joined(made, text_of("axis.several_gpus", models=", ".join(job.gpu_models)))
            return text_of("render.made_in", made=made, seconds=render.seconds(spent)) if spent else made
    error = translated(str(job.error["message"])) if job.error and job.status == "failed" else ""
    return render.joined(text_of("axis.kept", progress=progress) if done else "", error)
