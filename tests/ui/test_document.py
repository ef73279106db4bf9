"""What the page's document carries, which is sent anew with every visit."""

from __future__ import annotations

import json
import re

import brotli
import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.fakes import FakeRender
from tests.ui.fake_app import App, running
from tests.ui.page_object import open_page
from wan_ui.ui.page import API_KEYS, SCRIPT
from wan_ui.ui.static_files import COMPONENTS, static_text
from wan_ui.web.compression import BROTLI_QUALITY
from wan_ui.web.security_headers import IMMUTABLE

MOST_BYTES = 60_000  # of the document as brotli


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    with running(tmp_path_factory.mktemp("document"), FakeRender()) as app:
        return httpx.get(app.url).text


def config(document: str) -> dict:
    match = re.search(r"window\.gradio_config = (\{.*?\});\s*</script>", document, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def test_no_component_has_an_api_schema_and_no_event_needs_one(document: str):
    shown = config(document)
    assert [component["id"] for component in shown["components"] if set(API_KEYS) & set(component)] == []
    assert {event["api_visibility"] for event in shown["dependencies"]} == {"private"}


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_s_script_is_sent_once(document: str, name: str):
    assert SCRIPT.count(static_text(f"{name}.js")) == 1
    assert json.dumps(static_text(f"{name}.js"))[1:-1] not in json.dumps(config(document))


def test_the_page_s_script_is_a_file_that_browsers_keep(app: App, document: str):
    (path,) = re.findall(r'<script src="(scripts/page-[0-9a-f]{16}\.js)"></script>', document)
    answer = httpx.get(app.url + path)
    assert (answer.status_code, answer.text) == (200, SCRIPT)
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == IMMUTABLE
    assert httpx.get(f"{app.url}scripts/page-{'0' * 16}.js").status_code == 404


def test_the_document_is_small_on_the_wire(document: str):
    assert len(brotli.compress(document.encode(), quality=BROTLI_QUALITY)) < MOST_BYTES


@pytest.mark.browser
def test_the_api_page_still_answers(page: Page, app: App):
    open_page(page, app)
    assert page.request.get(f"{app.url}gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
    expect(page.locator("#workspace")).to_be_visible()
