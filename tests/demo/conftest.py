"""One random demo for the tests of this folder."""

from __future__ import annotations

import pytest

from wan_ui.demo.checkpoints import Demo, ensure


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return ensure(tmp_path_factory.mktemp("demo") / "demo")
