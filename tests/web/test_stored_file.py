"""Files that are deleted while a response with them is on its way."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from wan_ui.errors import VideoNotFound
from wan_ui.web.stored_file import StoredFile


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"0123456789")
    return path


def served(file: Path, deletes: bool) -> TestClient:
    """An app that answers with the file, and deletes it just before."""

    async def answer(_request: Request) -> Response:
        response = StoredFile(file, "video/mp4", {"X-Own": "yes"}, filename="a.mp4")
        if deletes:
            file.unlink()
        return response

    return TestClient(Starlette(routes=[Route("/", answer)]))


@pytest.mark.parametrize("sent", [{}, {"range": "bytes=2-4"}], ids=str)
def test_a_file_that_is_deleted_before_it_is_opened_is_not_found(file: Path, sent: dict[str, str]) -> None:
    answer = served(file, deletes=True).get("/", headers=sent)
    assert (answer.status_code, answer.json()["detail"]["error"]["code"]) == (404, "VIDEO_NOT_FOUND")
    assert "x-own" not in answer.headers


def test_any_other_file_is_sent(file: Path) -> None:
    client = served(file, deletes=False)
    whole, part, head = client.get("/"), client.get("/", headers={"range": "bytes=2-4"}), client.head("/")
    assert (whole.status_code, whole.content, whole.headers["x-own"]) == (200, b"0123456789", "yes")
    assert whole.headers["content-disposition"] == 'inline; filename="a.mp4"'
    assert (part.status_code, part.content) == (206, b"234")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "10")


def test_a_file_that_is_not_there_is_refused_at_once(file: Path) -> None:
    file.unlink()
    with pytest.raises(VideoNotFound):
        StoredFile(file, "video/mp4", {})


def test_no_route_answers_with_a_file_that_may_vanish() -> None:
    """Only files of the package, and those that are written for one response, are sent by a plain FileResponse."""
    sources = (Path(__file__).parents[2] / "wan_ui").rglob("*.py")
    naming = {path.name for path in sources if " FileResponse(" in path.read_text(encoding="utf-8")}
    assert naming == {"docs.py", "comparisons.py"}
