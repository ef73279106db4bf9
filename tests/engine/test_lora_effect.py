"""Every LoRA format on a real transformer: the output of the known change, and the base back bit for bit."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.lora.writers import FORMATS, WIDTHS, Width, Written
from tests.sampling import sampled
from wan_ui.engine.adapters import Adapter, BackupLocation, BaseWeights, Merge, TransformerAdapters, split, summary
from wan_ui.engine.recipes import RECIPES, unfused_kinds
from wan_ui.errors import LoraMismatch
from wan_ui.lora.convert import convert

pytestmark = pytest.mark.slow
MULTIPLIER = 0.7
KEY = "k" * 64


def transformer(width: Width) -> WanTransformer3DModel:
    torch.manual_seed(7)
    return WanTransformer3DModel(**width.config).eval().requires_grad_(False)


def inputs(width: Width) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(1, 5, width.image, generator=generator) if width.image else None
    return {
        "hidden_states": torch.randn(1, width.in_channels, 2, 4, 4, generator=generator),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 512, 32, generator=generator),
        "encoder_hidden_states_image": image,
        "return_dict": False,
    }


def output(model: WanTransformer3DModel, width: Width) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs(width))[0]


def originals(model: WanTransformer3DModel, place: BackupLocation = "host") -> BaseWeights:
    """Backups in this location; the checkpoint is a copy made now."""
    copy = {name: value.clone() for name, value in model.state_dict().items()}
    return BaseWeights(lambda size: place, lambda name: copy[name])


def changed(width: Width, written: Written, multiplier: float) -> WanTransformer3DModel:
    """The base model with the known change added to its weights, in float64."""
    model = transformer(width)
    parameters = dict(model.named_parameters())
    for target, change in written.expected.items():
        parameter = parameters[target] if target in parameters else parameters[f"{target}.weight"]
        total = parameter.double() + multiplier * change.reshape(parameter.shape)
        magnitude = (written.magnitudes or {}).get(target)
        if magnitude is not None:
            total = total * (magnitude.double().reshape(-1, 1) / total.norm(dim=1, keepdim=True))
        parameter.data = total.float()
    return model


def apply(adapters: TransformerAdapters, path: Path, slot: str, unfused: frozenset[str], multiplier: float) -> int:
    """A file on a transformer as the pipeline does it; how many modules came into use."""
    lora = convert(path, slot)
    kept, merged = split(lora, unfused)
    used = adapters.attach([Adapter(KEY, kept)] if kept else []).get(KEY, 0)
    used += adapters.merge([Merge(KEY, merged, multiplier)] if merged else []).get(KEY, 0)
    if kept:
        adapters.set_scales({KEY: multiplier})
    assert used == len(lora.modules)
    return used


def remove(adapters: TransformerAdapters) -> None:
    adapters.attach([])
    adapters.restore()


@pytest.mark.parametrize(("name", "how"), sampled(5, FORMATS, list(product(WIDTHS, RECIPES))))
def test_the_output_is_that_of_the_known_change(name: str, how: tuple[str, str], tmp_path: Path) -> None:
    width, recipe = WIDTHS[how[0]], how[1]
    written = FORMATS[name](width)
    path = written.save(tmp_path / "lora.safetensors")
    model = transformer(width)
    base_state = {key: value.clone() for key, value in model.state_dict().items()}
    base = output(model, width)
    adapters = TransformerAdapters(model, originals(model))
    apply(adapters, path, written.slot, unfused_kinds(RECIPES[recipe]), MULTIPLIER)
    with_lora = output(model, width)
    torch.testing.assert_close(with_lora, output(changed(width, written, MULTIPLIER), width), rtol=1e-4, atol=2e-5)
    assert not torch.equal(with_lora, base)
    assert summary(adapters.changes()[KEY])["median"] > 0
    with adapters.disabled() as possible:
        assert possible
        torch.testing.assert_close(output(model, width), base, rtol=0, atol=0)
    assert torch.equal(output(model, width), with_lora)
    remove(adapters)
    assert torch.equal(output(model, width), base)
    assert {key: value.clone() for key, value in model.state_dict().items()}.keys() == base_state.keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in base_state.items())


@pytest.mark.parametrize("place", ["device", "host", "checkpoint"])
def test_the_base_comes_back_from_wherever_it_was_kept(place: BackupLocation, tmp_path: Path) -> None:
    width = WIDTHS["48"]
    path = FORMATS["lightx2v"](width).save(tmp_path / "lora.safetensors")
    model = transformer(width)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    adapters = TransformerAdapters(model, originals(model, place))
    apply(adapters, path, "single", frozenset(), 1.0)
    assert not all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    with adapters.disabled() as possible:
        assert possible == (place != "checkpoint")
    adapters.restore()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_a_merge_is_the_trainers_sum_cast_once(tmp_path: Path) -> None:
    """(W.float() + m · (B.float() @ A.float())).to(bf16), bit for bit."""
    width = WIDTHS["48"]
    written = FORMATS["ai-toolkit"](width)
    path = written.save(tmp_path / "lora.safetensors")
    model = transformer(width).to(torch.bfloat16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    TransformerAdapters(model, originals(model)).merge([Merge(KEY, dict(convert(path, "single").modules), MULTIPLIER)])
    for module in written.expected:
        key = f"diffusion_model.{_original(module)}"
        down, up = (written.tensors[f"{key}.lora_{half}.weight"].float() for half in "AB")
        expected = (before[f"{module}.weight"].float() + MULTIPLIER * (up @ down)).to(torch.bfloat16)
        assert torch.equal(model.state_dict()[f"{module}.weight"], expected)


def _original(module: str) -> str:
    from tests.lora.writers import original

    return original(module)


@pytest.mark.parametrize("name", ["ai-toolkit", "ai-toolkit dora", "ai-toolkit lokr, both factored", "full layers"])
def test_the_change_grows_with_the_multiplier(name: str, tmp_path: Path) -> None:
    width = WIDTHS["48"]
    written = FORMATS[name](width)
    path = written.save(tmp_path / "lora.safetensors")
    model = transformer(width)
    base = output(model, width)
    adapters = TransformerAdapters(model, originals(model))
    distances, medians = [], []
    for multiplier in (0.1, 0.3, 0.6, 1.0):
        apply(adapters, path, "single", unfused_kinds(RECIPES["reference"]), multiplier)
        distances.append(float((output(model, width) - base).norm()))
        medians.append(summary(adapters.changes()[KEY])["median"])
    assert distances == sorted(distances) and distances[0] > 0
    assert medians == sorted(medians)


def test_a_stack_adds_up(tmp_path: Path) -> None:
    width = WIDTHS["48"]
    one, two = FORMATS["ai-toolkit"](width), FORMATS["musubi"](width)
    paths = [one.save(tmp_path / "1.safetensors"), two.save(tmp_path / "2.safetensors")]
    model = transformer(width)
    adapters = TransformerAdapters(model, originals(model))
    loras = [convert(path, "single") for path in paths]
    assert list(adapters.attach([Adapter(str(i), dict(lora.modules)) for i, lora in enumerate(loras)]).values()) == [
        len(lora.modules) for lora in loras
    ]
    adapters.set_scales({"0": 0.5, "1": 0.25})
    both = output(model, width)
    adapters.attach([])
    adapters.merge([Merge(str(i), dict(loras[i].modules), m) for i, m in ((0, 0.5), (1, 0.25))])
    torch.testing.assert_close(output(model, width), both, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("merge", [False, True])
def test_a_failure_leaves_the_base(merge: bool, tmp_path: Path) -> None:
    width, other = WIDTHS["48"], Width(48, 2, 128, 4)
    lora = convert(FORMATS["ai-toolkit"](other).save(tmp_path / "lora.safetensors"), "single")
    model = transformer(width)
    base = output(model, width)
    adapters = TransformerAdapters(model, originals(model))
    with pytest.raises(LoraMismatch):
        if merge:
            adapters.merge([Merge(KEY, dict(lora.modules), 1.0)])
        else:
            adapters.attach([Adapter(KEY, dict(lora.modules))])
    assert torch.equal(output(model, width), base)
    assert adapters.is_base_model
