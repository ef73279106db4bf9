"""The style sheet as Gradio takes it in: it cuts each selector at every comma, also at those in parentheses."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext

from wan_ui.demo.checkpoints import BANNER
from wan_ui.ui import page, render


def test_no_selector_has_a_comma_in_parentheses() -> None:
    text = re.sub(r"/\*.*?\*/", "", str(page.LAUNCH["css"]), flags=re.DOTALL)
    selectors = re.findall(r"(?:^|[{};])\s*([^{};@]+)\{", text)
    assert len(selectors) > 10
    assert [one.strip() for one in selectors if re.search(r"\([^()]*,[^()]*\)", one)] == []


def test_no_selector_of_a_media_query_is_outside_of_what_gradio_puts_before_it() -> None:
    """`.gradio-container .contain :root` matches nothing: sizes for touch were without effect for that reason."""
    text = re.sub(r"/\*.*?\*/", "", str(page.LAUNCH["css"]), flags=re.DOTALL)
    inside = re.findall(r"@media[^{]*\{((?:[^{}]*\{[^{}]*\})*)[^{}]*\}", text)
    selectors = [each.strip() for rules in inside for each in re.findall(r"([^{},]+)(?=[,{][^{}]*[{}]|\{)", rules)]
    assert len(selectors) > 30
    assert [each for each in selectors if re.match(r"(:root|html|body|\.dark|\.gradio-container)\b", each)] == []


@pytest.mark.browser
def test_no_flag_of_the_banner_is_broken_at_any_width(context: BrowserContext) -> None:
    window = context.new_page()
    window.set_content(f"<style>{page.LAUNCH['css']}</style><p class='banner'>{render.sentence(BANNER)}</p>")
    broken = window.evaluate("""() => {
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
