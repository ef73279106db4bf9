"""A clip's LoRA files are found again by content, wherever they are called what; what is not here is said."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.lora.test_library import write
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.identity import Identity
from wan_ui.lora.library import Library
from wan_ui.provenance.lora_search import hashes_of, locate_loras


@pytest.fixture
def library(tmp_path: Path) -> Library:
    (tmp_path / "loras").mkdir()
    return Library(tmp_path / "loras", tmp_path / "uploads")


def request(*paths: str, **fields: Any) -> dict[str, Any]:
    loras = [{"path": path, "network_multiplier": 0.5} for path in paths]
    return {"model": "m", "prompts": [{"prompt": "a"}], "loras": loras, **fields}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_is_where_it_was_is_not_spoken_of(library: Library, tmp_path: Path) -> None:
    made = sha256(write(tmp_path / "loras" / "a" / "fox.safetensors", name="ai-toolkit", n="1"))
    found = locate_loras(request("a/fox.safetensors"), library, {"a/fox.safetensors": made}, LOCAL_ACCESS)
    assert found.request == request("a/fox.safetensors")
    assert found.notes == ()


def test_a_file_that_was_moved_is_found_by_its_content(library: Library, tmp_path: Path) -> None:
    file = write(tmp_path / "loras" / "fox.safetensors", n="1")
    write(tmp_path / "loras" / "other.safetensors", n="2")
    made = sha256(file)
    (tmp_path / "loras" / "best").mkdir()
    os.replace(file, tmp_path / "loras" / "best" / "renamed.safetensors")
    found = locate_loras(request("fox.safetensors"), library, {"fox.safetensors": made}, LOCAL_ACCESS)
    assert found.request["loras"] == [{"path": "best/renamed.safetensors", "network_multiplier": 0.5}]
    assert found.notes == ("fox.safetensors was found by its content, as best/renamed.safetensors.",)


def test_a_file_that_is_gone_is_left_out_and_said(library: Library, tmp_path: Path) -> None:
    found = locate_loras(request("fox.safetensors"), library, {"fox.safetensors": "ab" * 32}, LOCAL_ACCESS)
    assert found.request["loras"] == []
    (note,) = found.notes
    assert "fox.safetensors is missing" in note and "abababababab" in note


def test_another_file_of_the_same_name_is_never_taken_for_it(library: Library, tmp_path: Path) -> None:
    file = write(tmp_path / "loras" / "fox.safetensors", n="1")
    state, made = file.stat(), sha256(file)
    library.locate("fox.safetensors", LOCAL_ACCESS)
    write(file, n="2")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size
    found = locate_loras(request("fox.safetensors"), library, {"fox.safetensors": made}, LOCAL_ACCESS)
    assert found.request["loras"] == []
    (note,) = found.notes
    assert "fox.safetensors has changed" in note and sha256(file)[:12] in note and made[:12] in note


def test_the_right_file_is_taken_where_another_has_its_name(library: Library, tmp_path: Path) -> None:
    made = sha256(write(tmp_path / "loras" / "z" / "fox.safetensors", n="1"))
    write(tmp_path / "loras" / "fox.safetensors", n="2")
    found = locate_loras(request("fox.safetensors"), library, {"fox.safetensors": made}, LOCAL_ACCESS)
    assert [item["path"] for item in found.request["loras"]] == ["z/fox.safetensors"]


def test_an_upload_is_found_where_the_folder_has_lost_it(library: Library, tmp_path: Path) -> None:
    file = write(tmp_path / "loras" / "fox.safetensors", n="1")
    made = sha256(file)
    file.unlink()
    source = library.add_upload(write(tmp_path / "sent.tmp", n="1"), "mine.safetensors", LOCAL_ACCESS)
    assert library.with_sha256(made, LOCAL_ACCESS) == source
    found = locate_loras(request("fox.safetensors"), library, {"fox.safetensors": made}, LOCAL_ACCESS)
    assert [item["path"] for item in found.request["loras"]] == [source]
    assert library.with_sha256(made, Access(Identity("1" * 32, owner=False), shared=False)) is None


def test_a_broken_file_is_not_the_one(library: Library, tmp_path: Path) -> None:
    (tmp_path / "loras" / "fox.safetensors").write_bytes(b"no LoRA")
    assert library.with_sha256(sha256(tmp_path / "loras" / "fox.safetensors"), LOCAL_ACCESS) is None


def test_without_time_only_what_is_likely_is_read(library: Library, tmp_path: Path) -> None:
    made = sha256(write(tmp_path / "loras" / "a.safetensors", n="1"))
    named = sha256(write(tmp_path / "loras" / "deep" / "b.safetensors", n="2"))
    assert library.unread() == ("a.safetensors", "deep/b.safetensors")
    assert library.with_sha256(made, LOCAL_ACCESS, seconds=-1) is None
    assert library.with_sha256(named, LOCAL_ACCESS, like="b.safetensors", seconds=-1) == "deep/b.safetensors"
    assert library.unread() == ("a.safetensors",)
    assert library.with_sha256(made, LOCAL_ACCESS) == "a.safetensors"
    again = Library(tmp_path / "loras", tmp_path / "uploads")
    assert again.unread() == ()
    assert again.with_sha256(made, LOCAL_ACCESS, seconds=-1) == "a.safetensors"


def test_a_url_stays_and_is_reported_to_be_downloaded_again(library: Library) -> None:
    source = "https://example.org/fox.safetensors"
    found = locate_loras(request(source), library, {source: "ab" * 32}, LOCAL_ACCESS)
    assert [item["path"] for item in found.request["loras"]] == [source]
    assert "downloaded again" in found.notes[0]


def test_a_file_of_unknown_content_is_left_out(library: Library, tmp_path: Path) -> None:
    write(tmp_path / "loras" / "fox.safetensors")
    found = locate_loras(request("fox.safetensors"), library, {"fox.safetensors": None}, LOCAL_ACCESS)
    assert found.request["loras"] == [] and "not recorded" in found.notes[0]


def test_the_files_of_a_comparisons_axis_too(library: Library, tmp_path: Path) -> None:
    kept = sha256(write(tmp_path / "loras" / "a_500.safetensors", n="1"))
    moved = write(tmp_path / "loras" / "a_1000.safetensors", n="2")
    sha256s = {"a_500.safetensors": kept, "a_1000.safetensors": sha256(moved), "gone.safetensors": "ab" * 32}
    os.replace(moved, tmp_path / "loras" / "b.safetensors")
    axis = {"field": "lora", "values": ["a_500.safetensors", "a_1000.safetensors", "gone.safetensors"]}
    rows = {"field": "seed", "values": [1, 2]}
    asked = request("replaced.safetensors", compare={"columns": axis, "rows": rows, "baseline": True})
    found = locate_loras(asked, library, sha256s, LOCAL_ACCESS)
    assert found.request["compare"] == {
        "columns": {"field": "lora", "values": ["a_500.safetensors", "b.safetensors"]},
        "rows": rows,
        "baseline": True,
    }
    assert [item["path"] for item in found.request["loras"]] == ["replaced.safetensors"]
    assert len(found.notes) == 2


def test_the_hashes_of_a_generation() -> None:
    uses: list[dict[str, Any]] = [
        {"path": "a", "sha256": "1"},
        {"path": "a", "sha256": None},
        {"path": "b", "sha256": None},
    ]
    assert hashes_of(uses) == {"a": "1", "b": None}
