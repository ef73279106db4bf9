"""The Triton kernels bit for bit beside eager PyTorch on a CUDA GPU, at the widths of Wan's models."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

from wan_ui.engine import kernels
from wan_ui.engine.kernels import same_bits, verified
from wan_ui.engine.kernels.ahead import RANK, built_ahead

pytestmark = pytest.mark.gpu
WIDTHS = {5120: 32760, 3072: 27280, 1536: 32760}  # 14B and 1.3B at 832×480×81, 5B at 1280×704×121
FFN_WIDTHS = {5120: 13824, 3072: 14336, 1536: 8960}
RANKS = (1, 4, 8, 16, 32, 40, 64, 128)
BLOCK_KERNELS = ("adapter", "gated_residual", "layer_norm", "rms_norm_rotary")
EPS = 1e-6
Modulation = torch.Tensor | None


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator("cuda").manual_seed(0)


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, device="cuda").to(dtype)


def tokens(generator: torch.Generator, rows: int, width: int) -> torch.Tensor:
    """Ordinary rows, and some with a large mean, subnormal, of very different sizes, with infinities or zeros."""
    hidden = normal(generator, 1, rows, width)
    hidden[0, :50] += 300
    hidden[0, 50:100] *= 2.0**-128
    powers = torch.randint(-40, 40, (100, width), generator=generator, device="cuda")
    hidden[0, 100:200] *= torch.exp2(powers.float()).to(torch.bfloat16)
    hidden[0, 200:210, 3] = float("inf")
    hidden[0, 210:220] = 0
    return hidden


def modulations(
    generator: torch.Generator, rows: int, width: int
) -> Iterator[tuple[Modulation, Modulation, Modulation, Modulation]]:
    """Weight, bias, scale and shift, as the block's norms have them."""
    yield None, None, None, None
    yield normal(generator, width, dtype=torch.float32), normal(generator, width, dtype=torch.float32), None, None
    table = normal(generator, 1, 6, width, dtype=torch.float32)
    yield None, None, table[:, 1:2], table[:, 0:1]
    for_each = normal(generator, 1, rows, 6, width, dtype=torch.float32)
    yield None, None, for_each[:, :, 1], for_each[:, :, 0]


@pytest.mark.parametrize("width", WIDTHS)
def test_layer_norm(generator: torch.Generator, width: int) -> None:
    hidden = tokens(generator, 5000, width)
    operation = verified("layer_norm")
    for rest in modulations(generator, 5000, width):
        assert same_bits(operation(hidden, *rest, EPS), kernels.eager_layer_norm(hidden, *rest, EPS))
    assert operation.refused is None


@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm_and_rotary_embedding(generator: torch.Generator, width: int) -> None:
    hidden, weight = tokens(generator, 5000, width), normal(generator, width)
    angles = normal(generator, 1, 5000, 1, kernels.HEAD, dtype=torch.float32)
    arguments = hidden, weight, EPS, angles.cos(), angles.sin()
    operation = verified("rms_norm_rotary")
    assert same_bits(operation(*arguments), kernels.eager_rms_norm_rotary(*arguments))
    assert operation.refused is None


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("width", WIDTHS)
def test_adapters(generator: torch.Generator, width: int, rank: int) -> None:
    multiplier = torch.tensor(0.7, device="cuda")
    for rows, columns in ((WIDTHS[width], width), (512, width), (WIDTHS[width], FFN_WIDTHS[width])):
        base, residual = tokens(generator, rows, columns), normal(generator, 1, rows, columns)
        arguments = base, normal(generator, 1, rows, rank), normal(generator, columns, rank), multiplier
        gate = normal(generator, 1, 1, columns, dtype=torch.float32)
        for name, eager, rest in (
            ("add_adapter", kernels.eager_add_adapter, ()),
            ("add_adapter_gelu", kernels.eager_add_adapter_gelu, ()),
            ("add_adapter_residual", kernels.eager_add_adapter_residual, (residual, None)),
            ("add_adapter_residual", kernels.eager_add_adapter_residual, (residual, gate)),
        ):
            operation = verified(name)
            assert same_bits(operation(*arguments, *rest), eager(*arguments, *rest)), (name, rows, columns)
            assert operation.refused is None


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("width", WIDTHS)
def test_first_products_together(generator: torch.Generator, width: int, rank: int) -> None:
    hidden = tokens(generator, WIDTHS[width], width)
    downs = [normal(generator, rank, width) for _ in range(3)]
    operation = verified("reduce_together")
    assert same_bits(operation(hidden, downs), kernels.eager_reduce_together(hidden, downs))
    assert operation.refused is None


@pytest.mark.parametrize("width", WIDTHS)
def test_gated_residual(generator: torch.Generator, width: int) -> None:
    hidden, residual = tokens(generator, 5000, width), normal(generator, 1, 5000, width)
    operation = verified("gated_residual")
    for gates in (normal(generator, 1, 1, width, dtype=torch.float32),
                  normal(generator, 1, 5000, 6, width, dtype=torch.float32)[:, :, 2]):  # fmt: skip
        assert same_bits(operation(hidden, residual, gates), kernels.eager_gated_residual(hidden, residual, gates))
    assert operation.refused is None


def test_what_was_built_ahead_is_all_that_a_clip_needs(generator: torch.Generator) -> None:
    """Blocks of 14B with and without LoRAs of rank 32, at two numbers of tokens."""
    width, wide = 5120, FFN_WIDTHS[5120]
    with built_ahead(torch.device("cuda"), width, wide, exact=True):
        pass
    built = number_of_kernels()
    row, multiplier = normal(generator, 1, 6, width, dtype=torch.float32), torch.tensor(0.7, device="cuda")
    weight, up, up_wide = normal(generator, width), normal(generator, width, RANK), normal(generator, wide, RANK)
    for rows in (32760, 4096):
        hidden, feed = normal(generator, 1, rows, width), normal(generator, 1, rows, wide)
        angles = normal(generator, 1, rows, 1, kernels.HEAD, dtype=torch.float32)
        adapter = normal(generator, 1, rows, RANK), up, multiplier
        verified("layer_norm")(hidden, None, None, row[:, 1:2], row[:, 0:1], EPS)
        verified("layer_norm")(hidden, row[0, 0], row[0, 1], None, None, EPS)
        verified("rms_norm_rotary")(hidden, weight, EPS, angles, angles)
        verified("add_adapter")(hidden, *adapter)
        verified("add_adapter_gelu")(feed, adapter[0], up_wide, multiplier)
        verified("add_adapter_residual")(hidden, *adapter, hidden, row[:, 2:3])
        verified("add_adapter_residual")(hidden, *adapter, hidden, None)
        verified("gated_residual")(hidden, hidden, row[:, 2:3])
    assert number_of_kernels() == built > 0
    assert kernels.states() == {}


def number_of_kernels() -> int:
    """How many Triton kernels of a block were built in this process for this GPU."""
    modules = [import_module(f"wan_ui.engine.kernels.{name}") for name in BLOCK_KERNELS]
    return sum(len(module._kernel.device_caches[torch.cuda.current_device()][0]) for module in modules)


def test_gelu_of_every_bfloat16(generator: torch.Generator) -> None:
    every = torch.arange(1 << 16, device="cuda").to(torch.int16).view(torch.bfloat16).reshape(1, 512, 128)
    every = torch.where(every.isnan() | (every == 0), 1.0, every)  # NaN has many bits, and −0 + 0 is 0
    nothing = torch.zeros(1, 512, 16, device="cuda", dtype=torch.bfloat16)
    operation = verified("add_adapter_gelu")
    up, multiplier = nothing[0, :128], torch.ones((), device="cuda")
    assert same_bits(operation(every, nothing, up, multiplier), F.gelu(every, approximate="tanh"))
    assert operation.refused is None
