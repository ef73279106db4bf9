"""Speed LoRAs: the table against the schema, files found and refused, and frames as with the same files stacked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden_cases import GOLDEN, differences
from wan_ui import Engine
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.errors import InvalidRequest, LoraNotFound
from wan_ui.identity import Identity
from wan_ui.intake import PreparedRequest, prepare
from wan_ui.job import generation_body, generation_from
from wan_ui.lora import hash_cache
from wan_ui.lora.hub import hub_file
from wan_ui.lora.library import Library
from wan_ui.lora.remote import RemoteFiles
from wan_ui.lora.speed_files import find_speed_file, speed_lora_bodies
from wan_ui.media.image import ImageStore
from wan_ui.models import MODELS
from wan_ui.request import PromptItem, parse, resolve
from wan_ui.speed_loras import SPEED_LORAS, SpeedLora, of_model
from wan_ui.wire import in_full, wire_form

FOLDER = GOLDEN / "generation"
PAIR, ONE = "wan22_14b_t2v", "wan21_14b"
LIGHTNING = SPEED_LORAS["lightning_22_t2v"]
GUEST = Access(Identity(visitor="a" * 32, owner=False), shared=False)


def own_name(speed: SpeedLora, slot: str) -> str:
    return speed.files[slot].hub.rpartition("/")[2]


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The goldens' LoRAs; the tiny speed files have the names of the published ones."""
    folder = tmp_path_factory.mktemp("loras")
    for name in ("t2v", "job_high_noise", "job_low_noise"):
        shutil.copy(FOLDER / "loras" / f"{name}.safetensors", folder)
    (folder / "wan").mkdir()
    for slot in ("high", "low"):
        shutil.copy(FOLDER / "loras" / f"speed_t2v_{slot}.safetensors", folder / "wan" / own_name(LIGHTNING, slot))
    older = folder / "lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64_bf16.safetensors"
    shutil.copy(FOLDER / "loras" / "speed_t2v.safetensors", older)
    return folder


def golden(name: str) -> tuple[dict[str, Any], np.ndarray]:
    cases = json.loads((FOLDER / "cases.json").read_text())
    case = next(case for case in cases if case["name"] == name)
    return case["request"], np.load(FOLDER / "frames" / f"{name}.npz")["frames"]


def fast(request: dict[str, Any], speed: str, **fields: Any) -> dict[str, Any]:
    """A golden's request with a speed LoRA in place of what it spells out."""
    own = [item for item in request["loras"] if not item["path"].startswith("speed_")]
    kept = {name: request["prompts"][0][name] for name in ("prompt", "neg", "width", "height", "seed", "num_frames")}
    return {**request, "prompts": [{**kept, **fields}], "loras": own, "speed_lora": speed, "stack": False}


@pytest.mark.parametrize("speed", SPEED_LORAS.values(), ids=lambda speed: speed.id)
def test_the_table_fits_the_schema(speed: SpeedLora) -> None:
    item = PromptItem.model_validate({"prompt": "a fox", **speed.settings})
    assert item.guidance_scale == 1 and item.sampler == speed.sampler
    assert speed.models and speed.source
    for name in speed.models:
        assert set(speed.files) == set(MODELS[name].slots)
        assert speed in of_model(MODELS[name])
    for slot, file in speed.files.items():
        assert hub_file(file.hub).repo
        assert -4 <= file.scale <= 4
        assert file.matches(f"any/{own_name(speed, slot).upper()}") == 0
        assert file.matches(own_name(speed, slot) + ".part") is None
        for other in SPEED_LORAS.values():
            matched = [own for own, one in other.files.items() if one.matches(own_name(speed, slot)) is not None]
            assert matched == ([slot] if other is speed else [])


def test_names_that_the_files_have_elsewhere() -> None:
    low = LIGHTNING.files["low"]
    assert low.matches("Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1/low_noise_model.safetensors") == 1
    assert low.matches("Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1_low_noise_model.safetensors") == 1
    assert low.matches("Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1/low_noise_model.safetensors") is None
    assert low.matches("low_noise_model.safetensors") is None


@pytest.mark.slow
def test_frames_are_those_of_the_same_files_stacked(engine: Engine) -> None:
    request, frames = golden("speed_wan22_t2v")
    (clip,) = engine.generate(fast(request, LIGHTNING.id))
    mean, most = differences(clip.frames, frames)
    assert mean <= 0.1 and most <= 2
    facts = clip.metadata["speed_lora"]
    assert (facts["id"], facts["fast_look"], facts["own_values"]) == (LIGHTNING.id, True, {})
    assert facts["settings"] == LIGHTNING.settings
    assert clip.metadata["replaced"] == {"speed_lora": LIGHTNING.id, "sampler": "euler", "flow_shift": 5.0}
    files = clip.metadata["lora"]["high"]["files"]
    assert [file["name"] for file in files] == ["job_high_noise.safetensors", own_name(LIGHTNING, "high")]


@pytest.mark.slow
def test_switching_to_the_full_video_and_back_loads_nothing(engine: Engine) -> None:
    request, _ = golden("speed_wan22_t2v")
    look = {**fast(request, LIGHTNING.id), "first_step_change": False}
    full = in_full(look)
    assert "speed_lora" not in full and full["prompts"] == look["prompts"]
    full["prompts"] = [{**full["prompts"][0], "sample_steps": 3}]
    look["prompts"] = [{**look["prompts"][0], "sample_steps": 2}]
    first = [engine.generate(body)[0].frames for body in (look, full)]
    loads = engine.loader.statistics.loads
    again = [engine.generate(body)[0].frames for body in (look, full, look)]
    assert engine.loader.statistics.loads == loads
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert np.array_equal(again[0], again[2]) and not np.array_equal(again[0], again[1])


# Without an engine


def body(speed: str = "lightx2v_21_t2v", model: str = ONE, **fields: Any) -> dict[str, Any]:
    return {"model": model, "prompts": [{"prompt": "a fox", "width": 64, "height": 64, **fields}], "speed_lora": speed}


def without_fit(header: Any, model: Any, slot: str, config: Any) -> tuple[str, ...]:
    return ()


@pytest.fixture
def library(loras: Path, tmp_path: Path) -> Library:
    return Library(loras, tmp_path / "uploads", RemoteFiles(tmp_path / "uploads"))


def test_settings_fill_what_is_left_out_and_own_values_win(loras: Path) -> None:
    asked = parse(body(guidance_scale=3, sampler=None))
    (generation,) = resolve(asked, str, speed_files={"single": "fast.safetensors"})
    assert (generation.sample_steps, generation.guidance_scale) == (4, 3)
    assert (generation.sampler, generation.flow_shift, generation.speed_lora) == ("euler", 5, "lightx2v_21_t2v")
    assert [(use.path, use.scale, use.is_speed) for use in generation.loras] == [("fast.safetensors", 1, True)]
    assert generation_from(json.loads(json.dumps(generation_body(generation)))) == generation
    wire = wire_form(asked)
    assert wire["prompts"][0]["guidance_scale"] == 3 and "sample_steps" not in wire["prompts"][0]
    assert resolve(parse(wire), str, speed_files={"single": "fast.safetensors"}) == (generation,)
    (full,) = resolve(parse(in_full(wire)), str)
    assert (full.sample_steps, full.guidance_scale, full.sampler, full.loras) == (25, 3, None, ())


def test_a_speed_lora_of_another_model_is_refused_by_name() -> None:
    for speed in ("lightning_22_t2v", "no such"):
        with pytest.raises(InvalidRequest, match="is no speed LoRA of this model; known: lightx2v_21_t2v") as raised:
            resolve(parse(body(speed)), str)
        assert raised.value.details["fields"][0]["loc"] == "speed_lora"


def test_files_are_found_by_name_or_content_else_downloaded(library: Library, loras: Path, tmp_path: Path) -> None:
    found = prepare_without_fit(library, tmp_path, body(LIGHTNING.id, PAIR))
    assert [use.path for use in found.generations[0].loras] == [
        f"wan/{own_name(LIGHTNING, slot)}" for slot in ("high", "low")
    ]
    assert found.awaited == ()
    to_fetch = prepare_without_fit(library, tmp_path, body("distill_22_t2v", PAIR))
    hubs = tuple(file.hub for file in SPEED_LORAS["distill_22_t2v"].files.values())
    assert to_fetch.awaited == hubs
    notes = " ".join(prepare_without_fit(library, tmp_path, body(guidance_scale=4, neg="blurry")).notes)
    assert "A fast look with LightX2V 4 steps (2.1 T2V 14B), 4 steps." in notes
    assert "The request's own values in place of the speed LoRA's: guidance_scale 4" in notes
    assert "negative prompt does nothing" in " ".join(prepare_without_fit(library, tmp_path, body(neg="blurry")).notes)


def prepare_without_fit(
    library: Library, tmp_path: Path, asked: dict[str, Any], access: Access = LOCAL_ACCESS
) -> PreparedRequest:
    images = ImageStore(tmp_path / "images", lambda url: b"")
    return prepare(asked, library, images, lambda model, component: None, access, check_fit=without_fit)


def test_content_under_another_name(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    shutil.copy(FOLDER / "loras" / "speed_i2v21.safetensors", folder / "renamed.safetensors")
    library = Library(folder, tmp_path / "uploads", RemoteFiles(tmp_path / "uploads"))
    known = library.locate("renamed.safetensors", LOCAL_ACCESS).sha256
    file = replace(SPEED_LORAS["lightx2v_21_i2v"].files["single"], sha256=known)
    assert find_speed_file(file, library, LOCAL_ACCESS, library.listing()) == "renamed.safetensors"
    assert find_speed_file(replace(file, sha256="0" * 64), library, LOCAL_ACCESS, library.listing()) is None


def test_guests_use_what_is_here(library: Library, loras: Path, tmp_path: Path) -> None:
    assert prepare_without_fit(library, tmp_path, body(), GUEST).awaited == ()
    with pytest.raises(LoraNotFound, match="its owner alone may download it"):
        prepare_without_fit(library, tmp_path, body("distill_22_t2v", PAIR), GUEST)
    open_library = Library(loras, tmp_path / "uploads", RemoteFiles(tmp_path / "uploads"), guest_downloads=True)
    assert len(prepare_without_fit(open_library, tmp_path, body("distill_22_t2v", PAIR), GUEST).awaited) == 2


def test_the_same_content_beside_it_is_refused(library: Library, loras: Path, tmp_path: Path) -> None:
    shutil.copy(FOLDER / "loras" / "speed_t2v.safetensors", loras / "copy.safetensors")
    for path in ("copy.safetensors", "lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64_bf16.safetensors"):
        with pytest.raises(InvalidRequest, match="is the file of the speed LoRA lightx2v_21_t2v"):
            prepare_without_fit(library, tmp_path, {**body(), "loras": [{"path": path}]})
    (loras / "copy.safetensors").unlink()
    beside = prepare_without_fit(library, tmp_path, {**body(), "loras": [{"path": "t2v.safetensors"}]})
    assert len(beside.generations[0].loras) == 2


def test_the_published_content_beside_it_is_refused_before_and_after_its_hash_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = SPEED_LORAS["lightx2v_21_i2v"].files["single"].sha256
    monkeypatch.setattr(hash_cache, "read_sha256", lambda path: published)  # as if it were that file
    (tmp_path / "loras").mkdir()
    for name in ("mine", "same"):
        shutil.copy(FOLDER / "loras" / "speed_i2v21.safetensors", tmp_path / "loras" / f"{name}.safetensors")
    library = Library(tmp_path / "loras", tmp_path / "uploads", RemoteFiles(tmp_path / "uploads"))
    asked = body("lightx2v_21_i2v", "wan21_i2v_14b", ctrl_img="upload://" + "0" * 64)
    assert library.unread() == ("mine.safetensors", "same.safetensors")
    for path in ("mine.safetensors", "mine.safetensors", "same.safetensors"):
        with pytest.raises(InvalidRequest, match="is the file of the speed LoRA lightx2v_21_i2v"):
            prepare_without_fit(library, tmp_path, {**asked, "loras": [{"path": path}]})
    assert library.unread() == ()


def test_a_comparison_keeps_it_in_every_cell(library: Library, tmp_path: Path) -> None:
    compare = {"columns": {"field": "sample_steps", "values": [2, 8]}, "rows": {"field": "scale", "values": [1]}}
    asked = {**body(), "loras": [{"path": "t2v.safetensors"}], "compare": compare}
    made = prepare_without_fit(library, tmp_path, asked)
    assert sorted((one.sample_steps, len(one.loras)) for one in made.generations) == [(2, 1), (2, 2), (8, 1), (8, 2)]
    assert all(one.loras[-1].is_speed and one.sampler == "euler" for one in made.generations)
    wires = [cell.request for cell in made.cells]
    assert all("guidance_scale" not in wire["prompts"][0] and wire["speed_lora"] for wire in wires)


def test_the_list_says_what_is_here(library: Library) -> None:
    for access, absent in ((LOCAL_ACCESS, "download"), (GUEST, "missing")):
        bodies = {each["id"]: each for each in speed_lora_bodies(library, access)}
        assert list(bodies) == list(SPEED_LORAS)
        assert bodies[LIGHTNING.id]["availability"] == "here"
        assert bodies[LIGHTNING.id]["files"][0]["path"] == f"wan/{own_name(LIGHTNING, 'high')}"
        assert bodies["fastwan_22_5b"]["availability"] == absent
        assert bodies["fastwan_22_5b"]["files"][0]["path"] is None
