"""Work that two runs have in common is done once, and no frame tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.test_pipeline import first_frame, frames, request, short
from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from tests.sampling import sampled
from wan_ui import Engine
from wan_ui.models import MODELS

pytestmark = pytest.mark.slow
STEPS = 6
PAIRS = [model.id for model in MODELS.values() if model.two_transformers]


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / "a.safetensors", seed=1)
    write_lora(folder / "b.safetensors", seed=2)
    return folder


@pytest.fixture
def engine(loras: Path) -> Iterator[Engine]:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    yield engine
    engine.close()


def pair(model: str, low: float, recipe: str = "reference", **fields: Any) -> dict[str, Any]:
    body = short(model, recipe, {"a.safetensors": 1.0, "b.safetensors": low}, sample_steps=STEPS, **fields)
    return {**body, "first_step_change": False}


def fresh(loras: Path, body: dict[str, Any]) -> np.ndarray:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    made = frames(engine, body)
    engine.close()
    return made


@pytest.mark.parametrize(("model", "recipe"), sampled(2, PAIRS, ["reference", "preview"]))
def test_runs_that_differ_in_the_low_side_share_the_high_steps(
    engine: Engine, loras: Path, model: str, recipe: str
) -> None:
    made = [frames(engine, pair(model, low, recipe)) for low in (0.2, 0.5, 0.0, 1.0)]
    forwards = engine.loader.forwards
    high, low = forwards["transformer"], forwards["transformer_2"]
    assert high + low // 4 == STEPS * 2 and low % 4 == 0
    assert 0 < high < STEPS * 2
    assert np.array_equal(made[3], fresh(loras, pair(model, 1.0, recipe)))
    assert np.array_equal(made[2], fresh(loras, pair(model, 0.0, recipe)))
    assert not np.array_equal(made[0], made[1])


def test_a_clip_says_how_many_steps_it_shared(engine: Engine) -> None:
    alone, after = (engine.generate(pair("wan22_14b_t2v", low))[0].metadata["steps"] for low in (0.2, 0.5))
    high = alone["high_noise"]
    assert alone == {"total": STEPS, "high_noise": high}
    assert after == {"total": STEPS, "high_noise": high, "shared": high}
    assert engine.loader.forwards["transformer"] == 2 * high


def test_a_run_that_differs_elsewhere_does_not_share(engine: Engine, loras: Path) -> None:
    model = "wan22_14b_t2v"
    frames(engine, pair(model, 1.0))
    for other in (
        pair(model, 1.0, seed=43),
        pair(model, 1.0, guidance_scale=3.0),
        pair(model, 1.0, prompt="a blue square"),
        pair(model, 1.0, width=128),
        pair(model, 1.0, "preview"),
    ):
        assert np.array_equal(frames(engine, other), fresh(loras, other))


@pytest.mark.parametrize("model", [wan_model.id for wan_model in MODELS.values() if wan_model.control_image != "none"])
def test_a_first_frame_is_encoded_once(engine: Engine, model: str) -> None:
    import base64
    import io

    buffer = io.BytesIO()
    first_frame().save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    made = [frames(engine, request(model, ctrl_img=image, seed=seed, guidance_scale=2.0)) for seed in (1, 2)]
    encoders = 2 if MODELS[model].image_layers else 1
    assert engine.loader.frames.encodes == encoders
    assert not np.array_equal(made[0], made[1])
