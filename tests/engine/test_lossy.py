"""Speed-ups that change the video: what they compute, what they count, and the exact frames afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.engine.test_pipeline import request, short
from tests.engine.test_streaming import LateCopies
from tests.golden_cases import CHECKPOINTS
from tests.lora.writers import FORMATS, Width
from tests.lora_files import write_lora
from tests.sampling import sampled
from tools.demo_evaluate import attached
from wan_ui import Engine
from wan_ui.demo.checkpoints import ensure
from wan_ui.engine.budget import PACKED_SHARE, Sizes, cache_bytes, device_bytes, packed_sizes
from wan_ui.engine.fp8 import FP8, LARGEST, PackedLinear, check_supported, pack, pack_blocks
from wan_ui.engine.result import Clip, Progress
from wan_ui.engine.step_cache import StepCache
from wan_ui.engine.streaming import StreamedBlocks
from wan_ui.errors import Cancelled, InvalidRequest, SpeedupNotSupported
from wan_ui.models import MODELS

TINY = Width(48, 2, 96, 3)
PAIR, SINGLE, QUICK = "wan22_14b_t2v", "wan21_1b", "wan22_5b"
STEPS_THAT_SKIP = {QUICK: 14, PAIR: 20}  # of the trained demo: about as few as still have some that are skipped
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / "a.safetensors", seed=1)
    write_lora(folder / "b.safetensors", seed=2)
    FORMATS["ai-toolkit dora"](TINY).save(folder / "dora.safetensors")
    FORMATS["ai-toolkit lokr, w2 factored"](TINY).save(folder / "lokr.safetensors")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    demo = ensure(tmp_path_factory.mktemp("trained") / "demo")
    engine = Engine(demo.models_dir, demo.lora_dir, device="cpu")
    yield engine
    engine.close()


def shapes(model: str, *scales: float, steps: int = 25) -> dict[str, Any]:
    """A request to the trained demo: its LoRA, or the pair, at one scale, or at one for each."""
    items = attached(MODELS[model], scales[0])
    for item, scale in zip(items[1:], scales[1:], strict=False):
        item["network_multiplier"] = scale
    return {**request(model, num_frames=1, sample_steps=steps), "loras": items}


def made(engine: Engine, body: Mapping[str, Any], speedup: str = "none") -> Clip:
    return engine.generate({**body, "speedup": speedup})[0]


def fresh(loras: Path, body: Mapping[str, Any], speedup: str = "none") -> np.ndarray:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    frames = made(engine, body, speedup).frames
    engine.close()
    return frames


class TestPacking:
    def test_a_row_comes_back_within_fp8s_precision(self) -> None:
        values = torch.randn(40, 64) * torch.logspace(-6, 3, 40)[:, None]
        kept, scale = pack(values)
        assert kept.dtype is FP8
        assert torch.equal(scale.log2(), scale.log2().round())
        largest = kept.float().abs().amax(dim=1)
        assert bool((largest <= LARGEST).all()) and bool((largest > LARGEST / 2 * 0.9).all())
        far = ((kept.float() * scale - values).abs() / values.abs().amax(dim=1, keepdim=True)).max()
        assert far <= 2**-4  # half a step of 3 stored bits

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_rows_of_zeros_and_of_huge_values_stay_finite(self, dtype: torch.dtype) -> None:
        values = torch.stack([torch.zeros(16), torch.full((16,), 3e38), torch.full((16,), 1e-30)]).to(dtype)
        kept, scale = pack(values)
        assert bool(torch.isfinite(kept.float() * scale).all())
        assert torch.equal(kept[0].float(), torch.zeros(16))

    def test_unpacking_rounds_nothing_in_bfloat16(self) -> None:
        linear = torch.nn.Linear(64, 32).to(torch.bfloat16)
        layer = PackedLinear(linear, CPU)
        exact = layer.packed.float() * layer.scale
        assert torch.equal(layer.weight.float(), exact)
        assert layer.weight.dtype is torch.bfloat16

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_product_in_fp8_is_the_product_of_what_was_packed(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        linear = torch.nn.Linear(64, 48).to(dtype)
        layer, tokens = PackedLinear(linear, CPU), torch.randn(2, 5, 64).to(dtype)
        layer.products = True
        kept, scale = pack(tokens.reshape(-1, 64))
        both = (kept.float() * scale) @ layer.weight.float().T + linear.bias.float()
        assert layer(tokens).shape == (2, 5, 48) and layer(tokens).dtype is dtype
        assert torch.allclose(layer(tokens).float(), both.view(2, 5, 48), rtol=2**-7, atol=1e-5)
        with torch.no_grad():
            far = float((layer(tokens) - linear(tokens)).float().norm() / linear(tokens).float().norm())
        assert 0.005 < far < 0.06

    def test_sides_that_cuda_does_not_take_are_unpacked(self) -> None:
        linear = torch.nn.Linear(24, 48)
        layer, tokens = PackedLinear(linear, CPU), torch.randn(3, 24)
        layer.products = True
        assert not layer.has_products
        assert torch.equal(layer(tokens), torch.nn.functional.linear(tokens, layer.weight, linear.bias))


def test_only_the_blocks_own_linear_layers_are_packed() -> None:
    folder = CHECKPOINTS / MODELS[SINGLE].base_model / "transformer"
    transformer = WanTransformer3DModel.from_pretrained(folder)
    linears = sum(isinstance(module, torch.nn.Linear) for module in transformer.blocks.modules())
    before = sum(part.numel() * part.element_size() for part in transformer.blocks.parameters())
    assert pack_blocks(transformer, CPU, products=False) == linears > 10
    assert pack_blocks(transformer, CPU, products=True) == linears
    layers = [module for module in transformer.modules() if isinstance(module, PackedLinear)]
    assert len(layers) == linears and all(layer.products for layer in layers)
    after = sum(part.numel() * part.element_size() for part in transformer.blocks.parameters())
    assert after < before * 0.4  # float32 here
    others = [part for name, part in transformer.named_parameters() if not name.endswith((".packed", ".scale"))]
    assert all(part.dtype is torch.float32 for part in others)


@pytest.mark.slow
class TestModes:
    @pytest.mark.parametrize(
        ("model", "speedup"),
        sampled(3, [SINGLE, "wan22_5b", PAIR, "wan21_i2v_14b"], ["fp8_storage", "fp8_products", "step_cache"]),
    )
    def test_near_and_named_and_the_exact_frames_afterwards(
        self, engine: Engine, trained: Engine, model: str, speedup: str
    ) -> None:
        if speedup == "step_cache":  # random blocks change too much from step to step for anything to be skipped
            engine, body = trained, shapes(model, 1.0, steps=STEPS_THAT_SKIP.get(model, 25))
        else:
            body = short(model, loras={"a.safetensors": 1.0, "b.safetensors": 0.5}, sample_steps=6)
        exact = made(engine, body)
        lossy = made(engine, body, speedup)
        assert exact.metadata["speedup"] == "none" and lossy.metadata["speedup"] == speedup
        assert not np.array_equal(lossy.frames, exact.frames)
        assert np.abs(lossy.frames.astype(int) - exact.frames).mean() < 8
        assert lossy.metadata["first_step_change"].keys() == exact.metadata["first_step_change"].keys()
        assert np.array_equal(made(engine, body, speedup).frames, lossy.frames)
        again = made(engine, body)
        assert np.array_equal(again.frames, exact.frames)
        assert again.metadata["first_step_change"] == exact.metadata["first_step_change"]

    def test_every_parameter_is_what_it_was(self, engine: Engine) -> None:
        def parameters() -> dict[str, torch.Tensor]:
            transformers = engine.core.pipeline.components.transformers  # type: ignore[union-attr]
            return {
                f"{which} {name}": part.detach().clone()
                for which, transformer in transformers.items()
                for name, part in transformer.named_parameters()
            }

        body = short(PAIR)
        made(engine, body)
        before = parameters()
        made(engine, body, "fp8_storage")
        assert parameters().keys() != before.keys()
        made(engine, body, "fp8_products")
        made(engine, body)
        after = parameters()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)

    def test_what_is_read_again_are_the_transformers_alone(self, engine: Engine) -> None:
        made(engine, short(PAIR), "fp8_storage")
        before = len(engine.loader.statistics.names)
        made(engine, short(PAIR, loras={"a.safetensors": 1.0}), "fp8_products")
        assert len(engine.loader.statistics.names) == before
        made(engine, short(PAIR))
        assert engine.loader.statistics.names[before:] == ("transformer", "transformer_2")

    @pytest.mark.parametrize(
        ("file", "speedup"),
        sampled(2, ["a.safetensors", "dora.safetensors", "lokr.safetensors"], ["fp8_storage", "fp8_products"]),
    )
    def test_a_lora_attached_to_packed_weights_is_one_that_was_there_before(
        self, engine: Engine, loras: Path, file: str, speedup: str
    ) -> None:
        disabled = made(engine, short(PAIR), speedup)
        body = short(PAIR, loras={file: 1.0, "b.safetensors": 0.5})
        attached = made(engine, body, speedup)
        assert np.array_equal(attached.frames, fresh(loras, body, speedup))
        assert not np.array_equal(attached.frames, disabled.frames)
        assert (
            attached.metadata["lora"]["high"]["modules_in_use"] == attached.metadata["lora"]["high"]["modules_in_file"]
        )
        assert np.array_equal(made(engine, body).frames, fresh(loras, body))

    def test_a_changed_scale_of_a_merge_is_that_scale(self, engine: Engine, loras: Path) -> None:
        for scale in (1.0, 0.3):
            body = short(SINGLE, loras={"lokr.safetensors": scale})
            assert np.array_equal(made(engine, body, "fp8_storage").frames, fresh(loras, body, "fp8_storage"))

    def test_another_model_after_packed_weights(self, engine: Engine, loras: Path) -> None:
        made(engine, short("wan21_14b"), "fp8_storage")
        assert np.array_equal(made(engine, short(SINGLE)).frames, fresh(loras, short(SINGLE)))


@pytest.mark.slow
class TestStepCache:
    def test_it_counts_what_it_computed(self, trained: Engine) -> None:
        body = shapes(QUICK, 1.0, steps=STEPS_THAT_SKIP[QUICK])
        clip = made(trained, body, "step_cache")
        assert clip.metadata["forwards"]["total"] == 28
        assert 2 <= clip.metadata["forwards"]["computed"] < 28
        unmeasured = made(trained, {**body, "first_step_change": False}, "step_cache")
        assert unmeasured.metadata["forwards"] == clip.metadata["forwards"]
        assert np.array_equal(unmeasured.frames, clip.frames)
        assert "forwards" not in made(trained, body).metadata

    def test_each_transformer_and_each_run_starts_with_an_empty_cache(self, trained: Engine) -> None:
        steps = STEPS_THAT_SKIP[PAIR]
        one, other = shapes(PAIR, 1.0, 0.5, steps=steps), shapes(PAIR, 1.0, 1.0, steps=steps)
        alone = made(trained, other, "step_cache")
        first, shared = made(trained, one, "step_cache"), made(trained, other, "step_cache")
        assert "shared" in first.metadata["steps"] and "shared" not in alone.metadata["steps"]
        assert shared.metadata["steps"]["shared"] == alone.metadata["steps"]["high_noise"] > 1
        assert shared.metadata["forwards"] == alone.metadata["forwards"]
        assert 4 <= alone.metadata["forwards"]["computed"] < alone.metadata["forwards"]["total"] == 2 * steps
        assert np.array_equal(shared.frames, alone.frames)
        exact = made(trained, other)
        assert "shared" not in exact.metadata["steps"]
        assert not np.array_equal(exact.frames, alone.frames)
        assert "shared" not in made(trained, one, "step_cache").metadata["steps"]

    def test_a_scale_that_changes_empties_the_cache(self, trained: Engine) -> None:
        folder = trained.library.roots()[0][1]
        write_lora(folder / "plain.safetensors", width=128, ffn=512, blocks=6, scale=0.01)
        computed = {}
        for name, scale in (("steady", 0.5), ("ramp", {"from": 0.5, "to": 0.4})):
            loras = [{"path": "plain.safetensors", "network_multiplier": scale}]
            clip = made(trained, {**shapes(QUICK, 1.0, steps=STEPS_THAT_SKIP[QUICK]), "loras": loras}, "step_cache")
            computed[name] = clip.metadata["forwards"]["computed"]
        assert computed["steady"] < computed["ramp"] == 28

    def test_a_cancelled_run_leaves_nothing_behind(self, engine: Engine, loras: Path) -> None:
        def stop(progress: Progress) -> None:
            if progress.phase == "denoise" and progress.step == 2:
                raise Cancelled("enough")

        with pytest.raises(Cancelled):
            engine.generate({**short(SINGLE), "speedup": "step_cache"}, stop)
        assert np.array_equal(made(engine, short(SINGLE)).frames, fresh(loras, short(SINGLE)))

    def test_without_a_threshold_nothing_is_skipped(self) -> None:
        folder = CHECKPOINTS / MODELS[SINGLE].base_model / "transformer"
        transformer = WanTransformer3DModel.from_pretrained(folder).eval()
        inputs = {
            "hidden_states": torch.randn(1, 16, 1, 8, 8),
            "timestep": torch.tensor([900]),
            "encoder_hidden_states": torch.randn(1, 512, transformer.config.text_dim),
        }
        cache = StepCache(threshold=-1)
        with torch.no_grad():
            plain = transformer(**inputs).sample
            cache.enable(transformer)
            with transformer.cache_context("cond"):
                cached = [transformer(**inputs).sample for _ in range(2)]
            cache.disable()
            assert torch.equal(transformer(**inputs).sample, plain)
        assert all(torch.equal(one, plain) for one in cached)
        assert (cache.forwards, cache.computed) == (2, 2)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("resident", [0, 1, 3])
def test_packed_blocks_are_streamed_and_skipped_like_resident_ones(resident: int, products: bool) -> None:
    folder = CHECKPOINTS / MODELS[SINGLE].base_model / "transformer"
    mine, theirs = (WanTransformer3DModel.from_pretrained(folder).eval() for _ in range(2))
    for transformer in (mine, theirs):
        pack_blocks(transformer, CPU, products)
    streamed = StreamedBlocks(mine, LateCopies())
    text = torch.randn(1, 512, mine.config.text_dim)
    given = torch.randn(3, 1, 16, 1, 8, 8)
    found = []
    with torch.no_grad():
        streamed.onload(resident)
        for transformer in (mine, theirs):
            cache = StepCache(threshold=10)  # every forward but the first of each half
            cache.enable(transformer)
            for one in given:
                for half in ("cond", "uncond"):
                    with transformer.cache_context(half):
                        found.append(transformer(one, torch.tensor([900]), text).sample)
            cache.disable()
            assert (cache.forwards, cache.computed) == (6, 2)
            found.append(transformer(given[0], torch.tensor([900]), text).sample)
        streamed.offload()
    for one, other in zip(found[:7], found[7:], strict=True):  # a CPU's products round by where the weights lie
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_comparison_of_the_modes_has_in_each_cell_the_video_alone(engine: Engine) -> None:
    body = short(SINGLE, loras={"a.safetensors": 1.0})
    values = ["fp8_products", "none", "fp8_storage"]
    axis = {"columns": {"field": "speedup", "values": values}, "baseline": False}
    before = len(engine.loader.statistics.names)
    cells = engine.generate({**body, "compare": axis})
    assert engine.loader.statistics.names[before:].count("transformer") <= 1
    assert [cell.metadata["speedup"] for cell in cells] == values
    for value, cell in zip(values, cells, strict=True):
        assert np.array_equal(cell.frames, made(engine, body, value).frames)


@pytest.mark.parametrize("recipe", ["preview", "preview_unipc"])
@pytest.mark.parametrize("speedup", ["fp8_storage", "fp8_products", "step_cache"])
def test_a_preview_is_computed_exactly(engine: Engine, recipe: str, speedup: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be combined") as caught:
        made(engine, short(SINGLE, recipe), speedup)
    assert caught.value.details["fields"][0]["loc"] == "speedup"


def test_a_device_without_fp8_products_says_so() -> None:
    with pytest.raises(SpeedupNotSupported, match="8.9"):
        check_supported("fp8_products", torch.device("mps"))
    for speedup in ("none", "fp8_storage", "step_cache"):
        check_supported(speedup, torch.device("mps"))
    check_supported("fp8_products", CPU)


class TestMemory:
    @pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
    def test_the_share_of_packed_weights_is_counted(self, model: Any) -> None:
        d, f = model.hidden_size, model.ffn_size
        linear = model.blocks * (8 * d * d + 2 * d * f + (2 * d * d if model.image_layers else 0))
        embeddings = 2 * d * d + 6 * d * d + (4096 + 256 + 1280 * model.image_layers) * d + 2 * 16 * 4 * d
        share = (linear + 2 * embeddings) / (2 * (linear + embeddings))
        assert 0.5 < share < PACKED_SHARE

    def test_packed_weights_fit_where_exact_ones_do_not(self) -> None:
        sizes = Sizes((28 * 10**9, 28 * 10**9), 11 * 10**9, 10**9 // 4, 28 * 10**9 // 40)
        for mode in ("resident", "pair", "stream"):
            assert device_bytes(mode, packed_sizes(sizes), 0) < device_bytes(mode, sizes, 0)
        assert (
            device_bytes("resident", packed_sizes(sizes), 4 * 10**9)
            < 48 * 10**9
            < device_bytes("resident", sizes, 4 * 10**9)
        )

    def test_a_cache_keeps_more_of_a_larger_clip(self) -> None:
        model = MODELS["wan22_14b_t2v"]
        assert cache_bytes(model, 832, 480, 81) == 9 * 21 * 52 * 30 * 5120 * 2
