"""The real pipeline on tiny checkpoints: equal to diffusers' own, and the same whatever ran before."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline
from PIL import Image
from transformers import CLIPImageProcessorPil

from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from wan_ui import Engine
from wan_ui.engine.result import Progress
from wan_ui.errors import Cancelled, CheckpointIncomplete, LoraMismatch
from wan_ui.models import MODELS, WanModel

pytestmark = pytest.mark.slow
WIDTH, HEIGHT, FRAMES, STEPS = 64, 64, 5, 3


def first_frame() -> Image.Image:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return Image.fromarray(np.stack([rows * 3, columns * 3, (rows + columns) % 256], axis=-1).astype(np.uint8))


def as_base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def request(
    model: str, recipe: str = "reference", loras: dict[str, float] | None = None, **fields: Any
) -> dict[str, Any]:
    """A small request; `loras` maps file names to multipliers, for every slot in turn."""
    wan_model = MODELS[model]
    prompt = {
        "prompt": "a red circle",
        "width": WIDTH,
        "height": HEIGHT,
        "num_frames": FRAMES,
        "sample_steps": STEPS,
        **({"ctrl_img": as_base64(first_frame())} if wan_model.control_image == "required" else {}),
        **fields,
    }
    items = [
        {"path": path, "network_multiplier": scale} | ({"transformer": slot} if wan_model.two_transformers else {})
        for slot, (path, scale) in zip(wan_model.slots, (loras or {}).items(), strict=False)
    ]
    return {"model": model, "recipe": recipe, "prompts": [prompt], "loras": items}


def short(
    model: str, recipe: str = "reference", loras: dict[str, float] | None = None, **fields: Any
) -> dict[str, Any]:
    """The same of one frame, for models without a first frame: where it does not matter how many there are."""
    length = {} if MODELS[model].control_image == "required" else {"num_frames": 1}
    return request(model, recipe, loras, **length, **fields)


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / "a.safetensors", seed=1)
    write_lora(folder / "b.safetensors", seed=2)
    write_lora(folder / "rank64.safetensors", seed=3, rank=64, scale=0.05)
    write_lora(folder / "wide.safetensors", width=64, ffn=128)
    write_lora(folder / "deep.safetensors", blocks=5)
    return folder


def frames(engine: Engine, body: dict[str, Any]) -> np.ndarray:
    return engine.generate(body)[0].frames


def diffusers_frames(pipe: Any, **arguments: Any) -> np.ndarray:
    """What diffusers' own __call__ makes, as uint8 by the path to PIL."""
    video = pipe(
        prompt="a red circle",
        negative_prompt="",
        width=WIDTH,
        height=HEIGHT,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(42),
        output_type="pil",
        **arguments,
    ).frames[0]
    return np.stack([np.asarray(frame) for frame in video])


@pytest.mark.parametrize("model", ["wan21_14b", "wan21_1b"])
def test_one_transformer_equals_diffusers(engine: Engine, model: str) -> None:
    pipe = WanPipeline.from_pretrained(CHECKPOINTS / MODELS[model].base_model)
    assert np.array_equal(frames(engine, request(model)), diffusers_frames(pipe))


def test_two_transformers_equal_diffusers(engine: Engine) -> None:
    model = MODELS["wan22_14b_t2v"]
    parts = {name: CHECKPOINTS / source.repo for name, source in model.components.items()}
    pipe = WanPipeline.from_pretrained(CHECKPOINTS / model.base_model)
    for name in ("transformer", "transformer_2"):
        setattr(pipe, name, type(pipe.transformer).from_pretrained(parts[name], subfolder=name))
    assert np.array_equal(frames(engine, request(model.id)), diffusers_frames(pipe))


@pytest.mark.parametrize("model", ["wan21_i2v_14b", "wan21_i2v_14b480p"])
def test_image_to_video_equals_diffusers(engine: Engine, model: str) -> None:
    folder = CHECKPOINTS / MODELS[model].base_model
    processor = CLIPImageProcessorPil.from_pretrained(folder / "image_processor")
    pipe = WanImageToVideoPipeline.from_pretrained(folder, image_processor=processor)
    assert np.array_equal(frames(engine, request(model)), diffusers_frames(pipe, image=first_frame()))


def test_expanded_timesteps_equal_diffusers(engine: Engine) -> None:
    pipe = WanPipeline.from_pretrained(CHECKPOINTS / MODELS["wan22_5b"].base_model)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=5.0)
    assert np.array_equal(frames(engine, request("wan22_5b")), diffusers_frames(pipe))


def neighbour(model: WanModel) -> str:
    ids = list(MODELS)
    return ids[(ids.index(model.id) + 1) % len(ids)]


@pytest.mark.parametrize("model", MODELS)
def test_the_same_request_gives_the_same_frames_whatever_ran_between(engine: Engine, model: str) -> None:
    body = request(model, loras={"a.safetensors": 1.0, "b.safetensors": 0.5})
    before = frames(engine, body)
    frames(engine, short(model, "preview", loras={"rank64.safetensors": 1.0}))
    frames(engine, short(neighbour(MODELS[model]), loras={"b.safetensors": 1.0}))
    assert np.array_equal(frames(engine, body), before)


@pytest.mark.parametrize("model", ["wan22_5b", "wan22_14b_t2v"])
@pytest.mark.parametrize("recipe", ["reference", "preview"])
def test_scales_files_and_recipes_never_load(engine: Engine, model: str, recipe: str) -> None:
    base = frames(engine, short(model, recipe))
    loads = engine.loader.statistics.loads
    half = frames(engine, short(model, recipe, {"a.safetensors": 0.5}))
    whole = frames(engine, short(model, recipe, {"a.safetensors": 1.0}))
    other = frames(engine, short(model, recipe, {"b.safetensors": 1.0}))
    large = frames(engine, short(model, recipe, {"rank64.safetensors": 1.0}))
    zero = frames(engine, short(model, recipe, {"a.safetensors": 0.0}))
    without = frames(engine, short(model, recipe))
    frames(engine, short(model, "preview" if recipe == "reference" else "reference"))
    assert engine.loader.statistics.loads == loads
    assert np.array_equal(zero, base)
    assert np.array_equal(without, base)
    different = [base, half, whole, other, large]
    assert all(not np.array_equal(a, b) for i, a in enumerate(different) for b in different[:i])


def test_a_prompt_is_encoded_once(engine: Engine) -> None:
    body = request("wan21_1b")
    body["prompts"] = [body["prompts"][0] | {"prompt": "a new prompt", "neg": "ugly"} for _ in range(2)]
    before = engine.loader.prompts.encodes
    engine.generate(body)
    assert engine.loader.prompts.encodes == before + 2
    body["prompts"][1]["prompt"] = "another prompt"
    engine.generate(body)
    assert engine.loader.prompts.encodes == before + 3


def test_switching_models_keeps_the_parts_that_are_the_same_files(engine: Engine) -> None:
    frames(engine, request("wan21_14b"))
    before = len(engine.loader.statistics.names)
    frames(engine, request("wan21_1b"))
    assert engine.loader.statistics.names[before:] == ("transformer",)


def test_a_lora_that_does_not_fit_is_an_error_and_the_next_runs(engine: Engine) -> None:
    base = frames(engine, request("wan21_1b"))
    with pytest.raises(LoraMismatch):
        engine.generate(request("wan21_1b", loras={"wide.safetensors": 1.0}))
    assert np.array_equal(frames(engine, request("wan21_1b")), base)


def test_a_lora_with_more_blocks_is_applied_as_far_as_the_model_goes(engine: Engine) -> None:
    base = frames(engine, request("wan21_1b"))
    (clip,) = engine.generate(request("wan21_1b", loras={"deep.safetensors": 1.0}))
    report = clip.metadata["lora"]["single"]
    assert 0 < report["modules_in_use"] < report["modules_in_file"]
    assert not np.array_equal(clip.frames, base)
    assert np.array_equal(frames(engine, request("wan21_1b")), base)


def test_a_cancel_between_two_steps_ends_before_the_decode(engine: Engine) -> None:
    seen: list[Progress] = []

    def cancel_at_two(progress: Progress) -> None:
        seen.append(progress)
        if progress.phase == "denoise" and progress.step == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        engine.generate(request("wan21_1b"), cancel_at_two)
    assert [item.step for item in seen if item.phase == "denoise"] == [0, 1, 2]
    assert all(item.phase != "decode" for item in seen)
    assert len(engine.generate(request("wan21_1b"))) == 1


def test_progress_tells_steps_seconds_and_what_is_left(engine: Engine) -> None:
    seen: list[Progress] = []
    engine.generate(request("wan21_1b"), seen.append)
    steps = [item for item in seen if item.phase == "denoise"]
    assert [item.step for item in steps] == list(range(STEPS + 1))
    assert steps[-1].seconds_left == 0
    assert steps[1].seconds_per_step is not None and steps[1].seconds_per_step > 0
    assert seen[-1].phase == "decode"


def test_the_module_counts_are_reported(engine: Engine) -> None:
    (clip,) = engine.generate(request("wan22_14b_t2v", loras={"a.safetensors": 1.0, "b.safetensors": 0.5}))
    assert clip.metadata["lora"]["high"]["modules_in_use"] == clip.metadata["lora"]["high"]["modules_in_file"] == 30
    assert clip.metadata["boundary"] == 0.875


def test_a_damaged_checkpoint_names_its_part(tmp_path: Path, loras: Path) -> None:
    model = MODELS["wan21_1b"]
    for file in (CHECKPOINTS / model.base_model).rglob("*.*"):
        target = tmp_path / model.base_model / file.relative_to(CHECKPOINTS / model.base_model)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    weights = tmp_path / model.base_model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    broken = Engine(models_dir=tmp_path, lora_dir=loras, device="cpu")
    with pytest.raises(CheckpointIncomplete, match="transformer"):
        broken.generate(request(model.id))
    weights.write_bytes((CHECKPOINTS / model.base_model / "transformer" / weights.name).read_bytes())
    assert len(broken.generate(request(model.id))) == 1
    broken.close()
