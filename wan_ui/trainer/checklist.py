"""Compares a training sample with one of our runs, row by row, and gives the change that makes each row match."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from wan_ui.models import MODELS
from wan_ui.request import (
    EXACT_RECIPES,
    Generation,
    InferenceRequest,
    PromptItem,
    fill_trigger,
    round_frames,
    snap_size,
)
from wan_ui.trainer.checklist_rows import CHECKS, Fix, Pair, Row, Run, State, Target, compared
from wan_ui.trainer.sample_files import SampleFacts

SIGNS: Mapping[State, str] = {"green": "[ok]", "amber": "[??]", "red": "[XX]"}


def checklist(target: Target, run: Run) -> tuple[Row, ...]:
    """Every row, in a fixed order; a value that a model does not have is green.

    A sampling value that replaces the recipe's, such as `flow_shift`, is a red row.
    """
    replaced = {row.row: row for row in _replaced(run.generation)}
    rows = [check(Pair(target, run)) for check in CHECKS]
    return (*(replaced.pop(row.row, row) for row in rows), *replaced.values())


def _replaced(generation: Generation) -> Iterator[Row]:
    for name, value in generation.replaced.items():
        if name == "network_multiplier":
            continue  # the row "multiplier" compares it with the sample's own
        if name == "speed_lora":
            message = "Training samples are made without a speed LoRA."
            yield Row(name, "red", "none", str(value), message, Fix({"speed_lora": None}))
            continue
        shown = "given" if name == "ctrl_img_last" else str(value)
        message = f"Training samples use the recipe's value: leave {name} out."
        yield Row(name, "red", "the recipe's", shown, message, Fix(prompt={name: None}))


def file_checklist(file: SampleFacts, run: Run) -> tuple[Row, ...]:
    """The rows that a sample file states by itself, and one for what the job's config would add."""
    model, ours = MODELS[run.generation.model], run.generation
    rate = ours.fps if ours.fps in file.rates else file.fps
    possible = round_frames(model.frame_rule, file.num_frames) == file.num_frames
    snapped = snap_size(model, ours.recipe, file.width, file.height) == (file.width, file.height)
    return (
        compared(
            "size",
            (ours.width, ours.height) == (file.width, file.height),
            f"{file.width} × {file.height}",
            f"{ours.width} × {ours.height}",
            "Different size means different noise: the video cannot match.",
            Fix(prompt={"width": file.width, "height": file.height}) if snapped else None,
        ),
        compared(
            "frames",
            ours.num_frames == file.num_frames,
            file.num_frames,
            ours.num_frames,
            "Different length means different noise: the video cannot match.",
            Fix(prompt={"num_frames": file.num_frames}) if possible else None,
        ),
        compared(
            "fps",
            ours.fps in file.rates,
            rate,
            ours.fps,
            "The frames may be the same, but play at another speed.",
            Fix(prompt={"fps": rate}),
        )
        if file.rates and rate is not None
        else Row("fps", "amber", "unknown", str(ours.fps), "The file does not state its frame rate."),
        Row("job", "amber", "no config", "", "Import the job's config.yaml to check seed, steps, prompt and the rest."),
    )


def apply(fix: Fix, request: InferenceRequest, prompt: int = 0) -> InferenceRequest:
    """The request with the change, in the prompt of that index. Raises pydantic's ValidationError out of bounds."""
    changes = dict(fix.request)
    prompts = list(request.prompts)
    if "trigger_word" in changes:  # the other prompts keep the trigger word that they had
        prompts = [_spelled_out(item, request.trigger_word) for item in prompts]
    prompts[prompt] = PromptItem.model_validate({**prompts[prompt].model_dump(exclude_unset=True), **fix.prompt})
    loras = request.loras if fix.loras is None else fix.loras
    if fix.network_multiplier is not None:
        loras = tuple(item.model_copy(update={"network_multiplier": fix.network_multiplier}) for item in loras)
    whole = {**request.model_dump(), **changes}
    if whole["recipe"] in EXACT_RECIPES:  # no speed-up goes with these
        whole["speedup"] = "none"
    whole["prompts"], whole["loras"] = tuple(prompts), loras
    return InferenceRequest.model_validate(whole)


def apply_all(rows: Sequence[Row], request: InferenceRequest, prompt: int = 0) -> InferenceRequest:
    """The request with the change of every red row."""
    for row in rows:
        if row.state == "red" and row.fix is not None:
            request = apply(row.fix, request, prompt)
    return request


def as_text(rows: Sequence[Row]) -> str:
    """The checklist as plain lines, for a forum; differences first."""
    width = max(len(row.row) for row in rows)
    counts = ", ".join(f"{sum(row.state == state for row in rows)} {state}" for state in ("red", "amber", "green"))
    lines = [f"Training sample against this run: {counts}"]
    for row in sorted(rows, key=lambda row: ("red", "amber", "green").index(row.state)):
        both = row.preview if row.preview == row.run else f"sample {row.preview} | run {row.run}"
        lines.append(f"{SIGNS[row.state]} {row.row:<{width}}  {both}")
        if row.state != "green":
            lines.append(f"     {'':<{width}} {row.message}")
    return "\n".join(lines)


def _spelled_out(item: PromptItem, trigger: str | None) -> PromptItem:
    return item.model_copy(update={"prompt": fill_trigger(item.prompt, item.trigger_word or trigger)})
