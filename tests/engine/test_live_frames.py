"""Real runs on the demo report live pictures and the fraction of the decoding, with the same frames as without."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wan_ui import Engine
from wan_ui.demo.checkpoints import LATENT_MAPS, Demo, ensure
from wan_ui.engine.live_picture import FRAMES_SHOWN, PictureSettings
from wan_ui.engine.result import Clip, Progress
from wan_ui.errors import Cancelled

pytestmark = pytest.mark.slow

AT_EVERY_STEP = PictureSettings(LATENT_MAPS, every=0.0, share=1000.0)
STEPS = 4


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return ensure(tmp_path_factory.mktemp("demo") / "demo")


def request_of(demo: Demo, model: str, **fields: Any) -> dict[str, Any]:
    prompt = {"prompt": "a red circle", "width": 64, "height": 96, "num_frames": 9, "sample_steps": STEPS, "seed": 3}
    if "5b" in model:
        prompt["ctrl_img"] = base64.b64encode(demo.first_frame.read_bytes()).decode()
    return {"model": model, "prompts": [prompt], **fields}


def rendered(demo: Demo, request: dict[str, Any], settings: PictureSettings | None) -> tuple[Clip, list[Progress]]:
    reports: list[Progress] = []
    engine = Engine(demo.models_dir, demo.lora_dir, "cpu", live_pictures=settings)
    try:
        (clip,) = engine.generate(request, reports.append)
    finally:
        engine.close()
    return clip, reports


@pytest.mark.parametrize(
    ("model", "fields"),
    [("wan21_1b", {}), ("wan22_5b", {"recipe": "preview"})],  # UniPC, and Euler with given latents
)
def test_frames_are_the_same_with_and_without_live_pictures(demo: Demo, model: str, fields: dict[str, Any]) -> None:
    request = request_of(demo, model, **fields)
    without, plain = rendered(demo, request, None)
    clip, reports = rendered(demo, request, AT_EVERY_STEP)
    assert clip.frames.tobytes() == without.frames.tobytes()
    assert all(report.picture is None for report in plain)
    pictures = [(report.step, report.picture) for report in reports if report.picture is not None]
    assert [step for step, _ in pictures] == [1, 2, 3]
    for _, picture in pictures:
        with Image.open(io.BytesIO(picture or b"")) as image:
            assert image.format == "WEBP" and getattr(image, "n_frames", 1) <= FRAMES_SHOWN
    latest = Image.open(io.BytesIO(pictures[-1][1] or b"")).convert("RGB")
    final = Image.fromarray(clip.frames[0]).resize(latest.size, Image.Resampling.BOX)
    error = np.square((np.asarray(latest, np.float32) - np.asarray(final, np.float32)) / 255).mean()
    assert -10 * np.log10(error) > 15  # dB of the first frame; a flat grey picture has about 10


def test_decoding_reports_its_fraction_and_can_be_cancelled(demo: Demo) -> None:
    request = request_of(demo, "wan21_1b")
    _, reports = rendered(demo, request, None)
    fractions = [report.fraction for report in reports if report.phase == "decode"]
    assert fractions == [0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]

    def cancel(report: Progress) -> None:
        if report.fraction is not None and report.fraction > 0.5:
            raise Cancelled("Canceled.")

    engine = Engine(demo.models_dir, demo.lora_dir, "cpu")
    try:
        with pytest.raises(Cancelled):
            engine.generate(request, cancel)
        (again,) = engine.generate(request)  # the VAE's caches of the broken decoding do not matter
        (clip,) = engine.generate(request)
    finally:
        engine.close()
    assert again.frames.tobytes() == clip.frames.tobytes()


def test_tiles_are_counted(demo: Demo) -> None:
    request = request_of(demo, "wan21_1b", vae_tiling=True)
    request["prompts"][0] |= {"width": 320, "num_frames": 1}
    _, reports = rendered(demo, request, None)
    fractions = [report.fraction for report in reports if report.phase == "decode"]
    assert fractions == [0.0, 0.5, 1.0]


def test_maps_are_fitted_for_long_runs_alone(demo: Demo, tmp_path: Path) -> None:
    engine = Engine(
        demo.models_dir, demo.lora_dir, "cpu", data_dir=tmp_path, live_pictures=PictureSettings(None, 0.0, 1000.0)
    )
    reports: list[Progress] = []
    try:
        engine.generate(request_of(demo, "wan21_1b"), reports.append)
    finally:
        engine.close()
    assert all(report.picture is None for report in reports)
    assert not (tmp_path / "latent_maps").exists()
