"""Fixtures that need naming at the root: pytest takes plugins from the topmost conftest only."""

pytest_plugins = ["tests.browser_fixture", "tests.failed_tests"]
