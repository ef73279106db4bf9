"""An AI Toolkit job's config.yaml -> the requests that make its sample videos; it opens no files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from wan_ui.errors import JobConfigInvalid
from wan_ui.lora.header import LoraHeader
from wan_ui.models import MODELS, RecipeId, WanModel
from wan_ui.request import LONGEST_TEXT, InferenceRequest, LoraItem, PromptItem, round_frames, snap_size
from wan_ui.text import one_line
from wan_ui.trainer.prompt_flags import split_flags
from wan_ui.trainer.safe_yaml import load

MOST_SAMPLES = 200
MOST_UNKNOWN = 100
PROCESS_TYPES = ("sd_trainer", "diffusion_trainer", "ui_trainer")

# The trainer's classes' own values where a key is absent: SampleConfig in toolkit/config_modules.py.
SAMPLE_DEFAULTS: Mapping[str, int | float | str] = MappingProxyType(
    {
        "width": 512,
        "height": 512,
        "num_frames": 1,
        "fps": 16,
        "guidance_scale": 7.0,
        "sample_steps": 20,
        "network_multiplier": 1.0,
        "neg": "",
    }
)
WHOLE = ("width", "height", "num_frames", "fps", "sample_steps")
FRACTIONS = ("guidance_scale", "network_multiplier")
SMALLEST_SIDE = 64
SIDE_MULTIPLE = 8  # of the trainer's sample config; the model's own multiple comes after it

# What a job holds that decides no sample, or is read below. Anything else is listed as unknown.
KNOWN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "": frozenset({"job", "config", "meta"}),
        "config": frozenset({"name", "process", "device", "meta", "training_folder", "log_dir"}),
        "process": frozenset(
            {
                "type", "training_folder", "sqlite_db_path", "device", "trigger_word", "performance_log_every",
                "network", "save", "datasets", "train", "model", "sample", "first_sample", "logging", "meta", "log_dir",
                "adapter", "embedding", "decorator", "slider", "datasets_reg", "torch_profiler", "validation",
            }
        ),
        "model": frozenset(
            {
                "name_or_path", "arch", "quantize", "qtype", "quantize_te", "qtype_te", "low_vram", "model_kwargs",
                "dtype", "vae_path", "vae_dtype", "te_name_or_path", "te_dtype", "layer_offloading",
                "layer_offloading_transformer_percent", "layer_offloading_text_encoder_percent", "quantize_kwargs",
                "assistant_lora_path", "inference_lora_path", "accuracy_recovery_adapter", "unet_path", "lora_path",
                "extras_name_or_path", "split_model_over_gpus", "attn_masking", "compile", "latent_space_version",
            }
        ),
        "model_kwargs": frozenset({"train_high_noise", "train_low_noise", "vae_tiling"}),
        "sample": frozenset(
            {
                *SAMPLE_DEFAULTS, "seed", "walk_seed", "sampler", "prompts", "samples", "sample_every", "format",
                "guidance_rescale", "adapter_conditioning_scale", "refiner_start_at", "extra_values", "do_cfg_norm",
                "ext",
            }
        ),
        "item": frozenset(
            {
                *SAMPLE_DEFAULTS, "prompt", "seed", "ctrl_img", "ctrl_idx", "ctrl_img_1", "ctrl_img_2", "ctrl_img_3",
                "do_cfg_norm",
            }
        ),
        "network": frozenset(
            {
                "type", "linear", "linear_alpha", "rank", "alpha", "conv", "conv_alpha", "dropout", "network_kwargs",
                "lokr_full_rank", "lokr_factor", "split_multistage_loras", "transformer_only", "lorm",
                "pretrained_lora_path", "old_lokr_format",
            }
        ),
    }
)  # fmt: skip

FindImage = Callable[[str], str | None]
"""The path of a control image as the job writes it to a `ctrl_img` of the wire; None: it is not here."""


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

    `recipe_known`: whether the LoRA's own metadata says which era's trainer made the previews. `model_assumed`: its
    config leaves open which of several rows it trained. `slots`: the transformers that the job trained. `tiled`: the
    trainer decoded in tiles. `quantised`: how its base was, or None; `recovery_adapter`: with an accuracy recovery
    adapter (ARA) on it. `layer_offloading`: the trainer then keeps a LoRA beside the weights.
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
    samples: tuple[Sample, ...]
    notes: tuple[str, ...]
    unknown: Mapping[str, str]

    @property
    def requests(self) -> tuple[InferenceRequest, ...]:
        """One per sample, in the job's order."""
        return tuple(sample.request for sample in self.samples)

    def body(self) -> dict[str, Any]:
        """As JSON-ready data: `{model, recipe, requests, notes, …}`; a request's nulls are left out."""
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
            "requests": [one.model_dump(mode="json", exclude_none=True) for one in self.requests],
            "samples": [
                {
                    "index": one.index,
                    "network_multiplier": one.network_multiplier,
                    "missing_image": one.missing_image,
                }
                for one in self.samples
            ],
            "notes": list(self.notes),
            "unknown": dict(self.unknown),
        }


def not_here(path: str) -> str | None:
    """The FindImage of a config without its folder."""
    return None


def import_job(
    text: str | bytes,
    loras: Sequence[LoraItem] = (),
    header: LoraHeader | None = None,
    find_image: FindImage = not_here,
    models: Mapping[str, WanModel] = MODELS,
) -> Imported:
    """The requests of a config.yaml's samples, every value as the trainer settles it.

    `loras` are the job's files in their slots; each request takes them at its sample's own multiplier. `header` is
    one of those files' header: its trainer's version sets the recipe. Sizes and frame counts are the effective ones.
    A sample that the wire's bounds do not take is left out, and a note names it.
    Raises JobConfigInvalid with one `{loc, msg}` per fault: no YAML, no Wan job, a value of the wrong type.
    """
    reader = _Reader()
    document = reader.mapping(load(text), "config.yaml", needed=True)
    config = reader.mapping(document.get("config"), "config", needed=True)
    processes = reader.sequence(config.get("process"), "config.process")
    reader.give_up()
    if not processes:
        reader.wrong("config.process", "a list with the job's process is needed")
    reader.give_up()
    process = reader.mapping(processes[0], "config.process.0", needed=True)
    where = "config.process.0"
    model = reader.mapping(process.get("model"), f"{where}.model", needed=True)
    kwargs = reader.mapping(model.get("model_kwargs"), f"{where}.model.model_kwargs")
    network = reader.mapping(process.get("network"), f"{where}.network")
    sample = reader.mapping(process.get("sample"), f"{where}.sample")
    name = reader.text(config.get("name"), "config.name")
    trigger = reader.text(process.get("trigger_word"), f"{where}.trigger_word")
    words = _Words(name, None if trigger is None else _Words(name, None).named(trigger))
    arch = reader.text(model.get("arch"), f"{where}.model.arch")
    path = reader.text(model.get("name_or_path"), f"{where}.model.name_or_path") or ""
    reader.give_up()

    notes: list[str] = []
    row, assumed = _row(arch or "", words.named(path), header, models, notes)
    tiled = row.control_image != "required" and bool(model.get("low_vram") or kwargs.get("vae_tiling"))
    recipe, recipe_known = _recipe(header, notes)
    job = _Job(row, recipe, words, tuple(loras), find_image, f"{where}.sample", tiled)
    samples = _samples(sample, job, reader, notes)
    reader.give_up()

    kind = reader.text(process.get("type"), f"{where}.type")
    if kind is not None and kind not in PROCESS_TYPES:
        notes.append(
            f"Its process is of the type {one_line(kind, 60)}, which is read as if it were {PROCESS_TYPES[0]}."
        )
    quantised = _quantised(model)
    slots = _slots(row, kwargs)
    notes += _matching_notes(row, model, quantised, tiled, slots, samples)
    unknown = dict(_unknown(document, config, process, model, kwargs, network, sample))
    if unknown:
        notes.append(f"Not read: {', '.join(list(unknown)[:10])}{', …' if len(unknown) > 10 else ''}.")
    return Imported(
        name=None if name is None else one_line(name),
        model=row.id,
        model_assumed=assumed,
        recipe=recipe,
        recipe_known=recipe_known,
        trigger_word=words.trigger,
        slots=slots,
        network_type=one_line(reader.text(network.get("type"), f"{where}.network.type") or "lora", 40),
        quantised=quantised,
        recovery_adapter=_has_recovery_adapter(model, quantised),
        layer_offloading=bool(model.get("layer_offloading")),
        tiled=tiled,
        samples=samples,
        notes=tuple(dict.fromkeys(notes)),
        unknown=MappingProxyType(unknown),
    )


# Reading untyped data


class _Reader:
    """Takes values out of plain data by type, and gathers what is wrong, so that all faults are said at once."""

    def __init__(self) -> None:
        self._wrong: list[tuple[str, str]] = []

    def wrong(self, loc: str, msg: str) -> None:
        self._wrong.append((loc, msg))

    def give_up(self) -> None:
        """Raises JobConfigInvalid when anything was wrong."""
        if self._wrong:
            loc, msg = self._wrong[0]
            raise JobConfigInvalid(
                f"The job config cannot be used: {loc}: {msg}. Give the config.yaml of an AI Toolkit job unchanged.",
                fields=[{"loc": loc, "msg": msg} for loc, msg in self._wrong[:MOST_UNKNOWN]],
            )

    def mapping(self, value: Any, loc: str, needed: bool = False) -> Mapping[Any, Any]:
        if isinstance(value, dict):
            return value
        if value is not None or needed:
            self.wrong(loc, "keys with values are needed here")
            if needed:
                self.give_up()
        return {}

    def sequence(self, value: Any, loc: str) -> Sequence[Any]:
        if isinstance(value, list):
            return value
        if value is not None:
            self.wrong(loc, "a list is needed here")
        return ()

    def text(self, value: Any, loc: str) -> str | None:
        """None for what is left out."""
        if value is None:
            return None
        if not isinstance(value, str):
            self.wrong(loc, "text is needed here")
        elif len(value) > LONGEST_TEXT:
            self.wrong(loc, f"longer than {LONGEST_TEXT} characters")
        else:
            return value
        return None

    def number(self, value: Any, loc: str, whole: bool) -> int | float | None:
        """A number, also one in quotes; None for what is left out."""
        if value is None:
            return None
        found = _finite(value)
        if found is None or (whole and found != int(found)):
            self.wrong(loc, "a whole number is needed here" if whole else "a number is needed here")
            return None
        return int(found) if whole else float(found)


_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")
_LARGEST = 2**64


def _finite(value: Any) -> int | float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        text = value.strip()
        value = int(text) if text.lstrip("+-").isdecimal() else float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _LARGEST and math.isfinite(value) else None


@dataclass(frozen=True)
class _Words:
    """What stands in for `[name]` and `[trigger]`."""

    name: str | None
    trigger: str | None

    def named(self, text: str) -> str:
        """`[name]` is the job's name everywhere: the trainer replaces it before it reads anything."""
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


def _row(
    arch: str, name_or_path: str, header: LoraHeader | None, models: Mapping[str, WanModel], notes: list[str]
) -> tuple[WanModel, bool]:
    """The row of an `arch`, which may carry a tag behind a colon, and whether it is assumed.

    Rows of one arch are told apart by what only one of their checkpoints' names says, then by the tag, then by the
    LoRA's width.
    """
    base, _, tag = (part.strip().lower() for part in arch.partition(":"))
    rows = [row for row in models.values() if row.trainer_arch == base]
    if not rows:
        known = ", ".join(dict.fromkeys(row.trainer_arch for row in models.values()))
        msg = f"{_quoted(arch)} is no Wan model known here; " if arch else "a model is needed; "
        msg += f"known are {known}"
        loc = "config.process.0.model.arch"
        raise JobConfigInvalid(f"The job config cannot be used: {loc}: {msg}", fields=[{"loc": loc, "msg": msg}])
    said = _parts(name_or_path)
    others = {row.id: set().union(*(_parts(one.base_model) for one in rows if one is not row)) for row in rows}
    by_path = [row for row in rows if len(rows) == 1 or (_parts(row.base_model) - others[row.id]) & said]
    by_tag = [row for row in rows if row.id == f"{base}_{tag}"]
    by_width = [row for row in rows if header is not None and row.hidden_size == header.hidden]
    for found in (by_path, by_tag, by_width):
        if len(found) == 1:
            return found[0], False
    notes.append(
        f"Which of {' and '.join(row.label for row in rows)} the job trained is not said by its model.name_or_path: "
        f"{rows[0].label} is assumed."
    )
    return rows[0], True


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
        "The job was trained with AI Toolkit 0.9.3, whose previews may be of either kind: if preview does not match, "
        "try preview_unipc."
        if version is not None
        else "The trainer's version is in the LoRA file and was not read: today's trainer (recipe preview) is assumed. "
        "Up to AI Toolkit 0.9.2 it was preview_unipc."
    )
    return "preview", False


# The samples


@dataclass(frozen=True)
class _Job:
    """What all samples of a job have in common; `loc` is where they stand in the config."""

    row: WanModel
    recipe: RecipeId
    words: _Words
    loras: tuple[LoraItem, ...]
    find_image: FindImage
    loc: str
    tiled: bool


@dataclass(frozen=True)
class _Settled:
    """A sample's values after the class defaults, its own keys, the seed rule and its prompt's flags."""

    index: int
    prompt: str
    seed: int
    values: Mapping[str, Any]
    dropped: tuple[str, ...] = field(default=())


def _samples(sample: Mapping[Any, Any], job: _Job, reader: _Reader, notes: list[str]) -> tuple[Sample, ...]:
    listed = "samples" if sample.get("samples") is not None else "prompts"
    items = reader.sequence(sample.get(listed), f"{job.loc}.{listed}")
    if len(items) > MOST_SAMPLES:
        reader.wrong(f"{job.loc}.{listed}", f"more than {MOST_SAMPLES} samples")
        items = ()
    settled = list(_settle(sample, listed, items, job, reader))
    reader.give_up()
    if not settled:
        notes.append("This job has no samples.")
    found = [made for one in settled if (made := _sample(one, job, notes)) is not None]
    if any(one.seed == -1 for one in settled):
        notes.append("A seed of -1 was drawn by the trainer and written down nowhere: no preview of it can be matched.")
    if job.words.trigger is None and any("[trigger]" in one.prompt for one in settled):
        notes.append("The job has no trigger_word: [trigger] stays in the prompts as written, as in the trainer.")
    return tuple(found)


def _settle(
    sample: Mapping[Any, Any], listed: str, items: Sequence[Any], job: _Job, reader: _Reader
) -> Iterator[_Settled]:
    common = _values(sample, job.loc, SAMPLE_DEFAULTS, reader)
    first_seed = reader.number(sample.get("seed"), f"{job.loc}.seed", whole=True) or 0
    seed = int(first_seed)
    keyed: list[tuple[str, Mapping[Any, Any]]] = []
    for index, item in enumerate(items):
        loc = f"{job.loc}.{listed}.{index}"
        if listed == "prompts":
            item = {"prompt": reader.text(item, loc)}
        keyed.append((loc, reader.mapping(item, loc, needed=listed == "samples")))
    # The trainer numbers the prompts that there are, and takes the settings of the item at that number.
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
        flagged = split_flags(job.words.prompt(prompt or ""))
        for fault in flagged.wrong:
            reader.wrong(prompt_loc, fault)
        values.update(flagged.values)
        values["neg"] = job.words.named(str(values["neg"]))
        yield _Settled(index, flagged.prompt, int(flagged.values.get("seed", seed)), values, flagged.dropped)


def _values(given: Mapping[Any, Any], loc: str, defaults: Mapping[str, Any], reader: _Reader) -> dict[str, Any]:
    """The sampling values of a level, those of the level above where a key is absent."""
    found = {name: defaults[name] for name in SAMPLE_DEFAULTS}
    for name in (*WHOLE, *FRACTIONS):
        number = reader.number(given.get(name), f"{loc}.{name}", whole=name in WHOLE)
        if number is not None:
            found[name] = number
    neg = given.get("neg")
    if neg is False:
        found["neg"] = ""  # the trainer's own default
    elif neg is not None:
        found["neg"] = reader.text(neg, f"{loc}.neg") or ""
    return found


def _sample(one: _Settled, job: _Job, notes: list[str]) -> Sample | None:
    """The sample as a request; None, with a note, when the wire's bounds do not take it."""
    row, values = job.row, one.values
    said = f"Sample {one.index + 1}"
    notes += [f"{said}: --{text} is no flag and is dropped, as in the trainer." for text in map(_clipped, one.dropped)]
    asked = values["width"], values["height"]
    size = snap_size(row, job.recipe, *(max(SMALLEST_SIDE, side - side % SIDE_MULTIPLE) for side in asked))
    image, missing = _image(said, values.get("ctrl_img"), job, notes)
    item = {
        "prompt": one.prompt,
        "width": size[0],
        "height": size[1],
        "seed": one.seed,
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
        notes.append(f"{said} is left out: {first['loc'][0]}: {first['msg']}.")
        return None
    frames = round_frames(row.frame_rule, prompt.num_frames)
    if asked != size:
        notes.append(f"{said}: {asked[0]} × {asked[1]} became {size[0]} × {size[1]}, as in the trainer.")
    if frames != prompt.num_frames:
        notes.append(f"{said}: {prompt.num_frames} frames became {frames}, as in the trainer.")
    request = InferenceRequest.model_validate(
        {
            "model": row.id,
            "recipe": job.recipe,
            "trigger_word": job.words.trigger or None,
            "prompts": (prompt.model_copy(update={"num_frames": frames}),),
            "loras": scaled if job.loras else (),
            "vae_tiling": job.tiled,
        }
    )
    return Sample(one.index, request, float(values["network_multiplier"]), missing)


def _image(said: str, path: str | None, job: _Job, notes: list[str]) -> tuple[str | None, str | None]:
    """A sample's first frame for the wire, and its path where it is wanted and not here."""
    path = job.words.named(path) if path else None
    if job.row.control_image == "none":
        if path is not None:
            notes.append(f"{said}: {job.row.label} takes no first frame; the trainer ignores {_quoted(path)} too.")
        return None, None
    if path is None:
        if job.row.control_image == "required":
            notes.append(f"{said} names no first frame, and {job.row.label} needs one: choose it.")
        return None, None
    found = job.find_image(path)
    if found is None:
        notes.append(f"{said} starts from {_quoted(path)}, which is not here: choose that file.")
        return None, one_line(path)
    return found, None


def _quoted(text: str) -> str:
    return f'"{_clipped(text)}"'


def _clipped(text: str) -> str:
    return one_line(text, 80)


# What else is known of the job


def _quantised(model: Mapping[Any, Any]) -> str | None:
    """How the base was quantised: transformer and text encoder, as the config names it."""
    parts = []
    for flag, kind, what in (("quantize", "qtype", "transformer"), ("quantize_te", "qtype_te", "text encoder")):
        if model.get(flag):
            named = model.get(kind)
            parts.append(f"{what} {one_line(named, 80) if isinstance(named, str) else 'qfloat8'}")
    return ", ".join(parts) or None


def _has_recovery_adapter(model: Mapping[Any, Any], quantised: str | None) -> bool:
    """An ARA stands behind a bar in the qtype, or has a key of its own."""
    return quantised is not None and ("|" in quantised or bool(model.get("accuracy_recovery_adapter")))


def _slots(row: WanModel, kwargs: Mapping[Any, Any]) -> tuple[str, ...]:
    """The transformers that the job trained: both of a pair unless a key says otherwise."""
    return tuple(slot for slot in row.slots if kwargs.get(f"train_{slot}_noise", True))


def _matching_notes(
    row: WanModel,
    model: Mapping[Any, Any],
    quantised: str | None,
    tiled: bool,
    slots: tuple[str, ...],
    samples: Sequence[Sample],
) -> Iterator[str]:
    if quantised is not None:
        recovery = " with an accuracy recovery adapter" if _has_recovery_adapter(model, quantised) else ""
        yield f"The trainer's base was quantised ({quantised}){recovery}: its previews can be approached, not equalled."
    if tiled:
        yield "The trainer decoded in tiles (low_vram or vae_tiling): the requests do so too."
    if row.two_transformers and len(slots) == 1:
        yield f"The job trained the {slots[0]}-noise transformer only: the other side is the base model's."
    if len({sample.network_multiplier for sample in samples}) > 1:
        yield "Its samples have different multipliers: the trainer then keeps the LoRA beside the weights in float32."
    elif model.get("layer_offloading"):
        yield "With layer_offloading the trainer keeps the LoRA beside the weights in float32."


def _unknown(
    document: Mapping[Any, Any],
    config: Mapping[Any, Any],
    process: Mapping[Any, Any],
    model: Mapping[Any, Any],
    kwargs: Mapping[Any, Any],
    network: Mapping[Any, Any],
    sample: Mapping[Any, Any],
) -> Iterator[tuple[str, str]]:
    """Dotted names of the keys that nothing reads, each with its value's start."""
    where = "config.process.0"
    levels = [
        ("", "", document),
        ("config.", "config", config),
        (f"{where}.", "process", process),
        (f"{where}.model.", "model", model),
        (f"{where}.model.model_kwargs.", "model_kwargs", kwargs),
        (f"{where}.network.", "network", network),
        (f"{where}.sample.", "sample", sample),
    ]
    items = sample.get("samples")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            levels.append((f"{where}.sample.samples.{index}.", "item", item))
    count = 0
    for prefix, level, keys in levels:
        for key in keys:
            if key not in KNOWN[level] and count < MOST_UNKNOWN:
                count += 1
                yield prefix + _start(key), _start(keys[key])


def _start(value: Any) -> str:
    """A value's start, without walking a large one."""
    if isinstance(value, dict | list):
        return f"{len(value)} entries"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number too large to write"
    return _clipped(value if isinstance(value, str) else str(value))
