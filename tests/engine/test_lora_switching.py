"""Ten files of every kind switched on one model: no load, no leak, the base bit for bit, as if freshly loaded."""

from __future__ import annotations

import gc
import random
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.engine.test_pipeline import frames
from tests.golden_cases import CHECKPOINTS
from tests.golden_cases import LORAS as GOLDEN_LORAS
from tests.lora.writers import FORMATS, Width
from tests.lora_files import write_lora
from wan_ui import Engine
from wan_ui.errors import LoraMismatch, MoeFormatRequired, SingleLoraOnly, SingleMoeConfigOnly

pytestmark = pytest.mark.slow
TINY = Width(48, 2, 96, 3)
MODEL = "wan22_14b_t2v"
ALLOWED_GROWTH = 20 << 20  # bytes
KINDS = (
    "ai-toolkit",
    "ai-toolkit dora",
    "ai-toolkit lokr, w2 factored",
    "ai-toolkit full rank",
    "full layers",
    "musubi",
    "lightx2v",
)


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for number, kind in enumerate(KINDS):
        FORMATS[kind](TINY).save(folder / f"{number}.safetensors")
    write_lora(folder / "rank64.safetensors", rank=64, scale=0.05, seed=5)
    write_lora(folder / "rank4.safetensors", seed=6)
    write_lora(folder / "wide.safetensors", width=64, ffn=128)
    (folder / "combined.safetensors").write_bytes((GOLDEN_LORAS / "job_combined.safetensors").read_bytes())
    for side in ("high", "low"):
        name = f"job_{side}_noise.safetensors"
        (folder / name).write_bytes((GOLDEN_LORAS / name).read_bytes())
    return folder


def request(items: list[dict[str, Any]], model: str = MODEL, recipe: str = "reference", **top: Any) -> dict[str, Any]:
    prompt = {"prompt": "a cat", "width": 64, "height": 64, "num_frames": 1, "sample_steps": 2}
    return {"model": model, "recipe": recipe, "prompts": [prompt], "loras": items, "first_step_change": False, **top}


def drawn(rng: random.Random, names: list[str]) -> dict[str, Any]:
    """A request over both slots: each empty or one file at some scale, in one of the recipes."""
    items = [
        {"path": rng.choice(names), "transformer": slot, "network_multiplier": rng.choice([-0.5, 0.0, 0.3, 1.0])}
        for slot in ("high", "low")
        if rng.random() < 0.8
    ]
    return request(items, recipe=rng.choice(["reference", "preview"]))


@pytest.mark.parametrize("switches", [10, pytest.param(200, marks=pytest.mark.soak)])
def test_switches(engine: Engine, loras: Path, switches: int) -> None:
    names = [f"{number}.safetensors" for number in range(len(KINDS))] + ["rank64.safetensors", "rank4.safetensors"]
    names.append("combined.safetensors")
    rng = random.Random(0)
    base = frames(engine, request([]))
    for _ in range(10):
        frames(engine, drawn(rng, names))
    gc.collect()
    loads, before = engine.loader.statistics.loads, psutil.Process().memory_info().rss
    seen: list[tuple[dict[str, Any], np.ndarray]] = []
    for number in range(switches):
        body = drawn(rng, names)
        made = frames(engine, body)
        if number % (switches // 5) == 0:
            seen.append((body, made))
    gc.collect()
    assert engine.loader.statistics.loads == loads
    assert psutil.Process().memory_info().rss - before < ALLOWED_GROWTH
    assert np.array_equal(frames(engine, request([])), base)
    for body, made in seen:
        fresh = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
        assert np.array_equal(frames(fresh, body), made)
        fresh.close()


@pytest.mark.parametrize("recipe", ["reference", "preview"])
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_multiplier_zero_is_no_lora(engine: Engine, kind: int, recipe: str) -> None:
    base = frames(engine, request([], recipe=recipe))
    item = {"path": f"{kind}.safetensors", "transformer": "high"}
    assert not np.array_equal(frames(engine, request([{**item, "network_multiplier": 1.0}], recipe=recipe)), base)
    assert np.array_equal(frames(engine, request([{**item, "network_multiplier": 0.0}], recipe=recipe)), base)


def test_a_combined_file_is_its_pair(engine: Engine) -> None:
    high: dict[str, Any] = {"path": "job_high_noise.safetensors", "transformer": "high"}
    low: dict[str, Any] = {"path": "job_low_noise.safetensors", "transformer": "low"}
    pair = frames(engine, request([high, low]))
    both: dict[str, Any] = {"path": "combined.safetensors"}
    assert np.array_equal(frames(engine, request([both])), pair)
    assert np.array_equal(frames(engine, request([{**both, "transformer": "high"}])), pair)
    assert np.array_equal(frames(engine, request([{**both, "transformer": "high"}, low])), pair)
    only_high = [{**both, "transformer": "high"}, {**both, "transformer": "low", "network_multiplier": 0.0}]
    assert np.array_equal(frames(engine, request(only_high)), frames(engine, request([high])))


def test_a_stack_needs_the_word(engine: Engine) -> None:
    two: list[dict[str, Any]] = [{"path": "rank4.safetensors"}, {"path": "rank64.safetensors"}]
    with pytest.raises(SingleLoraOnly):
        engine.generate(request(two, "wan21_1b"))
    stacked = frames(engine, request(two, "wan21_1b", stack=True))
    assert not np.array_equal(stacked, frames(engine, request(two[:1], "wan21_1b")))
    high = [{**item, "transformer": "high"} for item in two]
    with pytest.raises(SingleMoeConfigOnly):
        engine.generate(request(high))
    (clip,) = engine.generate(request(high, stack=True))
    assert clip.metadata["lora"]["high"]["modules_in_use"] == 60
    with pytest.raises(MoeFormatRequired):
        engine.generate(request(two))


def test_the_effect_is_reported(engine: Engine) -> None:
    items = [{"path": "6.safetensors", "transformer": "high"}]
    (clip,) = engine.generate({**request(items), "first_step_change": True})
    report = clip.metadata["lora"]["high"]
    assert report["modules_in_use"] == report["modules_in_file"] > 30
    assert 0 < report["weight_change"]["median"] <= report["weight_change"]["max"]
    assert report["first_step_change"] > 0
    assert report["files"][0]["applied"] == "adapter and merged"


class TestFaultsOfThePublicServer:
    """Four LoRA faults of the server this project follows, as they must not be here."""

    def test_switching_files_on_wan_21_does_not_reload(self, engine: Engine) -> None:
        frames(engine, request([{"path": "rank4.safetensors"}], "wan21_14b"))
        loads = engine.loader.statistics.loads
        frames(engine, request([{"path": "0.safetensors"}], "wan21_14b"))
        assert engine.loader.statistics.loads == loads

    def test_load_at_half_then_whole_changes_the_video(self, engine: Engine) -> None:
        def at(scale: float) -> np.ndarray:
            return frames(engine, request([{"path": "rank4.safetensors", "network_multiplier": scale}], "wan21_1b"))

        assert not np.array_equal(at(0.5), at(1.0))

    def test_no_lora_after_one_is_the_base(self, engine: Engine) -> None:
        base = frames(engine, request([], "wan21_1b"))
        frames(engine, request([{"path": "rank4.safetensors"}], "wan21_1b"))
        assert np.array_equal(frames(engine, request([], "wan21_1b")), base)

    def test_a_first_lora_above_rank_32_works(self, loras: Path) -> None:
        fresh = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
        first = frames(fresh, request([{"path": "rank64.safetensors"}], "wan21_1b"))
        then = frames(fresh, request([{"path": "rank4.safetensors"}], "wan21_1b"))
        assert not np.array_equal(first, then)
        fresh.close()


def test_a_misfit_is_refused_before_anything_is_loaded(loras: Path) -> None:
    fresh = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    with pytest.raises(LoraMismatch):
        fresh.generate(request([{"path": "wide.safetensors"}], "wan21_1b"))
    assert fresh.loader.statistics.loads == 0
    fresh.close()
