"""The style sheet as Gradio takes it in: it cuts each selector at every comma, also at those in parentheses."""

from __future__ import annotations

import re

from wan_ui.ui import page


def test_no_selector_has_a_comma_in_parentheses() -> None:
    text = re.sub(r"/\*.*?\*/", "", str(page.LAUNCH["css"]), flags=re.DOTALL)
    selectors = re.findall(r"(?:^|[{};])\s*([^{};@]+)\{", text)
    assert len(selectors) > 10
    assert [one.strip() for one in selectors if re.search(r"\([^()]*,[^()]*\)", one)] == []
