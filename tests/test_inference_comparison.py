"""Comparisons on real pipelines: no cell's frames tell that it was made beside others, and no work is done twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.test_pipeline import as_base64, first_frame, request, short
from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from tests.sampling import sampled
from wan_ui import Engine
from wan_ui.access import LOCAL_ACCESS
from wan_ui.engine.result import Clip, Progress
from wan_ui.errors import InvalidRequest, LoraMismatch, LoraNotFound
from wan_ui.intake import PreparedRequest, prepare
from wan_ui.models import MODELS

pytestmark = pytest.mark.slow
PAIR = "wan22_14b_t2v"
ONE = "wan21_1b"
SPLIT_STEPS = 6  # enough for both halves to have some
SHORT: dict[str, Any] = {"sample_steps": 2}
A, B = "a.safetensors", "b.safetensors"
CHECKED = int(os.environ.get("WAN_UI_CELLS", "4"))  # of so many cells one is rendered alone too; scripts/soak does all


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / A, seed=1)
    write_lora(folder / B, seed=2)
    write_lora(folder / "wide.safetensors", width=64, ffn=128)
    return folder


@pytest.fixture(scope="module")
def alone(loras: Path) -> Iterator[Engine]:
    """For single requests: its model is freed after each, so that no two have anything in common."""
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    yield engine
    engine.close()


def compared(body: dict[str, Any], columns: Any, rows: Any = None, baseline: bool = True) -> dict[str, Any]:
    """The request to compare; `columns` and `rows` as (field, values)."""
    axes = {"columns": columns, "rows": rows}
    named = {name: {"field": axis[0], "values": axis[1]} for name, axis in axes.items() if axis is not None}
    return {**body, "compare": {**named, "baseline": baseline}}


def prepared(engine: Engine, body: dict[str, Any]) -> PreparedRequest:
    return prepare(body, engine.library, engine.images, engine.checkpoints.transformer_config, LOCAL_ACCESS)


def equal_to_single_requests(engine: Engine, alone: Engine, body: dict[str, Any]) -> list[Clip]:
    """The grid's clips, after those of every CHECKED-th cell were found equal to the cell's request run alone."""
    clips = engine.generate(body)
    cells = prepared(alone, body).cells
    assert len(cells) == len(clips)
    singles: dict[int, Clip] = {}
    for cell, clip in islice(zip(cells, clips, strict=True), None, None, CHECKED):
        if cell.generation not in singles:
            # The images were taken in by prepared(); the cell names them by what they hold.
            (singles[cell.generation],) = alone.generate(cell.request)
            alone.core.close()
        assert np.array_equal(clip.frames, singles[cell.generation].frames), (cell.column_label, cell.row_label)
        assert clip.seed == singles[cell.generation].seed
    return clips


@pytest.mark.parametrize(("model", "recipe"), sampled(2, MODELS, ["reference", "preview"]))
def test_a_cells_frames_are_those_of_its_request_alone(engine: Engine, alone: Engine, model: str, recipe: str) -> None:
    pair = MODELS[model].two_transformers
    steps = SPLIT_STEPS if pair else 2
    body = short(model, recipe, {A: 1.0, B: 1.0}, sample_steps=steps)
    axis = ("scale_low", [0.3, 1]) if pair else ("scale", [0.3, 1])
    engine.loader.forwards.clear()
    clips = equal_to_single_requests(engine, alone, compared(body, axis, ("seed", [1, 2])))
    forwards = engine.loader.forwards
    assert len(clips) == 6
    assert len({clip.frames.tobytes() for clip in clips}) == 6
    if pair:  # of three columns two share their high-noise steps
        high, low = forwards["transformer"] // 4, forwards["transformer_2"] // 6
        assert (high + low, high * 4, low * 6) == (steps * 2, *(forwards[part] for part in sorted(forwards)))
        assert 0 < low < steps * 2
    else:
        assert sum(forwards.values()) == 6 * steps * 2


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (("recipe", ["reference", "preview"]), ("scale", [0, 0.5])),
        (("num_frames", [1, 5, 9]), ("guidance_scale", [1, 4])),
        (("prompt", ["a cat", "a dog"]), ("sample_steps", [1, 2])),
        (("lora", [A, B, A]), ("scale", [0.5, 1])),
    ],
)
def test_every_field_and_still_the_same_frames(engine: Engine, alone: Engine, columns: Any, rows: Any) -> None:
    body = short(ONE, loras={A: 1.0}, **SHORT)
    equal_to_single_requests(engine, alone, compared(body, columns, rows))


def test_pairs_of_files_on_two_transformers(engine: Engine, alone: Engine) -> None:
    body = request(PAIR, loras={A: 1.0, B: 0.5}, num_frames=1, sample_steps=4)
    files = [{"high": A, "low": B}, {"high": B, "low": A}, {"high": A}, {"low": A}]
    equal_to_single_requests(engine, alone, compared(body, ("lora", files), ("scale_high", [0.4, 1])))


# Counted


@pytest.mark.parametrize("recipe", ["reference", "preview"])
def test_four_low_scales_pay_for_the_high_steps_once(loras: Path, recipe: str) -> None:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    body = short(PAIR, recipe, {A: 1.0, B: 1.0}, sample_steps=SPLIT_STEPS)
    engine.generate({**body, "first_step_change": False})
    forwards = dict(engine.loader.forwards)
    high, low = forwards["transformer"] // 2, forwards["transformer_2"] // 2
    assert high > 0 and low > 0 and high + low == SPLIT_STEPS
    loads = engine.loader.statistics.names
    engine.close()
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    clips = engine.generate(compared(body, ("scale_low", [0.25, 0.5, 0.75, 1]), baseline=False))
    assert len(clips) == 4
    assert sum(engine.loader.forwards.values()) == high * 2 + 4 * low * 2
    assert engine.loader.statistics.names == loads  # as often as for a single request
    assert engine.loader.prompts.encodes == 2  # the prompt and the negative one
    engine.close()


def test_each_text_frame_file_and_model_once(loras: Path) -> None:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    notes: list[str] = []

    def hear(progress: Progress) -> None:
        notes.append(progress.note if progress.phase == "lora" else progress.phase)

    body = request("wan21_i2v_14b480p", loras={A: 1.0}, ctrl_img=as_base64(first_frame()), **SHORT)
    clips = engine.generate(compared(body, ("lora", [A, B]), ("prompt", ["a cat", "a dog"])), hear)
    assert len(clips) == 6 and len({clip.frames.tobytes() for clip in clips}) == 6
    assert engine.loader.prompts.encodes == 3  # two prompts and the negative one
    assert engine.loader.frames.encodes == 2  # once by the VAE, once by CLIP
    assert notes.count("Loading LoRA") == 2
    loads = engine.loader.statistics.loads
    assert len(set(engine.loader.statistics.names)) == loads
    engine.generate(compared(body, ("seed", [1, 2])))
    assert engine.loader.statistics.loads == loads  # no load between cells, nor between grids
    assert engine.loader.frames.encodes == 2
    engine.close()


# Through Engine


def test_cells_come_row_by_row_and_equal_ones_are_one(engine: Engine) -> None:
    body = short(ONE, loras={A: 1.0}, **SHORT)
    engine.loader.forwards.clear()
    clips = engine.generate(compared(body, ("scale", [0, 1, 1]), ("seed", [7, 8])))
    assert [clip.seed for clip in clips] == [7, 7, 7, 7, 8, 8, 8, 8]
    assert clips[0] is clips[1] and clips[2] is clips[3] and clips[0] is not clips[2]
    assert sum(engine.loader.forwards.values()) == 4 * SHORT["sample_steps"] * 2
    (only,) = engine.generate({**body, "compare": {}})
    assert np.array_equal(only.frames, engine.generate(body)[0].frames)


@pytest.mark.parametrize(
    ("columns", "error", "named"),
    [
        (("scale", [0.5, 4.5]), InvalidRequest, "4.5"),
        (("seed", [1, "two"]), InvalidRequest, "two"),
        (("lora", [A, "gone.safetensors"]), LoraNotFound, "gone.safetensors"),
        (("lora", [A, "wide.safetensors"]), LoraMismatch, "wide.safetensors: "),
        (("lora", [A, "../a.safetensors"]), LoraNotFound, r"\.\./a"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_runs(engine: Engine, columns: Any, error: Any, named: str) -> None:
    before = dict(engine.loader.forwards)
    with pytest.raises(error, match=named):
        engine.generate(compared(short(ONE, loras={A: 1.0}, **SHORT), columns))
    assert dict(engine.loader.forwards) == before
