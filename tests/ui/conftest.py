"""The page on a port of its own, once for all these tests, and a browser to look at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.fakes import FakeRender
from tests.lora_files import write_lora

if TYPE_CHECKING:
    from tests.ui.fake_app import App


@pytest.fixture(scope="session")
def held_render() -> Iterator[FakeRender]:
    """The render behind `app`; tests share it, so each uses seeds of its own."""
    render = FakeRender()
    yield render
    for gate in render.gates.values():
        gate.open()


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory, held_render: FakeRender) -> Iterator[App]:
    from tests.ui.fake_app import running  # only now: Gradio takes seconds to import

    folder = tmp_path_factory.mktemp("page")
    for name in ("style", "job_high_noise", "job_low_noise"):
        write_lora(folder / "loras" / "job" / f"{name}.safetensors", seed=len(name))
    with running(folder, held_render) as app:
        yield app
        for gate in held_render.gates.values():
            gate.open()


@pytest.fixture(scope="session")
def wide_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of 160 × 60 pixels."""
    path = tmp_path_factory.mktemp("images") / "wide.png"
    Image.linear_gradient("L").resize((160, 60)).convert("RGB").save(path)
    return path
