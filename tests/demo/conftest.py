"""One random demo for the tests of this folder."""

from __future__ import annotations

import pytest

from wan_ui.demo.checkpoints import RANDOM, TRAINED, Demo, ensure


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return ensure(tmp_path_factory.mktemp("demo") / "demo", RANDOM)


@pytest.fixture(scope="session")
def trained_demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo as the app has it."""
    return ensure(tmp_path_factory.mktemp("trained") / "demo", TRAINED)
