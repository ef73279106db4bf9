"""A video dropped on the page, or chosen: the form takes its settings, and the page says what differs now."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.fakes import FakeRender
from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from tests.mp4_boxes import carrying
from tests.ui.fake_app import App, running
from tests.ui.held_requests import held
from tests.ui.page_object import axis_values, field, fill, open_page, open_tab, type_values
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.comparisons import board
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.job import Job
from wan_ui.media import grid, video
from wan_ui.models import MODELS
from wan_ui.provenance import embedded_metadata

pytestmark = pytest.mark.browser

ROW = next(row for row in MODELS.values() if row.two_transformers and row.control_image == "required")
PAIR = ("fox_high_noise.safetensors", "fox_low_noise.safetensors")
DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const moved = new DataTransfer();
  moved.items.add(new File([bytes], name, {type}));
  const target = document.querySelector('#form textarea');
  for (const kind of ['dragover', 'drop']) {
    target.dispatchEvent(new DragEvent(kind, {dataTransfer: moved, bubbles: true, cancelable: true}));
  }
}"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("restore")
    with running(folder, FakeRender(), configs=Checkpoints(CHECKPOINTS).transformer_config) as app:
        yield app


@pytest.fixture(autouse=True)
def _files(app: App) -> None:
    """The two LoRA files as they were."""
    for seed, name in enumerate(PAIR):
        write_lora(app.folder / "loras" / name, seed=seed)


def first_frame(app: App) -> str:
    kept = io.BytesIO()
    Image.new("RGB", (96, 64), (90, 40, 160)).save(kept, "PNG")
    return "upload://" + app.service.images.put_bytes(kept.getvalue(), LOCAL_ACCESS)


def made(app: App, **changes: Any) -> Job:
    item = {"prompt": "a [trigger] fox", "neg": "blurry", "width": 96, "height": 64, "num_frames": 5, "fps": 12}
    item |= {"sample_steps": 3, "guidance_scale": 2.5, "seed": 7, "ctrl_img": first_frame(app)}
    loras = [
        {"path": path, "transformer": slot, "network_multiplier": scale}
        for path, slot, scale in zip(PAIR, ("high", "low"), (0.65, 1.2), strict=True)
    ]
    body = {"model": ROW.id, "recipe": "preview", "trigger_word": "sks", "prompts": [item], "loras": loras}
    job = app.service.submit({**body, "vae_tiling": True, **changes}, LOCAL_ACCESS)
    wait_until(lambda: app.service.job(job.id, LOCAL_ACCESS).finished_at is not None)
    return app.service.job(job.id, LOCAL_ACCESS)


def box(page: Page) -> Locator:
    return page.locator("#restore")


def choose(page: Page, path: Path) -> None:
    box(page).locator("input[type=file]").set_input_files(path)


def said(page: Page, text: str) -> None:
    expect(box(page).get_by_role("status")).to_contain_text(text)


def form_request(page: Page) -> dict[str, Any]:
    """The form's request as the page shows it."""
    found: dict[str, Any] = json.loads(page.get_by_label("This form's request").input_value())
    return found


def containing(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text))


def unfold(page: Page) -> None:
    page.get_by_role("button", name="Request as JSON").click()
    expect(page.get_by_label("This form's request")).to_be_visible()


def test_a_video_dropped_anywhere_brings_its_settings_into_the_form(page: Page, app: App, tmp_path: Path) -> None:
    job = made(app)
    clip = app.service.clip_path(job.id, 0, LOCAL_ACCESS)
    open_page(page, app)
    unfold(page)
    page.evaluate(DROP, ["fox.mp4", "video/mp4", base64.b64encode(clip.read_bytes()).decode()])
    said(page, "The settings of fox.mp4 are in the form.")
    expect(box(page)).not_to_contain_text("What differs now")
    expect(page.get_by_role("tab", name=ROW.label, exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("This form's request")).to_have_value(containing(job.request["prompts"][0]["ctrl_img"]))
    assert page.evaluate("document.body.classList.contains('drops-video')") is False
    # The same once more, and what the form then sends is the same video.
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#now")).to_contain_text("Done")
    assert app.service.recent(1, LOCAL_ACCESS)[0].generations == job.generations


def test_what_differs_is_said_and_a_file_of_the_same_name_is_not_used(page: Page, app: App, tmp_path: Path) -> None:
    job = made(app)
    clip = tmp_path / "fox.mp4"
    shutil.copy(app.service.clip_path(job.id, 0, LOCAL_ACCESS), clip)
    image = job.generations[0].image
    assert image is not None
    (app.folder / "images" / image).unlink()
    write_lora(app.folder / "loras" / PAIR[1], seed=99)
    open_page(page, app)
    unfold(page)
    choose(page, clip)
    said(page, "The settings of fox.mp4 are in the form.")
    notes = box(page).get_by_role("listitem")
    expect(notes).to_have_count(2)
    expect(notes.first).to_contain_text(f"{PAIR[1]} has changed")
    expect(notes.last).to_contain_text("Its first frame is not on this server")
    expect(page.get_by_label("This form's request")).to_have_value(containing("a [trigger] fox"))
    request = form_request(page)
    assert [item["path"] for item in request["loras"]] == [PAIR[0]] and "ctrl_img" not in request["prompts"][0]
    # What was changed meanwhile stays as the frame is brought in.
    fill(page, **{"Negative prompt": "grey"})
    expect(page.get_by_label("This form's request")).to_have_value(containing('"neg": "grey"'))
    box(page).get_by_role("button", name="Use the video's first frame").click()
    expect(notes.last).to_contain_text("It starts from the video's own first frame")
    expect(page.get_by_label("This form's request")).to_have_value(containing("upload://"))
    prompt = form_request(page)["prompts"][0]
    assert prompt["neg"] == "grey"
    shown = np.asarray(app.service.images.open(prompt["ctrl_img"].removeprefix("upload://"), LOCAL_ACCESS)).astype(int)
    assert np.abs(shown - video.read_frames(clip)[0]).mean() < 2


def test_what_was_typed_last_stays_as_the_first_frame_is_brought_in(page: Page, app: App, tmp_path: Path) -> None:
    job = made(app)
    clip = tmp_path / "fox.mp4"
    shutil.copy(app.service.clip_path(job.id, 0, LOCAL_ACCESS), clip)
    (app.folder / "images" / str(job.generations[0].image)).unlink()
    open_page(page, app)
    choose(page, clip)
    said(page, "The settings of fox.mp4 are in the form.")
    expect(page.locator("#field-ctrl-img img")).to_have_count(0)
    with held(page, "typed last"):
        fill(page, Prompt="typed last")
        box(page).get_by_role("button", name="Use the video's first frame").click()
        expect(page.locator("#field-ctrl-img img")).to_be_visible()
        expect(box(page).get_by_role("listitem")).to_contain_text("It starts from the video's own first frame")
    expect(field(page, "Prompt")).to_have_value("typed last")


def test_a_comparison_comes_into_the_compare_tab(page: Page, app: App, tmp_path: Path) -> None:
    axes = {"columns": {"field": "scale_low", "values": [0.5, 1.25]}, "rows": {"field": "seed", "values": [3, 4]}}
    job = made(app, compare={**axes, "baseline": False})
    grid.write(tmp_path / "grid.mp4", board(app.service, job, LOCAL_ACCESS), embedded_metadata.of_grid(job))
    shutil.copy(app.service.clip_path(job.id, 0, LOCAL_ACCESS), tmp_path / "cell.mp4")
    open_page(page, app)
    choose(page, tmp_path / "cell.mp4")
    said(page, "The settings of cell.mp4 (low scale")
    expect(page.get_by_role("tab", name=ROW.label, exact=True)).to_have_attribute("aria-selected", "true")
    box(page).get_by_role("button", name="Open the whole comparison").click()
    expect(page.locator("#toast")).to_have_text("The comparison of cell.mp4 is in the Compare tab.")
    for start in ("cell", "grid"):
        expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
        expect(axis_values(page, "Columns")).to_have_text(["0.5", "1.25"])
        expect(axis_values(page, "Rows")).to_have_text(["3", "4"])
        expect(page.get_by_label("Include a baseline without LoRA")).not_to_be_checked()
        if start == "cell":
            type_values(page, "Columns", "1")
            open_tab(page, "Generate")
            choose(page, tmp_path / "grid.mp4")
            expect(page.locator("#toast")).to_have_text("The comparison of grid.mp4 is in the Compare tab.")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".board-line")).to_contain_text("4 videos")
    again = app.service.recent(1, LOCAL_ACCESS)[0]
    assert again.id != job.id and again.generations == job.generations


def test_a_file_that_is_none_of_ours_is_refused_and_the_form_stays(
    refused_page: Page, app: App, tmp_path: Path
) -> None:
    page = refused_page
    open_page(page, app)
    prompt = page.get_by_label("Prompt", exact=True).locator("visible=true")
    prompt.fill("mine")
    (tmp_path / "still.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 99)
    (tmp_path / "other.mp4").write_bytes(carrying({"software": "somebody's"}))
    (tmp_path / "later.mp4").write_bytes(carrying({"wan_ui": "9.9", "request": {"model": "wan90_x"}}))
    (tmp_path / "large.mp4").write_bytes(
        carrying({"request": {"model": ROW.id, "prompts": [{"prompt": "x", "seed": 2**60}]}})
    )
    alert = box(page).get_by_role("alert")
    for name, words in (
        ("still.png", "is a PNG picture"),
        ("other.mp4", "was not made by wan-ui"),
        ("later.mp4", "with the model wan90_x"),
        ("large.mp4", "The seed is larger than"),
    ):
        choose(page, tmp_path / name)
        expect(alert).to_contain_text(words)
    expect(prompt).to_have_value("mine")
