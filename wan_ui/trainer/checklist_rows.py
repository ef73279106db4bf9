"""The checklist's rows: for each setting the sample's value, the run's, and the change that makes them match."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from wan_ui.checkpoints.trainer_base import FOLDER_BASE, transformer_precisions
from wan_ui.engine.recipes import RECIPES, Recipe, scheduler_spec
from wan_ui.engine.speedups import CHOICES
from wan_ui.lora.header import LoraHeader, pair_messages
from wan_ui.models import MODELS, RecipeId, WanModel
from wan_ui.request import (
    Generation,
    LoraItem,
    fill_trigger,
    round_frames,
    snap_size,
)
from wan_ui.scale import Scale, scale_body, scale_words
from wan_ui.text import one_line
from wan_ui.trainer.job import EULER_SINCE, UNIPC_UNTIL, Imported, Sample, trainer_version
from wan_ui.trainer.sample_files import SampleFacts

State = Literal["green", "amber", "red"]
UPLOAD = "upload://"
LONGEST_SHOWN = 300  # characters of a prompt
LONGEST_WORD = 200  # characters that may stand in for a trigger word


@dataclass(frozen=True)
class Fix:
    """A change of a request: its own fields, fields of the prompt, the scale of all LoRAs, or other LoRAs."""

    request: Mapping[str, Any] = field(default_factory=dict)
    prompt: Mapping[str, Any] = field(default_factory=dict)
    network_multiplier: float | None = None
    loras: tuple[LoraItem, ...] | None = None


@dataclass(frozen=True)
class Row:
    """One row of the checklist. Red: it differs. Amber: unknown, or different by rounding only.

    `preview` (the training sample's) and `run` are the values as text; `fix` is None where nothing differs, or where no
    request can fix it.
    """

    row: str
    state: State
    preview: str
    run: str
    message: str
    fix: Fix | None = None

    def body(self) -> dict[str, Any]:
        """The row as JSON-ready data; `fixable` instead of the fix itself."""
        texts = {name: getattr(self, name) for name in ("row", "state", "preview", "run", "message")}
        return {**texts, "fixable": self.fix is not None}


@dataclass(frozen=True)
class Target:
    """The training sample: one of the job's samples.

    `step`: of the checkpoint it was made with, None if unknown. `file`: what its file states, which is used instead of
    the config, since that may have been changed. `image`: the SHA-256 of its first frame, where that is known; left
    out, it is taken from the sample's own `upload://`.
    """

    job: Imported
    sample: Sample
    step: int | None = None
    file: SampleFacts | None = None
    image: str | None = None


@dataclass(frozen=True)
class Run:
    """Our side: a generation, its LoRAs' headers by LoraUse.path, and its video's metadata once it is rendered.

    `precisions` are those of the checkpoint files that it would be loaded from, until the clip says what it was.
    """

    generation: Generation
    headers: Mapping[str, LoraHeader] = field(default_factory=dict)
    clip: Mapping[str, Any] | None = None
    precisions: tuple[str, ...] = FOLDER_BASE.precisions


class Pair:
    """The training sample and our run, with what several rows need of them."""

    def __init__(self, target: Target, run: Run) -> None:
        self.target, self.run = target, run
        self.job, self.generation = target.job, run.generation
        self.sample = target.sample.request.prompts[0]
        self.model, self.run_model = MODELS[target.job.model], MODELS[run.generation.model]
        self.versions = {version for header in run.headers.values() if (version := trainer_version(header))}
        self.recipe_id, self.era_known = self._era()
        self.recipe, self.run_recipe = RECIPES[self.recipe_id], RECIPES[run.generation.recipe]
        image = self.sample.ctrl_img or ""
        self.image = target.image or (image.removeprefix(UPLOAD) if image.startswith(UPLOAD) else None)

    def _era(self) -> tuple[RecipeId, bool]:
        """The trainer's recipe, and whether it is known: from the job's import, else from the run's own LoRA files."""
        if self.job.recipe_known or not self.versions:
            return self.job.recipe, self.job.recipe_known
        if all(version >= EULER_SINCE for version in self.versions):
            return "preview", True
        if all(version <= UNIPC_UNTIL for version in self.versions):
            return "preview_unipc", True
        return self.job.recipe, False

    @property
    def given(self) -> str | None:
        """The sample's first frame as a request's ctrl_img, where it is known."""
        return f"{UPLOAD}{self.image}" if self.image else self.sample.ctrl_img

    @property
    def job_loras(self) -> tuple[LoraItem, ...] | None:
        """The job's own files at the sample's scale, where the import was given them."""
        return self.target.sample.request.loras or None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sample, in pixels."""
        file = self.target.file
        return (self.sample.width, self.sample.height) if file is None else (file.width, file.height)

    @property
    def num_frames(self) -> int:
        """The sample's frames."""
        return self.sample.num_frames if self.target.file is None else self.target.file.num_frames

    @property
    def prompt(self) -> str:
        """The sample's prompt, with the trigger word in it."""
        request = self.target.sample.request
        return fill_trigger(self.sample.prompt, self.sample.trigger_word or request.trigger_word)


def compared(name: str, same: bool, preview: object, run: object, wrong: str, fix: Fix | None, right: str = "") -> Row:
    """Green or red."""
    shown = str(preview), str(run)
    return Row(name, "green", *shown, right or "The same.") if same else Row(name, "red", *shown, wrong, fix)


def _model(pair: Pair) -> Row:
    model = pair.model
    wrong = f"The job trained {model.label}: another checkpoint makes another video, and the LoRA may have no effect."
    if pair.job.model_assumed and pair.run_model.id == model.id:
        message = "The config does not state which checkpoint it was: this one is assumed. Check model.name_or_path."
        return Row("checkpoint", "amber", f"{model.label}, assumed", pair.run_model.label, message)
    return compared(
        "checkpoint", pair.run_model.id == model.id, model.label, pair.run_model.label, wrong, _model_fix(pair)
    )


def _model_fix(pair: Pair) -> Fix:
    """The job's model, its LoRAs, and a first frame where that model takes one and this run's does not."""
    prompt: dict[str, Any] = {}
    if pair.model.control_image == "none":
        prompt = {"ctrl_img": None}
    elif pair.given is not None and pair.generation.image is None:
        prompt = {"ctrl_img": pair.given}
    return Fix({"model": pair.model.id}, prompt, loras=pair.job_loras or _refitted(pair))


def _refitted(pair: Pair) -> tuple[LoraItem, ...]:
    """The run's LoRAs in the slots of the job's model."""
    items: dict[str, LoraItem] = {}
    for use in pair.generation.loras:
        slot = use.slot
        if slot not in pair.model.slots:
            header = pair.run.headers.get(use.path)
            named = header.slot if header is not None else ""
            slot = named if named in pair.model.slots else next(iter(pair.model.slots))
        transformer = slot if pair.model.two_transformers else None
        items.setdefault(
            slot,
            LoraItem.model_validate(
                {"path": use.path, "transformer": transformer, "network_multiplier": scale_body(use.scale)}
            ),
        )
    return tuple(items.values())


def _base(pair: Pair) -> Row:
    """Which checkpoint files the transformers come from: what the job's trainer used is green, all else red."""
    wanted, run = pair.job.base, pair.run
    ours = run.precisions
    if run.clip is not None:
        ours = transformer_precisions(_part(run.clip, "base"))
    elif pair.generation.base == "folder":
        ours = FOLDER_BASE.precisions
    preview, shown = " or ".join(map(_base_name, wanted.precisions)), " and ".join(map(_base_name, ours))
    if not set(ours) <= set(wanted.precisions):
        if "folder" in wanted.precisions:
            wrong = "The trainer loaded the folder in diffusers format, whose numbers differ: set base to folder."
            return Row("base", "red", preview, shown, wrong, Fix({"base": "folder"}))
        wrong = (
            "Since 0.13 AI Toolkit loads ComfyUI's single file, whose numbers differ. Put that file into the ComfyUI "
            "folder and name it as base, or train with model_kwargs.use_comfy_weights: false."
        )
        return Row("base", "red", preview, shown, wrong)
    if not wanted.is_certain:
        message = "Which of these files the trainer had depends on its version and on what was on its disk."
        return Row("base", "amber", preview, shown, message)
    return Row("base", "green", preview, shown, "The trainer's own.")


def _base_name(precision: str) -> str:
    return "diffusers folder" if precision == "folder" else f"single file, {one_line(precision, 40)}"


def _compiled(pair: Pair) -> Row:
    if not pair.job.compiled:
        return Row("compile", "green", "not compiled", "the bits of plain PyTorch", "The same.")
    message = "With model.compile the trainer's passes are fused, which rounds otherwise: the last bits differ."
    return Row("compile", "amber", "compiled", "the bits of plain PyTorch", message)


def _slots(pair: Pair) -> Row:
    """Whether each transformer that the job trained has its half, and no other one has any."""
    uses = pair.generation.loras
    loaded = tuple(dict.fromkeys(use.slot for use in uses))
    preview, run = ", ".join(pair.job.slots), ", ".join(loaded) or "no LoRA"
    headers = {use.slot: pair.run.headers[use.path] for use in uses if use.path in pair.run.headers}
    wrong = ""
    if pair.target.step == 0:
        wrong = "At step 0 the LoRA was not trained yet: the sample shows the base model."
        return compared(
            "lora_sides", not uses, "no LoRA yet", run, wrong, Fix(loras=()), "The base model on both sides."
        )
    fix = Fix(loras=pair.job_loras) if pair.job_loras else None
    swapped = [slot for slot, header in headers.items() if header.slot in ("high", "low") and header.slot != slot]
    if set(loaded) != set(pair.job.slots):
        missing = [slot for slot in pair.job.slots if slot not in loaded]
        wrong = (
            f"Without the LoRA for {' and '.join(missing)}, the effect does not match the trainer's samples."
            if missing
            else "The job trained no LoRA for a side that has one here."
        )
        if not missing:
            fix = fix or Fix(loras=tuple(_item(pair, use.path, use.slot, use.scale)
                                         for use in uses if use.slot in pair.job.slots))  # fmt: skip
    elif len(uses) > len(loaded):
        wrong = "Several LoRAs are stacked; the training sample has only the job's own."
    elif pair.run_model.two_transformers and swapped:
        wrong = f"The file for {swapped[0]} noise is named as the other half."
        if len(swapped) == len(uses) == 2:
            first, second = uses
            fix = Fix(loras=(_item(pair, second.path, first.slot, second.scale),
                             _item(pair, first.path, second.slot, first.scale)))  # fmt: skip
    elif {"high", "low"} <= set(headers):
        wrong = " ".join(pair_messages(headers["high"], headers["low"]))
    if not wrong and not uses:
        return Row("lora_sides", "green", preview, run, "No LoRA on either side.")
    return compared("lora_sides", not wrong, preview, run, wrong, fix, "Each trained transformer has its LoRA.")


def _item(pair: Pair, path: str, slot: str, scale: Scale) -> LoraItem:
    transformer = slot if pair.run_model.two_transformers else None
    fields = {"path": path, "transformer": transformer, "network_multiplier": scale_body(scale)}
    return LoraItem.model_validate(fields)


def _step(pair: Pair) -> Row:
    wanted = pair.target.step
    if wanted == 0 and not pair.generation.loras:
        return Row("lora_step", "green", "step 0", "no LoRA", "The same.")
    steps = sorted({header.step for header in pair.run.headers.values() if header.step is not None})
    preview = "unknown" if wanted is None else f"step {wanted}"
    run = ", ".join(f"step {step}" for step in steps) or "unknown"
    if wanted is None or not steps:
        message = "The step of the sample's LoRA, or of the loaded one, is unknown: compare the same step."
        return Row("lora_step", "amber", preview, run, message)
    items = pair.job_loras
    used = {use.path for use in pair.generation.loras}
    fix = Fix(loras=items) if items and {item.path for item in items} != used else None
    return compared("lora_step", steps == [wanted], preview, run, "Load the checkpoint of the sample's own step.", fix)


def _keeping(pair: Pair, keeps: bool) -> Mapping[str, Any]:
    """The recipe too, where this one would change the sample's value."""
    return {} if keeps else {"recipe": pair.recipe_id}


def _size(pair: Pair) -> Row:
    width, height = pair.size
    run = pair.generation
    keeps = snap_size(pair.run_model, run.recipe, width, height) == (width, height)
    asked = (run.requested_width, run.requested_height)
    was = "" if asked == (run.width, run.height) else f" (asked for {asked[0]} × {asked[1]})"
    return compared(
        "size",
        (run.width, run.height) == (width, height),
        f"{width} × {height}",
        f"{run.width} × {run.height}{was}",
        "Different size means different noise: the video cannot match.",
        Fix(_keeping(pair, keeps), {"width": width, "height": height}),
    )


def _frames(pair: Pair) -> Row:
    count, run = pair.num_frames, pair.generation
    was = "" if run.requested_num_frames == run.num_frames else f" (asked for {run.requested_num_frames})"
    wrong = "Different length means different noise: the video cannot match."
    can = round_frames(pair.model.frame_rule, count) == count
    fix = Fix(prompt={"num_frames": count}) if can else None
    return compared("frames", run.num_frames == count, count, f"{run.num_frames}{was}", wrong, fix)


def _fps(pair: Pair) -> Row:
    file, run = pair.target.file, pair.generation.fps
    rates = file.rates if file is not None and file.rates else (pair.sample.fps,)
    wanted = pair.sample.fps if pair.sample.fps in rates else (file.fps if file is not None else None) or rates[0]
    wrong = "The frames may be the same, but play at another speed."
    return compared("fps", run in rates, wanted, run, wrong, Fix(prompt={"fps": wanted}))


def _steps(pair: Pair) -> Row:
    wanted, run = pair.sample.sample_steps, pair.generation.sample_steps
    return compared(
        "steps", wanted == run, wanted, run, "Another number of steps.", Fix(prompt={"sample_steps": wanted})
    )


def _sampler(pair: Pair) -> Row:
    preview, run = (
        _sampler_of(pair.model, pair.recipe, None),
        _sampler_of(pair.run_model, pair.run_recipe, pair.run.clip),
    )
    wrong = f"The trainer samples with {preview}: choose the recipe {pair.recipe_id}."
    row = compared("sampler", preview == run, preview, run, wrong, Fix({"recipe": pair.recipe_id}))
    if row.state == "green" and not pair.era_known:
        message = "The trainer's version is not known, and up to 0.9.2 it was UniPC: try the recipe preview_unipc too."
        return Row("sampler", "amber", preview, run, message)
    return row


def _sampler_of(model: WanModel, recipe: Recipe, clip: Mapping[str, Any] | None) -> str:
    spec = scheduler_spec(model, recipe)
    name = {"euler": "Euler", "unipc": "UniPC"}[recipe.sampler]
    config = spec.config or _part(clip, "sampler")
    shift = config.get("flow_shift", config.get("shift"))
    old = ", sigmas of diffusers up to 0.35" if recipe.sigmas == "before_0_36" else ""
    return f"{name}, shift {'of the checkpoint' if shift is None else f'{shift:g}'}{old}"


def _part(clip: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    part = None if clip is None else clip.get(name)
    return part if isinstance(part, Mapping) else {}


def _boundary(pair: Pair) -> Row:
    wanted, run = pair.model.boundary[pair.recipe_id], pair.run_model.boundary[pair.generation.recipe]
    if run == "checkpoint" and pair.run.clip is not None:
        run = pair.run.clip.get("boundary", run)
    shown = "none" if wanted is None else str(wanted)
    if run == "checkpoint":
        return Row("boundary", "amber", shown, "of the checkpoint", "It is read from the checkpoint when it is loaded.")
    wrong = "The change from the high- to the low-noise transformer comes at another step."
    fix = Fix({"recipe": pair.recipe_id})
    return compared("boundary", wanted == run, shown, "none" if run is None else run, wrong, fix)


def _guidance(pair: Pair) -> Row:
    wanted, run = pair.sample.guidance_scale, pair.generation.guidance_scale
    return compared(
        "guidance", wanted == run, f"{wanted:g}", f"{run:g}", "Another guidance scale.",
        Fix(prompt={"guidance_scale": wanted}),
    )  # fmt: skip


def _seed(pair: Pair) -> Row:
    wanted, run = pair.sample.seed, pair.generation.seed
    if wanted is None or wanted == -1:
        message = "This sample used a random seed that was not recorded: it cannot be matched."
        return Row("seed", "amber", "random", str(run), message)
    number = pair.target.sample.index + 1
    wrong = f"By the job's seed rule (walk_seed, sticky seeds, flags) sample {number} has {wanted}."
    return compared("seed", wanted == run, wanted, run, wrong, Fix(prompt={"seed": wanted}))


def _words(pair: Pair) -> tuple[bool, bool]:
    """Whether the prompts agree but for the trigger word, and whether that does."""
    preview, run = pair.prompt, pair.generation.prompt
    if preview == run:
        return True, True
    token = pair.job.trigger_word or "[trigger]"
    same_counts = preview.count(token) == run.count(token) and preview.count("[trigger]") == run.count("[trigger]")
    if same_counts:
        return False, True
    first, *rest = (re.escape(part) for part in preview.split(token))
    pattern = first + "".join((rf"(.{{0,{LONGEST_WORD}}}?)" if not index else r"\1") + part
                              for index, part in enumerate(rest))  # fmt: skip
    other_word = bool(rest) and re.fullmatch(pattern, run, re.DOTALL) is not None
    return other_word or _without(preview, token) == _without(run, token), False


def _without(text: str, token: str) -> list[str]:
    return re.findall(r"\w+", text.replace(token, " ").replace("[trigger]", " "))


def _prompt_fix(pair: Pair) -> Fix:
    plain = "[trigger]" in pair.prompt  # the sample's prompt has it as written: nothing may replace it
    return Fix({"trigger_word": None} if plain else {}, {"prompt": pair.prompt, "trigger_word": None})


def _prompt(pair: Pair) -> Row:
    preview, run = one_line(pair.prompt, LONGEST_SHOWN), one_line(pair.generation.prompt, LONGEST_SHOWN)
    return compared("prompt", _words(pair)[0], preview, run, "Another prompt.", _prompt_fix(pair))


def _trigger(pair: Pair) -> Row:
    word = pair.job.trigger_word
    same = _words(pair)[1]
    shown = one_line(word, 120) if word else "none"
    token = word or "[trigger]"
    run = f"{pair.generation.prompt.count(token)} × {shown if word else token}"
    wrong = (
        "The trainer replaces [trigger] in the prompt by this word, and adds it nowhere else."
        if word
        else "The job has no trigger_word: the trainer leaves [trigger] in the prompt as written."
    )
    return compared("trigger", same, f"{pair.prompt.count(token)} × {shown if word else token}", run, wrong,
                _prompt_fix(pair))  # fmt: skip


def _negative(pair: Pair) -> Row:
    wanted, run = pair.sample.neg, pair.generation.neg
    shown = (one_line(text, LONGEST_SHOWN) or "empty" for text in (wanted, run))
    preview, ours = shown
    return compared("negative", wanted == run, preview, ours, "Another negative prompt.", Fix(prompt={"neg": wanted}))


def _multiplier(pair: Pair) -> Row:
    wanted = pair.target.sample.network_multiplier
    scales = list(dict.fromkeys(use.scale for use in pair.generation.loras))
    run = ", ".join(map(scale_words, scales)) or "no LoRA"
    wrong = "The LoRA has another scale than in the training sample."
    return compared("multiplier", scales in ([], [wanted]), f"{wanted:g}", run, wrong, Fix(network_multiplier=wanted))


def _applied(pair: Pair) -> Row:
    kind = pair.job.network_type.lower()
    scales = {sample.network_multiplier for sample in pair.job.samples}
    beside = kind == "dora" or pair.job.quantised is not None or pair.job.layer_offloading or len(scales) > 1
    preview = "unmerged, float32" if beside else "merged in float32"
    merges = pair.run_recipe.lora == "merge" or kind not in ("lora", "dora")
    run = "merged in float32" if merges and kind != "dora" else "unmerged"
    if beside:
        message = "The trainer kept the LoRA unmerged, in float32; here the last bits differ."
        return Row("lora_applied", "amber", preview, run, message)
    wrong = f"The trainer merged the LoRA into the weights in float32: choose the recipe {pair.recipe_id}."
    return compared("lora_applied", merges, preview, run, wrong, Fix({"recipe": pair.recipe_id}))


def _image(pair: Pair) -> Row:
    run = pair.generation.image
    wants = pair.image is not None or pair.sample.ctrl_img is not None or pair.target.sample.missing_image is not None
    preview = _digest(pair.image) if pair.image else pair.target.sample.missing_image or ("given" if wants else "none")
    if wants and run is None:
        fix = None
        if pair.given is not None:
            takes = pair.run_model.control_image != "none"
            fix = Fix(prompt={"ctrl_img": pair.given}) if takes else _model_fix(pair)
        return Row("control_image", "red", preview, "none", "The sample starts from an image: use the same.", fix)
    if not wants and run is not None and pair.model.control_image != "required":
        wrong = "The training sample was made from text alone: remove the first frame."
        return Row("control_image", "red", preview, _digest(run), wrong, Fix(prompt={"ctrl_img": None}))
    if run is not None and pair.image is None:
        message = "The job's own image was not imported: make sure that it is the same file."
        return Row("control_image", "amber", preview, _digest(run), message)
    wrong = "Another image than the training sample's: the first frame decides the whole video."
    fix = Fix(prompt={"ctrl_img": pair.given})
    return compared("control_image", run == pair.image, preview, "none" if run is None else _digest(run), wrong, fix)


def _digest(sha256: str | None) -> str:
    return "none" if sha256 is None else f"file {sha256[:12]}"


def _resize(pair: Pair) -> Row:
    if pair.generation.image is None:
        return Row("control_resize", "green", "none", "none", "No image is resized.")
    size = _size(pair)
    text = "stretched to exactly {}, Lanczos"
    wrong = "The image is resized to another size or shape, and image-to-video is very sensitive to it."
    preview = text.format("{} × {}".format(*pair.size))
    run = text.format(f"{pair.generation.width} × {pair.generation.height}")
    return compared("control_resize", size.state == "green", preview, run, wrong, size.fix)


def _quantisation(pair: Pair) -> Row:
    wrong = "The sample's base model was quantized: it cannot be matched exactly. "
    wrong += "Trainers of before and after 10 July 2026 leave out other layers."
    preview = pair.job.quantised or "none"
    if pair.job.recovery_adapter:
        preview += ", with an accuracy recovery adapter"
    return compared("quantisation", pair.job.quantised is None, preview, "none", wrong, None)


def _dtype(pair: Pair) -> Row:
    preview = "bfloat16 throughout"
    dtype = None if pair.run.clip is None else pair.run.clip.get("dtype")
    if dtype is not None and dtype != "bfloat16":
        message = "The trainer computes in bfloat16 on a GPU; here it was float32 on the CPU, which only comes close."
        return Row("dtype", "amber", preview, one_line(str(dtype), 40), message)
    whole = pair.run_recipe.whole_bf16
    run = preview if whole else "bfloat16, norms and time embedding in float32"
    wrong = f"The trainer casts the whole transformer: choose the recipe {pair.recipe_id}."
    return compared("dtype", whole, preview, run, wrong, Fix({"recipe": pair.recipe_id}))


def _speedup(pair: Pair) -> Row:
    run = CHOICES[pair.generation.speedup].label
    wrong = f"Rendered with a speed-up ({run}): other arithmetic than the sample's. Set Speed-up to None."
    return compared(
        "speedup", pair.generation.speedup == "none", CHOICES["none"].label, run, wrong, Fix({"speedup": "none"})
    )


def _decode(pair: Pair) -> Row:
    names = {True: "in tiles", False: "whole"}
    wanted, asked = pair.job.tiled, pair.generation.vae_tiling
    run = asked if pair.run.clip is None else bool(pair.run.clip.get("tiled", asked))
    if run != asked and not wanted:
        wrong = "The trainer decoded whole frames; here the GPU memory did not suffice: faint seams differ."
        return compared("decode", False, names[wanted], names[run], wrong, None)
    switch = "on" if wanted else "off"
    wrong = f"The trainer decoded {names[wanted]}: faint seams differ. Switch Decode in tiles {switch}."
    return compared("decode", wanted == run, names[wanted], names[run], wrong, Fix({"vae_tiling": wanted}))


def _versions(pair: Pair) -> Row:
    versions = sorted(pair.versions)
    preview = ", ".join(f"AI Toolkit {'.'.join(map(str, version))}" for version in versions) or "AI Toolkit, unknown"
    ours = _part(pair.run.clip, "versions")
    run = ", ".join(f"{one_line(str(name), 40)} {one_line(str(ours[name]), 40)}" for name in ours) or "not rendered yet"
    if not pair.era_known:
        message = "The LoRA states no trainer version: the recipe is preview since 0.9.4, preview_unipc up to 0.9.2."
        return Row("versions", "amber", preview, run, message)
    return Row("versions", "green", preview, run, f"Its samples match the recipe {pair.recipe_id}.")


CHECKS: tuple[Callable[[Pair], Row], ...] = (
    _model, _base, _slots, _step, _size, _frames, _fps, _steps, _sampler, _boundary, _guidance, _seed, _prompt,
    _trigger, _negative, _multiplier, _applied, _image, _resize, _quantisation, _dtype, _compiled, _speedup, _decode,
    _versions,
)  # fmt: skip
