"""The rendered documentation of the API in a browser, under the password and the Content-Security-Policy."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from tests.browser_fixture import heard, new_context
from tests.web.strangers import running

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_documentation_works_signed_in_and_asks_no_other_host(browser: Browser, tmp_path: Path) -> None:
    with running("plain", tmp_path, auth=("ann", "of her own")) as server:
        with server.client(signed_in=False) as stranger:
            for path in ("/v1/docs", "/v1/docs/swagger-ui-bundle.js", "/v1/openapi.json"):
                assert stranger.get(path).status_code == 401
        page = new_context(browser).new_page()
        hosts: set[str] = set()
        problems: list[str] = []
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.url)
        page.get_by_label("Name").fill("ann")
        page.get_by_label("Password").fill("of her own")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator(".effective").locator("visible=true")).to_have_count(1)  # signed in, and at rest
        of_the_documentation = heard(page)
        page.goto(f"{server.url}/v1/docs")
        expect(page.get_by_text("Queue a request").first).to_be_visible(timeout=60_000)
        page.get_by_role("button", name="List the models").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.get_by_text('"base_model"').first).to_be_visible(timeout=60_000)
        assert {host for host in hosts if host} == {urlsplit(server.url).netloc}
        assert problems == of_the_documentation == []
