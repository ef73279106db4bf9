"""Paths that a browser says in raw values: only what Gradio keeps for the page is ever opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from wan_ui.errors import InvalidRequest
from wan_ui.ui.uploaded_files import uploaded_files


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "gradio"
    (folder / "hash").mkdir(parents=True)
    (folder / "hash" / "a.png").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "hash" / "link.png").symlink_to(tmp_path / "secret")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def test_a_file_that_arrived_is_found(kept: Path) -> None:
    assert uploaded_files(str(kept / "hash" / "a.png"), {"hash"}.__contains__).read_bytes() == b"picture"


@pytest.mark.parametrize(
    "said",
    ["{kept}/../secret", "{kept}/hash/../../secret", "{kept}/hash/link.png", "{kept}/hash", "{kept}/none", "secret",
     "/etc/passwd", "/etc/hostname", "../secret", "", ".", "\0", "a" * 5000, None, 3, ["x"], "file:///etc/passwd"],
)  # fmt: skip
def test_anything_else_is_not(kept: Path, said: object) -> None:
    with pytest.raises(InvalidRequest, match="upload was not found"):
        uploaded_files(said.format(kept=kept) if isinstance(said, str) else said, lambda file_id: True)


def test_anothers_is_not(kept: Path) -> None:
    with pytest.raises(InvalidRequest, match="upload was not found"):
        uploaded_files(str(kept / "hash" / "a.png"), {"other"}.__contains__)
