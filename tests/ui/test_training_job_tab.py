"""The Training job tab and the panel of the training preview in a real browser: from a job's ZIP to the same video."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.trainer.job_files import (
    SAMPLE,
    MovingRender,
    config,
    moving,
    tiny,
    webp,
    write_job,
    zipped,
)
from tests.ui.fake_app import App, running
from tests.ui.kept_values import wait_for_tab
from tests.ui.page_object import choose_model, field, fill, lora, open_page
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.demo.checkpoints import ensure
from wan_ui.lora.header import read_header
from wan_ui.ui.training_job_tab import side_by_side

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SMALL = "Wan 2.1 T2V 1.3B"


@pytest.fixture(scope="module")
def trainer_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("trainer")
    write_job(folder / "loras" / "wolf")
    with running(folder, MovingRender(), configs=tiny) as app:
        yield app


@pytest.fixture(scope="module")
def job_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    return zipped(write_job(folder / "fox"), folder / "fox.zip")


def open_training_tab(page: Page, app: App) -> None:
    page.emulate_media(reduced_motion="reduce")
    open_page(page, app)
    page.get_by_role("tab", name="Training job", exact=True).click()
    expect(page.locator(".trainer-form")).to_be_visible()
    wait_for_tab(page, "trainer")


def drop(page: Page, *files: Path) -> None:
    page.locator(".trainer-form input[type=file]").set_input_files([str(file) for file in files])


def imported(page: Page, app: App, file: Path) -> None:
    open_training_tab(page, app)
    drop(page, file)
    expect(page.locator("#samples tbody tr")).to_have_count(2)


def open_in_form(page: Page, name: str) -> None:
    """Opens a sample of the wall in its model's form."""
    page.get_by_role("button", name=f"Enlarge {name}").click()
    page.get_by_role("dialog", name=name).get_by_role("button", name="Open in form").click()


def generate(page: Page) -> None:
    page.locator("button.generate:visible").click()


def rendered(page: Page, app: App) -> None:
    """Presses Generate, and waits for the films of the new video: until it is there, the panel shows the last job's."""
    known = [job.id for job in app.service.recent(100, LOCAL_ACCESS)]
    generate(page)
    loaded(page, known)


def shown_anew(page: Page, app: App) -> None:
    """Presses Generate, and waits until the result is of the new job: until then, it is that of the last one."""
    known = [job.id for job in app.service.recent(100, LOCAL_ACCESS)]
    generate(page)
    expect(page.locator("#result .acts")).to_have_attribute(
        "data-job", re.compile(f"^(?!{'|'.join(('none', *known))})")
    )


def row(page: Page, name: str) -> Locator:
    return page.locator(f'#match li[data-row="{name}"]')


def tally(page: Page) -> Locator:
    return page.locator("#match .tally")


def films(page: Page) -> Locator:
    return page.locator("#match-player td video")


def loaded(page: Page, known: Sequence[str] = ()) -> None:
    """The three films of a video are there to be looked at, of another job than the `known` ones."""
    expect(films(page)).to_have_count(3)
    for index in range(3):
        expect(films(page).nth(index)).to_have_attribute(
            "src", re.compile(f"/requests/(?!{'|'.join(('none', *known))})")
        )
        expect(films(page).nth(index)).to_have_js_property("readyState", 4)


def test_from_a_zip_to_the_same_video_and_back_from_another_seed(page: Page, trainer_app: App, job_zip: Path) -> None:
    imported(page, trainer_app, job_zip)
    about = page.locator(".trainer-form .summary")
    expect(about).to_contain_text("fox")
    expect(about).to_contain_text(SMALL)
    first = page.locator("#samples tbody tr").first
    for text in ("a sks fox runs", "96 × 64", "9 at 16", "7", "3"):
        expect(first).to_contain_text(text)
    rows = page.locator("#wall tbody tr")
    expect(rows.locator("th")).to_have_text(["250", "500", "750"])
    expect(rows.first.locator("img")).to_have_count(2)
    expect(page.get_by_label("Checkpoint to render with")).to_have_value("final (step 750)")

    page.get_by_role("button", name="Enlarge sample 1 at step 500").click()
    large = page.get_by_role("dialog", name="sample 1 at step 500")
    expect(large.get_by_role("img")).to_be_visible()
    large.get_by_role("button", name="Open in form").click()
    expect(page.get_by_role("tab", name=SMALL, exact=True)).to_have_attribute("aria-selected", "true")
    expect(field(page, "Prompt")).to_have_value("a sks fox runs")
    expect(field(page, "Seed")).to_have_value("7")
    expect(lora(page, "fox_000000500")).to_have_count(1)
    expect(page.locator("#match .match-name")).to_have_text("fox · sample 1 · step 500")
    rendered(page, trainer_app)
    expect(tally(page)).to_have_text("25 matching")
    expect(page.locator("#match .verdict")).to_contain_text("The same video")
    expect(page.locator('#match-player [data-part="note"]')).to_have_text(re.compile(r"PSNR 3\d\.\d dB · SSIM 0\.\d+"))
    expect(page.locator("#match-player thead th")).to_have_text(["Preview", "This video", "Difference × 4"])

    field(page, "Seed").fill("8")
    field(page, "Steps").fill("4")
    generate(page)
    expect(row(page, "seed")).to_have_attribute("data-state", "red")
    expect(tally(page)).to_contain_text("2 different")
    expect(row(page, "seed")).to_contain_text("differs")
    expect(page.locator("#match .verdict")).to_contain_text("another seed")
    page.get_by_role("button", name="Make it match: Seed").click()
    expect(field(page, "Seed")).to_have_value("7")
    expect(field(page, "Steps")).to_have_value("4")
    page.get_by_role("button", name="Make it all match").click()
    expect(field(page, "Steps")).to_have_value("3")
    generate(page)
    expect(tally(page)).to_have_text("25 matching")

    page.locator("#match .as-text summary").click()
    expect(page.locator("#match pre")).to_contain_text("Training sample against this run: 0 red")
    page.get_by_role("button", name="Stop comparing").click()
    expect(page.get_by_role("button", name="Stop comparing")).to_be_hidden()
    page.reload()
    page.get_by_role("tab", name="Training job", exact=True).click()
    expect(page.locator(".trainer-form .summary")).to_contain_text("fox")


def test_a_sample_is_reproduced_in_the_wall_and_compared_there(page: Page, trainer_app: App, job_zip: Path) -> None:
    imported(page, trainer_app, job_zip)
    name = "sample 2 at step 500"
    pair = page.locator('#wall .pair[data-step="500"][data-sample="1"]')
    pair.get_by_role("button", name=f"Reproduce {name}").click()
    expect(pair.locator(".psnr")).to_have_text(re.compile(r"^[34]\d\.\d dB$"))
    expect(page.get_by_role("tab", name="Training job", exact=True)).to_have_attribute("aria-selected", "true")
    pair.get_by_role("button", name=f"Your render: {name}").click()
    large = page.get_by_role("dialog", name=name)
    expect(large.locator("video")).to_have_count(2)
    expect(large.get_by_role("status")).to_contain_text("All settings match the training sample.")
    large.get_by_role("button", name="Close").click()
    expect(pair.get_by_role("button", name=f"Your render: {name}")).to_be_focused()


def test_the_difference_and_a_wipe_of_the_films(page: Page, trainer_app: App, job_zip: Path) -> None:
    imported(page, trainer_app, job_zip)
    open_in_form(page, "sample 2 at step 250")
    expect(field(page, "Seed")).to_have_value("9")
    rendered(page, trainer_app)
    expect(page.locator("#match pre")).to_contain_text("Training sample against this run")  # its films are there too
    page.get_by_role("button", name="Enlarge This video").click()
    stage = page.locator('#match-player [data-part="stage"]')
    expect(stage).to_be_visible()
    stage.get_by_role("button", name="Difference", exact=True).click()
    expect(stage).to_have_attribute("data-mode", "difference")
    expect(page.locator("#match-player").get_by_role("button", name="Use settings")).to_have_count(0)
    expect(page.locator('#match-player [data-part="links"]')).to_be_hidden()


def test_all_samples_side_by_side_each_with_its_checklist(page: Page, trainer_app: App, job_zip: Path) -> None:
    imported(page, trainer_app, job_zip)
    page.get_by_role("button", name="Reproduce all").click()
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#player thead th")).to_have_text(["a sks fox runs", "a sks fox sleeps"])
    expect(page.locator('#player td[data-state="done"]')).to_have_count(2)
    expect(page.locator(".board-line")).to_contain_text("Done")  # which moves the grid a last time
    for head in ("a sks fox runs", "a sks fox sleeps"):
        page.get_by_role("button", name=f"Enlarge {head}").click()
        about = page.locator('#player [data-part="about"]')
        expect(about.locator(".title")).to_have_text(head)
        about.get_by_text("Against the training sample").click()
        expect(about.get_by_role("status")).to_have_text(re.compile(r"25 matching · PSNR [34]\d\.\d dB"))
        page.locator('#player [data-part="close"]').click()


def test_one_sample_across_the_checkpoints(page: Page, trainer_app: App, job_zip: Path) -> None:
    imported(page, trainer_app, job_zip)
    page.get_by_role("button", name="Sample 2 across checkpoints").click()
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    heads = page.locator("#player thead th")
    expect(heads).to_have_text(["no LoRA", "fox_000000250", "fox_000000500", "fox"])
    expect(page.locator('#player td[data-state="done"]')).to_have_count(4)
    expect(page.locator(".compare-form .summary")).to_contain_text("a sks fox sleeps")


def watched_is(app: App, job_id: str, expected: bool) -> bool:
    return app.service.watcher.is_watched(job_id) is expected


def test_a_folder_under_the_lora_folder_and_a_config_with_its_lora(
    page: Page, trainer_app: App, tmp_path: Path
) -> None:
    open_training_tab(page, trainer_app)
    page.get_by_label("or a job's folder under the LoRA folder").click()
    page.get_by_role("option", name="wolf", exact=True).click()
    page.locator(".trainer-form").get_by_role("button", name="Open", exact=True).click()
    expect(page.locator("#wall tbody tr")).to_have_count(3)
    expect(page.get_by_label("or a job's folder under the LoRA folder")).to_have_value("wolf")
    switch = page.get_by_label("Watch for new saves")
    match = re.search("v1/jobs/([0-9a-f]{32})/", page.locator("#wall").inner_html())
    assert match is not None
    for is_watched in (True, False):  # kept over a reload
        switch.set_checked(is_watched)
        wait_until(partial(watched_is, trainer_app, match[1], is_watched))
        page.reload()
        page.get_by_role("tab", name="Training job", exact=True).click()
        expect(switch).to_be_checked(checked=is_watched)
    write_job(tmp_path / "job", previews=False)
    drop(page, tmp_path / "job" / "config.yaml", tmp_path / "job" / "fox_000000250.safetensors")
    expect(page.get_by_label("Checkpoint to render with")).to_have_value("step 250")
    expect(switch).to_be_hidden()
    expect(page.locator("#wall")).to_be_hidden()
    page.get_by_role("button", name="Reproduce sample 1", exact=True).click()
    expect(lora(page, "fox_000000250")).to_have_count(1)
    shown_anew(page, trainer_app)
    expect(page.locator("#match .match-name")).to_have_text("fox · sample 1 · step 250")
    expect(tally(page)).to_have_text("25 matching")
    expect(page.locator("#match-player")).to_be_hidden()


def test_a_preview_of_ones_own_beside_a_result(page: Page, trainer_app: App, tmp_path: Path) -> None:
    page.emulate_media(reduced_motion="reduce")
    open_page(page, trainer_app)
    choose_model(page, SMALL)
    fill(page, Prompt="mine", Width="96", Height="64", Frames="9", Steps="2", Seed="7")
    shown_anew(page, trainer_app)
    expect(page.locator("#result figure")).to_contain_text("96 × 64")
    expect(row(page, "size")).to_have_count(0)  # what another result was compared with is gone
    (tmp_path / "preview.webp").write_bytes(webp(moving(7, 128, 64)))
    upload = page.locator("#match input[type=file]")
    upload.set_input_files(str(tmp_path / "preview.webp"))
    expect(row(page, "size")).to_have_attribute("data-state", "red")
    expect(page.locator("#match .verdict")).to_contain_text("Render at the sample's size")
    expect(page.locator("#match")).to_contain_text("Compared with the MP4")
    page.get_by_role("button", name="Make it match: Size").click()
    expect(field(page, "Width")).to_have_value("128")
    generate(page)
    expect(page.locator("#match .verdict")).to_contain_text("The same video")
    expect(page.locator("#match")).not_to_contain_text("Compared with the MP4")
    upload.set_input_files({"name": "x.webp", "mimeType": "image/webp", "buffer": b"<html>"})
    expect(page.locator("#match .problem")).to_contain_text("not an image or a video")


def test_what_cannot_be_read_is_said(page: Page, trainer_app: App, tmp_path: Path) -> None:
    open_training_tab(page, trainer_app)
    (tmp_path / "config.yaml").write_bytes(config({"arch": "flux"}))
    drop(page, tmp_path / "config.yaml")
    problem = page.locator(".trainer-form .problem")
    expect(problem).to_contain_text("is not a supported Wan model")
    page.locator(".trainer-form").get_by_role("button", name="Open", exact=True).click()
    expect(problem).to_contain_text("give the job's folder as a path under the LoRA folder")


def test_a_job_whose_texts_are_markup(page: Page, trainer_app: App, tmp_path: Path) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\">"
    sample = {**SAMPLE, "samples": [{"prompt": evil}, {"prompt": "b", "ctrl_img": evil}]}
    (tmp_path / "config.yaml").write_bytes(config({"arch": "wan22_14b_i2v"}, sample, evil))
    open_training_tab(page, trainer_app)
    drop(page, tmp_path / "config.yaml")
    expect(page.locator("#samples tbody tr")).to_have_count(2)
    expect(page.locator("#samples")).to_contain_text("<img src=x")
    assert page.locator(".trainer-form .summary img, #samples img").count() == 0
    assert page.title() != "owned"


def test_a_quantised_base_is_said(page: Page, trainer_app: App, tmp_path: Path) -> None:
    model = {"arch": "wan21:1b", "quantize": True, "qtype": "uint3|ostris/accuracy"}
    (tmp_path / "config.yaml").write_bytes(config(model))
    open_training_tab(page, trainer_app)
    drop(page, tmp_path / "config.yaml")
    expect(page.locator(".trainer-form .summary")).to_contain_text("quantised")
    page.get_by_role("button", name="Reproduce sample 1", exact=True).click()
    expect(page.locator(".act .note").locator("visible=true")).to_contain_text("approached, not equalled")
    generate(page)
    expect(row(page, "quantisation")).to_contain_text("accuracy recovery adapter")


def test_the_form_as_a_sample_block(page: Page, trainer_app: App) -> None:
    open_page(page, trainer_app)
    choose_model(page, SMALL)
    fill(page, Prompt="a heron", Seed="11")
    page.get_by_role("button", name="As AI Toolkit sample block").click()
    block = page.get_by_label("For a job's config.yaml")
    expect(block).to_have_value(re.compile("prompt: a heron"))
    expect(block).to_have_value(re.compile("seed: 11"))


def test_a_narrow_window_has_no_sideways_scroll(page: Page, trainer_app: App, job_zip: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    imported(page, trainer_app, job_zip)
    page.get_by_role("button", name="Reproduce sample 1", exact=True).click()
    expect(field(page, "Seed")).to_have_value("7")
    rendered(page, trainer_app)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("tab", name="Training job", exact=True).click()
    expect(page.locator("#samples")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_on_the_demo_checkpoints(page: Page, tmp_path: Path) -> None:
    """The real engine: what it rendered as the trainer's preview is reproduced from the job's ZIP."""
    from wan_ui.inference import Engine

    demo = ensure(tmp_path / "demo")
    folder = tmp_path / "job"
    (folder / "samples").mkdir(parents=True)
    sample = {
        "width": 128, "height": 128, "num_frames": 5, "fps": 16, "sample_steps": 2, "guidance_scale": 4, "seed": 5,
        "prompts": ["a [trigger] fox"],
    }  # fmt: skip
    (folder / "config.yaml").write_bytes(config({"arch": "wan22_5b"}, sample))
    shutil.copy(demo.lora_dir / "my_lora_job" / "my_lora.safetensors", folder / "fox.safetensors")
    engine = Engine(demo.models_dir, demo.lora_dir, "cpu")
    prompt = {name: value for name, value in sample.items() if name != "prompts"}
    (clip,) = engine.generate({
        "model": "wan22_5b", "recipe": "preview", "prompts": [{**prompt, "prompt": "a sks fox"}],
        "loras": [{"path": "my_lora_job/my_lora.safetensors"}],
    })  # fmt: skip
    step = read_header(folder / "fox.safetensors").step or 100
    (folder / "samples" / f"1750000000000__{step:09d}_0.webp").write_bytes(webp(clip.frames))
    data = tmp_path / "data"
    configs = engine.checkpoints.transformer_config
    try:
        with running(data, lambda *given: engine.render(*given), configs=configs) as app:
            engine.library = app.service.library  # which knows what the page takes in
            open_training_tab(page, app)
            drop(page, zipped(folder, tmp_path / "job.zip"))
            open_in_form(page, f"sample 1 at step {step}")
            expect(field(page, "Seed")).to_have_value("5")
            generate(page)
            expect(page.locator("#match .verdict")).to_contain_text("The same video")
            expect(tally(page)).not_to_contain_text("different")
            loaded(page)
    finally:
        engine.close()


def test_samples_stand_side_by_side_where_they_have_one_size() -> None:
    def body(**second: Any) -> dict[str, Any]:
        first = {"prompt": "a", "seed": 1, "width": 64, "training_sample": {"job": "0" * 32, "sample": 0}}
        return {"model": "wan21_1b", "loras": [], "prompts": [first, {**first, "prompt": "b", "seed": 2, **second}]}

    made = side_by_side(body())
    assert made is not None and made["loras"] == []
    assert made["prompts"] == [{"prompt": "a", "seed": 1, "width": 64}]
    sample = {"job": "0" * 32, "sample": 0}
    assert made["compare"] == {
        "columns": {
            "field": "prompt",
            "values": [
                {"prompt": "a", "seed": 1, "training_sample": sample},
                {"prompt": "b", "seed": 2, "training_sample": sample},
            ],
        }
    }
    for other in ({"width": 128}, {"num_frames": 9}, {"ctrl_img": "upload://0"}, {"seed": -1}):
        assert side_by_side(body(**other)) is None
    assert side_by_side({**body(), "prompts": body()["prompts"][:1]}) is None
