"""A pair of fp8 files on a host that holds one transformer at a time: the same numbers, and memory for one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.test_streaming import LateCopies
from tests.golden_cases import GOLDEN
from tests.lora_files import write_lora
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.fp8_linear import packed_layers
from wan_ui.checkpoints.modules import map_packed, open_file
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.engine.adapters import Adapter, BaseWeights, TransformerAdapters
from wan_ui.engine.budget import HOST_RESERVE, PlacementMode, Sizes, holds_one_transformer
from wan_ui.engine.compile import BlockCompiler
from wan_ui.engine.components import Components, Target, component_bytes, load_components, model_dtype
from wan_ui.engine.loader import Loader
from wan_ui.engine.memory import MemoryPolicy
from wan_ui.engine.pipeline import WanPipeline
from wan_ui.engine.placement import DevicePlacement
from wan_ui.engine.result import OnProgress, Progress, ignore_progress
from wan_ui.errors import OutOfMemory
from wan_ui.lora.convert import convert
from wan_ui.models import MODELS, WanModel
from wan_ui.request import Generation, parse, resolve

SINGLE = GOLDEN / "single_files"
MODEL = MODELS["wan22_14b_t2v"]
CPU = torch.device("cpu")
GB = 1 << 30
BASE = {
    "transformer": "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
    "text_encoder": "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
}


@pytest.mark.parametrize(("available", "one"), [(64, False), (40, False), (35, True), (29, True), (20, False)])
def test_when_one_is_held(available: int, one: bool) -> None:
    """An fp8 pair of 14B: 14.3 GB each, 6.7 GB of text encoder."""
    sizes = Sizes((14 * GB, 14 * GB), 7 * GB, GB, GB // 3)
    assert holds_one_transformer("pair", sizes, available * GB) == one
    assert not holds_one_transformer("resident", sizes, available * GB)
    assert not holds_one_transformer("stream", Sizes((14 * GB,), 7 * GB, GB, GB), available * GB)
    assert HOST_RESERVE == 4 * GB


def components() -> Components:
    sources = CheckpointSources(Checkpoints(None, offline=True), SINGLE / "models", configs_dir=SINGLE / "configs")
    files = sources.fetch(MODEL, BASE, lambda progress: None).components
    target = Target(CPU, torch.float32, packed=True)
    return load_components(files, target, {}, lambda size: True, lambda progress: None)


def predicted(loaded: Components, name: str) -> torch.Tensor:
    transformer = loaded.transformers[name]
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, transformer.config.in_channels, 2, 8, 8, generator=generator)
    text = torch.randn(1, 16, transformer.config.text_dim, generator=generator)
    with torch.no_grad():
        result: torch.Tensor = transformer(latents, torch.tensor([500.0]), text, return_dict=False)[0]
    return result


def test_transformers_take_turns_in_memory() -> None:
    streams, plain, paired = LateCopies(), components(), components()

    def return_to_file(name: str) -> None:
        single = paired.files[name].single
        assert single is not None
        map_packed(open_file(single.header, single.kind, single.config), paired.transformers[name])

    placement = DevicePlacement("pair", paired, CPU, streams, return_to_file)
    assert "one of the two transformers" in placement.note
    pinned = []
    for name in ("transformer", "transformer_2", "transformer"):
        placement.onload(paired.transformers[name])
        pinned.append(streams.pinned)
        torch.testing.assert_close(predicted(paired, name), predicted(plain, name), rtol=1e-4, atol=1e-4)
    assert len(set(pinned)) == 1, "one transformer's bytes at a time"
    placement.offload_transformers()
    placement.close()
    assert torch.equal(predicted(paired, "transformer_2"), predicted(plain, "transformer_2"))
    assert all(
        layer.packed.dtype is torch.float8_e4m3fn for _, layer in packed_layers(paired.transformers["transformer"])
    )


@dataclass(frozen=True)
class TightCard(MemoryPolicy):
    """A card that has room for one transformer at a time, on a host with so many bytes free."""

    def decide(self, model: WanModel, sizes: Sizes, generation: Generation) -> PlacementMode:
        return "pair"


def test_the_loader_decides_by_the_free_memory_of_the_host() -> None:
    """A host that lacks one byte for both transformers holds one at a time; lacking one for that, nothing is loaded."""
    sources = CheckpointSources(Checkpoints(None, offline=True), SINGLE / "models", configs_dir=SINGLE / "configs")
    files = sources.fetch(MODEL, BASE, ignore_progress).components
    encoder, *transformers = (
        component_bytes(MODEL, files[name], model_dtype(CPU), True) for name in ("text_encoder", *MODEL.slots.values())
    )
    one, both = (HOST_RESERVE + encoder + size for size in (max(transformers), sum(transformers)))
    (generation,) = resolve(parse({"model": MODEL.id, "prompts": [{"prompt": "a", "seed": 1}], "base": BASE}), str)

    def load(available: int, on_progress: OnProgress = ignore_progress) -> WanPipeline:
        memory = TightCard("auto", CPU, lambda: available)
        loader = Loader(sources, memory, BlockCompiler("off", CPU), fp8_weights="packed")
        return loader.load(MODEL, generation, None, on_progress)

    for available in (both, both - 1, one):
        assert set(load(available).components.transformers) == set(MODEL.slots.values())
    reports: list[Progress] = []
    with pytest.raises(OutOfMemory, match="the computer's memory, where its weights would stay"):
        load(one - 1, reports.append)
    assert "loading" not in {report.phase for report in reports}


def test_both_stay_where_there_is_room(tmp_path: Path) -> None:
    streams, paired = LateCopies(), components()
    placement = DevicePlacement("pair", paired, CPU, streams)
    assert "one of the two" not in placement.note
    placement.onload(paired.transformers["transformer"])
    first = streams.pinned
    placement.onload(paired.transformers["transformer_2"])
    assert streams.pinned == 2 * first


FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


class Unpackings(TorchDispatchMode):
    """Counts the fp8 tensors that are converted within it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and args and isinstance(args[0], torch.Tensor):
            self.count += args[0].dtype in FP8 and result.dtype not in FP8
        return result


def test_attaching_adapters_unpacks_no_weight(tmp_path: Path) -> None:
    """On a card that holds one transformer at a time they lie on the host, where unpacking a 14B pair takes minutes."""
    write_lora(tmp_path / "a.safetensors", seed=1)
    transformer = components().transformers["transformer"]
    adapters = TransformerAdapters(transformer, BaseWeights(lambda size: "checkpoint", lambda name: torch.empty(0)))
    lora = convert(tmp_path / "a.safetensors", "single")
    with Unpackings() as unpackings:
        adapters.attach([Adapter("a", dict(lora.modules))])
        adapters.set_scales({"a": 1.0})
    assert any(isinstance(module, LoraLayer) for module in transformer.modules())
    assert unpackings.count == 0
    packed = len(list(packed_layers(transformer)))
    with unpackings:
        assert adapters.changes()["a"]
        adapters.changes()
    assert 0 < unpackings.count <= packed  # each norm once
    with unpackings:
        adapters.attach([])
    assert unpackings.count <= packed
