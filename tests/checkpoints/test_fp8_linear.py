"""fp8 weights that stay fp8 in memory give the bits of the unpacked ones."""

from __future__ import annotations

import pytest
import torch

from wan_ui.checkpoints.fp8_linear import Fp8Linear, packed_layers

FORMATS = (torch.float8_e4m3fn, torch.float8_e5m2)


def weight(dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(24, 16, generator=torch.Generator().manual_seed(3)) * 20).to(dtype)


@pytest.mark.parametrize("fp8", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [None, 0.01234567])
def test_products_are_those_of_the_unpacked_weight(fp8: torch.dtype, dtype: torch.dtype, scale: float | None) -> None:
    exact = None if scale is None else float(torch.tensor(scale, dtype=torch.float32))
    packed, bias = weight(fp8), torch.randn(24, generator=torch.Generator().manual_seed(4)).to(dtype)
    layer = Fp8Linear(packed, exact, bias, dtype)
    wanted = packed.float() if exact is None else packed.float() * torch.tensor(exact)
    assert torch.equal(layer.weight, wanted.to(dtype))
    ordinary = layer.unpacked()
    values = torch.randn(5, 16, generator=torch.Generator().manual_seed(5)).to(dtype)
    assert torch.equal(layer(values), ordinary(values))
    assert type(ordinary) is torch.nn.Linear and torch.equal(ordinary.weight, layer.weight)


def test_a_cast_of_the_model_leaves_weight_and_scale_as_they_are() -> None:
    """The scale is no parameter: a cast to bf16 would round it."""
    layer = Fp8Linear(weight(torch.float8_e4m3fn), 0.0123456, None, torch.bfloat16)
    before = layer.weight
    assert [name for name, _ in layer.named_parameters()] == ["packed"]
    assert not list(layer.named_buffers())
    for parameter in layer.parameters():
        if parameter.dtype is torch.float32:
            parameter.data = parameter.data.to(torch.bfloat16)
    assert torch.equal(layer.weight, before)


def test_packed_layers_are_found_by_name() -> None:
    module = torch.nn.Sequential(
        Fp8Linear(weight(torch.float8_e4m3fn), None, None, torch.float32),
        Fp8Linear(weight(torch.float8_e4m3fn).t().contiguous(), 2.0, None, torch.float32),
    )
    values = torch.randn(2, 16)
    before = module(values)
    packed = dict(packed_layers(module))
    assert list(packed) == ["0", "1"]
    module.set_submodule("1", packed["1"].unpacked())
    assert list(dict(packed_layers(module))) == ["0"]
    assert torch.equal(module(values), before)


def test_memory_is_a_byte_for_each_number() -> None:
    layer = Fp8Linear(weight(torch.float8_e4m3fn), 1.5, None, torch.bfloat16)
    assert sum(parameter.nbytes for parameter in layer.parameters()) == 24 * 16
