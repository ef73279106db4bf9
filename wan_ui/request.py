"""The schema of a request, and resolve(), which replaces every default by the value that will be used."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, NoReturn, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)

from wan_ui import speed_loras
from wan_ui.errors import (
    ControlImageNotSupported,
    ControlImageRequired,
    InvalidRequest,
    ModelNotFound,
)
from wan_ui.field_errors import invalid_request, items_of
from wan_ui.hub_token import HubToken
from wan_ui.models import (
    DEFAULT_FPS,
    DEFAULT_GUIDANCE_SCALE,
    DEFAULT_NUM_FRAMES,
    DEFAULT_SEED,
    DEFAULT_SIDE,
    DEFAULT_STEPS,
    MODELS,
    TEMPORAL_COMPRESSION,
    FrameRule,
    RecipeId,
    Sampler,
    Speedup,
    WanModel,
)
from wan_ui.scale import LARGEST_SCALE, LEAST_SCALE, MOST_VALUES, is_constant, scale_body
from wan_ui.slots import LoraUse as LoraUse
from wan_ui.slots import assign_slots as assign_slots
from wan_ui.slots import never_combined as never_combined
from wan_ui.speed_loras import SpeedLora

LARGEST_RANDOM_SEED = 2**31 - 2
LARGEST_SEED = 2**63 - 1
LONGEST_TEXT = 20_000  # characters; the text encoder reads 512 tokens
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
LEAST_FRAMES_WITH_LAST = 5  # a first and a last frame need two latent frames
MOST_CELLS = 64  # of a comparison
EXACT_RECIPES: frozenset[RecipeId] = frozenset({"preview", "preview_unipc"})  # training samples are exact

FOREIGN_FIELDS = ("kv_cache", "match_target_res")
FOREIGN_PROMPT_FIELDS = ("ctrl_img_1", "ctrl_img_2", "ctrl_img_3", "resolution")
"""Fields of the reference server that no model here uses: a request is stored without them."""

AxisName = Literal["columns", "rows", "pages"]
AXES: tuple[AxisName, ...] = get_args(AxisName)

AxisField = Literal[
    "scale",
    "scale_high",
    "scale_low",
    "lora",
    "seed",
    "sample_steps",
    "guidance_scale",
    "prompt",
    "recipe",
    "num_frames",
    "speedup",
    "sampler",
    "flow_shift",
    "boundary",
    "switch_step",
    "guidance_scale_2",
    "base",
]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _only_bool(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


Bool = Annotated[bool, BeforeValidator(_only_bool)]  # pydantic's own also takes 0, 1, "yes", "off"
Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]


class Wire(BaseModel):
    """Unknown fields are refused by name; null counts as left out, as clients of the reference server send it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {name: value for name, value in data.items() if value is not None}
        return data


class TrainingSample(Wire):
    """The training sample that a video is compared with: a sample of an imported job, a file, or both."""

    job: str | None = Field(None, pattern="^[0-9a-f]{32}$", description="An id from POST /v1/jobs/import.")
    sample: Int | None = Field(None, ge=0, le=100_000, description="Its index, as in the names of its sample files.")
    step: Int | None = Field(None, ge=0, le=10**9, description="The training step of the preview, where it is known.")
    file: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="SHA-256 of an uploaded preview; left out, the job's own file."
    )


class PromptItem(Wire):
    """One video of a request."""

    prompt: str = Field(max_length=LONGEST_TEXT, description="What the video shows; [trigger] is replaced.")
    trigger_word: str | None = Field(None, max_length=LONGEST_TEXT, description="Replaces [trigger] in this prompt.")
    width: Int = Field(DEFAULT_SIDE, ge=64, le=4096, description="Pixels; floored to the model's multiple.")
    height: Int = Field(DEFAULT_SIDE, ge=64, le=4096, description="Pixels; floored to the model's multiple.")
    seed: Int | None = Field(
        None, ge=-1, le=LARGEST_SEED, description="-1: a random seed. Left out, prompt i (from 0) gets 42 + i."
    )
    sample_steps: Int = Field(DEFAULT_STEPS, ge=1, le=150, description="Denoising steps.")
    guidance_scale: Float = Field(
        DEFAULT_GUIDANCE_SCALE, ge=0, le=20, description="Classifier-free guidance; 1 or less runs without it."
    )
    neg: str = Field("", max_length=LONGEST_TEXT, description="Negative prompt.")
    num_frames: Int = Field(DEFAULT_NUM_FRAMES, ge=1, le=1000, description="Rounded to 4N + 1 by the model's rule.")
    fps: Int = Field(DEFAULT_FPS, ge=1, le=120, description="Frames per second of the file.")
    sampler: str | None = Field(
        None,
        max_length=200,
        description="unipc, euler, lcm or dpm++; left out, the recipe's. Other names are ignored as by the reference.",
    )
    flow_shift: Float | None = Field(
        None, ge=0.1, le=30, description="Shift of the noise schedule; left out, the recipe's."
    )
    boundary: Float | None = Field(
        None,
        ge=0,
        le=1,
        description="Two-transformer models: the high-noise one runs while timestep >= boundary * 1000.",
    )
    switch_step: Int | None = Field(
        None, ge=0, le=150, description="Two-transformer models: number of high-noise steps, instead of boundary."
    )
    guidance_scale_2: Float | None = Field(
        None, ge=0, le=20, description="Guidance of the low-noise transformer; left out, guidance_scale."
    )
    ctrl_img: str | None = Field(None, description="First frame: base64, with or without a data: header, or a URL.")
    ctrl_img_last: str | None = Field(
        None, description="Last frame, in the same forms; 2.2 I2V A14B and 2.1 I2V 14B with at least 5 frames."
    )
    ctrl_img_1: str | None = Field(None, description="Another name of ctrl_img, which it takes precedence over.")
    ctrl_img_2: str | None = Field(None, description="Ignored: for models of the reference server that edit images.")
    ctrl_img_3: str | None = Field(None, description="Ignored, as ctrl_img_2.")
    resolution: Literal["Default", "High"] | None = Field(None, description="Ignored, as ctrl_img_2.")
    training_sample: TrainingSample | None = Field(
        None, description="What the trainer showed: the clip's frames are kept losslessly and compared with it."
    )


_ScaleNumber = Annotated[float, Field(ge=LEAST_SCALE, le=LARGEST_SCALE), BeforeValidator(_no_bool)]


class RampItem(Wire):
    """A scale that changes evenly from the first to the last step of the LoRA's transformer."""

    start: _ScaleNumber = Field(alias="from", description="At the first step.")
    end: _ScaleNumber = Field(alias="to", description="At the last step.")

    @model_serializer
    def _wire(self) -> dict[str, float]:
        return {"from": self.start, "to": self.end}


def _form(value: Any) -> str:
    if isinstance(value, Mapping | RampItem):
        return "(ramp)"
    return "(list)" if isinstance(value, list | tuple) else "(number)"


# field_errors.location leaves the tags, which stand in parentheses, out of a field's path.
_NetworkMultiplier = Annotated[
    Annotated[_ScaleNumber, Tag("(number)")]
    | Annotated[tuple[_ScaleNumber, ...], Field(min_length=1, max_length=MOST_VALUES), Tag("(list)")]
    | Annotated[RampItem, Tag("(ramp)")],
    Discriminator(_form),
]


class LoraItem(Wire):
    """One LoRA of a request."""

    path: str = Field(
        min_length=1,
        max_length=4096,
        description="A file under the LoRA folder, upload://<id>, http(s)://… or hf://org/name/file.safetensors[@revision].",
    )
    transformer: Literal["low", "high"] | None = Field(None, description="Two-transformer models only.")
    network_multiplier: _NetworkMultiplier = Field(
        1.0,
        description="LoRA scale; 0 is not attached. A list is spread over the steps of the LoRA's own transformer, "
        '{"from": a, "to": b} goes evenly from a to b; a step at 0 runs without the LoRA.',
    )


def _file_name(value: str) -> str:
    if value.startswith(("/", "\\")) or ":" in value or ".." in re.split(r"[\\/]", value):
        raise ValueError("a name as GET /v1/models/{id}/bases lists it is needed, no path of the server")
    return value


FileName = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_file_name)]


class BaseFiles(Wire):
    """Checkpoint files by component; those left out are chosen; one half of a pair brings the other."""

    transformer: FileName | None = Field(None, description="The transformer, or the high-noise half of a pair.")
    transformer_2: FileName | None = Field(None, description="The low-noise half of a pair.")
    vae: FileName | None = Field(None, description="The VAE.")
    text_encoder: FileName | None = Field(None, description="The UMT5 text encoder.")
    image_encoder: FileName | None = Field(None, description="The CLIP vision encoder of Wan 2.1 image-to-video.")

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """(component, name) of those that were given."""
        return tuple((name, value) for name in type(self).model_fields if (value := getattr(self, name)) is not None)


class Axis(Wire):
    """One axis of a grid. Its values have the bounds of the request's field; compare.expand checks them."""

    field: AxisField = Field(description="What changes along this axis.")
    values: tuple[Any, ...] = Field((), max_length=MOST_CELLS, description="Its values; none: no such axis.")


class Compare(Wire):
    """The `compare` part of a request: the axes of a grid."""

    columns: Axis | None = Field(None, description="What changes from left to right.")
    rows: Axis | None = Field(None, description="What changes from top to bottom.")
    pages: Axis | None = Field(None, description="What changes from one page of the grid to the next.")
    baseline: Bool = Field(True, description="Add cells without LoRA when an axis is a scale or a LoRA.")

    @property
    def axes(self) -> dict[AxisName, Axis]:
        """The axes that have values, by name."""
        named: dict[AxisName, Axis | None] = {"columns": self.columns, "rows": self.rows, "pages": self.pages}
        return {name: axis for name, axis in named.items() if axis is not None and axis.values}


class InferenceRequest(Wire):
    """The body of `POST /v1/inference`, of `Engine.generate` and of the page."""

    model: str = Field(max_length=200, description="Model id, see /v1/models.")
    recipe: RecipeId = Field("reference", description="Match the reference server or the trainer's preview.")
    hf_token: HubToken | None = Field(
        None, exclude=True, description="For its hf:// LoRAs; held in memory, never stored."
    )
    trigger_word: str | None = Field(None, max_length=LONGEST_TEXT, description="Replaces [trigger] in every prompt.")
    prompts: tuple[PromptItem, ...] = Field(min_length=1, max_length=1000)
    loras: tuple[LoraItem, ...] = Field((), max_length=64, description="Empty: the base model.")
    speed_lora: str | None = Field(
        None,
        max_length=100,
        description="A fast look: the id of a speed LoRA, see /v1/speed-loras. It is used beside `loras`, and sets "
        "sample_steps, guidance_scale, sampler and flow_shift where a prompt leaves them out.",
    )
    stack: Bool = Field(False, description="Allow several LoRAs for one transformer; their effects add up.")
    vae_tiling: Bool = Field(
        False, description="Decode in tiles, as the trainer does with low_vram or vae_tiling; otherwise whole."
    )
    apply_exif: Bool = Field(
        False,
        description="Turn first and last frames by their EXIF orientation. Otherwise they are used as stored, as by "
        "the reference server and the trainer.",
    )
    speedup: Speedup = Field(
        "none",
        description="Trade exactness for memory or time: fp8_storage, fp8_products or step_cache. Other frames than "
        "without; recipe reference only.",
    )
    base: Literal["auto", "folder"] | BaseFiles = Field(
        "auto",
        description="Which checkpoint files the model is loaded from: auto (the most exact ones on the server), folder "
        "(the repository in diffusers layout), or names by component as GET /v1/models/{id}/bases lists them.",
    )
    first_step_change: Bool = Field(
        True,
        description="Measure how much the LoRA changes the first prediction, by one forward more; never in a "
        "comparison.",
    )
    kv_cache: Bool | None = Field(None, description="Ignored: for image models of the reference server.")
    match_target_res: Bool | None = Field(None, description="Ignored: for image models of the reference server.")
    # Here and not in compare.py, which needs the request to make cells of it.
    compare: Compare | None = Field(None, description="Make a grid of videos of the one prompt, by one to three axes.")


@dataclass(frozen=True)
class Generation:
    """One video, with every value that will be used.

    `image` is the SHA-256 (hex) of the control image's bytes, or None, and `image_last` that of the last frame.
    `requested_*` are the values before flooring and rounding. `sampler` to `guidance_scale_2` are None where the
    recipe decides. `speed_lora` is the id of the speed LoRA of a fast look. `base` is `auto`,
    `folder`, or (component, name) of each checkpoint file that was asked for.
    """

    model: str
    recipe: RecipeId
    prompt: str
    neg: str
    width: int
    height: int
    num_frames: int
    fps: int
    seed: int
    sample_steps: int
    guidance_scale: float
    image: str | None
    loras: tuple[LoraUse, ...]
    requested_width: int
    requested_height: int
    requested_num_frames: int
    ignored: tuple[str, ...] = ()
    first_step_change: bool = True
    vae_tiling: bool = False
    speedup: Speedup = "none"
    sampler: Sampler | None = None
    flow_shift: float | None = None
    boundary: float | None = None
    switch_step: int | None = None
    guidance_scale_2: float | None = None
    image_last: str | None = None
    speed_lora: str | None = None
    base: str | tuple[tuple[str, str], ...] = "auto"

    @property
    def is_guided(self) -> bool:
        """Whether a step predicts without the prompt too, for one of the transformers at least."""
        return max(self.guidance_scale, self.guidance_scale_2 or 0) > 1

    @property
    def replaced(self) -> dict[str, Any]:
        """Sampling values that replace the recipe's, by wire name; with one of them a video matches no reference."""
        values = {
            "sampler": self.sampler,
            "flow_shift": self.flow_shift,
            "boundary": self.boundary,
            "switch_step": self.switch_step,
            "guidance_scale_2": self.guidance_scale_2,
            "ctrl_img_last": self.image_last,
            "speed_lora": self.speed_lora,
            "network_multiplier": [scale_body(use.scale) for use in self.loras if not is_constant(use.scale)] or None,
        }
        return {name: value for name, value in values.items() if value is not None}


def parse(body: Any) -> InferenceRequest:
    """Checks a decoded JSON body. Its `ctrl_img_1` becomes `ctrl_img`, which comes second at the reference server.

    Raises InvalidRequest with one `{loc, msg}` per wrong field; values are never echoed.
    """
    try:
        request = InferenceRequest.model_validate(body)
    except ValidationError as error:
        items = items_of(error)
        # pydantic counts only a list's valid entries: one wrong prompt would also be reported as an empty list.
        within = {item["loc"][:depth] for item in items for depth in range(len(item["loc"]))}
        raise invalid_request(item for item in items if item["loc"] not in within) from None
    if not any(item.ctrl_img_1 for item in request.prompts):
        return request
    return request.model_copy(update={"prompts": tuple(map(_with_first_frame, request.prompts))})


def _with_first_frame(item: PromptItem) -> PromptItem:
    """The item with `ctrl_img_1` as its `ctrl_img`; a `ctrl_img` that it replaces is kept there, to be reported."""
    if not item.ctrl_img_1:
        return item
    return item.model_copy(update={"ctrl_img": item.ctrl_img_1, "ctrl_img_1": item.ctrl_img or None})


def find_speed_lora(request: InferenceRequest) -> SpeedLora | None:
    """The speed LoRA of a request. Raises InvalidRequest for one that there is not, or of another model."""
    if request.speed_lora is None:
        return None
    known = [entry.id for entry in speed_loras.of_model(find_model(request.model))]
    if request.speed_lora in known:
        return speed_loras.SPEED_LORAS[request.speed_lora]
    message = f"is no speed LoRA of this model; known: {', '.join(known) or 'none'}"
    raise InvalidRequest(f"speed_lora {message}.", fields=[{"loc": "speed_lora", "msg": message}])


def named_loras(request: InferenceRequest) -> dict[str, bool]:
    """Every LoRA path of a request and of its axes -> whether some entry leaves its transformer open."""
    named = {item.path: item.transformer is None for item in request.loras}
    for axis in () if request.compare is None else request.compare.axes.values():
        if axis.field != "lora":
            continue
        for value in axis.values:
            open_to_both = not isinstance(value, Mapping)
            for path in (value,) if open_to_both else value.values():
                if isinstance(path, str):
                    named[path] = named.get(path, False) or open_to_both
    return named


def find_model(model_id: str, models: Mapping[str, WanModel] = MODELS) -> WanModel:
    """The model of an id. Raises ModelNotFound, which lists the known ids."""
    model = models.get(model_id)
    if model is None:
        raise ModelNotFound(
            f"There is no model {model_id[:80]!r}. Known models: {', '.join(models)}.",
            models=list(models),
            supported_models=list(models),
        )
    return model


def snap_size(model: WanModel, recipe: RecipeId, width: int, height: int) -> tuple[int, int]:
    """Width and height in pixels, floored to the model's multiple under the recipe."""
    divisor = model.divisor[recipe]
    return width // divisor * divisor, height // divisor * divisor


def round_frames(rule: FrameRule, num_frames: int) -> int:
    """The frame count as 4N + 1: "floor" goes down (40 → 37), "diffusers" as its pipelines do (40 → 41)."""
    n = TEMPORAL_COMPRESSION
    if rule == "floor":
        return max(1, (num_frames - 1) // n * n + 1)
    return max(1, num_frames if num_frames % n == 1 else num_frames // n * n + 1)


def fill_trigger(prompt: str, trigger_word: str | None) -> str:
    """`[trigger]` replaced by the trigger word; as written when there is none."""
    return prompt.replace("[trigger]", trigger_word) if trigger_word else prompt


def _filled(prompt: str, trigger_word: str | None, index: int) -> str:
    """The prompt with its trigger words. Raises InvalidRequest where they make it too long."""
    filled = len(prompt) + prompt.count("[trigger]") * len(trigger_word or "")
    if filled > LONGEST_TEXT and "[trigger]" in prompt:
        loc = f"prompts.{index}.prompt"
        message = f"is longer than {LONGEST_TEXT} characters with its trigger words in place"
        raise InvalidRequest(f"{loc} {message}.", fields=[{"loc": loc, "msg": message}])
    return fill_trigger(prompt, trigger_word)


def random_seed() -> int:
    """A random seed for -1, in 0…2³¹ − 2."""
    return random.SystemRandom().randint(0, LARGEST_RANDOM_SEED)


def resolve(
    request: InferenceRequest,
    store_image: Callable[[str], str],
    random_seed: Callable[[], int] = random_seed,
    models: Mapping[str, WanModel] = MODELS,
    is_combined: Callable[[str], bool] = never_combined,
    speed_files: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Generation, ...]:
    """One generation per prompt, in prompt order. A comparison has others: see intake.prepare.

    `store_image` takes a `ctrl_img` as written and returns the SHA-256 of the checked image's bytes; it is called
    only once everything else is valid. `random_seed` replaces a seed of -1. `is_combined` tells whether the LoRA
    file of a path holds both halves of a pair. `speed_files` are the paths of the speed LoRA's files, by slot.
    A first frame of a text-to-video model is ignored, as by the reference server.
    Raises ModelNotFound, ControlImageRequired, ControlImageNotSupported for a last frame, and what assign_slots raises;
    InvalidRequest for a speed-up in a recipe that matches training samples.
    """
    model = find_model(request.model, models)
    if request.recipe in EXACT_RECIPES and request.speedup != "none":
        message = (
            f"{request.speedup} cannot be combined with the recipe {request.recipe}, which matches training samples "
        )
        message += "exactly: set it to none, or the recipe to reference"
        raise InvalidRequest(f"speedup: {message}.", fields=[{"loc": "speedup", "msg": message}])
    loras = assign_slots(model, request.loras, request.stack, is_combined)
    speed = find_speed_lora(request)
    if speed is not None:
        files = speed.files.items()
        loras += tuple(LoraUse(slot, speed_files[slot], file.scale, is_speed=True) for slot, file in files)
        request = request.model_copy(update={"prompts": tuple(_sped_up(item, speed) for item in request.prompts)})
    for index, item in enumerate(request.prompts):
        if model.control_image == "required" and not item.ctrl_img:
            raise ControlImageRequired(
                f"{model.label} needs a first frame: set prompts.{index}.ctrl_img to base64 or an http(s) URL.",
                prompt=index,
            )
        _check_sampling(model, item, index)
    return tuple(
        _generation(request, model, item, index, loras, store_image, random_seed)
        for index, item in enumerate(request.prompts)
    )


def _sped_up(item: PromptItem, speed: SpeedLora) -> PromptItem:
    """The prompt with the speed LoRA's settings where it has none of its own."""
    return item.model_copy(update={k: v for k, v in speed.settings.items() if k not in item.model_fields_set})


def _check_sampling(model: WanModel, item: PromptItem, index: int) -> None:
    """Raises InvalidRequest or ControlImageNotSupported for sampling fields that contradict the model or each other."""

    def refuse(field: str, message: str) -> NoReturn:
        loc = f"prompts.{index}.{field}"
        raise InvalidRequest(f"{loc}: {message}.", fields=[{"loc": loc, "msg": message}])

    for field in ("boundary", "switch_step", "guidance_scale_2"):
        if getattr(item, field) is not None and not model.two_transformers:
            refuse(field, f"{model.label} has one transformer: leave it out")
    if item.boundary is not None and item.switch_step is not None:
        refuse("switch_step", "give either boundary or switch_step, not both")
    if item.switch_step is not None and item.switch_step > item.sample_steps:
        refuse("switch_step", f"must be at most sample_steps ({item.sample_steps})")
    if item.ctrl_img_last is None:
        return
    if not model.takes_last_frame:
        raise ControlImageNotSupported(
            f"{model.label} takes no last frame: leave out prompts.{index}.ctrl_img_last.", prompt=index
        )
    if round_frames(model.frame_rule, item.num_frames) < LEAST_FRAMES_WITH_LAST:
        refuse("num_frames", f"a video with a last frame needs at least {LEAST_FRAMES_WITH_LAST} frames")


def _ignored(request: InferenceRequest, model: WanModel, item: PromptItem, sampler: Sampler | None) -> tuple[str, ...]:
    """The names of the fields that were given and are not used, as the reference server does not use them."""
    ignored = ["sampler"] if item.sampler is not None and sampler is None else []
    if item.ctrl_img_1 or (item.ctrl_img and model.control_image == "none"):  # see _with_first_frame
        ignored.append("ctrl_img")
    ignored += [name for name in ("ctrl_img_2", "ctrl_img_3") if getattr(item, name)]
    ignored += ["resolution"] if item.resolution is not None else []
    return (*ignored, *(name for name in FOREIGN_FIELDS if getattr(request, name) is not None))


def _generation(
    request: InferenceRequest,
    model: WanModel,
    item: PromptItem,
    index: int,
    loras: tuple[LoraUse, ...],
    store_image: Callable[[str], str],
    random_seed: Callable[[], int],
) -> Generation:
    width, height = snap_size(model, request.recipe, item.width, item.height)
    seed = DEFAULT_SEED + index if item.seed is None else item.seed
    sampler = next((name for name in SAMPLERS if name == item.sampler), None)
    return Generation(
        model=model.id,
        recipe=request.recipe,
        prompt=_filled(item.prompt, item.trigger_word or request.trigger_word, index),
        neg=item.neg,
        width=width,
        height=height,
        num_frames=round_frames(model.frame_rule, item.num_frames),
        fps=item.fps,
        seed=random_seed() if seed == -1 else seed,
        sample_steps=item.sample_steps,
        guidance_scale=item.guidance_scale,
        image=store_image(item.ctrl_img) if item.ctrl_img and model.control_image != "none" else None,
        loras=loras,
        requested_width=item.width,
        requested_height=item.height,
        requested_num_frames=item.num_frames,
        ignored=_ignored(request, model, item, sampler),
        first_step_change=request.first_step_change,
        vae_tiling=request.vae_tiling,
        speedup=request.speedup,
        base=request.base if isinstance(request.base, str) else request.base.named,
        sampler=sampler,
        flow_shift=item.flow_shift,
        boundary=item.boundary,
        switch_step=item.switch_step,
        guidance_scale_2=item.guidance_scale_2,
        image_last=store_image(item.ctrl_img_last) if item.ctrl_img_last else None,
        speed_lora=request.speed_lora,
    )
