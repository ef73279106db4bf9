"""The gallery over HTTP, of a whole server behind a link: listed, kept, deleted, by those who may; and alone."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.web.strangers import Server, running
from wan_ui.media import video

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("share", tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a link; the first test that asks for it finds its gallery empty."""
    with running("plain", tmp_path_factory.mktemp("alone")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def owner(shared: Server) -> Iterator[httpx.Client]:
    with shared.owner() as client:
        yield client


def ids(client: httpx.Client, **query: Any) -> list[str]:
    reply = client.get("/v1/gallery", params=query)
    assert reply.status_code == 200, reply.text
    return [entry["id"] for entry in reply.json()["entries"]]


def files(server: Server, job: str) -> list[str]:
    return sorted(path.name for path in (server.folder / "data" / "clips").glob(f"{job}*"))


def test_no_visitor_lists_or_changes_anothers_clips(shared: Server, owner: httpx.Client) -> None:
    with shared.browser() as one, shared.browser() as other, shared.client() as program:
        job = shared.finished_job(shared.visitor_of(one))
        entry = f"{job}-0"
        assert ids(one) == [entry]
        assert one.get("/v1/gallery/choices").json()["entries"] == 1
        for stranger in (other, program):
            assert ids(stranger) == ids(stranger, job=job) == ids(stranger, q="garden") == []
            assert stranger.get("/v1/gallery/choices").json() == {"entries": 0, "kept": 0, "models": [], "loras": []}
            for path in (entry, f"{entry}/poster.jpg", f"{entry}/settings.json", job):
                reply = stranger.get(f"/v1/gallery/{path}")
                assert reply.status_code == 404 and reply.json()["detail"]["error"]["code"] == "VIDEO_NOT_FOUND"
            assert stranger.patch(f"/v1/gallery/{entry}", json={"kept": True}).status_code == 404
            assert stranger.delete(f"/v1/gallery/{entry}").status_code == 404
        assert one.get(f"/v1/gallery/{entry}").json()["kept"] is False
        assert entry in ids(owner) and owner.patch(f"/v1/gallery/{entry}", json={"kept": True}).json()["kept"] is True
        assert files(shared, job) == [f"{job}.mp4"]
        assert owner.delete(f"/v1/gallery/{entry}").status_code == 204
        assert files(shared, job) == [] and ids(one) == []
        assert one.get(f"/v1/requests/{job}/status").status_code == 404


def test_a_shared_gallery_is_read_and_deleted_by_its_own(tmp_path: Path) -> None:
    with running("share", tmp_path, shared_gallery=True) as server:
        with server.browser() as one, server.browser() as other, server.client() as program:
            job = server.finished_job(server.visitor_of(one))
            entry = f"{job}-0"
            hidden = server.finished_job(None)
            assert ids(one) == ids(other) == ids(program) == [entry] and hidden
            assert other.get("/v1/gallery").json()["entries"][0]["may_change"] is False
            assert one.get("/v1/gallery").json()["entries"][0]["may_change"] is True
            assert other.delete(f"/v1/gallery/{entry}").status_code == 404
            assert other.patch(f"/v1/gallery/{entry}", json={"kept": True}).status_code == 404
            assert one.patch(f"/v1/gallery/{entry}", json={"kept": True}).status_code == 200
            assert one.delete(f"/v1/gallery/{entry}").status_code == 204


def test_a_programs_clip_is_changed_by_its_id(shared: Server) -> None:
    job = shared.finished_job(None)
    with shared.client() as program:
        assert ids(program) == []
        assert program.get(f"/v1/gallery/{job}-0").json()["request_id"] == job
        assert program.delete(f"/v1/gallery/{job}-0").status_code == 204
        assert files(shared, job) == []


def test_no_page_of_another_site_deletes(shared: Server) -> None:
    with shared.browser() as one:
        job = shared.finished_job(shared.visitor_of(one))
        for origin in ("https://evil.example", "null"):
            reply = one.request("DELETE", f"/v1/gallery/{job}-0", headers={"origin": origin})
            assert reply.status_code == 403
            assert one.patch(f"/v1/gallery/{job}-0", json={"kept": True}, headers={"origin": origin}).status_code == 403
        assert ids(one) == [f"{job}-0"]


def test_pages_filters_and_what_is_wrong(server: Server, client: httpx.Client) -> None:
    jobs = [server.finished_job(None) for _ in range(5)][::-1]
    first = client.get("/v1/gallery", params={"limit": 2}).json()
    assert [one["request_id"] for one in first["entries"]] == jobs[:2] and first["newer"] is None
    second = client.get("/v1/gallery", params={"limit": 2, "cursor": first["older"]}).json()
    assert [one["request_id"] for one in second["entries"]] == jobs[2:4]
    assert ids(client, limit=2, cursor=second["newer"]) == [f"{job}-0" for job in jobs[:2]]
    assert len(ids(client, q="GARDEN")) == 5 and ids(client, q="no such word") == []
    assert len(ids(client, model="wan21_1b")) == 5 and ids(client, model="wan22_5b") == []
    assert ids(client, job=jobs[3]) == [f"{jobs[3]}-0"]
    assert ids(client, q="", model="", lora="", job="", cursor="") == [f"{job}-0" for job in jobs]
    for query in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"cursor": "x"}, {"q": "x" * 201}, {"kept": "x"}):
        reply = client.get("/v1/gallery", params=query)
        assert reply.status_code == 422 and reply.json()["detail"]["error"]["code"] == "INVALID_REQUEST"
    wrong: list[Any] = [{}, {"kept": 1}, {"kept": "yes"}, {"kept": True, "x": 1}, []]
    for body in wrong:
        assert client.patch(f"/v1/gallery/{jobs[0]}-0", json=body).status_code == 422
    assert client.patch(f"/v1/gallery/{jobs[0]}-0", content=b"{").status_code == 400
    assert client.patch(f"/v1/gallery/{jobs[0]}-0", json={"kept": True}).json()["kept"] is True
    assert ids(client, kept=True) == [f"{jobs[0]}-0"]
    entry = client.get("/v1/gallery").json()["entries"][0]
    assert (entry["model_label"], entry["prompt"], entry["may_change"]) == ("Wan 2.1 T2V 1.3B", "a garden", True)


def test_poster_and_settings_of_a_real_clip(server: Server, client: httpx.Client) -> None:
    job = server.finished_job(None)
    for path in ("poster.jpg", "settings.json"):  # its file is no video yet
        reply = client.get(f"/v1/gallery/{job}-0/{path}")
        assert (reply.status_code, reply.json()["detail"]["error"]["code"]) == (404, "VIDEO_NOT_FOUND")
    frames, inside = np.full((3, 64, 64, 3), 90, np.uint8), {"request": {"model": "m"}, "wan_ui": "0"}
    video.write(server.folder / "data" / "clips" / f"{job}.mp4", frames, 16, inside)
    reply = client.get(f"/v1/gallery/{job}-0/poster.jpg")
    assert reply.headers["content-type"] == "image/jpeg" and reply.content[:3] == b"\xff\xd8\xff"
    assert files(server, job) == [f"{job}.jpg", f"{job}.mp4"]
    reply = client.get(f"/v1/gallery/{job}-0/settings.json")
    assert json.loads(reply.content) == inside
    assert reply.headers["content-disposition"].startswith("attachment") and "no-store" in str(reply.headers)
    assert client.delete(f"/v1/gallery/{job}-0").status_code == 204
    assert files(server, job) == []


def test_what_runs_is_not_deleted_over_http(server: Server, client: httpx.Client) -> None:
    job = server.finished_job(None)
    server.services.store.rows("UPDATE jobs SET status = 'in_progress' WHERE id = :id", {"id": job})
    reply = client.delete(f"/v1/gallery/{job}-0")
    assert (reply.status_code, reply.json()["detail"]["error"]["code"]) == (409, "STILL_RUNNING")


def test_entries_by_kind_and_oldest_first_and_as_a_zip_file(shared: Server) -> None:
    with shared.browser() as one, shared.browser() as other:
        jobs = [shared.finished_job(shared.visitor_of(one)) for _ in range(3)]
        entries = [f"{job}-0" for job in jobs]
        assert ids(one) == entries[::-1] and ids(one, order="oldest") == entries
        assert ids(one, order="oldest", kind="video") == entries
        assert ids(one, kind="comparison") == []
        page = one.get("/v1/gallery", params={"order": "oldest", "limit": 2}).json()
        assert [entry["id"] for entry in page["entries"]] == entries[:2] and page["newer"] is None
        assert ids(one, order="oldest", limit=2, cursor=page["older"]) == entries[2:]
        assert one.get("/v1/gallery", params={"kind": "x"}).status_code == 422
        reply = one.get("/v1/gallery/clips.zip", params={"ids": ",".join(entries[:2])})
        assert reply.headers["content-type"] == "application/zip"
        names = zipfile.ZipFile(io.BytesIO(reply.content)).namelist()
        assert names == ["001_a_garden.mp4", "002_a_garden.mp4"]
        assert other.get("/v1/gallery/clips.zip", params={"ids": entries[0]}).status_code == 404
        for wrong in ("", ",", ",".join(["x"] * 101), "nothing"):
            assert one.get("/v1/gallery/clips.zip", params={"ids": wrong}).status_code in (404, 422)
        assert one.get(f"/v1/gallery/{entries[0]}/poster.jpg", params={"video": 1}).status_code == 404
