"""The compiled blocks: the frames of eager ones, and one graph for every size, rank, scale and slot.

With the backends that a GPU uses, whose kernels are PyTorch's own operations on a CPU. Only where weights are packed in
fp8 is Inductor's code generation left out, which needs a GPU to be worth its time.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.test_pipeline import as_base64, first_frame
from tests.engine.test_pipeline import request as pipeline_request
from tests.golden_cases import CHECKPOINTS
from tests.lora.writers import FORMATS, Width
from tests.lora_files import write_lora
from tests.sampling import sampled
from wan_ui import Engine
from wan_ui.checkpoints.fp8_linear import Fp8Linear
from wan_ui.config import CompileMode
from wan_ui.engine import compile as compilation
from wan_ui.engine.compile import BlockCompiler, CompiledBlocks, exact_backend
from wan_ui.engine.recipes import RECIPES
from wan_ui.engine.result import Clip
from wan_ui.errors import OutOfMemory

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


def captured(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
    """The graph as it was captured, run op by op."""
    return module.forward


def broken(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
    """As where a C compiler does not find Python's headers."""
    raise subprocess.CalledProcessError(1, ["gcc"])


def wrong(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
    """Another last bit in some places."""
    return lambda *arguments: [result * (1 + 1e-6) for result in module.forward(*arguments)]


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for rank in (4, 8, 32):
        write_lora(folder / f"rank{rank}.safetensors", rank=rank, seed=rank)
    return folder


@pytest.fixture(scope="module")
def eager(loras: Path) -> Iterator[Engine]:
    engine = engine_of(loras, "off")
    yield engine
    engine.close()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """For a test whose own engine builds its own graphs; building one takes two seconds of processor time."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="class")
def compiled_engines(loras: Path) -> Iterator[dict[CompileMode, Engine]]:
    """One engine for each compile mode, with its graphs, for all tests of a class."""
    torch._dynamo.reset()
    engines: dict[CompileMode, Engine] = {"fast": engine_of(loras, "fast"), "exact": engine_of(loras, "exact")}
    yield engines
    for engine in engines.values():
        engine.close()
    torch._dynamo.reset()


def engine_of(loras: Path, mode: CompileMode, backend: Any = None) -> Engine:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    engine.loader.compiler = BlockCompiler(mode, CPU, backend)
    return engine


def request(scales: dict[str, tuple[str, float]], recipe: str = "reference", size: int = 64) -> dict[str, Any]:
    """Two steps of 2.2 T2V, one on each transformer; `scales` maps a slot to a file and its scale."""
    prompt = {"prompt": "a cat", "width": size, "height": 64, "num_frames": 1, "sample_steps": 3, "seed": 3}
    items = [{"path": path, "transformer": slot, "network_multiplier": scale} for slot, (path, scale) in scales.items()]
    return {"model": "wan22_14b_t2v", "recipe": recipe, "prompts": [prompt], "loras": items}


REQUESTS = (
    request({"high": ("rank4.safetensors", 1.0), "low": ("rank4.safetensors", 1.0)}),
    request({"high": ("rank4.safetensors", 0.3), "low": ("rank4.safetensors", -0.7)}),
    request({"high": ("rank8.safetensors", 0.3), "low": ("rank32.safetensors", 1.0)}),
    request({"high": ("rank8.safetensors", 0.5), "low": ("rank32.safetensors", 1.0)}, size=96),
)


def rendered(engine: Engine, body: dict[str, Any]) -> Clip:
    (clip,) = engine.generate(body)
    return clip


class TestOneEngine:
    """What one engine renders in turn, with the graphs of what it rendered before, in whatever order."""

    @pytest.mark.parametrize("mode", ["fast", "exact"])
    def test_the_frames_of_eager_and_one_graph_for_all(
        self, eager: Engine, compiled_engines: dict[CompileMode, Engine], mode: CompileMode
    ) -> None:
        compiled = compiled_engines[mode]
        before, graphs = compiled_blocks(compiled).graphs, []
        for body in REQUESTS:
            expected, found = rendered(eager, body), rendered(compiled, body)
            assert np.array_equal(found.frames, expected.frames)
            assert found.metadata["first_step_change"] == expected.metadata["first_step_change"]
            assert (expected.metadata["arithmetic"], found.metadata["arithmetic"]) == ("eager", f"compiled, {mode}")
            graphs.append(compiled_blocks(compiled).graphs)
        assert graphs[0] <= before + 1
        assert len(set(graphs)) == 1

    def test_one_slot_without_a_lora_and_back(self, eager: Engine, compiled_engines: dict[CompileMode, Engine]) -> None:
        compiled = compiled_engines["fast"]
        scales: list[dict[str, tuple[str, float]]] = [
            {"high": ("rank4.safetensors", 1.0)},
            {},
            {"low": ("rank8.safetensors", 2.0)},
        ]
        for body in map(request, scales):
            assert np.array_equal(rendered(compiled, body).frames, rendered(eager, body).frames)
        assert compiled_blocks(compiled).graphs == 2  # with adapters and without

    def test_switching_recipes_leaves_no_trace(
        self, eager: Engine, compiled_engines: dict[CompileMode, Engine]
    ) -> None:
        body = {"high": ("rank4.safetensors", 0.8)}
        for recipe in ("reference", "preview", "reference"):
            expected = rendered(eager, request(body, recipe))
            found = rendered(compiled_engines["fast"], request(body, recipe))
            assert np.array_equal(found.frames, expected.frames)
            assert found.metadata["arithmetic"] == f"compiled, {'exact' if recipe == 'preview' else 'fast'}"

    def test_a_dora_runs_eagerly_and_what_comes_after_it_compiled(
        self, eager: Engine, compiled_engines: dict[CompileMode, Engine], loras: Path
    ) -> None:
        FORMATS["ai-toolkit dora"](Width(48, 2, 96, 3)).save(loras / "dora.safetensors")
        arithmetics = []
        for scales in (
            {"high": ("dora.safetensors", 1.0), "low": ("dora.safetensors", 1.0)},
            {"high": ("dora.safetensors", 1.0), "low": ("rank4.safetensors", 1.0)},
            {"high": ("rank4.safetensors", 1.0), "low": ("rank4.safetensors", 1.0)},
        ):
            expected, found = rendered(eager, request(scales)), rendered(compiled_engines["exact"], request(scales))
            assert np.array_equal(found.frames, expected.frames)
            arithmetics.append(found.metadata["arithmetic"])
        assert arithmetics == [
            "eager: a DoRA is not compiled",
            "compiled, exact; eager where a DoRA is attached",
            "compiled, exact",
        ]


def test_the_trainers_previews_are_never_rounded_differently() -> None:
    for mode, reference, preview in (("fast", "fast", "exact"), ("exact", "exact", "exact")):
        compiler = BlockCompiler(mode, CPU, captured)  # type: ignore[arg-type]
        assert [compiler.of(RECIPES[name]).arithmetic for name in ("reference", "preview", "preview_unipc")] == [  # type: ignore[union-attr]
            reference,
            preview,
            preview,
        ]
    assert BlockCompiler("off", CPU).of(RECIPES["reference"]) is None
    assert BlockCompiler("auto", CPU).mode == "off"
    assert BlockCompiler("auto", torch.device("cuda")).mode == "exact"


def compiled_blocks(engine: Engine) -> CompiledBlocks:
    found = engine.loader.compiler.of(RECIPES["reference"])
    assert found is not None
    return found


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "model", ["wan22_5b", "wan21_i2v_14b480p", pytest.param("wan22_14b_i2v", marks=pytest.mark.soak)]
)
def test_models_that_take_a_first_frame(eager: Engine, loras: Path, model: str) -> None:
    compiled = engine_of(loras, "fast")
    body = pipeline_request(model, num_frames=5, sample_steps=2, ctrl_img=as_base64(first_frame()))
    assert np.array_equal(rendered(compiled, body).frames, rendered(eager, body).frames)
    assert compiled_blocks(compiled).refused is None
    compiled.close()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    ("mode", "backend", "why"),
    [("fast", broken, "could not be compiled"), ("exact", wrong, "not exact on this machine")],
)
def test_what_cannot_be_compiled_runs_eagerly_and_says_so(
    eager: Engine, loras: Path, mode: CompileMode, backend: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = engine_of(loras, mode, backend)
    expected, found = rendered(eager, REQUESTS[0]), rendered(compiled, REQUESTS[0])
    assert np.array_equal(found.frames, expected.frames)
    assert why in found.metadata["arithmetic"]
    assert len([record for record in caplog.records if record.name == "wan_ui.engine.compile"]) == 1
    compiled.close()


@pytest.mark.usefixtures("fresh_compiler")
def test_memory_that_runs_out_while_a_graph_is_built_is_no_fault_of_the_graph(eager: Engine, loras: Path) -> None:
    runs = []

    def full_once(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        def run(*arguments: Any) -> Any:
            runs.append(len(arguments))
            if len(runs) == 1:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
            return module.forward(*arguments)

        return run

    compiled = engine_of(loras, "exact", full_once)
    with pytest.raises(OutOfMemory):
        rendered(compiled, REQUESTS[0])
    expected, found = rendered(eager, REQUESTS[0]), rendered(compiled, REQUESTS[0])
    assert np.array_equal(found.frames, expected.frames)
    assert found.metadata["arithmetic"] == "compiled, exact"
    compiled.close()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("mode", "first"), sampled(2, ["fast", "exact"], ["none", "step_cache"]))
def test_the_step_caches_forwards_are_counted_outside_of_the_graph(
    eager: Engine, loras: Path, mode: CompileMode, first: str
) -> None:
    compiled = engine_of(loras, mode)
    rendered(compiled, {**REQUESTS[0], "speedup": first})
    cached = {**REQUESTS[1], "speedup": "step_cache"}
    expected, found = rendered(eager, cached), rendered(compiled, cached)
    assert np.array_equal(found.frames, expected.frames)
    assert found.metadata["arithmetic"] == f"compiled, {mode}" and found.metadata["speedup"] == "step_cache"
    computed, total = found.metadata["forwards"]["computed"], found.metadata["forwards"]["total"]
    assert total == 2 * REQUESTS[1]["prompts"][0]["sample_steps"]
    assert 0 < computed <= total
    assert np.array_equal(rendered(compiled, REQUESTS[1]).frames, rendered(eager, REQUESTS[1]).frames)
    compiled.close()


@pytest.mark.usefixtures("fresh_compiler")
def test_products_in_fp8_compile(eager: Engine, loras: Path) -> None:
    compiled = engine_of(loras, "fast", captured)
    for body in (REQUESTS[0], REQUESTS[2]):
        packed = {**body, "speedup": "fp8_products"}
        expected, found = rendered(eager, packed), rendered(compiled, packed)
        assert np.array_equal(found.frames, expected.frames)
        assert found.metadata["arithmetic"] == "compiled, fast" and found.metadata["speedup"] == "fp8_products"
    compiled.close()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16], ids=str)
def test_inductor_fuses_the_unpacking_of_fp8_weights_and_nothing_else(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = []

    def inductor(module: torch.fx.GraphModule, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
        fused.append(options)
        return captured(module, inputs)

    monkeypatch.setattr(compilation, "_with_inductor", inductor)
    layer = Fp8Linear(torch.randn(4, 4).to(dtype), 0.5, None, torch.bfloat16)
    values = torch.randn(2, 4, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(torch.compile(layer, backend=exact_backend)(values), layer(values))
    assert len(fused) == (dtype is not torch.bfloat16)
