"""The float32 merge on 14B's own layers: the trainer's sum bit for bit, and how long a change takes.

Eight of the forty blocks, since all are alike. The printed seconds, five times as many for the whole, belong into
docs/decisions.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.gpu.full_size import transformer_config, write_lora
from wan_ui.engine.adapters import BackupLocation, BaseWeights, Merge, TransformerAdapters
from wan_ui.lora.convert import LowRank, convert
from wan_ui.models import MODELS

pytestmark = pytest.mark.gpu
ROW = MODELS["wan21_14b"]
MULTIPLIER = 0.8
BLOCKS = 8


@pytest.fixture(scope="module")
def transformer() -> Iterator[WanTransformer3DModel]:
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = WanTransformer3DModel(**transformer_config("wan22_14b_t2v", BLOCKS))
    yield model.to(torch.bfloat16).eval().requires_grad_(False)


@pytest.mark.parametrize("place", ["device", "host"])
def test_a_merge_is_the_trainers_and_comes_off_bit_for_bit(
    transformer: WanTransformer3DModel, place: BackupLocation, tmp_path: Path
) -> None:
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for seed, file in enumerate(files):
        write_lora(file, ROW, 32, seed, BLOCKS)
    before = {name: value.to("cpu") for name, value in transformer.state_dict().items()}
    adapters = TransformerAdapters(transformer, BaseWeights(lambda size: place, lambda name: before[name]))
    seconds = []
    for file in (*files, files[0]):
        lora = convert(file, "single")
        torch.cuda.synchronize()
        start = time.perf_counter()
        adapters.merge([Merge("k", dict(lora.modules), MULTIPLIER)])
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    parameters = dict(transformer.named_parameters())
    for name, part in lora.modules.items():
        assert isinstance(part, LowRank)
        weight = before[f"{name}.weight"].to("cuda")
        change = part.up.to("cuda").float() @ part.down.to("cuda").float()
        expected = (weight.float() + MULTIPLIER * change).to(torch.bfloat16)
        assert torch.equal(parameters[f"{name}.weight"], expected)
    start = time.perf_counter()
    adapters.restore()
    torch.cuda.synchronize()
    off = time.perf_counter() - start
    assert all(torch.equal(value, before[name].to("cuda")) for name, value in transformer.state_dict().items())
    print(
        f"\n{BLOCKS} blocks of 14B, merge, {len(lora.modules)} modules, weights kept on the {place}: "
        f"first {seconds[0]:.2f} s, each change {seconds[1]:.2f} and {seconds[2]:.2f} s, off {off:.2f} s"
    )
