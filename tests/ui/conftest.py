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
def shared_render() -> FakeRender:
    """The render behind `app`."""
    return FakeRender()


@pytest.fixture
def held_render(shared_render: FakeRender) -> Iterator[FakeRender]:
    """The render behind `app`, whose gates and errors end with the test; tests share it, so each uses its own seeds."""
    yield shared_render
    shared_render.reset()


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory, shared_render: FakeRender) -> Iterator[App]:
    from tests.ui.fake_app import running  # only now: Gradio takes seconds to import

    folder = tmp_path_factory.mktemp("page")
    for name in ("style", "job_high_noise", "job_low_noise"):
        write_lora(folder / "loras" / "job" / f"{name}.safetensors", seed=len(name))
    with running(folder, shared_render) as app:
        yield app
        shared_render.reset()


@pytest.fixture(scope="session")
def wide_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of 160 × 60 pixels."""
    path = tmp_path_factory.mktemp("images") / "wide.png"
    Image.linear_gradient("L").resize((160, 60)).convert("RGB").save(path)
    return path
