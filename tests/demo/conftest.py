"""The demo folders of this folder's tests, written once: with random and with trained weights."""

from __future__ import annotations

import pytest

from tests.demo.random_weights import RANDOM
from wan_ui.demo.checkpoints import TRAINED, Demo, ensure


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return ensure(tmp_path_factory.mktemp("demo") / "demo", RANDOM)


@pytest.fixture(scope="session")
def trained_demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo as the app has it."""
    return ensure(tmp_path_factory.mktemp("trained") / "demo", TRAINED)
