"""What is typed while the page still opens is kept: what the browser had kept comes after it and leaves it alone."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from playwright.sync_api import Locator, Page, Route, expect

from tests.ui.fake_app import App
from tests.ui.page_object import axis_values, field, fill, filled, form, open_more, open_page, tab, type_values
from tests.waiting import wait_until
from wan_ui.ui.form import STORAGE_SECRET

pytestmark = pytest.mark.browser

OTHER = "Wan 2.1 T2V 1.3B"
KEY_BYTES, IV_BYTES, MD5_BYTES = 32, 16, 16


def preview(page: Page) -> Locator:
    open_more(page)
    return page.get_by_role("radio", name="Match training samples", exact=True).locator("visible=true")


def effective(page: Page, width: int) -> None:
    """Gives a width and waits for what is said of it, which comes together with the draft that the browser keeps."""
    fill(page, Width=str(width))
    expect(form(page).locator(".effective")).to_contain_text(f"{width} × ")


def kept(page: Page, name: str) -> Any:
    """What the browser keeps under a name. Gradio encrypts it as CryptoJS does: OpenSSL's salted AES, keys by MD5."""
    text = page.evaluate("name => localStorage.getItem(`wan-ui:${name}`)", name)
    if text is None:
        return None
    data, key = base64.b64decode(text.rpartition(":")[2]), b""
    secret = hashlib.sha256(STORAGE_SECRET.encode()).hexdigest().encode()
    while len(key) < KEY_BYTES + IV_BYTES:
        key += hashlib.md5(key[-MD5_BYTES:] + secret + data[8:16]).digest()
    cipher = Cipher(algorithms.AES(key[:KEY_BYTES]), modes.CBC(key[KEY_BYTES:])).decryptor()
    padded = cipher.update(data[16:]) + cipher.finalize()
    return json.loads(padded[: -padded[-1]])


@contextmanager
def opening(page: Page, words: str) -> Iterator[None]:
    """Loads the page again. The first event that says these words, of a draft, reaches the server after the block."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        if not held and words in (route.request.post_data or ""):
            held.append(route)
        else:
            route.fallback()

    page.route("**/gradio_api/**", hold)
    with page.expect_request(lambda request: words in (request.post_data or "")):
        page.reload()
    yield
    (route,) = held
    route.fallback()


def test_what_is_typed_before_the_drafts_are_there_wins(page: Page, app: App) -> None:
    open_page(page, app)
    fill(page, Prompt="kept words", Seed="11", Steps="7", **{"Negative prompt": "kept negative words"})
    effective(page, 320)
    with opening(page, "kept negative words"):
        field(page, "Prompt").press("ControlOrMeta+a")
        field(page, "Prompt").press_sequentially("typed at once")
        fill(page, Seed="12")
        preview(page).check()
    open_more(page)
    expect(field(page, "Negative prompt")).to_have_value("kept negative words")
    expect(field(page, "Steps")).to_have_value("7")
    expect(field(page, "Width")).to_have_value("320")
    expect(field(page, "Prompt")).to_have_value("typed at once")
    expect(field(page, "Seed")).to_have_value("12")
    expect(preview(page)).to_be_checked()
    effective(page, 352)
    page.reload()
    filled(page)
    open_more(page)
    expect(field(page, "Prompt")).to_have_value("typed at once")
    expect(field(page, "Negative prompt")).to_have_value("kept negative words")
    expect(field(page, "Seed")).to_have_value("12")
    expect(preview(page)).to_be_checked()


def test_typing_goes_on_where_it_was(page: Page, app: App) -> None:
    open_page(page, app)
    fill(page, Prompt="kept words")
    effective(page, 320)
    with opening(page, "kept words"):
        fill(page, Prompt="a street at night")
        for _ in "at night":
            field(page, "Prompt").press("ArrowLeft")
        page.keyboard.type("in the rain ")
    expect(field(page, "Width")).to_have_value("320")
    expect(field(page, "Prompt")).to_have_value("a street in the rain at night")
    page.keyboard.type("and ")
    expect(field(page, "Prompt")).to_have_value("a street in the rain and at night")


def test_the_model_that_was_chosen_meanwhile_stays(page: Page, app: App) -> None:
    open_page(page, app)
    fill(page, Prompt="kept words")
    effective(page, 320)
    with opening(page, "kept words"):
        tab(page, OTHER).click()
        fill(page, Prompt="typed for the other model")
    filled(page)
    expect(page.get_by_role("tab", name=OTHER, exact=True)).to_have_attribute("aria-selected", "true")
    expect(field(page, "Prompt")).to_have_value("typed for the other model")
    expect(field(page, "Width")).to_have_value("320")


def test_what_is_typed_into_the_compare_tab_wins_too(page: Page, app: App) -> None:
    open_page(page, app)
    tab(page, "Compare").click()
    said, summary = page.locator(".count-line.block"), page.locator(".compare-form .summary")
    expect(summary).to_be_visible()
    type_values(page, "Columns", "0.25, none")
    wait_until(lambda: kept(page, "tab") == "compare" and "0.25, none" in kept(page, "draft:comparison")["axes"])
    with opening(page, "0.25, none"):
        type_values(page, "Columns", "0.1, 0.2, 0.3")
        expect(summary).to_have_count(0)
    expect(summary).to_be_visible()
    expect(said).not_to_be_empty()
    expect(said).not_to_contain_text("none")
    expect(axis_values(page, "Columns")).to_have_text(["0.1", "0.2", "0.3"])
