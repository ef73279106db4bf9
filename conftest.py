"""Fixtures that need naming at the root: pytest takes plugins from the topmost conftest only."""

from importlib.util import find_spec

# A machine that only runs the GPU tests has no browser and no Playwright.
pytest_plugins = ["tests.browser_fixture"] if find_spec("playwright") is not None else []
