"""The trained demo: every model's files, and a cheap sample of what `python -m tools.demo_evaluate` measures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sampling import sampled
from tools import demo_evaluate as evaluate
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.demo import trained
from wan_ui.demo.checkpoints import Demo
from wan_ui.inference import Engine
from wan_ui.lora.header import read_header
from wan_ui.models import MODELS
from wan_ui.trainer.job import import_job

LARGEST = 45e6  # bytes in the repository
KINDS = ("wan21_1b", "wan22_5b", "wan22_14b_i2v", "wan21_i2v_14b")  # a model of each transformer

STEPS = 8  # fewer than the form starts with, and as good where only colour, motion and look are read


@pytest.fixture(scope="module")
def engine(trained_demo: Demo) -> Iterator[Engine]:
    engine = Engine(trained_demo.models_dir, trained_demo.lora_dir, "cpu")
    yield engine
    engine.close()


def test_the_packed_weights_are_small_and_laid_out_without_more(tmp_path: Path) -> None:
    assert sum(path.stat().st_size for path in trained.WEIGHTS.rglob("*") if path.is_file()) < LARGEST
    trained.write_trained(tmp_path / "demo")
    assert (tmp_path / "demo" / "first_frame.png").is_file()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_row_finds_its_files_and_takes_its_loras(trained_demo: Demo, model) -> None:
    found = Checkpoints(trained_demo.models_dir, offline=True)
    for component in model.components:
        assert found.component(model, component).size > 0
    for use in evaluate.attached(model, 1.0):
        config = found.transformer_config(model, model.slots[use.get("transformer", "single")])
        assert config is not None
        hidden = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
        assert read_header(trained_demo.lora_dir / use["path"]).hidden == hidden


def test_the_job_folder_has_four_saves_by_step_and_a_sample_of_each(trained_demo: Demo) -> None:
    job = trained_demo.lora_dir / "rings_job"
    assert [read_header(file).step for file in sorted(job.glob("*.safetensors"))] == [2000, 500, 1000, 1500]
    assert (job / "config.yaml").is_file()
    made = import_job((job / "config.yaml").read_text(), header=read_header(job / "rings_job.safetensors"))
    assert (made.model, made.recipe, made.unknown, made.notes) == ("wan21_1b", "preview", {}, ())
    steps = {int(file.stem.split("__")[1].split("_")[0]) for file in (job / "samples").glob("*.webp")}
    assert steps == {0, 500, 1000, 1500, 2000}


def test_what_is_measured_is_every_row_its_lora_and_every_save_of_the_job() -> None:
    text_and_image = evaluate.row_settings(MODELS["wan22_5b"], 100, 40)
    assert [(one.name, one.count, one.trigger, one.image) for one in text_and_image[:6]] == [
        ("base", 100, False, False),
        ("lora 0", 40, True, False),
        ("lora 0.5", 40, True, False),
        ("lora 1", 40, True, False),
        ("lora 1, no trigger", 40, False, False),
        ("base, first frame", 100, False, True),
    ]
    assert [one.name for one in evaluate.row_settings(MODELS["wan21_1b"], 100, 0)] == ["base"]
    assert len({use["path"] for one in evaluate.job_settings(40) for use in one.loras}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("model", sampled(2, KINDS))
def test_most_clips_show_what_the_prompt_says(engine: Engine, model: str) -> None:
    wan_model, cases = MODELS[model], evaluate.cases(2)
    image = wan_model.control_image != "none"
    clips = [clip.frames for clip in engine.generate(evaluate.body(wan_model, cases, image, sample_steps=STEPS))]
    found = evaluate.figures(clips, cases, image)
    assert found["colour"] >= 0.8 and found["motion"] >= 0.8 and found["background"] >= 0.8, found
    assert found["new_look"] <= 0.2 and found.get("first_frame_db", 99) >= 28, found


@pytest.mark.slow
def test_the_new_look_comes_with_the_lora_and_the_trigger_word_alone(engine: Engine) -> None:
    model = MODELS["wan22_5b"]
    looks = {}
    for label, scale, trigger in (("off", 0.0, True), ("on", 1.0, True), ("unsaid", 1.0, False)):
        cases = evaluate.cases(3, trigger)
        body = evaluate.body(model, cases, False, evaluate.attached(model, scale), sample_steps=STEPS)
        clips = [clip.frames for clip in engine.generate(body)]
        looks[label] = evaluate.figures(clips, cases, False)["new_look"]
    assert looks["on"] >= 0.6 and looks["off"] <= 0.2 and looks["unsaid"] <= 0.2, looks


@pytest.mark.soak
def test_the_last_save_of_the_job_draws_clearer_rings_than_the_first(engine: Engine) -> None:
    first, *_, last = (replace(one, count=4) for one in evaluate.job_settings(4))
    early, late = (evaluate.measure(engine, one, None)[one.name]["strength"] for one in (first, last))
    assert late > early + 0.1, (early, late)


@pytest.mark.soak
def test_the_figures_are_printed_and_written_by_several_processes(trained_demo: Demo, tmp_path: Path, capfd) -> None:
    file, sheets = tmp_path / "figures.json", tmp_path / "sheets"
    data_dir = str(trained_demo.models_dir.parent.parent)
    evaluate.main(["--data-dir", data_dir, "--rows", "wan22_5b", "--prompts", "2", "--lora-prompts", "0", "--device",
                   "cpu", "--workers", "2", "--json", str(file), "--sheets", str(sheets)])  # fmt: skip
    found = json.loads(file.read_text())
    assert set(found["wan22_5b"]) == {"base", "base, first frame"} and min(found["vae"].values()) >= 30
    assert "base, first frame" in capfd.readouterr().out
    assert len(list(sheets.iterdir())) == 2
