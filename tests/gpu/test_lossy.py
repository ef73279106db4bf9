"""The speed-ups on a GPU: a 14B-sized layer and forward against bfloat16, and tiny checkpoints end to end.

The printed figures belong into docs/performance.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.engine.test_pipeline import request
from tests.golden_cases import CHECKPOINTS
from tests.gpu.full_size import transformer_config
from tests.lora_files import write_lora
from tools.demo_evaluate import attached, psnr
from wan_ui import Engine
from wan_ui.config import MemoryMode
from wan_ui.demo.checkpoints import Demo, ensure
from wan_ui.engine.compile import CompiledBlocks
from wan_ui.engine.fp8 import PackedLinear, pack, pack_blocks
from wan_ui.models import MODELS, Speedup

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
TOKENS = 21 * 30 * 52  # 832 × 480 × 81
LAYERS = {"attention": (5120, 5120), "feed-forward, up": (5120, 13824), "feed-forward, down": (13824, 5120)}
BLOCKS = 5  # of 40: times 8
LOSSY: tuple[Speedup, ...] = ("fp8_storage", "fp8_products", "step_cache")


def seconds(run: Callable[[], object], times: int = 7) -> float:
    """The median of some runs, after one."""
    run()
    found = []
    for _ in range(times):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_14b(name: str) -> None:
    torch.manual_seed(0)
    into, out = LAYERS[name]
    with torch.no_grad(), CUDA:
        linear = torch.nn.Linear(into, out, dtype=torch.bfloat16)
        linear.weight.normal_(std=0.02)
        tokens = torch.randn(TOKENS, into, dtype=torch.bfloat16)
    layer = PackedLinear(linear, CUDA)
    whole = linear(tokens).float()
    times, far = {"bf16": seconds(lambda: linear(tokens))}, {}
    for mode, products in (("storage", False), ("products", True)):
        layer.products = products
        assert layer.has_products is products
        far[mode] = float((layer(tokens).float() - whole).norm() / whole.norm())
        times[mode] = seconds(lambda: layer(tokens))
    packed, scale = pack(tokens)
    times["packing"] = seconds(lambda: pack(tokens))
    for fast in (False, True):
        times[f"product alone, fast accumulation {fast}"] = seconds(
            lambda fast=fast: torch._scaled_mm(  # type: ignore[misc]
                packed,
                layer.packed.t(),
                scale_a=scale,
                scale_b=layer.scale.t(),
                bias=layer.bias,
                out_dtype=torch.bfloat16,
                use_fast_accum=fast,
            )
        )
    flops = 2 * TOKENS * into * out
    print(f"\n{name}: relative error {', '.join(f'{mode} {value:.4f}' for mode, value in far.items())}")
    print(", ".join(f"{mode} {1e3 * t:.2f} ms ({flops / t / 1e12:.0f} TFLOP/s)" for mode, t in times.items()))
    assert far["storage"] < 0.03  # 2^-4 at most for each weight, evenly spread: 0.0265
    assert far["products"] < 0.045  # twice as many roundings: 0.0265 × √2 = 0.0375


@torch.no_grad()
def test_a_forward_of_14b() -> None:
    torch.manual_seed(0)
    with CUDA:
        transformer = WanTransformer3DModel(**transformer_config("wan22_14b_t2v", BLOCKS)).to(torch.bfloat16).eval()
        inputs = {
            "hidden_states": torch.randn(1, 16, 21, 60, 104, dtype=torch.bfloat16),
            "timestep": torch.tensor([900]),
            "encoder_hidden_states": torch.randn(1, 512, 4096, dtype=torch.bfloat16),
        }

    def forward() -> torch.Tensor:
        found: torch.Tensor = transformer(**inputs, return_dict=False)[0]
        return found

    exact, times, sizes = forward().float(), {}, {}
    for mode in ("exact", "fp8_storage", "fp8_products"):
        if mode != "exact":
            pack_blocks(transformer, CUDA, products=mode == "fp8_products")
            torch.cuda.empty_cache()
        sizes[mode] = sum(part.nbytes for part in transformer.blocks.parameters())  # of 40, the rest is 2 %
        times[mode] = seconds(forward, 3)
        compiled = CompiledBlocks("fast")
        compiled.install(transformer)
        times[f"{mode}, compiled"] = seconds(forward, 3)
        assert compiled.refused is None
        far = float((forward().float() - exact).norm() / exact.norm())
        compiled.remove(transformer)
        print(f"\n{mode}: {sizes[mode] / 1e9:.2f} GB, first prediction {far:.4f} from exact", end="")
        assert far < 0.2
    print()
    print(
        ", ".join(f"{mode} {t * 40 / BLOCKS:.2f} s" for mode, t in times.items()), f"({BLOCKS} blocks × {40 // BLOCKS})"
    )
    assert sizes["fp8_storage"] == sizes["fp8_products"] < 0.51 * sizes["exact"]
    assert times["fp8_products, compiled"] < times["exact, compiled"]


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / "a.safetensors", seed=1)
    write_lora(folder / "b.safetensors", seed=2)
    return folder


def engine_of(loras: Path, memory: MemoryMode = "auto") -> Engine:
    return Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cuda", memory=memory, compile="off")


@pytest.fixture(scope="module")
def engine(loras: Path) -> Iterator[Engine]:
    engine = engine_of(loras)
    yield engine
    engine.close()


@pytest.mark.parametrize("speedup", LOSSY)
@pytest.mark.parametrize("model", ["wan21_1b", "wan22_14b_t2v", "wan22_5b", "wan21_i2v_14b"])
def test_near_and_the_exact_frames_afterwards(engine: Engine, model: str, speedup: Speedup) -> None:
    body = request(model, loras={"a.safetensors": 1.0, "b.safetensors": 0.5}, sample_steps=6)
    (exact,) = engine.generate(body)
    (lossy,) = engine.generate({**body, "speedup": speedup})
    (after,) = engine.generate(body)
    apart = np.abs(lossy.frames.astype(int) - exact.frames)
    print(f"\n{model} {speedup}: mean {apart.mean():.2f}, most {apart.max()}, {lossy.metadata.get('forwards', '')}")
    assert lossy.metadata["speedup"] == speedup
    assert apart.mean() < 12
    assert np.array_equal(after.frames, exact.frames)


@pytest.mark.parametrize("speedup", LOSSY)
@pytest.mark.parametrize("memory", ["pair", "stream"])
def test_the_same_frames_in_each_memory_mode(engine: Engine, loras: Path, memory: MemoryMode, speedup: Speedup) -> None:
    exact = request("wan22_14b_t2v", loras={"a.safetensors": 1.0})
    body = {**exact, "speedup": speedup}
    (resident,) = engine.generate(body)
    tight = engine_of(loras, memory)
    frames = [tight.generate(one)[0].frames for one in (exact, body, body, exact)]
    tight.close()
    assert np.array_equal(frames[1], resident.frames) and np.array_equal(frames[2], resident.frames)
    assert np.array_equal(frames[3], frames[0])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return ensure(tmp_path_factory.mktemp("demo") / "demo")


@pytest.mark.parametrize("memory", ["resident", "pair", "stream"])
def test_a_trained_model_skips_in_each_memory_mode(demo: Demo, memory: MemoryMode) -> None:
    engine = Engine(demo.models_dir, demo.lora_dir, "cuda", memory, compile="off")
    body = {**request("wan22_14b_t2v", sample_steps=25), "loras": attached(MODELS["wan22_14b_t2v"], 1.0)}
    (exact,) = engine.generate(body)
    (cached,) = engine.generate({**body, "speedup": "step_cache"})
    (again,) = engine.generate({**body, "speedup": "step_cache"})
    engine.close()
    print(f"\n{memory}: {cached.metadata['forwards']}, {psnr(cached.frames, exact.frames):.1f} dB from exact")
    assert cached.metadata["forwards"]["computed"] < cached.metadata["forwards"]["total"] == 50
    assert np.array_equal(again.frames, cached.frames)
