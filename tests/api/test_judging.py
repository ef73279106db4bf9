"""Judging a comparison over HTTP: marks, blind pairs that tell nothing, votes, and what result and ZIP say of them."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.jobs.helpers import body
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.api.app import create_api
from wan_ui.identity import Identity
from wan_ui.job import ClipRecord
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.media import boxes, video

pytestmark = pytest.mark.slow

GUEST = Access(Identity("2" * 32, False), shared=True)
STRANGER = Access(Identity("4" * 32, False), shared=False)


@dataclass
class Caller:
    """Who sends the next request."""

    access: Access = LOCAL_ACCESS


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def client(service: JobService, caller: Caller, tmp_path: Path) -> TestClient:
    (tmp_path / "scratch").mkdir()
    api = create_api(service, dict, lambda: caller.access, scratch=tmp_path / "scratch")
    return TestClient(Starlette(routes=[Mount("/v1", app=api)]), base_url="http://localhost:7860")


@pytest.fixture
def compared(service: JobService, store: Store, tmp_path: Path) -> str:
    """A finished comparison of four lengths, with real videos that carry their settings."""
    axes = {"columns": {"field": "num_frames", "values": [1, 5, 9, 13]}}
    owner = Access(Identity("1" * 32, True), shared=False)
    job = service.submit({**body(1), "compare": axes}, owner)
    assert store.claim_next() == job.id
    (tmp_path / "clips").mkdir()
    for index, generation in enumerate(job.generations):
        file = f"clips/{job.id}-{index}.mp4"
        frames = np.full((generation.num_frames, 64, 64, 3), 40 * index, np.uint8)
        video.write(tmp_path / file, frames, 16, {"generation": {"num_frames": generation.num_frames}})
        assert store.add_clip(job.id, ClipRecord(index, 64, 64, generation.num_frames, 16, 1, file, {}))
    store.finish(job.id, "succeeded")
    return job.id


def archive_of(client: TestClient, job_id: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(client.get(f"/v1/requests/{job_id}/cells.zip").content))


def code(response: Any) -> str:
    return str(response.json()["detail"]["error"]["code"])


def test_a_blind_pair_tells_nothing_of_its_cells(
    client: TestClient, service: JobService, compared: str, tmp_path: Path
) -> None:
    pair = client.post(f"/v1/requests/{compared}/pairs").json()
    assert set(pair) == {"id", "a_url", "b_url", "choice", "voted", "pairs"}
    assert (pair["choice"], pair["voted"], pair["pairs"]) == (None, 0, 6)
    assert pair["a_url"] == f"http://localhost:7860/v1/requests/{compared}/pairs/{pair['id']}/a.mp4"
    for side in ("a", "b"):
        index = service.judging.shown_generation(compared, pair["id"], side, LOCAL_ACCESS)
        response = client.get(pair[f"{side}_url"])
        assert response.status_code == 200 and response.headers["content-type"] == "video/mp4"
        assert not {"etag", "last-modified", "content-disposition"} & set(response.headers)
        copy = tmp_path / f"{side}.mp4"
        copy.write_bytes(response.content)
        assert boxes.comment(copy) is None and b"num_frames" not in response.content
        original = service.clip_path(compared, index, LOCAL_ACCESS)
        assert video.read_metadata(original) != {}
        assert (video.read_frames(copy) == video.read_frames(original)).all()


def test_a_pairs_clip_by_range(client: TestClient, compared: str) -> None:
    url = client.post(f"/v1/requests/{compared}/pairs").json()["a_url"]
    whole = client.get(url).content
    for header, first, last in (
        ("bytes=0-9", 0, 9),
        ("bytes=10-", 10, len(whole) - 1),
        ("bytes=-5", len(whole) - 5, 0),
    ):
        last = last or len(whole) - 1
        part = client.get(url, headers={"range": header})
        assert (part.status_code, part.content) == (206, whole[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{len(whole)}"
    assert client.get(url, headers={"range": "bytes=9-1"}).content == whole
    assert client.get(url, headers={"range": f"bytes={len(whole)}-"}).status_code == 416


def test_votes_and_marks_are_in_the_result_and_in_the_zip(client: TestClient, compared: str, caller: Caller) -> None:
    assert (
        "judging.json"
        not in zipfile.ZipFile(io.BytesIO(client.get(f"/v1/requests/{compared}/cells.zip").content)).namelist()
    )
    assert client.put(f"/v1/requests/{compared}/marks/2", json={"mark": "favourite"}).json() == {"mark": "favourite"}
    for _ in range(6):
        pair = client.post(f"/v1/requests/{compared}/pairs").json()
        voted = client.put(f"/v1/requests/{compared}/pairs/{pair['id']}", json={"choice": "a"}).json()
        assert (voted["id"], voted["choice"]) == (pair["id"], "a")
    assert client.post(f"/v1/requests/{compared}/pairs").json() == {
        "id": None, "a_url": None, "b_url": None, "choice": None, "voted": 6, "pairs": 6,
    }  # fmt: skip
    judging = client.get(f"/v1/requests/{compared}/judging").json()
    assert judging["mine"]["votes"] == 6 and judging["everybody"]["voters"] == 1
    assert judging["mine"]["marks"] == [{"video": 2, "favourite": 1, "rejected": 0}]
    assert {place["label"] for place in judging["mine"]["columns"]} == {f"frames {n}" for n in (1, 5, 9, 13)}
    compare = client.get(f"/v1/requests/{compared}/result").json()["metadata"]["compare"]
    assert [cell["mark"] for cell in compare["cells"]] == [None, None, "favourite", None]
    assert compare["judging"] == judging
    archive = archive_of(client, compared)
    assert json.loads(archive.read("judging.json")) == judging
    assert json.loads(archive.read("row1_column3_frames_9.json"))["mark"] == "favourite"
    caller.access = GUEST
    others = client.get(f"/v1/requests/{compared}/judging").json()
    assert others["everybody"] is None and others["mine"]["votes"] == 0 and others["mine"]["marks"] == []


def test_what_is_refused(client: TestClient, service: JobService, compared: str, caller: Caller) -> None:
    root = f"/v1/requests/{compared}"
    pair = client.post(f"{root}/pairs").json()["id"]
    wrong: list[Any] = [{}, {"choice": "c"}, {"choice": None}, {"choice": "a", "x": 1}, []]
    for sent in wrong:
        assert client.put(f"{root}/pairs/{pair}", json=sent).status_code == 422
    for sent in ({}, {"mark": "good"}, {"mark": True}):
        assert client.put(f"{root}/marks/0", json=sent).status_code == 422
    assert code(client.put(f"{root}/marks/4", json={"mark": "favourite"})) == "VIDEO_NOT_FOUND"
    assert code(client.put(f"{root}/pairs/{'0' * 32}", json={"choice": "a"})) == "PAIR_NOT_FOUND"
    assert client.get(f"{root}/pairs/{pair}/c.mp4").status_code == 422
    caller.access = GUEST
    assert code(client.get(f"{root}/pairs/{pair}/a.mp4")) == "PAIR_NOT_FOUND"
    assert code(client.put(f"{root}/pairs/{pair}", json={"choice": "a"})) == "PAIR_NOT_FOUND"
    caller.access = STRANGER
    for method, path in (("POST", "pairs"), ("GET", "judging"), ("GET", f"pairs/{pair}/a.mp4")):
        assert code(client.request(method, f"{root}/{path}")) == "REQUEST_NOT_FOUND"
    assert code(client.put(f"{root}/marks/0", json={"mark": None})) == "REQUEST_NOT_FOUND"
    caller.access = LOCAL_ACCESS
    plain = service.submit(body(1), LOCAL_ACCESS).id
    for method, path in (("POST", "pairs"), ("GET", "judging")):
        assert code(client.request(method, f"/v1/requests/{plain}/{path}")) == "VIDEO_NOT_FOUND"
