"""The Triton kernels bit for bit on a CPU, their selection and fallback, and their places in a block's graph."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.fakes import Gate
from tests.sampling import sampled
from wan_ui.engine import kernels
from wan_ui.engine.adapters import Adapter, BaseWeights, TransformerAdapters
from wan_ui.engine.compile import CompiledBlocks
from wan_ui.engine.kernels import Verified, ahead, same_bits
from wan_ui.engine.kernels.rewrite import use_kernels
from wan_ui.errors import Cancelled
from wan_ui.lora.convert import LowRank

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIMIT = 800.0  # seconds that the kernels' cases may take in the interpreter


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.timeout(900)  # half a minute on an idle machine
@pytest.mark.parametrize("flags", [(), pytest.param(("--all",), marks=pytest.mark.soak)], ids=["sample", "all"])
def test_the_kernels_have_the_references_bits(flags: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.triton_on_cpu", *flags],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    differing = json.loads(done.stdout)
    assert len(differing) == 4
    for kernel, cases in differing.items():
        assert len(cases) >= 8 and {case: count for case, count in cases.items() if count} == {}, kernel


def doubled(values: torch.Tensor) -> torch.Tensor:
    return values * 2


def refused_by(kernel: Any, caplog: pytest.LogCaptureFixture) -> tuple[torch.Tensor, Verified, list[str]]:
    """What the operation gives when it is called twice, and what the log says."""
    operation = Verified("doubling", lambda: kernel, doubled, lambda values: True)
    with caplog.at_level(logging.WARNING):
        operation(torch.ones(3))
        return operation(torch.ones(3)), operation, [record.getMessage() for record in caplog.records]


def test_a_kernel_with_another_bit_is_not_used_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    result, operation, messages = refused_by(lambda values: values * 2.0000002, caplog)
    assert torch.equal(result, torch.full((3,), 2.0))
    assert operation.refused == "its bits differ from PyTorch's"
    assert messages == ["the kernel for doubling is not used: its bits differ from PyTorch's"]


def test_a_kernel_that_cannot_be_built_is_not_used_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    def kernel(values: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no C compiler")

    result, _, messages = refused_by(kernel, caplog)
    assert torch.equal(result, torch.full((3,), 2.0))
    assert messages == ["the kernel for doubling is not used: it does not run here: RuntimeError: no C compiler"]


def too_little_shared_memory() -> Exception:
    if find_spec("triton") is None:
        return RuntimeError()
    from triton.runtime.errors import OutOfResources

    return OutOfResources(1, 0, "shared memory")


BUILD_FAILURES = [FileNotFoundError("gcc"), subprocess.CalledProcessError(1, ["gcc"]), too_little_shared_memory()]


@pytest.mark.parametrize("error", BUILD_FAILURES, ids=lambda error: type(error).__name__)
def test_however_a_build_fails_the_model_is_loaded_and_the_operation_is_pytorchs(
    error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def kernel(*arguments: Any) -> torch.Tensor:
        tried.append(arguments)
        raise error

    result, operation, _ = refused_by(kernel, caplog)
    assert torch.equal(result, torch.full((3,), 2.0)) and operation.refused is not None
    monkeypatch.setattr(ahead, "_build", ahead._build.__wrapped__)
    monkeypatch.setattr(ahead, "call_each_kernel", kernel)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    with ahead.built_ahead(CPU, 512, 1024, exact=True):
        pass
    assert len(tried) == 2


def test_a_cancelled_load_does_not_wait_for_a_kernel_that_is_being_built(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun, ended = Gate(), list[int](), list[int]()

    def build(device: torch.device, width: int, ffn_width: int, exact: bool) -> None:
        begun.append(width)
        gate.hold()
        ended.append(width)

    monkeypatch.setattr(ahead, "_build", build)
    for width in (512, 640):  # the second is not begun at all
        with pytest.raises(Cancelled), ahead.built_ahead(CPU, width, 1024, exact=True):
            gate.await_arrival()
            raise Cancelled("The job was cancelled.")
        assert (begun, ended) == ([512], [])
    with ahead.built_ahead(CPU, 1536, 1024, exact=True):
        assert begun == [512]
        gate.open()
    assert begun == ended == [512, 1536]


def test_running_out_of_memory_is_no_reason_to_give_a_kernel_up() -> None:
    def kernel(values: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    operation = Verified("doubling", lambda: kernel, doubled, lambda values: True)
    with pytest.raises(torch.OutOfMemoryError):
        operation(torch.ones(3))
    assert operation.refused is None


def test_a_kernel_is_compared_once_for_each_shape() -> None:
    compared: list[tuple[int, ...]] = []

    def eager(values: torch.Tensor) -> torch.Tensor:
        compared.append(tuple(values.shape))
        return values * 2

    operation = Verified("doubling", lambda: doubled, eager, lambda values: True)
    for size in (3, 3, 4, 3, 4):
        operation(torch.ones(size))
    assert compared == [(3,), (4,)]


def test_same_bits_tells_zeros_apart_and_takes_nan_for_itself() -> None:
    values = torch.tensor([0.0, float("nan"), 1e-45])
    assert same_bits(values, values.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16))


@pytest.fixture
def model() -> WanTransformer3DModel:
    """A narrow Wan transformer in the dtypes that loading gives it, wide enough for the kernels."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=4, attention_head_dim=128, ffn_dim=256, num_layers=1, text_dim=32, freq_dim=64,
        in_channels=4, out_channels=4, rope_max_seq_len=32,
    )  # fmt: skip
    model.to(torch.bfloat16)
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if set(name.split(".")) & set(model._keep_in_fp32_modules):
            parameter.data = parameter.data.float()
    return model.eval().requires_grad_(False)


def attach(model: WanTransformer3DModel, count: int) -> None:
    """Adapters of rank 8 on every linear layer of the blocks."""
    generator = torch.Generator().manual_seed(1)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * 0.1).to(torch.bfloat16)

    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if name.startswith("blocks.") and type(layer) is torch.nn.Linear
    ]
    adapters = TransformerAdapters(model, BaseWeights(lambda size: "checkpoint", lambda name: torch.empty(0)), CPU)
    adapters.attach(
        [
            Adapter(
                str(number),
                {
                    name: LowRank(matrix(8, layer.in_features), matrix(layer.out_features, 8), 1.0)
                    for name, layer in layers
                },
            )
            for number in range(count)
        ]
    )
    adapters.set_scales({str(number): 0.7 + number for number in range(count)})


CPU = torch.device("cpu")
NORMS = {"layer_norm": 3, "rms_norm_rotary": 2}


ADAPTERS = {**NORMS, "reduce_together": 2, "add_adapter": 6, "add_adapter_residual": 3, "add_adapter_gelu": 1}
GRAPHS: tuple[tuple[int, bool, dict[str, int]], ...] = (
    (0, True, {**NORMS, "gated_residual": 2}),
    (1, True, ADAPTERS),
    (2, True, {**ADAPTERS, "reduce_together": 7, "add_adapter": 16}),
    (1, False, ADAPTERS),
)


@pytest.mark.parametrize(("case", "timesteps"), sampled(2, GRAPHS, ["shared", "per token"]))
def test_a_blocks_graph_calls_the_kernels_and_keeps_its_bits(
    model: WanTransformer3DModel, case: tuple[int, bool, dict[str, int]], timesteps: str
) -> None:
    count, exact, expected = case
    if count:
        attach(model, count)
    tokens = 12
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(1, 4, 3, 4, 4).to(torch.bfloat16),
        "timestep": torch.full((1,) if timesteps == "shared" else (1, tokens), 500.0),
        "encoder_hidden_states": torch.randn(1, 512, 32).to(torch.bfloat16),
        "return_dict": False,
    }
    used: Counter[str] = Counter()

    def backend(module: torch.fx.GraphModule, example_inputs: Any) -> Any:
        used.update(use_kernels(module.graph, exact))
        module.recompile()
        return module.forward

    with torch.no_grad():
        eager = model(**inputs)[0]
        compiled = CompiledBlocks("exact", backend)
        compiled.install(model)
        result = model(**inputs)[0]
    assert compiled.refused is None
    assert dict(used) == expected
    assert same_bits(result, eager)


def test_a_product_with_one_number_is_no_gate() -> None:
    """It is computed in float32 behind the cast, and would be rounded to bfloat16 without it."""
    used: Counter[str] = Counter()

    def backend(module: torch.fx.GraphModule, example_inputs: Any) -> Any:
        used.update(use_kernels(module.graph, exact=True))
        module.recompile()
        return module.forward

    def scaled(hidden: torch.Tensor, residual: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (residual.float() + hidden.float() * scale).to(hidden.dtype)

    inputs = *torch.randn(2, 1, 8, 512).to(torch.bfloat16), torch.tensor(0.7)
    assert same_bits(torch.compile(scaled, backend=backend, fullgraph=True)(*inputs), scaled(*inputs))
    assert used == {}


def test_without_a_gpu_an_operation_is_pytorchs_own() -> None:
    hidden = torch.randn(1, 2, 512).to(torch.bfloat16)
    operation = kernels.verified("layer_norm")
    result = operation(hidden, None, None, None, None, 1e-6)
    assert torch.equal(result, torch.nn.functional.layer_norm(hidden.float(), (512,), eps=1e-6).to(torch.bfloat16))
    assert kernels.states() == {}


@pytest.mark.parametrize("exact", [False, True])
def test_a_report_has_the_adapters_kernels_that_the_blocks_do_not_use(
    exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels.verified("add_adapter", exact), "refused", "it does not run here")
    assert kernels.states() == {"add_adapter": "it does not run here"}


def test_without_room_for_the_comparison_the_result_is_eagers_and_the_next_call_is_compared() -> None:
    rooms = iter((False, True, True))

    def eager(value: torch.Tensor) -> torch.Tensor:
        if not next(rooms):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return value + 1

    operation = Verified("addition", lambda: lambda value: value + 1, eager, lambda value: True)
    for _ in range(3):
        assert torch.equal(operation(torch.zeros(2)), torch.ones(2))
    assert operation.refused is None
    assert next(rooms, None) is None
