"""The page's style sheet, raised above Gradio's: a selector is cut at each comma, also at one in parentheses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from wan_ui.demo.checkpoints import BANNER
from wan_ui.ui import render, static_files
from wan_ui.ui.page_document import style_sheet
from wan_ui.ui.style_sheet import WITHIN, above_gradio

STATIC = Path(static_files.__file__).parent / "static"


def test_no_selector_has_a_comma_in_parentheses() -> None:
    text = re.sub(r"/\*.*?\*/", "", style_sheet(), flags=re.DOTALL)
    selectors = re.findall(r"(?:^|[{};])\s*([^{};@]+)\{", text)
    assert len(selectors) > 10
    assert [one.strip() for one in selectors if re.search(r"\([^()]*,[^()]*\)", one)] == []


def test_no_rule_takes_the_arrow_of_a_list_away() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(STATIC.glob("*.css")))
    rules = re.findall(r"([^{};]+)\{([^{}]*)\}", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
    of_lists = [(selector.strip(), body) for selector, body in rules if re.search(r"(?<![\w.#-])select\b", selector)]
    assert len(of_lists) > 5
    # Gradio draws it as the background's image, which `background` would set to none.
    assert [selector for selector, body in of_lists if re.search(r"\bbackground:", body)] == []


def test_each_rule_outranks_gradio_s_where_gradio_draws() -> None:
    raised = above_gradio(".a, .b { x: y } @media (width) { .c:hover { x: y } } .dark .d { x: y } body.dark { x: y }")
    assert f".a, .b, {WITHIN}.a, {WITHIN}.b {{x: y}}" in raised
    assert f"@media (width) {{\n.c:hover, {WITHIN}.c:hover {{x: y}}\n}}" in raised
    assert f".dark .d, .dark {WITHIN}.d {{x: y}}" in raised
    assert raised.endswith("body.dark {x: y}")


@pytest.mark.browser
def test_no_flag_of_the_banner_is_broken_at_any_width(page: Page) -> None:
    page.set_content(f"<style>{style_sheet()}</style><p class='banner'>{render.sentence(BANNER)}</p>")
    broken = page.evaluate("""() => {
        const found = [];
        for (let width = 160; width < 900; width += 2) {
            document.querySelector('.banner').style.width = `${width}px`;
            for (const flag of document.querySelectorAll('.flag')) {
                if (flag.getClientRects().length !== 1) found.push(`${flag.textContent} at ${width}`);
            }
        }
        return [document.querySelectorAll('.flag').length, found];
    }""")
    assert broken == [2, []]
