"""What counts as an address."""

from __future__ import annotations

import pytest

from wan_ui.text import is_web_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.example/b.png", True),
        ("  HTTP://a.example", True),
        ("upload://" + "ab" * 32, False),
        ("ftp://a.example", False),
        ("aHR0cHM6Ly8=", False),
        ("", False),
    ],
)
def test_only_http_addresses_count(text: str, expected: bool) -> None:
    assert is_web_address(text) is expected
