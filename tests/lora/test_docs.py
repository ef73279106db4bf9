"""docs/loras.md says what is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lora.table import table

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "loras.md"


def test_the_table_of_formats_is_the_computed_one() -> None:
    stated = PAGE.read_text().split("<!-- table -->")[1].split("<!-- /table -->")[0].strip()
    assert stated == table()
