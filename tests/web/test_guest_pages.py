"""Guest pages of a whole server behind a link: what a share link opens without the password, and that it is all."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import pytest

from tests.web.strangers import Server, running
from wan_ui.access import LOCAL_ACCESS
from wan_ui.job import ClipRecord
from wan_ui.media import video

pytestmark = pytest.mark.slow

GRID = {
    "columns": {"field": "seed", "values": [1, 2]},
    "rows": {"field": "sample_steps", "values": [4, 8]},
    "baseline": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("share", tmp_path_factory.mktemp("guests")) as server:
        yield server


@pytest.fixture
def guest(server: Server) -> Iterator[httpx.Client]:
    """Somebody with the link's address alone: no password, no cookie."""
    with server.client(signed_in=False, accept="text/html") as client:
        yield client


def finished(server: Server, *, compare: bool = False, visitor: str | None = "e" * 32, **fields: Any) -> str:
    """A finished job of a browser with real clips; its id."""
    prompt = {"prompt": "a <b>garden</b> at dawn", "width": 64, "height": 64, "num_frames": 5, "sample_steps": 4}
    body = {"model": "wan21_1b", "prompts": [prompt], **({"compare": GRID} if compare else {}), **fields}
    service, store = server.services.service, server.services.store
    job = service.submit(body, LOCAL_ACCESS)
    with closing(sqlite3.connect(server.folder / "data" / "jobs.sqlite")) as database, database:
        database.execute("UPDATE jobs SET status = 'in_progress', visitor = ? WHERE id = ?", (visitor, job.id))
    (server.folder / "data" / "clips").mkdir(exist_ok=True)
    for index, generation in enumerate(job.generations[:3]):
        file = f"clips/{job.id}{index}.mp4"
        frames = np.full((5, 64, 64, 3), 40 * (index + 1), np.uint8)
        video.write(server.folder / "data" / file, frames, 16, {"generation": {}})
        assert store.add_clip(job.id, ClipRecord(index, 64, 64, 5, 16, generation.seed, file, {}))
    store.finish(job.id, "succeeded")
    return job.id


def share(server: Server, entry: str, days: int = 7) -> tuple[str, str]:
    """A link's id and the path of its page."""
    link, token = server.services.service.shares.create(entry, days, LOCAL_ACCESS)
    return link.id, f"/shared/{token}"


def test_a_scale_that_changes_over_the_steps_is_shown(server: Server, guest: httpx.Client) -> None:
    job = finished(server, loras=[{"path": "style.safetensors", "network_multiplier": {"from": 1, "to": 0.2}}])
    _, path = share(server, f"{job}-0")
    page = guest.get(path)
    assert page.status_code == 200 and "style × 1 to 0.2" in page.text


def test_a_link_opens_one_video_without_a_password_or_a_cookie(server: Server, guest: httpx.Client) -> None:
    job = finished(server)
    _, path = share(server, f"{job}-0")
    page = guest.get(path)
    assert page.status_code == 200 and "set-cookie" not in page.headers and len(page.content) < 100_000
    assert "a &lt;b&gt;garden&lt;/b&gt; at dawn" in page.text and "64 × 64" in page.text
    assert job not in page.text and "e" * 32 not in page.text and "/v1" not in page.text
    assert page.headers["cache-control"] == "no-store" and page.headers["referrer-policy"] == "no-referrer"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', page.text))
    assert f"'nonce-{nonce}'" in policy and nonce not in guest.get(path).text
    assert page.headers["x-frame-options"] == "DENY" and "noindex" in page.headers["x-robots-tag"]
    clip = guest.get(f"{path}/video/0", headers={"range": "bytes=4-7"})
    assert clip.status_code == 206 and clip.content == b"ftyp" and clip.headers["content-type"] == "video/mp4"
    assert job not in str(clip.headers) and clip.headers["referrer-policy"] == "no-referrer"
    assert guest.get(f"{path}/video/0", headers={"range": "bytes=9999999-"}).status_code == 416
    still = guest.get(f"{path}/poster/0")
    assert still.headers["content-type"] == "image/jpeg" and still.content[:2] == b"\xff\xd8"
    assert not any(guest.cookies.jar)


def test_a_comparison_shows_its_finished_cells(server: Server, guest: httpx.Client) -> None:
    job = finished(server, compare=True)
    _, path = share(server, job)
    page = guest.get(path).text
    assert re.findall(r'<a href="[^"]*/video/(\d)" data-video', page) == ["0", "1", "2"]
    assert '<span class="head">seed →<br>steps ↓</span>' in page and '<span class="head">8</span>' in page
    assert page.count("not generated") == 1 and "steps 4, seed 1" in page and job not in page
    assert all(guest.get(f"{path}/video/{index}").status_code == 200 for index in range(3))
    assert guest.get(f"{path}/video/3").status_code == 404


def test_no_share_link_opens_anything_else(server: Server, guest: httpx.Client) -> None:
    job, other = finished(server, compare=True), finished(server)
    _, path = share(server, f"{other}-0")
    token = path.rpartition("/")[2]
    for wrong in (
        f"{path}/video/1",
        f"{path}/video/-1",
        f"{path}/video/{'9' * 5000}",
        f"{path}/video/\u0660",
        f"{path}/poster/1",
        f"{path}/video/../../../v1/gallery",
        f"{path}/settings.json",
        "/shared/",
        "/shared/x",
        f"/shared/{'A' * 22}",
        f"/shared/{token[:-1]}",
        f"/shared/{token}%0a",
        "/shared/%2e%2e/v1/gallery",
    ):
        reply = guest.get(wrong)
        assert reply.status_code in (401, 404), wrong
        assert "garden" not in reply.text, wrong
    for closed in (
        "/",
        "/v1/gallery",
        "/v1/shares",
        f"/v1/gallery/{other}-0",
        f"/v1/requests/{other}/videos/0",
        f"/v1/requests/{job}/status",
        f"/?compare={job}",
        "/config",
        "/metrics",
        f"/v1/gallery?token={token}",
    ):
        reply = guest.get(closed, headers={"cookie": f"token={token}"})
        assert reply.status_code == 401, closed
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert guest.request(method, path).status_code == 401
    assert guest.head(path).status_code == 200


def test_a_link_that_ended_or_was_withdrawn_or_deleted_says_so(server: Server, guest: httpx.Client) -> None:
    job = finished(server)
    links = server.services.service.shares
    link, path = share(server, f"{job}-0")
    links.withdraw(link, LOCAL_ACCESS)
    _, ended = share(server, f"{job}-0", days=0)
    _, deleted = share(server, f"{job}-0")
    server.services.service.delete_entry(f"{job}-0", LOCAL_ACCESS)
    for closed in (path, ended, deleted):
        page = guest.get(closed)
        assert page.status_code == 410 and "This link is closed" in page.text and "garden" not in page.text
        assert page.headers["cache-control"] == "no-store"
        assert guest.get(f"{closed}/video/0").status_code == guest.get(f"{closed}/poster/0").status_code == 410
    assert guest.get(f"/shared/{'A' * 22}").status_code == 404


def test_only_the_owner_makes_lists_and_ends_links(server: Server) -> None:
    entry = f"{finished(server, visitor=None)}-0"
    with server.client() as program, server.browser() as browser, server.owner() as owner:
        for stranger in (program, browser):
            for reply in (
                stranger.post("/v1/shares", json={"entry": entry}),
                stranger.get("/v1/shares"),
                stranger.delete("/v1/shares/0123456789abcdef"),
            ):
                assert reply.status_code == 403 and reply.json()["detail"]["error"]["code"] == "OWNER_ONLY"
            assert stranger.get(f"/v1/gallery/{entry}").json()["may_share"] is False
        made = owner.post("/v1/shares", json={"entry": entry, "days": 3})
        assert made.status_code == 201 and owner.get(f"/v1/gallery/{entry}").json()["may_share"] is True
        link = made.json()
        assert link["url"].startswith(f"{server.entry.tunnel.url}/shared/")
        (listed,) = [item for item in owner.get("/v1/shares").json()["shares"] if item["id"] == link["id"]]
        assert listed == {name: value for name, value in link.items() if name != "url"}
        path = httpx.URL(link["url"]).path
        with server.client(signed_in=False) as guest:
            assert guest.get(path).status_code == 200
            assert owner.delete(f"/v1/shares/{link['id']}").status_code == 204
            assert guest.get(path).status_code == 410
        assert owner.delete(f"/v1/shares/{link['id']}").status_code == 404
        bodies: list[Any] = [
            {},
            {"entry": entry, "days": 0},
            {"entry": entry, "days": 91},
            {"entry": entry, "x": 1},
            [],
        ]
        for body in bodies:
            assert owner.post("/v1/shares", json=body).status_code == 422
        assert owner.post("/v1/shares", json={"entry": "nothing"}).status_code == 404
