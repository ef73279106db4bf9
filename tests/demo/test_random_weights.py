"""The random demo holds what the real classes load, for every model, and its LoRAs fit and have an effect."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionModel, UMT5EncoderModel

from tests.demo import random_weights
from tests.demo.random_weights import RANDOM
from wan_ui import Engine
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.demo.checkpoints import DEMO_DEFAULTS, Demo, ensure
from wan_ui.models import MODELS, WanModel

pytestmark = pytest.mark.slow
ROWS = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
EACH_TRANSFORMER = ("wan21_1b", "wan22_5b", "wan22_14b_i2v", "wan21_i2v_14b")  # a model of each
CLASSES: dict[str, Any] = {
    "transformer": WanTransformer3DModel,
    "transformer_2": WanTransformer3DModel,
    "vae": AutoencoderKLWan,
    "text_encoder": UMT5EncoderModel,
    "image_encoder": CLIPVisionModel,
    "image_processor": CLIPImageProcessorPil,
    "scheduler": UniPCMultistepScheduler,
    "tokenizer": AutoTokenizer,
}
SINGLE = (random_weights.SINGLE_LORA, random_weights.IMAGE_LORA)
SMALL = {"width": 64, "height": 64, "num_frames": 5, "sample_steps": 1}
PAIR = (random_weights.HIGH_LORA, random_weights.LOW_LORA)


def of_each_transformer() -> list[Any]:
    """All models: one of each transformer is ordinary, the others a soak."""
    marks = {model.id: () if model.id in EACH_TRANSFORMER else pytest.mark.soak for model in MODELS.values()}
    return [pytest.param(model, marks=marks[model.id]) for model in MODELS.values()]


def _load(demo: Demo, model: WanModel, names: Sequence[str]) -> dict[str, Any]:
    sources = {name: model.components[name] for name in names}
    return {
        name: CLASSES[name].from_pretrained(demo.models_dir / source.repo / source.subfolder)
        for name, source in sources.items()
    }


@ROWS
def test_every_component_is_on_disk_and_loads_as_its_real_class(demo: Demo, model: WanModel) -> None:
    found = Checkpoints(demo.models_dir, offline=True)
    for name in model.components:
        assert found.component(model, name).size > 0
    parts = _load(demo, model, [name for name in model.components if name != "model_index"])
    vae = parts["vae"]
    assert vae.config.scale_factor_spatial == model.spatial_compression
    assert parts["text_encoder"].config.d_model == parts["transformer"].config.text_dim
    for component in model.slots.values():
        config = parts[component].config
        assert config.out_channels == vae.config.z_dim
        assert (config.image_dim is not None) == model.image_layers
        assert (config.in_channels > config.out_channels) == (
            model.conditioning in ("latent_channels", "clip_and_latent_channels")
        )
    if "model_index" in model.components:
        index = found.component(model, "model_index").files[0]
        assert 0 < json.loads(index.read_text())["boundary_ratio"] < 1


def test_parts_that_are_equal_in_the_real_repositories_are_equal_files_and_transformers_are_not(demo: Demo) -> None:
    found = Checkpoints(demo.models_dir, offline=True)
    digests: dict[str, set[str]] = {}
    for model in MODELS.values():
        for name in model.components:
            kind = f"{name} {model.spatial_compression}" if name == "vae" else name
            if name in ("text_encoder", "image_encoder", "vae"):
                digests.setdefault(kind, set()).add(found.digest(found.component(model, name).files[-1]))
    assert {kind: len(values) for kind, values in digests.items()} == dict.fromkeys(digests, 1)
    transformers = {model.components[name] for model in MODELS.values() for name in model.slots.values()}
    files = [demo.models_dir / s.repo / s.subfolder / "diffusion_pytorch_model.safetensors" for s in transformers]
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == len(files)


def test_it_is_written_in_seconds_the_same_every_time_and_leaves_torch_as_it_was(demo: Demo, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    start = time.process_time()
    again = ensure(tmp_path / "again", RANDOM)
    assert time.process_time() - start < 15
    assert torch.equal(torch.rand(3), expected)
    files = [path.relative_to(demo.models_dir.parent) for path in demo.models_dir.parent.rglob("*.*") if path.is_file()]
    for file in files:
        one, other = demo.models_dir.parent / file, again.models_dir.parent / file
        if file.parts[0] == "loras":  # the order of metadata in a file's header is drawn at random by safetensors
            first, second = load_file(one), load_file(other)
            assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
        else:
            assert one.read_bytes() == other.read_bytes(), file
    assert sum((again.models_dir.parent / file).stat().st_size for file in files) < 20e6


def test_the_tokenizer_has_tokens_for_every_language_and_ends_a_prompt(demo: Demo) -> None:
    tokenizer = _load(demo, next(iter(MODELS.values())), ["tokenizer"])["tokenizer"]
    for text in ("a photo of sks", "Grüße", "写真", "🙂"):
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text.encode()) + 1 and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    padded = tokenizer(["x"], padding="max_length", max_length=512, truncation=True)
    assert len(padded.input_ids[0]) == 512 and sum(padded.attention_mask[0]) == 2


@pytest.mark.parametrize("path", [*SINGLE, *PAIR])
def test_loras_have_the_trainers_keys_and_metadata(demo: Demo, path: str) -> None:
    with safe_open(demo.lora_dir / path, "pt") as file:
        keys, metadata = list(file.keys()), file.metadata()
        ranks = {file.get_slice(key).get_shape()[0] for key in keys if key.endswith("lora_A.weight")}
    modules = {key.rsplit(".lora_", 1)[0].split(".", 3)[3] for key in keys}
    expected = {f"{kind}_attn.{letter}" for kind in ("self", "cross") for letter in "qkvo"} | {"ffn.0", "ffn.2"}
    if path == random_weights.IMAGE_LORA:
        expected |= {"cross_attn.k_img", "cross_attn.v_img"}
    assert modules == expected
    assert len(keys) == 2 * len(expected) * random_weights.BLOCKS
    assert all(key.startswith("diffusion_model.blocks.") for key in keys)
    assert ranks == {random_weights.LORA_RANK}
    assert json.loads(metadata["training_info"])["step"] > 0
    assert json.loads(metadata["software"])["name"] == "ai-toolkit"
    assert json.loads(metadata["ss_tag_frequency"]) == {"1_sks": {"sks": 1}}
    assert {"name", "version", "ss_base_model_version", "ss_output_name", "sshs_model_hash", "format"} <= set(metadata)
    assert "random" in metadata["wan_ui_demo"]


def test_the_halves_of_a_pair_carry_one_hash_and_differ(demo: Demo) -> None:
    metadata = []
    for path in PAIR:
        with safe_open(demo.lora_dir / path, "pt") as file:
            metadata.append(file.metadata())
    assert metadata[0] == metadata[1]
    high, low = ((demo.lora_dir / path).read_bytes() for path in PAIR)
    assert high != low and len(high) == len(low)


def test_the_first_frame_is_a_picture(demo: Demo) -> None:
    with Image.open(demo.first_frame) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.int16)
        assert image.mode == "RGB" and image.width == image.height
    steps = np.abs(np.diff(pixels, axis=1)).mean(axis=-1)
    assert np.median(steps) == 0 and pixels.std() > 40  # flat areas with few edges, unlike noise


@pytest.fixture(scope="module")
def engine(demo: Demo) -> Iterator[Engine]:
    engine = Engine(models_dir=demo.models_dir, lora_dir=demo.lora_dir, device="cpu")
    yield engine
    engine.close()


def _request(
    demo: Demo, model: WanModel, scale: float, values: Mapping[str, int | float], prompt: str = "[trigger] a photo"
) -> dict[str, Any]:
    item: dict[str, Any] = {"prompt": prompt, **values}
    if model.control_image == "required":
        item["ctrl_img"] = base64.b64encode(demo.first_frame.read_bytes()).decode()
    if model.two_transformers:
        slots = [{"path": random_weights.HIGH_LORA, "transformer": "high"}]
        slots += [{"path": random_weights.LOW_LORA, "transformer": "low"}]
    else:
        slots = [{"path": random_weights.IMAGE_LORA if model.image_layers else random_weights.SINGLE_LORA}]
    loras = [{**slot, "network_multiplier": scale} for slot in slots]
    return {"model": model.id, "trigger_word": "sks", "prompts": [item], "loras": loras}


@pytest.mark.slow
@pytest.mark.parametrize("model", of_each_transformer(), ids=lambda model: model.id)
def test_loras_and_prompts_change_the_frames_of_every_row(engine: Engine, demo: Demo, model: WanModel) -> None:
    def frames(scale: float, prompt: str = "[trigger] a photo") -> npt.NDArray[np.float64]:
        request = _request(demo, model, scale, {**SMALL, "sample_steps": 3}, prompt)
        (clip,) = engine.generate(request)
        return clip.frames.astype(np.float64)

    base = frames(0)
    assert base.std() > 20
    assert np.abs(frames(0, "something else") - base).mean() > 1
    weak, full = (np.abs(frames(scale) - base).mean() for scale in (0.1, 1.0))
    assert 0.2 < weak < full and full > 4


def test_the_documents_one_file_for_5b_also_fits_a_model_with_image_layers(engine: Engine, demo: Demo) -> None:
    model = next(model for model in MODELS.values() if model.image_layers)
    request = _request(demo, model, 1.0, SMALL)
    (without,) = engine.generate({**request, "loras": []})
    (clip,) = engine.generate({**request, "loras": [{"path": random_weights.SINGLE_LORA}]})
    assert (clip.frames != without.frames).any()


@pytest.mark.slow
@pytest.mark.parametrize(  # the soak: also the other VAE, and a pair
    "model_id", ["wan21_1b", *(pytest.param(name, marks=pytest.mark.soak) for name in ("wan22_5b", "wan22_14b_i2v"))]
)
def test_a_request_of_the_forms_defaults_takes_seconds(engine: Engine, demo: Demo, model_id: str) -> None:
    model = MODELS[model_id]
    start = time.process_time()
    (clip,) = engine.generate(_request(demo, model, 1.0, DEMO_DEFAULTS))
    assert time.process_time() - start < 30  # 3 at most on two idle cores
    assert clip.frames.shape == (DEMO_DEFAULTS["num_frames"], DEMO_DEFAULTS["height"], DEMO_DEFAULTS["width"], 3)
