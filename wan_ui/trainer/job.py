"""Turns an AI Toolkit job's config.yaml into the requests that make its sample videos; it opens no files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from wan_ui import field_errors
from wan_ui.checkpoints.trainer_base import TrainerBase, trainer_base
from wan_ui.errors import JobConfigInvalid
from wan_ui.lora.header import LoraHeader
from wan_ui.models import MODELS, RecipeId, WanModel
from wan_ui.request import LONGEST_TEXT, InferenceRequest, LoraItem, PromptItem, round_frames, snap_size
from wan_ui.text import one_line
from wan_ui.trainer.config_reader import (
    PROCESS,
    SAMPLE_DEFAULTS,
    ConfigReader,
    ConfigSections,
    clipped,
    quoted,
    read_sections,
    unknown_keys,
)
from wan_ui.trainer.prompt_flags import split_flags

MOST_SAMPLES = 200
PROCESS_TYPES = ("sd_trainer", "diffusion_trainer", "ui_trainer")

WHOLE = ("width", "height", "num_frames", "fps", "sample_steps")
FRACTIONS = ("guidance_scale", "network_multiplier")
SMALLEST_SIDE = 64
SIDE_MULTIPLE = 8  # of the trainer's sample config; the model's own multiple comes after it

FindImage = Callable[[str], str | None]
"""The path of a control image as the job writes it -> a request's `ctrl_img`, or None when it was not found."""


@dataclass(frozen=True)
class Sample:
    """One of the job's samples. `index` is the one in its sample files' names.

    `missing_image` is the first frame that the request still needs, as the job names it.
    """

    index: int
    request: InferenceRequest
    network_multiplier: float
    missing_image: str | None


@dataclass(frozen=True)
class Imported:
    """A job as requests.

    `recipe_known`: whether the LoRA's own metadata states which trainer version made the samples. `model_assumed`: its
    config leaves open which of several models it trained. `slots`: the transformers that the job trained. `tiled`: the
    trainer decoded in tiles. `quantised`: how its base was, or None; `recovery_adapter`: with an accuracy recovery
    adapter (ARA) on it. `layer_offloading`: the trainer then keeps a LoRA unmerged. `compiled`: it compiled its
    transformer. `base`: which checkpoint files it had.
    `notes` are sentences for the user; `unknown` lists the keys that nothing here reads, with their values' start.
    """

    name: str | None
    model: str
    model_assumed: bool
    recipe: RecipeId
    recipe_known: bool
    trigger_word: str | None
    slots: tuple[str, ...]
    network_type: str
    quantised: str | None
    recovery_adapter: bool
    layer_offloading: bool
    tiled: bool
    compiled: bool
    base: TrainerBase
    samples: tuple[Sample, ...]
    notes: tuple[str, ...]
    unknown: Mapping[str, str]

    @property
    def requests(self) -> tuple[InferenceRequest, ...]:
        """One per sample, in the job's order."""
        return tuple(sample.request for sample in self.samples)

    def body(self) -> dict[str, Any]:
        """The job as JSON-ready data: `{model, recipe, requests, notes, …}`; a request's nulls are left out."""
        return {
            "name": self.name,
            "model": self.model,
            "model_assumed": self.model_assumed,
            "recipe": self.recipe,
            "recipe_known": self.recipe_known,
            "trigger_word": self.trigger_word,
            "slots": list(self.slots),
            "network_type": self.network_type,
            "quantised": self.quantised,
            "recovery_adapter": self.recovery_adapter,
            "layer_offloading": self.layer_offloading,
            "tiled": self.tiled,
            "requests": [request.model_dump(mode="json", exclude_none=True) for request in self.requests],
            "samples": [
                {
                    "index": sample.index,
                    "network_multiplier": sample.network_multiplier,
                    "missing_image": sample.missing_image,
                }
                for sample in self.samples
            ],
            "notes": list(self.notes),
            "unknown": dict(self.unknown),
        }


def not_here(path: str) -> str | None:
    """The FindImage of a config without its folder: finds nothing."""
    return None


def import_job(
    text: str | bytes,
    loras: Sequence[LoraItem] = (),
    header: LoraHeader | None = None,
    find_image: FindImage = not_here,
) -> Imported:
    """The requests of a config.yaml's samples, with every value that the trainer uses.

    `loras` are the job's files in their slots; each request uses them at its sample's own network_multiplier. `header`
    is one of those files' header: its trainer's version sets the recipe. Sizes and frame counts are the effective ones.
    A sample that is out of a request's bounds is left out, and a note names it.
    Raises JobConfigInvalid with one `{loc, msg}` per fault: not YAML, not a Wan job, a value of the wrong type.
    """
    reader = ConfigReader()
    sections = read_sections(text, reader)
    name = reader.text(sections.config.get("name"), "config.name")
    trigger = reader.text(sections.process.get("trigger_word"), f"{PROCESS}.trigger_word")
    tags = _Tags(name, None if trigger is None else _Tags(name, None).named(trigger))
    arch = reader.text(sections.model.get("arch"), f"{PROCESS}.model.arch")
    path = reader.text(sections.model.get("name_or_path"), f"{PROCESS}.model.name_or_path") or ""
    reader.raise_if_wrong()

    notes: list[str] = []
    model, assumed = _trained_model(arch or "", tags.named(path), header, notes)
    in_tiles = bool(sections.model.get("low_vram") or sections.model_kwargs.get("vae_tiling"))
    tiled = model.control_image != "required" and in_tiles
    recipe, recipe_known = _recipe(header, notes)
    job = _Job(model, recipe, tags, tuple(loras), find_image, f"{PROCESS}.sample", tiled)
    samples = _samples(sections.sample, job, reader, notes)
    reader.raise_if_wrong()

    quantised = _quantised(sections.model)
    slots = _slots(model, sections.model_kwargs)
    notes += _process_notes(sections, reader)
    notes += _matching_notes(job, sections.model, quantised, slots, samples)
    unknown = dict(unknown_keys(sections))
    if unknown:
        notes.append(f"Not read: {', '.join(list(unknown)[:10])}{', …' if len(unknown) > 10 else ''}.")
    return Imported(
        name=None if name is None else one_line(name),
        model=model.id,
        model_assumed=assumed,
        recipe=recipe,
        recipe_known=recipe_known,
        trigger_word=tags.trigger,
        slots=slots,
        network_type=one_line(reader.text(sections.network.get("type"), f"{PROCESS}.network.type") or "lora", 40),
        quantised=quantised,
        recovery_adapter=_has_recovery_adapter(sections.model, quantised),
        layer_offloading=_offloads_layers(sections.model),
        tiled=tiled,
        compiled=bool(sections.model.get("compile")),
        base=trainer_base(model, {**sections.model, "name_or_path": tags.named(path)}, trainer_version(header)),
        samples=samples,
        notes=tuple(dict.fromkeys(notes)),
        unknown=MappingProxyType(unknown),
    )


@dataclass(frozen=True)
class _Tags:
    """The values of `[name]` and `[trigger]`."""

    name: str | None
    trigger: str | None

    def named(self, text: str) -> str:
        """A text with `[name]` replaced: the trainer replaces it in the whole config before reading it."""
        return text if self.name is None else _replaced(text, "[name]", self.name)

    def prompt(self, text: str) -> str:
        """A sample's prompt; both tags are replaced only when there is a trigger word, and it is never prepended."""
        text = self.named(text)
        if self.trigger is None:
            return text
        return _replaced(_replaced(text, "[name]", self.trigger), "[trigger]", self.trigger)


def _replaced(text: str, tag: str, word: str) -> str:
    grown = len(text) + text.count(tag) * (len(word) - len(tag))
    if grown > LONGEST_TEXT:
        msg = f"longer than {LONGEST_TEXT} characters with {tag} replaced"
        raise JobConfigInvalid(f"The job config cannot be used: {msg}", fields=[{"loc": "config", "msg": msg}])
    return text.replace(tag, word)


# The model and the recipe


def _trained_model(arch: str, name_or_path: str, header: LoraHeader | None, notes: list[str]) -> tuple[WanModel, bool]:
    """The model of an `arch`, which may have a tag behind a colon, and whether it is assumed.

    Models of one arch are distinguished by words that only one of their checkpoints' names has, then by the tag, then
    by the LoRA's hidden size.
    """
    base, _, tag = (part.strip().lower() for part in arch.partition(":"))
    of_arch = [model for model in MODELS.values() if model.trainer_arch == base]
    if not of_arch:
        known = ", ".join(dict.fromkeys(model.trainer_arch for model in MODELS.values()))
        msg = f"{quoted(arch)} is not a supported Wan model; " if arch else "a model is needed; "
        msg += f"supported are {known}"
        loc = f"{PROCESS}.model.arch"
        raise JobConfigInvalid(f"The job config cannot be used: {loc}: {msg}", fields=[{"loc": loc, "msg": msg}])
    words = _parts(name_or_path)
    others = {
        model.id: set().union(*(_parts(other.base_model) for other in of_arch if other is not model))
        for model in of_arch
    }
    by_path = [m for m in of_arch if len(of_arch) == 1 or (_parts(m.base_model) - others[m.id]) & words]
    by_tag = [model for model in of_arch if model.id == f"{base}_{tag}"]
    by_size = [model for model in of_arch if header is not None and model.hidden_size == header.hidden]
    for matches in (by_path, by_tag, by_size):
        if len(matches) == 1:
            return matches[0], False
    notes.append(
        f"The job's model.name_or_path does not say which of {' and '.join(model.label for model in of_arch)} it "
        f"trained: {of_arch[0].label} is assumed."
    )
    return of_arch[0], True


def _parts(name: str) -> set[str]:
    return set(re.split(r"[^0-9a-z.]+", name.lower()))


EULER_SINCE = (0, 9, 4)
UNIPC_UNTIL = (0, 9, 2)
_VERSION = re.compile(r"v?([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?")


def trainer_version(header: LoraHeader | None) -> tuple[int, int, int] | None:
    """AI Toolkit's version as a LoRA's metadata has it; None: unknown, or another trainer's file."""
    if header is None or (header.trainer or "").lower() != "ai-toolkit":
        return None
    match = _VERSION.match(header.trainer_version or "")
    return None if match is None else (int(match[1]), int(match[2]), int(match[3] or 0))


def _recipe(header: LoraHeader | None, notes: list[str]) -> tuple[RecipeId, bool]:
    version = trainer_version(header)
    if version is not None and version >= EULER_SINCE:
        return "preview", True
    if version is not None and version <= UNIPC_UNTIL:
        return "preview_unipc", True
    notes.append(
        "The job was trained with AI Toolkit 0.9.3, whose samples may be of either kind: if preview does not match, "
        "try preview_unipc."
        if version is not None
        else "No LoRA file states the trainer's version: the current trainer (recipe preview) is assumed. Up to AI "
        "Toolkit 0.9.2 the recipe is preview_unipc."
    )
    return "preview", False


# The samples


@dataclass(frozen=True)
class _Job:
    """What all samples of a job have in common; `loc` is their path in the config."""

    model: WanModel
    recipe: RecipeId
    tags: _Tags
    loras: tuple[LoraItem, ...]
    find_image: FindImage
    loc: str
    tiled: bool


@dataclass(frozen=True)
class _SampleValues:
    """A sample's values: the trainer's defaults, its own keys, the seed rule and its prompt's flags applied."""

    index: int
    prompt: str
    seed: int
    values: Mapping[str, Any]
    dropped: tuple[str, ...] = field(default=())


def _samples(sample: Mapping[Any, Any], job: _Job, reader: ConfigReader, notes: list[str]) -> tuple[Sample, ...]:
    listed = "samples" if sample.get("samples") is not None else "prompts"
    items = reader.sequence(sample.get(listed), f"{job.loc}.{listed}")
    if len(items) > MOST_SAMPLES:
        reader.wrong(f"{job.loc}.{listed}", f"more than {MOST_SAMPLES} samples")
        items = ()
    settled = list(_sample_values(sample, listed, items, job, reader))
    reader.raise_if_wrong()
    if not settled:
        notes.append("This job has no samples.")
    samples = [made for each in settled if (made := _sample(each, job, notes)) is not None]
    if any(each.seed == -1 for each in settled):
        notes.append("A seed of -1 is random in the trainer and was not recorded: these samples cannot be matched.")
    if job.tags.trigger is None and any("[trigger]" in each.prompt for each in settled):
        notes.append("The job has no trigger_word: [trigger] stays in the prompts as written, as in the trainer.")
    return tuple(samples)


def _sample_values(
    sample: Mapping[Any, Any], listed: str, items: Sequence[Any], job: _Job, reader: ConfigReader
) -> Iterator[_SampleValues]:
    common = _values(sample, job.loc, SAMPLE_DEFAULTS, reader)
    first_seed = reader.number(sample.get("seed"), f"{job.loc}.seed", whole=True) or 0
    seed = int(first_seed)
    keyed: list[tuple[str, Mapping[Any, Any]]] = []
    for index, item in enumerate(items):
        loc = f"{job.loc}.{listed}.{index}"
        if listed == "prompts":
            item = {"prompt": reader.text(item, loc)}
        keyed.append((loc, reader.mapping(item, loc, needed=listed == "samples")))
    # The trainer numbers the prompts that exist, and uses the settings of the item at that number.
    prompts = [(loc, item["prompt"]) for loc, item in keyed if item.get("prompt") is not None]
    for index, ((prompt_loc, raw), (loc, item)) in enumerate(zip(prompts, keyed, strict=False)):
        prompt = reader.text(raw, prompt_loc if listed == "prompts" else f"{prompt_loc}.prompt")
        own_seed = reader.number(item.get("seed"), f"{loc}.seed", whole=True)
        if sample.get("walk_seed"):
            seed = int(first_seed) + index
        if own_seed is not None:
            seed = int(own_seed)
        values = _values(item, loc, common, reader)
        values["ctrl_img"] = reader.text(item.get("ctrl_img"), f"{loc}.ctrl_img")
        flagged = split_flags(job.tags.prompt(prompt or ""))
        for fault in flagged.wrong:
            reader.wrong(prompt_loc, fault)
        values.update(flagged.values)
        values["neg"] = job.tags.named(str(values["neg"]))
        yield _SampleValues(index, flagged.prompt, int(flagged.values.get("seed", seed)), values, flagged.dropped)


def _values(given: Mapping[Any, Any], loc: str, defaults: Mapping[str, Any], reader: ConfigReader) -> dict[str, Any]:
    """The sampling values of a level, with those of the level above where a key is absent."""
    values = {name: defaults[name] for name in SAMPLE_DEFAULTS}
    for name in (*WHOLE, *FRACTIONS):
        number = reader.number(given.get(name), f"{loc}.{name}", whole=name in WHOLE)
        if number is not None:
            values[name] = number
    neg = given.get("neg")
    if neg is False:
        values["neg"] = ""  # the trainer's own default
    elif neg is not None:
        values["neg"] = reader.text(neg, f"{loc}.neg") or ""
    return values


def _sample(settled: _SampleValues, job: _Job, notes: list[str]) -> Sample | None:
    """The sample as a request; None, with a note, when it is out of a request's bounds."""
    model, values = job.model, settled.values
    name = f"Sample {settled.index + 1}"
    notes += [
        f"{name}: --{text} is not a flag and is dropped, as in the trainer." for text in map(clipped, settled.dropped)
    ]
    asked = values["width"], values["height"]
    size = snap_size(model, job.recipe, *(max(SMALLEST_SIDE, side - side % SIDE_MULTIPLE) for side in asked))
    image, missing = _image(name, values.get("ctrl_img"), job, notes)
    item = {
        "prompt": settled.prompt,
        "width": size[0],
        "height": size[1],
        "seed": settled.seed,
        "sample_steps": values["sample_steps"],
        "guidance_scale": values["guidance_scale"],
        "neg": values["neg"],
        "num_frames": values["num_frames"],
        "fps": values["fps"],
        "ctrl_img": image,
    }
    try:
        prompt = PromptItem.model_validate(item)
        scaled = tuple(
            LoraItem.model_validate({**lora.model_dump(), "network_multiplier": values["network_multiplier"]})
            for lora in job.loras or (LoraItem.model_validate({"path": "any"}),)
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        notes.append(f"{name} is left out: {first['loc'][0]} {field_errors.message(first)}.")
        return None
    frames = round_frames(model.frame_rule, prompt.num_frames)
    if asked != size:
        notes.append(f"{name}: {asked[0]} × {asked[1]} became {size[0]} × {size[1]}, as in the trainer.")
    if frames != prompt.num_frames:
        notes.append(f"{name}: {prompt.num_frames} frames became {frames}, as in the trainer.")
    request = InferenceRequest.model_validate(
        {
            "model": model.id,
            "recipe": job.recipe,
            "trigger_word": job.tags.trigger or None,
            "prompts": (prompt.model_copy(update={"num_frames": frames}),),
            "loras": scaled if job.loras else (),
            "vae_tiling": job.tiled,
        }
    )
    return Sample(settled.index, request, float(values["network_multiplier"]), missing)


def _image(name: str, path: str | None, job: _Job, notes: list[str]) -> tuple[str | None, str | None]:
    """A sample's first frame as a request's ctrl_img, and its path where it is needed and was not found."""
    path = job.tags.named(path) if path else None
    if job.model.control_image == "none":
        if path is not None:
            notes.append(
                f"{name}: {job.model.label} takes no first frame; the trainer ignores {quoted(_file_name(path))} too."
            )
        return None, None
    if path is None:
        if job.model.control_image == "required":
            notes.append(f"{name} names no first frame, and {job.model.label} needs one: choose it.")
        return None, None
    image = job.find_image(path)
    if image is None:
        file_name = _file_name(path)
        notes.append(f"{name} starts from {quoted(file_name)}, which was not found: choose that file.")
        return None, one_line(file_name)
    return image, None


def _file_name(path: str) -> str:
    """The last part of a path of any system: the rest may be a folder of this server."""
    return re.split(r"[/\\]", path)[-1] or "a file"


# What else is known of the job


def _quantised(model: Mapping[Any, Any]) -> str | None:
    """How the base model was quantized: transformer and text encoder, as the config names it."""
    parts = []
    # quantize_te follows quantize where it is absent: ModelConfig in toolkit/config_modules.py.
    flags = {"quantize": model.get("quantize"), "quantize_te": model.get("quantize_te", model.get("quantize"))}
    for flag, kind, what in (("quantize", "qtype", "transformer"), ("quantize_te", "qtype_te", "text encoder")):
        if flags[flag]:
            named = model.get(kind)
            parts.append(f"{what} {one_line(named, 80) if isinstance(named, str) else 'qfloat8'}")
    return ", ".join(parts) or None


def _has_recovery_adapter(model: Mapping[Any, Any], quantised: str | None) -> bool:
    """An ARA is named behind a bar in the qtype, or by a key of its own."""
    return quantised is not None and ("|" in quantised or bool(model.get("accuracy_recovery_adapter")))


def _offloads_layers(model: Mapping[Any, Any]) -> bool:
    """layer_offloading, which auto_memory stands for where it is absent."""
    return bool(model.get("layer_offloading", model.get("auto_memory")))


def _slots(model: WanModel, kwargs: Mapping[Any, Any]) -> tuple[str, ...]:
    """The transformers that the job trained: both of a pair unless a key turns one off."""
    return tuple(slot for slot in model.slots if kwargs.get(f"train_{slot}_noise", True))


def _process_notes(sections: ConfigSections, reader: ConfigReader) -> Iterator[str]:
    kind = reader.text(sections.process.get("type"), f"{PROCESS}.type")
    if kind is not None and kind not in PROCESS_TYPES:
        yield f"Its process has the type {one_line(kind, 60)}, which is read as if it were {PROCESS_TYPES[0]}."


def _matching_notes(
    job: _Job, model: Mapping[Any, Any], quantised: str | None, slots: tuple[str, ...], samples: Sequence[Sample]
) -> Iterator[str]:
    if quantised is not None:
        recovery = " with an accuracy recovery adapter" if _has_recovery_adapter(model, quantised) else ""
        yield f"The trainer's base model was quantized ({quantised}){recovery}: its samples cannot be matched exactly."
        yield "Quantized samples of before and after 10 July 2026 differ: the trainer then changed the layers it skips."
    if job.tiled:
        yield "The trainer decoded in tiles (low_vram or vae_tiling): the requests do so too."
    if job.model.two_transformers and len(slots) == 1:
        yield f"The job trained the {slots[0]}-noise transformer only: the other one is the base model's."
    if len({sample.network_multiplier for sample in samples}) > 1:
        yield "Its samples have different multipliers: the trainer then keeps the LoRA unmerged, in float32."
    elif _offloads_layers(model):
        yield "With layer_offloading the trainer keeps the LoRA unmerged, in float32."
