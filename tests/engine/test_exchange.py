"""Exchanging the weights of attached LoRA layers gives the same bits as attaching them again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from peft.tuners.lora import LoraLayer

from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from wan_ui.engine.adapters import Adapter, BaseWeights, TransformerAdapters, split
from wan_ui.engine.weights import base_tensors
from wan_ui.errors import LoraMismatch
from wan_ui.lora.convert import convert

FOLDER = CHECKPOINTS / "Wan-AI/Wan2.1-T2V-1.3B-Diffusers/transformer"
pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
PRECISION = (torch.float32, torch.bfloat16)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("loras")
    shapes = {"rank 4": (4, {}), "rank 32": (32, {}), "two blocks": (4, {"blocks": 2}), "wide": (4, {"width": 64})}
    return {
        name: write_lora(folder / f"{name}.safetensors", rank=rank, seed=number, **shape)
        for number, (name, (rank, shape)) in enumerate(shapes.items())
    }


def transformer(dtype: torch.dtype) -> WanTransformer3DModel:
    return WanTransformer3DModel.from_pretrained(FOLDER).to(dtype).eval().requires_grad_(False)


def adapter(file: Path) -> Adapter:
    kept, _ = split(convert(file, "single"), frozenset({"lora", "dora"}))
    return Adapter(file.stem, kept)


def adapters_of(model: WanTransformer3DModel, tensors: bool) -> TransformerAdapters:
    return TransformerAdapters(
        model, BaseWeights(lambda size: "host", lambda name: torch.empty(0)), CPU if tensors else None
    )


@torch.no_grad()
def output(model: WanTransformer3DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 16, 2, 8, 8, generator=generator).to(model.dtype)
    text = torch.randn(1, 7, model.config.text_dim, generator=generator).to(model.dtype)
    found: torch.Tensor = model(latents, torch.tensor([500]), text, return_dict=False)[0]
    return found


def lora_layers(model: WanTransformer3DModel) -> list[int]:
    return [id(module) for module in model.modules() if isinstance(module, LoraLayer)]


@pytest.mark.parametrize("tensors", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("dtype", PRECISION, ids=str)
def test_another_file_on_the_same_modules(files: dict[str, Path], dtype: torch.dtype, tensors: bool) -> None:
    model, other = transformer(dtype), transformer(dtype)
    adapters = adapters_of(model, tensors)
    adapters.attach([adapter(files["rank 4"])])
    adapters.set_scales({"rank 4": 1.0})
    layers = lora_layers(model)
    for name, scale in (("rank 32", 0.7), ("rank 4", 0.3)):
        assert adapters.attach([adapter(files[name])]) == {name: 30}
        adapters.set_scales({name: scale})
        fresh = adapters_of(other, tensors)
        fresh.attach([adapter(files[name])])
        fresh.set_scales({name: scale})
        assert lora_layers(model) == layers
        assert torch.equal(output(model), output(other))
        assert adapters.changes() == fresh.changes()
        fresh.attach([])
    adapters.attach([])
    assert torch.equal(output(model), output(other))


def test_two_files_change_places(files: dict[str, Path]) -> None:
    model, other = transformer(torch.float32), transformer(torch.float32)
    adapters, fresh = adapters_of(model, True), adapters_of(other, True)
    one, two = adapter(files["rank 4"]), adapter(files["rank 32"])
    adapters.attach([one, two])
    adapters.attach([two, one])
    fresh.attach([two, one])
    for each in (adapters, fresh):
        each.set_scales({"rank 32": 0.5, "rank 4": 1.0})
    assert torch.equal(output(model), output(other))


@pytest.mark.parametrize("then", ["two blocks", "none", "both"])
def test_other_modules_are_attached_again(files: dict[str, Path], then: str) -> None:
    model, other = transformer(torch.float32), transformer(torch.float32)
    names = {"none": [], "both": ["rank 4", "rank 32"]}.get(then, [then])
    adapters, fresh = adapters_of(model, True), adapters_of(other, True)
    adapters.attach([adapter(files["rank 4"])])
    for each in (adapters, fresh):
        each.attach([adapter(files[name]) for name in names])
        each.set_scales(dict.fromkeys(names, 1.0))
    assert torch.equal(output(model), output(other))


def test_another_width_is_refused_and_leaves_the_base_model(files: dict[str, Path]) -> None:
    model = transformer(torch.float32)
    base = output(model)
    adapters = adapters_of(model, True)
    adapters.attach([adapter(files["rank 4"])])
    with pytest.raises(LoraMismatch):
        adapters.attach([adapter(files["wide"])])
    assert not lora_layers(model)
    assert torch.equal(output(model), base)


def test_base_tensors_keep_their_names_with_adapters_and_after_moves(files: dict[str, Path]) -> None:
    model = transformer(torch.float32)
    before = base_tensors(model)
    adapters = adapters_of(model, True)
    adapters.attach([adapter(files["rank 4"])])
    model.to(torch.float64)  # makes new buffers, as each move does
    after = base_tensors(model)
    assert before.keys() == after.keys()
    assert "rope.freqs_cos" in after and after["rope.freqs_cos"] is not before["rope.freqs_cos"]
    assert all(tensor.dtype is torch.float64 for tensor in after.values() if tensor.is_floating_point())
