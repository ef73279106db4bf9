"""A request -> the `sample:` block of an AI Toolkit job that makes the same videos; it reads no configs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from wan_ui.models import DEFAULT_SEED
from wan_ui.request import InferenceRequest, PromptItem, fill_trigger
from wan_ui.scale import is_constant, largest
from wan_ui.slots import scale_of

SHARED = ("width", "height", "num_frames", "fps", "guidance_scale", "sample_steps", "neg")


@dataclass(frozen=True)
class SampleBlock:
    """YAML to paste under a process of a job's config, and what it cannot say, as sentences for the user."""

    text: str
    notes: tuple[str, ...]


def sample_block(request: InferenceRequest) -> SampleBlock:
    """The request's prompts as the trainer's `samples`, with the first one's values as those of all.

    Every prompt has its own seed, so that the trainer's walking and sticky seeds change none. A trigger word is
    written out: the trainer's own stands elsewhere in the job.
    """
    notes: list[str] = []
    scale = _scale(request, notes)
    shared = {name: getattr(request.prompts[0], name) for name in SHARED}
    samples = [_sample(request, index, item, shared, notes) for index, item in enumerate(request.prompts)]
    block = {
        "sampler": "flowmatch",
        **shared,
        "seed": samples[0]["seed"],
        "walk_seed": False,
        "network_multiplier": scale,
        "samples": samples,
    }
    if request.recipe == "reference":
        notes.append(
            "These settings are rendered with the recipe reference; the trainer's own previews use another sampler: "
            "compare with the recipe preview."
        )
    text = yaml.safe_dump({"sample": block}, sort_keys=False, allow_unicode=True, width=1000)
    return SampleBlock(text, tuple(notes))


def _sample(
    request: InferenceRequest, index: int, item: PromptItem, shared: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    said = f"Prompt {index + 1}"
    prompt = fill_trigger(item.prompt, item.trigger_word or request.trigger_word)
    if "--" in prompt:
        notes.append(f"{said}: the trainer reads what follows -- as flags, so each -- became a dash.")
        prompt = re.sub("-{2,}", "\N{EN DASH}", prompt)
    sample = {
        "prompt": prompt,
        "seed": DEFAULT_SEED + index if item.seed is None else item.seed,
        **{name: getattr(item, name) for name in SHARED if getattr(item, name) != shared[name]},
    }
    if item.ctrl_img:
        sample["ctrl_img"] = f"first_frame_{index + 1}.png"
        notes.append(f"{said}: save its first frame as {sample['ctrl_img']}, or write that file's path there.")
    return sample


def _scale(request: InferenceRequest, notes: list[str]) -> float:
    scales = list(dict.fromkeys(scale_of(item) for item in request.loras)) or [1.0]
    written = largest(scales[0])
    if not all(map(is_constant, scales)):
        notes.append(f"The trainer has one multiplier for all steps: {written} is written.")
    if len(scales) > 1:
        notes.append(f"The trainer has one multiplier for both LoRAs of a pair: {written} is written for all.")
    return written
