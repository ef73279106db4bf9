"""The placement modes with real transformers: with adapters or merges, each computes what it would alone.

On the CPU, whose copies are made to end as late as they may (tests/engine/test_streaming.py).
"""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.engine.test_streaming import LateCopies
from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.engine.adapters import Adapter, BaseWeights, Merge, TransformerAdapters
from wan_ui.engine.budget import PlacementMode
from wan_ui.engine.components import Components, Target, load_components
from wan_ui.engine.placement import DevicePlacement, retry_with_less_memory
from wan_ui.lora.convert import convert
from wan_ui.models import MODELS

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
ROW = MODELS["wan22_14b_t2v"]


def loaded() -> Components:
    files = Checkpoints(CHECKPOINTS).fetch(ROW, lambda progress: None)
    return load_components(files, Target(CPU, torch.float32), {}, lambda size: True, lambda progress: None)


def predicted(transformer: WanTransformer3DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, transformer.config.in_channels, 2, 8, 8, generator=generator)
    text = torch.randn(1, 512, transformer.config.text_dim, generator=generator)
    with torch.no_grad():
        result: torch.Tensor = transformer(latents, torch.tensor([500.0]), text, return_dict=False)[0]
    return result


@pytest.mark.parametrize("mode", ["pair", "stream"])
def test_an_offloaded_transformer_computes_what_a_resident_one_does(mode: PlacementMode, tmp_path: Path) -> None:
    streams, plain, offloaded = LateCopies(), loaded(), loaded()
    placement = DevicePlacement(mode, offloaded, CPU, streams)
    originals = BaseWeights(lambda size: "host", lambda name: torch.empty(0), lambda: placement.is_resident)
    lora = convert(write_lora(tmp_path / "lora.safetensors"), "high")
    adapted = [(TransformerAdapters(c.transformers["transformer"], originals), c) for c in (plain, offloaded)]

    def compare() -> None:
        for name in ("transformer", "transformer_2", "transformer"):
            placement.onload(offloaded.transformers[name])
            # Nearly: a CPU's products differ in the last bit with where in memory a matrix begins.
            expected = predicted(plain.transformers[name])
            torch.testing.assert_close(predicted(offloaded.transformers[name]), expected, rtol=1e-4, atol=1e-4)
        placement.offload_transformers()

    base = predicted(plain.transformers["transformer"])
    compare()
    placement.offload("transformer")
    for adapters, _ in adapted:
        adapters.attach([Adapter("a", lora.modules)])
        adapters.set_scales({"a": 0.7})
    compare()
    assert not torch.equal(predicted(plain.transformers["transformer"]), base)
    placement.offload("transformer")
    for adapters, _ in adapted:
        adapters.attach([])
        adapters.merge([Merge("a", lora.modules, 0.7)])
    compare()
    with adapted[1][0].disabled() as possible:
        assert not possible  # its weights are copies, which a swap would not reach
    placement.offload("transformer")
    for adapters, _ in adapted:
        adapters.restore()
    compare()
    assert torch.equal(predicted(plain.transformers["transformer"]), base)
    transformer = placement.unpin("transformer_2").double()
    assert predicted_in_double(transformer) == predicted_in_double(plain.transformers["transformer_2"].double())
    placement.close()
    assert streams.pinned == 0


def predicted_in_double(transformer: WanTransformer3DModel) -> list[float]:
    weights = [float(parameter.sum()) for parameter in transformer.parameters()]
    assert all(parameter.dtype is torch.float64 for parameter in transformer.parameters())
    return weights


def test_a_resident_pair_stays_where_it_is() -> None:
    components = loaded()
    placement = DevicePlacement("resident", components, CPU)
    before = [parameter.data_ptr() for parameter in components.transformers["transformer"].parameters()]
    placement.onload(components.transformers["transformer"])
    placement.offload_transformers()
    assert before == [parameter.data_ptr() for parameter in components.transformers["transformer"].parameters()]
    assert placement.is_resident


class OutOfMemoryWork:
    """Work that runs out of memory the first `times` times, and holds some memory while it does."""

    def __init__(self, placement: DevicePlacement, components: Components, times: int) -> None:
        self.modes: list[PlacementMode] = []
        self._placement = placement
        self._transformer = components.transformers["transformer"]
        self._left = times
        self._taken: weakref.ref[torch.Tensor] | None = None

    def __call__(self) -> torch.Tensor:
        assert self._taken is None or self._taken() is None, "the memory of the previous attempt is not freed"
        self.modes.append(self._placement.mode)
        taken = torch.ones(1000)
        self._taken = weakref.ref(taken)
        if self._left:
            self._left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self._placement.onload(self._transformer)
        return predicted(self._transformer)


@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_memory_that_runs_out_is_given_up_mode_by_mode(times: int) -> None:
    streams, plain, components = LateCopies(), loaded(), loaded()
    placement = DevicePlacement("resident", components, CPU, streams)
    work = OutOfMemoryWork(placement, components, times)
    found = retry_with_less_memory(work, placement, lambda: True)
    assert work.modes == ["resident", "pair", "stream", "stream"][: times + 1]
    # Nearly: a CPU's products differ in the last bit with where in memory a matrix begins.
    torch.testing.assert_close(found, predicted(plain.transformers["transformer"]), rtol=1e-4, atol=1e-4)
    placement.close()
    assert streams.pinned == 0


def test_in_the_end_the_error_is_raised() -> None:
    components = loaded()
    placement = DevicePlacement("resident", components, CPU, LateCopies())
    work = OutOfMemoryWork(placement, components, 4)
    with pytest.raises(torch.OutOfMemoryError):
        retry_with_less_memory(work, placement, lambda: True)
    assert work.modes == ["resident", "pair", "stream", "stream"]
    placement.close()


def test_a_mode_that_was_asked_for_stays() -> None:
    components = loaded()
    placement = DevicePlacement("resident", components, CPU, LateCopies())
    work = OutOfMemoryWork(placement, components, 1)
    with pytest.raises(torch.OutOfMemoryError):
        retry_with_less_memory(work, placement, lambda: False)
    assert work.modes == ["resident"]


def test_other_errors_are_no_reason_to_try_again() -> None:
    placement = DevicePlacement("resident", loaded(), CPU, LateCopies())
    tried = []

    def work() -> None:
        tried.append(placement.mode)
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="assert"):
        retry_with_less_memory(work, placement, lambda: True)
    assert tried == ["resident"]
