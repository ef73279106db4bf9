"""A source becomes a checked file or a refusal; uploads are moved in, stored once, and there after a restart."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from safetensors.torch import save

from tests.lora.writers import AI_TOOLKIT, FORMATS, WIDTHS
from wan_ui.access import LOCAL_ACCESS
from wan_ui.errors import HostError, LoraInvalid, LoraNotFound
from wan_ui.lora.library import Library

ROOT = Path(__file__).parents[2]


def write(path: Path, name: str = "ai-toolkit", **metadata: str) -> Path:
    """A file that is written equal twice: safetensors' own writer puts the metadata in a random order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = FORMATS[name](WIDTHS["48"])
    content = save(written.tensors)
    head = {"__metadata__": {**written.metadata, **metadata}, **json.loads(content[8 : 8 + header_size(content)])}
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + header_size(content) :])
    return path


def header_size(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    write(tmp_path / "loras" / "job.safetensors")
    return Library(tmp_path / "loras", tmp_path / "uploads")


def test_a_path_becomes_a_checked_file(library: Library, tmp_path: Path) -> None:
    content = write(tmp_path / "loras" / "deep er" / "ü.SAFETENSORS").read_bytes()
    file = library.locate("deep er/ü.SAFETENSORS", LOCAL_ACCESS)
    assert file.name == "ü.SAFETENSORS"
    assert file.path.read_bytes() == content
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert file.size == len(content)
    assert file.header.type == "lora"


@pytest.mark.parametrize(
    "source",
    [
        "", "\0", "job\0.safetensors", "none.safetensors", "../job.safetensors", "a/../../job.safetensors",
        "a/../job.safetensors", "/etc/passwd", "/etc/x.safetensors", "..\\job.safetensors", "a\\job.safetensors",
        "C:\\job.safetensors", "file:///etc/x.safetensors", "https://example.org/x.safetensors",
        "hf://a/b/c.safetensors", "upload://", "upload://nothing", "upload://../../job.safetensors",
        "x" * 5000, "y" * 300 + ".safetensors", "~/job.safetensors",
    ],
)  # fmt: skip
def test_what_is_not_there_or_not_inside_is_not_found(library: Library, source: str) -> None:
    with pytest.raises(LoraNotFound) as caught:
        library.locate(source, LOCAL_ACCESS)
    assert len(caught.value.message) < 400


def test_refusals_name_no_server_path(library: Library, tmp_path: Path) -> None:
    with pytest.raises(LoraNotFound) as caught:
        library.locate("none.safetensors", LOCAL_ACCESS)
    assert str(tmp_path) not in json.dumps(caught.value.body())


@pytest.mark.parametrize("source", ["job.ckpt", "job", "folder.safetensors"])
def test_what_is_no_lora_file_is_invalid(library: Library, source: str, tmp_path: Path) -> None:
    (tmp_path / "loras" / "folder.safetensors").mkdir()
    (tmp_path / "loras" / "job.ckpt").write_bytes(b"x")
    with pytest.raises(LoraInvalid):
        library.locate(source, LOCAL_ACCESS)


def test_a_page_saved_as_a_lora_is_invalid(library: Library, tmp_path: Path) -> None:
    (tmp_path / "loras" / "page.safetensors").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(LoraInvalid, match="HTML"):
        library.locate("page.safetensors", LOCAL_ACCESS)


def test_links_may_stay_inside_and_never_lead_out(library: Library, tmp_path: Path) -> None:
    outside = write(tmp_path / "secret" / "out.safetensors")
    root = tmp_path / "loras"
    (root / "inside.safetensors").symlink_to(root / "job.safetensors")
    (root / "out.safetensors").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    (root / "loop.safetensors").symlink_to(root / "loop.safetensors")
    assert library.locate("inside.safetensors", LOCAL_ACCESS).name == "inside.safetensors"
    for source in ("out.safetensors", "folder/out.safetensors", "loop.safetensors"):
        with pytest.raises(LoraNotFound):
            library.locate(source, LOCAL_ACCESS)
    assert library.listing() == ("inside.safetensors", "job.safetensors")


def test_the_lora_folder_may_itself_be_a_link(library: Library, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path / "loras")
    assert Library(tmp_path / "linked").locate("job.safetensors", LOCAL_ACCESS).header.type == "lora"


def test_the_list_is_sorted_and_searched(library: Library, tmp_path: Path) -> None:
    for name in ("b/Two Words.safetensors", "A.safetensors", "c/note.txt"):
        path = tmp_path / "loras" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert library.listing() == ("A.safetensors", "b/Two Words.safetensors", "job.safetensors")
    assert library.listing("words B/") == ("b/Two Words.safetensors",)
    assert library.listing("nothing") == ()
    assert Library(tmp_path / "none").listing() == ()


def test_a_name_that_is_not_utf8_is_not_listed(library: Library, tmp_path: Path) -> None:
    """No JSON can state it: the list of all files was an internal error."""
    (tmp_path / "loras" / os.fsdecode(b"caf\xe9.safetensors")).write_bytes(b"")
    assert library.listing() == ("job.safetensors",)


def test_a_file_is_read_once_until_it_changes(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "loras" / "job.safetensors"
    first = library.locate("job.safetensors", LOCAL_ACCESS)
    assert library.locate("job.safetensors", LOCAL_ACCESS) is first
    write(path, "musubi")
    os.utime(path, ns=(1, 1))
    second = library.locate("job.safetensors", LOCAL_ACCESS)
    assert second.sha256 != first.sha256
    assert second.header.trainer == "musubi-tuner"


def test_an_upload_is_moved_in_and_keeps_its_name(library: Library, tmp_path: Path) -> None:
    file = write(tmp_path / "incoming" / "0001.tmp")
    content = file.read_bytes()
    source = library.add_upload(file, "My Job_high_noise.safetensors", LOCAL_ACCESS)
    assert not file.exists()
    located = library.locate(source, LOCAL_ACCESS)
    assert located.name == "My Job_high_noise.safetensors"
    assert located.header.slot == "high"
    assert located.path.read_bytes() == content


def test_uploads_survive_a_restart(library: Library, tmp_path: Path) -> None:
    source = library.add_upload(write(tmp_path / "a.tmp"), "a.safetensors", LOCAL_ACCESS)
    again = Library(tmp_path / "loras", tmp_path / "uploads")
    assert again.locate(source, LOCAL_ACCESS) == library.locate(source, LOCAL_ACCESS)


def test_equal_files_are_stored_once_and_none_overwrites_another(library: Library, tmp_path: Path) -> None:
    one = library.add_upload(write(tmp_path / "1.tmp"), "a.safetensors", LOCAL_ACCESS)
    same = library.add_upload(write(tmp_path / "2.tmp"), "a.safetensors", LOCAL_ACCESS)
    renamed = library.add_upload(write(tmp_path / "3.tmp"), "b.safetensors", LOCAL_ACCESS)
    other = library.add_upload(write(tmp_path / "4.tmp", "musubi"), "a.safetensors", LOCAL_ACCESS)
    assert one == same
    assert len({one, renamed, other}) == 3
    assert library.locate(renamed, LOCAL_ACCESS).path == library.locate(one, LOCAL_ACCESS).path
    assert library.locate(renamed, LOCAL_ACCESS).name == "b.safetensors"
    assert library.locate(other, LOCAL_ACCESS).sha256 != library.locate(one, LOCAL_ACCESS).sha256
    assert len(list((tmp_path / "uploads").glob("*.safetensors"))) == 2
    assert list(tmp_path.glob("*.tmp")) == []


def test_two_at_once_are_both_kept(library: Library, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.tmp", "musubi" if n % 2 else "ai-toolkit") for n in range(8)]
    sources: list[str] = []
    threads = [
        threading.Thread(
            target=lambda n=n, f=f: sources.append(library.add_upload(f, f"{n}.safetensors", LOCAL_ACCESS))
        )
        for n, f in enumerate(files)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = Library(tmp_path / "loras", tmp_path / "uploads")
    assert len({again.locate(source, LOCAL_ACCESS).name for source in sources}) == 8


@pytest.mark.parametrize("name", ["a.ckpt", "", "/", "x.safetensors/"])
def test_uploads_of_another_kind_are_refused_and_left(library: Library, name: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.tmp")
    with pytest.raises(LoraInvalid):
        library.add_upload(file, name, LOCAL_ACCESS)
    assert file.exists()


def test_an_unsound_upload_is_refused_and_left(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "a.tmp"
    file.write_bytes(b"<html>")
    with pytest.raises(LoraInvalid, match="HTML"):
        library.add_upload(file, "a.safetensors", LOCAL_ACCESS)
    assert file.exists()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_uploads_name_is_only_a_name(library: Library, tmp_path: Path) -> None:
    source = library.add_upload(write(tmp_path / "a.tmp"), "..\\..//x\x1b\0/../e\u202evil.safetensors", LOCAL_ACCESS)
    assert library.locate(source, LOCAL_ACCESS).name == "e vil.safetensors"
    assert {path.parent for path in tmp_path.rglob("*.safetensors")} == {tmp_path / "loras", tmp_path / "uploads"}


def test_without_a_folder_no_uploads_are_taken(tmp_path: Path) -> None:
    with pytest.raises(LoraNotFound):
        Library(tmp_path).add_upload(write(tmp_path / "a.tmp"), "a.safetensors", LOCAL_ACCESS)
    with pytest.raises(LoraNotFound):
        Library(tmp_path).locate("upload://" + "0" * 32, LOCAL_ACCESS)


def test_an_upload_whose_bytes_are_gone_is_not_found(library: Library, tmp_path: Path) -> None:
    source = library.add_upload(write(tmp_path / "a.tmp"), "a.safetensors", LOCAL_ACCESS)
    library.locate(source, LOCAL_ACCESS).path.unlink()
    with pytest.raises(LoraNotFound, match="upload the LoRA again"):
        library.locate(source, LOCAL_ACCESS)


@pytest.mark.parametrize("index", ["{", "[1]", '[{"id": "x"}]', "7"])
def test_a_damaged_index_is_said(index: str, tmp_path: Path) -> None:
    (tmp_path / "uploads.json").write_text(index)
    with pytest.raises(HostError, match="damaged"):
        Library(tmp_path, tmp_path)


def test_partners_beside_a_path_and_among_the_uploads(library: Library, tmp_path: Path) -> None:
    write(tmp_path / "loras" / "x" / "job_high_noise.safetensors")
    assert library.partner("x/job_high_noise.safetensors", LOCAL_ACCESS) is None
    write(tmp_path / "loras" / "x" / "job_low_noise.safetensors", sshs_model_hash="other")
    assert library.partner("x/job_high_noise.safetensors", LOCAL_ACCESS) == "x/job_low_noise.safetensors"
    assert library.partner("x/job_low_noise.safetensors", LOCAL_ACCESS) == "x/job_high_noise.safetensors"
    assert library.partner("job.safetensors", LOCAL_ACCESS) is None
    said = library.inspect("x/job_high_noise.safetensors", LOCAL_ACCESS)
    assert said["partner"] == "x/job_low_noise.safetensors"
    assert any("not from the same save" in message for message in said["messages"])

    high = library.add_upload(write(tmp_path / "1.tmp"), "j_high_noise.safetensors", LOCAL_ACCESS)
    assert library.partner(high, LOCAL_ACCESS) is None
    low = library.add_upload(write(tmp_path / "2.tmp"), "j_low_noise.safetensors", LOCAL_ACCESS)
    assert library.partner(high, LOCAL_ACCESS) == low
    assert any("same file" in message for message in library.inspect(high, LOCAL_ACCESS)["messages"])


@pytest.mark.slow
def test_the_command_prints_the_inspection(tmp_path: Path) -> None:
    path = write(tmp_path / "job_high_noise.safetensors")
    done = subprocess.run(
        [sys.executable, "-m", "wan_ui.lora", str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert list(said) == [
        "family", "candidates", "slot", "type", "rank", "alpha", "dtype", "modules", "blocks", "trainer", "step",
        "trigger_word", "partner", "fits", "coverage", "messages",
    ]  # fmt: skip
    assert said["trigger_word"] == json.loads(AI_TOOLKIT["ss_tag_frequency"])["1_ohwx"].popitem()[0]
    path.write_bytes(b"<html>")
    failed = subprocess.run([sys.executable, "-m", "wan_ui.lora", str(path)], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 1
    assert json.loads(failed.stderr)["code"] == "LORA_INVALID"


def test_the_pure_rooms_import_without_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'safetensors', 'diffusers', 'gradio', 'fastapi', 'numpy'): sys.modules[name] = None\n"
        "import wan_ui.lora.library, wan_ui.lora.header, wan_ui.lora.report, wan_ui.lora.__main__\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture
def further(tmp_path: Path) -> Library:
    """A library with two ComfyUI folders and a folder of jobs beside the LoRA folder."""
    write(tmp_path / "loras" / "own.safetensors")
    write(tmp_path / "comfy" / "style.safetensors", seed="2")
    write(tmp_path / "comfy" / "wan" / "deep.safetensors")
    write(tmp_path / "more" / "style.safetensors")
    write(tmp_path / "output" / "fox" / "fox_000000250.safetensors")
    folders = {"ComfyUI": lambda: (tmp_path / "comfy", tmp_path / "more", tmp_path / "gone"),
               "jobs": lambda: (tmp_path / "output", tmp_path / "comfy" / "wan")}  # fmt: skip
    return Library(tmp_path / "loras", tmp_path / "uploads", further=folders)


def test_further_folders_are_listed_by_name_and_located(further: Library, tmp_path: Path) -> None:
    listed = further.listing()
    assert listed == (
        "ComfyUI/style.safetensors", "ComfyUI/wan/deep.safetensors", "jobs/fox/fox_000000250.safetensors",
        "own.safetensors",
    )  # fmt: skip
    for source in listed:
        file = further.locate(source, LOCAL_ACCESS)
        assert file.name == source.rsplit("/", 1)[-1]
        assert further.source_of(file.path) == source
        assert further.with_sha256(file.sha256, LOCAL_ACCESS, like=source) is not None
    assert further.locate("ComfyUI/style.safetensors", LOCAL_ACCESS).path == (tmp_path / "comfy/style.safetensors")
    assert further.listing("FOX jobs") == ("jobs/fox/fox_000000250.safetensors",)
    assert further.unread() == () and further.source_of(tmp_path / "elsewhere.safetensors") is None


def test_the_lora_folder_comes_before_a_further_one(further: Library, tmp_path: Path) -> None:
    own = write(tmp_path / "loras" / "ComfyUI" / "style.safetensors", seed="3")
    assert further.locate("ComfyUI/style.safetensors", LOCAL_ACCESS).path == own
    assert further.listing().count("ComfyUI/style.safetensors") == 1


@pytest.mark.parametrize(
    "source",
    ["ComfyUI/../own.safetensors", "ComfyUI/none.safetensors", "ComfyUI/out.safetensors", "comfy/style.safetensors"],
)
def test_nothing_outside_of_a_further_folder_is_opened(further: Library, tmp_path: Path, source: str) -> None:
    secret = write(tmp_path / "secret.safetensors")
    (tmp_path / "comfy" / "out.safetensors").symlink_to(secret)
    with pytest.raises(LoraNotFound) as refused:
        further.locate(source, LOCAL_ACCESS)
    assert str(tmp_path) not in refused.value.message
    assert "ComfyUI/out.safetensors" not in further.listing()


def test_folders_that_hold_a_job(further: Library, tmp_path: Path) -> None:
    (tmp_path / "output" / "fox" / "config.yaml").write_text("")
    (tmp_path / "loras" / "config.yaml").write_text("")
    assert sorted(further.folders_with(("config.yaml",))) == [".", "jobs/fox"]
