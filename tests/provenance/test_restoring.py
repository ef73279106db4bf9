"""Form to MP4 to form: every field of a request, all models, comparisons; and files that say something else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import BaseModel

from tests.fakes import FakeRender
from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from tests.mp4_boxes import box, carrying, mp4
from wan_ui import __version__
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.api.comparisons import board
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.errors import CheckpointIncomplete, CheckpointNotFound, ControlImageInvalid, VideoInvalid
from wan_ui.identity import Identity
from wan_ui.job import Job
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Render, Worker
from wan_ui.lora.library import Library
from wan_ui.lora.remote import RemoteFiles
from wan_ui.media import grid, video
from wan_ui.media.image import ImageStore
from wan_ui.models import MODELS, RecipeId, WanModel
from wan_ui.provenance import embedded_metadata, restoring
from wan_ui.provenance.restoring import Environment, installed
from wan_ui.request import (
    FOREIGN_FIELDS,
    FOREIGN_PROMPT_FIELDS,
    Axis,
    Compare,
    InferenceRequest,
    LoraItem,
    PromptItem,
)
from wan_ui.ui import form_schema

PATIENCE = 120.0
PAIR = ("fox_high_noise.safetensors", "fox_low_noise.safetensors")
STACK = tuple(f"extra_{letter}.safetensors" for letter in "abcdef")
TWO = next(row for row in MODELS.values() if row.two_transformers and row.control_image == "required")
ONE = next(row for row in MODELS.values() if not row.two_transformers and row.control_image == "none")
COMMIT = "1a2b3c4" + "0" * 33


def _no_fetch(url: str) -> bytes:
    raise AssertionError("these tests fetch nothing")


def png(shade: int = 80) -> bytes:
    kept = io.BytesIO()
    Image.new("RGB", (96, 64), (shade, 40, 200 - shade)).save(kept, "PNG")
    return kept.getvalue()


@dataclass
class Services:
    """A job service with real files, videos and store; `fresh` is another server that has seen none of them."""

    folder: Path
    service: JobService
    worker: Worker

    def made(self, body: Mapping[str, Any]) -> Job:
        """A finished job."""
        job = self.service.submit(body, LOCAL_ACCESS)
        assert self.worker.wait(job.id, PATIENCE)
        job = self.service.job(job.id, LOCAL_ACCESS)
        assert job.status == "succeeded", job.error
        return job

    def clip(self, job: Job, index: int = 0) -> Path:
        return self.service.clip_path(job.id, index, LOCAL_ACCESS)


Open = Callable[..., Services]


@pytest.fixture
def opened(tmp_path: Path, render: FakeRender) -> Iterator[Open]:
    """Opens opened_services, each in a folder of its own, over one fake render."""
    opened_services: list[tuple[Services, Store]] = []

    def begin(
        name: str = "services", here: Environment = restoring.UNKNOWN_ENVIRONMENT, work: Render = render
    ) -> Services:
        folder = tmp_path / name
        (folder / "loras").mkdir(parents=True)
        store = Store(folder / "jobs.sqlite")
        worker = Worker(store, work, folder / "clips", video.write)
        uploads = folder / "uploads"
        library = Library(folder / "loras", uploads, RemoteFiles(uploads), store)
        images = ImageStore(folder / "images", _no_fetch, owners=store)
        configs = Checkpoints(CHECKPOINTS).transformer_config
        environment = replace(here, transformer_config=configs)
        service = JobService(library, images, store, worker, folder, environment=environment)
        services = Services(folder, service, worker)
        opened_services.append((services, store))
        worker.start()
        return services

    yield begin
    for services, store in opened_services:
        assert services.worker.stop()
        store.close()


def with_pair(services: Services, *, moved: bool = False) -> Services:
    """The pair's files; `moved`: in a folder, under other names."""
    for seed, name in enumerate(PAIR):
        write_lora(services.folder / "loras" / (f"elsewhere/was_{name}" if moved else name), seed=seed)
    return services


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Every field

PROMPT: dict[str, Any] = {
    "prompt": "a [trigger] on ice; = # \\ \n é 漢字 🐈 'x' \"y\"",
    "trigger_word": "sks",
    "width": 100,
    "height": 72,
    "seed": 2**62 + 1,
    "sample_steps": 3,
    "guidance_scale": 2.125,
    "neg": "blurry, {low} 100%",
    "num_frames": 6,
    "fps": 23,
    "sampler": "euler",
    "flow_shift": 7.5,
}
LORAS: tuple[dict[str, Any], ...] = (
    {"path": PAIR[0], "transformer": "high", "network_multiplier": -0.35},
    {"path": "extra.safetensors", "transformer": "high", "network_multiplier": 1.05},
    {"path": PAIR[1], "transformer": "low", "network_multiplier": 0.0},
)
REQUEST: dict[str, Any] = {
    "model": TWO.id,
    "recipe": "preview",
    "trigger_word": "for all",
    "loras": LORAS,
    "stack": True,
    "vae_tiling": True,
    "apply_exif": True,
    "speedup": "none",
    "base": {"vae": "wan_2.1_vae.safetensors"},
    "first_step_change": False,
}
SMALLEST: dict[str, Any] = {"prompt": "x", "width": 64, "height": 64, "num_frames": 1, "sample_steps": 1}
COMPARE: dict[str, Any] = {
    "columns": {"field": "lora", "values": [PAIR[0], {"high": "other.safetensors", "low": PAIR[1]}]},
    "rows": {"field": "guidance_scale", "values": [1, 3.5]},
    "pages": {"field": "flow_shift", "values": [3, 5]},
    "baseline": False,
}
NOT_WITH_THAT_RECIPE = {"speedup", "speed_lora"}  # have tests of their own; tests/test_speed_loras.py
OF_SOME_MODELS = {"boundary", "switch_step", "guidance_scale_2", "ctrl_img_last"}  # tests/test_request.py
NEVER = {"training_sample"}  # its id would open an imported job to whoever holds the clip
FOREIGN = {"hf_token", *FOREIGN_FIELDS}  # these are not stored: tests/api/test_reference_client.py
FOREIGN_OF_A_PROMPT = set(FOREIGN_PROMPT_FIELDS)


def _left_out(schema: type[BaseModel], given: Mapping[str, Any]) -> set[str]:
    """Fields that the table has no value for, or only the one that a request has anyway."""
    return {name for name, one in schema.model_fields.items() if name not in given or given[name] == one.get_default()}


def test_a_new_field_needs_a_value_in_this_table() -> None:
    assert _left_out(PromptItem, {**PROMPT, "ctrl_img": "x"}) == NEVER | OF_SOME_MODELS | FOREIGN_OF_A_PROMPT
    assert _left_out(LoraItem, LORAS[0]) == set()
    assert _left_out(InferenceRequest, {**REQUEST, "prompts": (), "compare": COMPARE}) == NOT_WITH_THAT_RECIPE | FOREIGN
    assert _left_out(Compare, COMPARE) == set()
    assert _left_out(Axis, COMPARE["columns"]) == set()


@pytest.mark.slow
def test_every_field_comes_back(opened: Open) -> None:
    services = with_pair(opened())
    write_lora(services.folder / "loras" / "extra.safetensors", seed=9)
    image = services.service.images.put_bytes(png(), LOCAL_ACCESS)
    prompts = [{**PROMPT, "ctrl_img": f"upload://{image}"}, {"prompt": "second", "ctrl_img": f"upload://{image}"}]
    small = {"width": 64, "height": 64, "num_frames": 1, "sample_steps": 1}
    job = services.made({**REQUEST, "prompts": [prompts[0], {**prompts[1], **small}]})
    found = services.service.restore(services.clip(job), LOCAL_ACCESS)
    assert found.notes == () and found.first_frame == "here" and (found.comparison, found.cell) == (None, None)
    assert found.request == {**REQUEST, "loras": list(LORAS), "prompts": [{**PROMPT, "ctrl_img": f"upload://{image}"}]}
    second = services.service.restore(services.clip(job, 1), LOCAL_ACCESS).request["prompts"]
    assert [(item["prompt"], item["seed"]) for item in second] == [("second", 43)]
    again = services.service.plan(found.request, LOCAL_ACCESS)
    assert again.generations == job.generations[:1]


@pytest.mark.slow
def test_a_speedup_comes_back_and_is_named(opened: Open) -> None:
    services = opened()
    job = services.made({"model": ONE.id, "prompts": [SMALLEST], "speedup": "fp8_storage"})
    assert services.service.restore(services.clip(job), LOCAL_ACCESS).request["speedup"] == "fp8_storage"
    embedded = video.read_metadata(services.clip(job))
    assert embedded["generation"]["speedup"] == embedded["request"]["speedup"] == "fp8_storage"


@pytest.mark.slow
def test_a_drawn_seed_is_the_one_that_was_drawn(opened: Open) -> None:
    services = opened()
    small = {"prompt": "x", "width": 64, "height": 64, "num_frames": 1, "sample_steps": 1}
    job = services.made({"model": ONE.id, "prompts": [{**small, "seed": -1}]})
    assert (
        services.service.restore(services.clip(job), LOCAL_ACCESS).request["prompts"][0]["seed"]
        == job.generations[0].seed
        >= 0
    )


# Comparisons


@pytest.mark.slow
def test_a_comparison_comes_back_from_its_grid_and_from_each_cell(opened: Open, tmp_path: Path) -> None:
    services = with_pair(opened())
    for seed, name in enumerate(("extra.safetensors", "other.safetensors")):
        write_lora(services.folder / "loras" / name, seed=9 + seed)
    image = services.service.images.put_bytes(png(), LOCAL_ACCESS)
    small = {"width": 64, "height": 64, "num_frames": 1, "sample_steps": 1, "seed": -1}
    item = {**PROMPT, **small, "ctrl_img": f"upload://{image}"}
    job = services.made({**REQUEST, "prompts": [item], "compare": COMPARE})
    drawn = {**item, "seed": job.generations[0].seed}
    wanted = {**REQUEST, "loras": list(LORAS), "prompts": [drawn], "compare": COMPARE}
    grid.write(tmp_path / "grid.mp4", board(services.service, job, LOCAL_ACCESS), embedded_metadata.of_grid(job))
    found = services.service.restore(tmp_path / "grid.mp4", LOCAL_ACCESS)
    assert (found.request, found.notes, found.comparison) == (wanted, (), None)
    assert services.service.plan(found.request, LOCAL_ACCESS).generations == job.generations
    (services.folder / "images" / image).unlink()
    found = services.service.restore(tmp_path / "grid.mp4", LOCAL_ACCESS, from_video=True)
    assert (found.first_frame, found.notes) == ("missing", (restoring.MISSING_IN_GRID,))
    services.service.images.put_bytes(png(), LOCAL_ACCESS)

    for cell in job.cells:
        found = services.service.restore(services.clip(job, cell.generation), LOCAL_ACCESS)
        assert found.comparison == wanted
        assert (found.notes, found.cell) == ((), " · ".join((cell.column_label, cell.row_label, cell.page_label)))
        assert services.service.plan(found.request, LOCAL_ACCESS).generations == (job.generations[cell.generation],)
    about = video.read_metadata(services.clip(job, 0))
    assert about["comparison"]["compare"] == COMPARE
    assert {one["sha256"] for one in about["loras"]} == {sha256(path) for path in (services.folder / "loras").iterdir()}


@pytest.mark.slow
def test_a_pair_of_an_axis_is_never_made_up_of_another_half(opened: Open, tmp_path: Path) -> None:
    services = with_pair(opened())
    write_lora(services.folder / "loras" / "extra.safetensors", seed=9)
    image = services.service.images.put_bytes(png(), LOCAL_ACCESS)
    item = {**SMALLEST, "ctrl_img": f"upload://{image}"}
    columns = {"field": "lora", "values": [PAIR[0], {"high": "extra.safetensors"}]}
    job = services.made({"model": TWO.id, "prompts": [item], "compare": {"columns": columns}})
    grid.write(tmp_path / "grid.mp4", board(services.service, job, LOCAL_ACCESS), embedded_metadata.of_grid(job))
    write_lora(services.folder / "loras" / PAIR[1], seed=77)
    found = services.service.restore(tmp_path / "grid.mp4", LOCAL_ACCESS)
    assert found.request["compare"]["columns"]["values"] == [{"high": "extra.safetensors"}]
    assert len(found.notes) == 1 and PAIR[1] in found.notes[0] and "its other half is left out" in found.notes[0]


# What differs now


def lora_job(services: Services) -> Job:
    write_lora(services.folder / "loras" / "fox.safetensors", seed=1)
    return services.made({"model": ONE.id, "prompts": [SMALLEST], "loras": [{"path": "fox.safetensors"}]})


@pytest.mark.slow
def test_a_lora_of_the_same_name_with_another_content_is_not_used(opened: Open) -> None:
    services, other = opened(), opened("other")
    clip = services.clip(lora_job(services))
    write_lora(other.folder / "loras" / "fox.safetensors", seed=2)
    found = other.service.restore(clip, LOCAL_ACCESS)
    assert found.request["loras"] == []
    (note,) = found.notes
    assert "fox.safetensors" in note and "another" in note
    assert sha256(services.folder / "loras" / "fox.safetensors")[:12] in note
    shutil.copy(services.folder / "loras" / "fox.safetensors", other.folder / "loras" / "renamed.safetensors")
    found = other.service.restore(clip, LOCAL_ACCESS)
    assert [one["path"] for one in found.request["loras"]] == ["renamed.safetensors"]
    os.remove(other.folder / "loras" / "renamed.safetensors")
    os.remove(other.folder / "loras" / "fox.safetensors")
    found = other.service.restore(clip, LOCAL_ACCESS)
    assert found.request["loras"] == [] and "is missing" in found.notes[0]


@pytest.mark.slow
def test_a_first_frame_that_is_not_here_is_offered_from_the_video(opened: Open) -> None:
    services, other = opened(), opened("other")
    image = services.service.images.put_bytes(png(), LOCAL_ACCESS)
    item = {**SMALLEST, "ctrl_img": f"upload://{image}"}
    clip = services.clip(services.made({"model": TWO.id, "prompts": [item]}))
    assert services.service.restore(clip, LOCAL_ACCESS, from_video=True).first_frame == "here"
    found = other.service.restore(clip, LOCAL_ACCESS)
    assert found.first_frame == "missing" and "ctrl_img" not in found.request["prompts"][0]
    assert found.notes == (restoring.MISSING_IMAGE,)
    found = other.service.restore(clip, LOCAL_ACCESS, from_video=True)
    assert found.first_frame == "from_video" and found.notes == (restoring.FROM_VIDEO,)
    kept = found.request["prompts"][0]["ctrl_img"].removeprefix("upload://")
    frames = video.read_frames(clip)
    assert abs(int(other.service.images.open(kept, LOCAL_ACCESS).getpixel((0, 0))[0]) - int(frames[0, 0, 0, 0])) < 4  # type: ignore[index]
    assert other.service.plan(found.request, LOCAL_ACCESS).generations[0].image == kept
    # Another visitor's image is as if it were not here.
    stranger = Access(Identity("1" * 32, owner=False), shared=False)
    assert services.service.restore(clip, stranger).first_frame == "missing"
    with pytest.raises(ControlImageInvalid):
        services.service.images.data(image, stranger)


def about(**changes: Any) -> dict[str, Any]:
    """What a file carries, as jobs.inside writes it."""
    made = {
        "versions": {"wan-ui": __version__, "torch": "2.13.0+cu130", "diffusers": "0.42.1"},
        "device": "NVIDIA H200",
        "checkpoint": [{"repo": ONE.base_model, "revision": COMMIT, "files": "ab" * 32}],
        "seconds": {"denoise": 1.5},
    }
    request = {"model": ONE.id, "prompts": [{"prompt": "x", "seed": 1}]}
    return {"wan_ui": __version__, "request": request, "render": made, "loras": [], **changes}


def here(**changes: Any) -> Environment:
    now = [{"repo": ONE.base_model, "revision": COMMIT, "files": "ab" * 32}]
    versions = {"wan-ui": __version__, "torch": "2.13.0", "diffusers": "0.42.1"}
    return replace(Environment(versions, lambda _row: now, lambda: "NVIDIA H200"), **changes)


def notes(opened: Open, tmp_path: Path, now: Environment, **changes: Any) -> tuple[str, ...]:
    (tmp_path / "clip.mp4").write_bytes(carrying(about(**changes)))
    return opened(here=now).service.restore(tmp_path / "clip.mp4", LOCAL_ACCESS).notes


def _raises(error: type[Exception]) -> Callable[[WanModel], Any]:
    def ask(row: WanModel) -> Any:
        raise error("no")

    return ask


def _at(**changes: Any) -> Callable[[WanModel], Any]:
    one = {"repo": ONE.base_model, "revision": COMMIT, "files": "ab" * 32, **changes}
    return lambda _row: [one]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (here(), []),
        (restoring.UNKNOWN_ENVIRONMENT, []),
        (here(device=lambda: None), []),
        (here(versions={"torch": "2.14.0+cpu"}), ["made with torch 2.13.0+cu130; here is 2.14.0+cpu. The frames may"]),
        (
            here(versions={"torch": "2.14.0", "diffusers": "0.43"}),
            ["torch 2.13.0+cu130 and diffusers 0.42.1; here are 2.14.0 and 0.43."],
        ),
        (here(device=lambda: "cpu"), ["rendered on NVIDIA H200; here on a CPU. The frames may"]),
        (here(checkpoint=_at(revision="9f8e7d6c" + "0" * 32)), ["was at revision 1a2b3c4; here it is at 9f8e7d6."]),
        (here(checkpoint=_at(revision=None)), []),
        (here(checkpoint=_at(revision=None, files="cd" * 32)), ["not the one it was made with"]),
        (here(checkpoint=_at(repo="somebody/else")), [f"{ONE.base_model}, which {ONE.label} does not use here"]),
        (here(checkpoint=_raises(CheckpointNotFound)), ["not on this machine yet"]),
        (here(checkpoint=_raises(CheckpointIncomplete)), ["is incomplete"]),
    ],
)
def test_what_renders_now_is_held_against_what_did(
    opened: Open, tmp_path: Path, now: Environment, said: list[str]
) -> None:
    found = notes(opened, tmp_path, now)
    assert len(found) == len(said)
    assert all(words in note for words, note in zip(said, found, strict=True)), found


def test_what_is_installed_is_said_without_importing_it() -> None:
    import diffusers
    import torch

    said = installed()
    assert said["wan-ui"] == __version__ and said["diffusers"] == diffusers.__version__
    assert said["torch"].split("+")[0] == torch.__version__.split("+")[0]


# Files that are not ours, or say something else


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not made by wan-ui"),
        (b"\xff\xfe{}", "not made by wan-ui"),
        (b"a holiday", "not made by wan-ui"),
        (b'{"encoder": "somebody"}', "not made by wan-ui"),
        (b'{"request": "a request"}', "not made by wan-ui"),
        (b"[" * 1_000_000, "not made by wan-ui"),
        (b'{"request":' * 10_000, "not made by wan-ui"),
        (b'{"request": {"a": ' + b"9" * 10_000 + b"}}", "not made by wan-ui"),
        ({"request": {}}, "cannot be read by this version"),
        (about(request={"model": "wan30_9b", "prompts": [{"prompt": "x"}]}), "with the model wan30_9b, which version"),
        (about(request={"model": ["x"], "prompts": [{"prompt": "x"}]}), "model"),
        (about(wan_ui="9.9", request={"model": ONE.id, "prompts": [], "wind": 1}), "by wan-ui 9.9, cannot be read"),
        (about(request={"model": ONE.id, "recipe": "later", "prompts": [{"prompt": "x"}]}), "recipe"),
        (about(comparison={"model": "wan30_9b"}), "with the model wan30_9b"),
        (about(comparison={"model": ONE.id, "prompts": [{"prompt": 5}]}), "prompts.0.prompt"),
        (about(comparison=[1]), "damaged (comparison)"),
        (about(loras=[{"path": "x" * 5000}]), "damaged (loras.0.path)"),
        (about(loras=[{"path": "x", "sha256": "../../etc/passwd"}]), "damaged (loras.0.sha256)"),
        (about(loras=[{"path": str(index), "sha256": "ab" * 32} for index in range(300)]), "damaged (loras)"),
        (about(loras={"path": "x"}), "damaged (loras)"),
        (about(render={"versions": {"torch": 5}}), "damaged (render.versions.torch)"),
        (about(render={"checkpoint": ["x"]}), "damaged (render.checkpoint.0)"),
        (about(render=7), "damaged (render)"),
        (about(wan_ui={"a": "b"}), "damaged (wan_ui)"),
        (about(cell="first"), "damaged (cell)"),
    ],
)
def test_somebody_elses_or_spoiled_settings_are_refused_and_say_what_to_do(
    opened: Open, tmp_path: Path, data: Any, said: str
) -> None:
    (tmp_path / "clip.mp4").write_bytes(carrying(data))
    with pytest.raises(VideoInvalid) as caught:
        opened().service.restore(tmp_path / "clip.mp4", LOCAL_ACCESS)
    assert said in caught.value.message and caught.value.message.endswith(".")
    assert len(caught.value.message) < 500 and str(tmp_path) not in caught.value.message


def test_a_video_without_settings_says_what_may_have_happened(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(mp4(box(b"moov", b"\0\0\0\x08free"), box(b"mdat", b"x" * 99)))
    with pytest.raises(VideoInvalid, match="Messengers, editors and converters remove them"):
        opened().service.restore(tmp_path / "clip.mp4", LOCAL_ACCESS)


def test_a_comparison_that_a_file_makes_up_names_no_file_of_this_machine(opened: Open, tmp_path: Path) -> None:
    """Paths in a file are asked of the library like any request's."""
    paths = ["/etc/passwd", "../../secret.safetensors", "upload://" + "a" * 32, "file:///etc/passwd"]
    loras = [{"path": path, "sha256": "ab" * 32} for path in paths]
    request = {
        "model": ONE.id,
        "prompts": [{"prompt": "x"}],
        "loras": [{"path": path} for path in paths],
        "stack": True,
    }
    (tmp_path / "clip.mp4").write_bytes(carrying(about(request=request, loras=loras)))
    found = opened().service.restore(tmp_path / "clip.mp4", LOCAL_ACCESS)
    assert found.request["loras"] == [] and len(found.notes) == len(paths)
    assert all("missing" in note for note in found.notes)


# All models, with the real engine


def held_values(row: WanModel, recipe: RecipeId, image: str | None) -> form_schema.Values:
    """A value for each control of the model's form, none of them the one that it starts with where that is possible."""
    small = {"width": 96, "height": 64, "num_frames": 5, "sample_steps": 2, "fps": 12, "seed": 7}
    files = {"single": ("fox.safetensors", *STACK[:3]), "high": (PAIR[0], *STACK[:3]), "low": (PAIR[1], *STACK[3:])}
    found: form_schema.Values = {}
    for control in form_schema.controls(row):
        match control.kind:
            case "recipe":
                found[control.name] = recipe
            case "speedup":
                found[control.name] = "fp8_storage" if recipe == "reference" else "none"
            case "image":
                found[control.name] = image
            case "sampler" | "base":
                found[control.name] = {"sampler": "lcm", "base": "folder"}[control.kind]
            case "switch":
                found[control.name] = not control.default
            case "text" | "long_text":
                found[control.name] = f"[trigger] {control.name} é" if control.name != "trigger_word" else "sks"
            case "number":
                found[control.name] = 0.5 if control.name == "boundary" else 2.5
            case "scale":
                found[control.name] = 0.65
            case "integer":
                found[control.name] = small.get(control.name)  # no switch_step beside a boundary
            case "lora":
                place = next(one for one in form_schema.lora_positions(row) if one.lora == control.name)
                found[control.name] = files[place.slot][place.number - 1]
    return found


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Services that render for real, on the tiny checkpoints."""
    from wan_ui.inference import Engine

    folder = tmp_path_factory.mktemp("workshop")
    for seed, name in enumerate(("fox.safetensors", *STACK, *PAIR)):
        write_lora(folder / "loras" / name, seed=seed)
    store = Store(folder / "jobs.sqlite")
    engine = Engine(CHECKPOINTS, folder / "loras", "cpu", data_dir=folder)
    worker = Worker(store, engine.render, folder / "clips", video.write)
    now = Environment(installed(), engine.checkpoints.identity, lambda: engine.device_name)
    configs = engine.checkpoints.transformer_config
    worker.start()
    environment = replace(now, transformer_config=configs)
    service = JobService(engine.library, engine.images, store, worker, folder, environment=environment)
    yield Services(folder, service, worker)
    assert worker.stop()
    engine.close()
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["reference", "preview", "preview_unipc"])
@pytest.mark.parametrize("row", MODELS.values(), ids=lambda row: row.id)
def test_form_to_video_to_form(
    workshop: Services, row: WanModel, recipe: RecipeId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecretverysecret")
    image = workshop.service.images.put_bytes(png(), LOCAL_ACCESS)
    held = held_values(row, recipe, f"upload://{image}" if row.control_image != "none" else None)
    job = workshop.made(form_schema.body(row, held))
    clip = workshop.clip(job)
    found = workshop.service.restore(clip, LOCAL_ACCESS)
    assert found.notes == ()
    assert found.first_frame == ("none" if row.control_image == "none" else "here")
    back_row, back = form_schema.values(InferenceRequest.model_validate(found.request))
    assert back_row == row and back == {**held, "trigger_word": "sks"}
    assert job.generations[0].image == (None if row.control_image == "none" else image)
    assert workshop.service.plan(found.request, LOCAL_ACCESS).generations == job.generations

    said = video.read_metadata(clip)
    assert said["render"]["versions"] == {**installed(), "torch": said["render"]["versions"]["torch"]}
    assert said["render"]["device"] == "cpu" and said["render"]["recipe"] == recipe
    assert said["render"]["speedup"] == held["speedup"]
    assert {"text", "denoise", "decode"} <= set(said["render"]["seconds"])
    assert {one["repo"] for one in said["render"]["checkpoint"]} == {source.repo for source in row.components.values()}
    assert all(one["revision"] is None and len(one["files"]) == 64 for one in said["render"]["checkpoint"])
    named = {one["path"]: one for one in said["loras"]}
    assert {path: one["sha256"] for path, one in named.items()} == {
        path: sha256(workshop.folder / "loras" / path) for path in named
    }
    assert all(one["name"] == path for path, one in named.items()) and len(named) == form_schema.MOST_STACKED * len(
        row.slots
    )
    assert said["generation"]["seed"] == found.request["prompts"][0]["seed"] == 7
    text = json.dumps(said)
    for secret in (str(workshop.folder), str(CHECKPOINTS), str(Path.home()), "hf_very", job.id, os.getcwd()):
        assert secret not in text


def test_the_forms_values_are_all_in_this_test() -> None:
    """None of them is the one that its control starts with, so that one which were lost would be seen."""
    for row in MODELS.values():
        cases: tuple[tuple[RecipeId, list[str]], ...] = (("preview", ["speedup"]), ("reference", ["recipe"]))
        for recipe, but in cases:
            held = held_values(row, recipe, "upload://x")
            same = [one.name for one in form_schema.controls(row) if held[one.name] == one.default]
            assert same == [*(["switch_step"] if row.two_transformers else []), *but]
