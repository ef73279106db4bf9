"""Plugin of pytest: adds the names of tests that failed to the file named in WAN_UI_FAILED_TESTS, one a line."""

from __future__ import annotations

import os

import pytest

VARIABLE = "WAN_UI_FAILED_TESTS"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With several processes only the first one has a terminal, and the reports of all of them."""
    path = os.environ.get(VARIABLE)
    reports = [*terminalreporter.stats.get("failed", []), *terminalreporter.stats.get("error", [])]
    names = dict.fromkeys(report.nodeid for report in reports)
    if path and names:
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(f"{name}\n" for name in names))
