"""Files and requests that real people have: which test has each numbered report, and two further ones of each section.

A number is a report of issue 14's list; a test with it in its name (`test_u06_…`) is not repeated here.

Checkpoints
U1  spiece.model alone: tests/checkpoints/test_tokenizers.py
U2  Git LFS pointers and web pages: tests/checkpoints/test_refusals.py, test_folders_with_files_that_are_none
U3  another model's transformer: the same, test_another_models_transformer_in_the_folder
U4  partly filled cache, original layout: the same, test_a_partly_filled_cache_names_what_is_missing,
    test_the_original_repository_says_which_is_needed
U5  the trainer's single files: tests/trainer/test_checklist.py
LoRA files
U6 to U11: tests/lora/test_files_people_have.py
U12 strengths above 2: tests/trainer/test_job.py
Training jobs
U13 names of saves, U15 archives and databases: tests/trainer/test_folder.py, test_safe_yaml.py
U14 new keys: tests/trainer/test_job.py
Requests
U16, U17 the reference server's fields and replies: tests/api/test_reference_client.py
First frames
U18 orientation and 16 bits: tests/media/test_image.py
"""

from __future__ import annotations

import base64
import zipfile
from pathlib import Path

import pytest

from tests.golden_cases import GOLDEN
from tests.trainer.test_folder import CONFIG
from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.comfy import list_files
from wan_ui.errors import ControlImageInvalid
from wan_ui.lora.library import Library
from wan_ui.lora.pair_names import partner_name
from wan_ui.lora.remote import RemoteFiles
from wan_ui.media.image import ImageStore
from wan_ui.request import parse, resolve
from wan_ui.trainer.folder import unpack
from wan_ui.trainer.safe_yaml import load

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(4000)
IMAGE = (GOLDEN / "images" / "wan22_5b_i2v.png").read_bytes()


def no_fetch(url: str) -> bytes:
    raise AssertionError(url)


def test_checkpoints_a_mac_wrote_a_file_of_its_own_beside_each(tmp_path: Path) -> None:
    for name in ("wan2.2_ti2v_5B_fp16.safetensors", "._wan2.2_ti2v_5B_fp16.safetensors"):
        (tmp_path / name).write_bytes(APPLE_DOUBLE)
    assert [file.name for file in list_files([tmp_path])] == ["wan2.2_ti2v_5B_fp16.safetensors"]


def test_checkpoints_downloads_under_way_are_none_and_capital_endings_are(tmp_path: Path) -> None:
    for name in ("A.SAFETENSORS", "b.safetensors.aria2", "c.safetensors.part", "d.safetensors.crdownload"):
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in list_files([tmp_path])] == ["A.SAFETENSORS"]


def test_loras_a_mac_wrote_a_file_of_its_own_beside_each(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    for name in ("job/style.safetensors", "job/._style.safetensors"):
        (tmp_path / name).write_bytes(APPLE_DOUBLE)
    library = Library(tmp_path, tmp_path / "uploads", RemoteFiles(tmp_path / "uploads"))
    assert library.listing() == ("job/style.safetensors",)


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ("fox_high_noise (1).safetensors", "fox_low_noise (1).safetensors"),  # a browser's second download
        ("fox-HighNoise-000012.safetensors", "fox-LowNoise-000012.safetensors"),  # musubi-tuner's epochs
        ("子狐_high.safetensors", "子狐_low.safetensors"),
    ],
)
def test_loras_names_that_programs_give_to_halves(high: str, low: str) -> None:
    assert partner_name(high) == low and partner_name(low) == high


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_jobs_a_config_that_windows_saved(encoding: str) -> None:
    assert load("job: extension\nconfig:\n  name: füchse\n".encode(encoding)) == {
        "job": "extension",
        "config": {"name": "füchse"},
    }


def test_jobs_a_zip_with_backslashes_from_windows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "job.zip", "w") as archive:
        for name, content in (("job\\config.yaml", CONFIG), ("job\\samples\\1__000500_0.jpg", b"")):
            entry = zipfile.ZipInfo()
            entry.filename = name
            archive.writestr(entry, content)
    job = unpack(tmp_path / "job.zip", tmp_path / "job")
    assert job.config_text == CONFIG and (tmp_path / "job/job/samples/1__000500_0.jpg").is_file()


def test_requests_minus_one_is_a_random_seed_and_numbers_may_be_text() -> None:
    prompts = [{"prompt": "a", "seed": -1, "width": "832"}, {"prompt": "a", "seed": -1, "guidance_scale": "5"}]
    first, second = resolve(parse({"model": "wan21_1b", "prompts": prompts}), store_image=str)
    assert first.seed >= 0 and second.seed >= 0 and first.seed != second.seed
    assert (first.width, second.guidance_scale) == (832, 5.0)


def test_requests_base64_as_shells_and_browsers_write_it(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, no_fetch)
    plain = base64.b64encode(IMAGE).decode()
    lines = base64.encodebytes(IMAGE).decode()  # as `base64 FILE` prints it
    same = {store.put(text, LOCAL_ACCESS) for text in (plain, lines, f" data:image/png;base64, {plain}\n")}
    assert len(same) == 1


def test_first_frames_a_phones_photo_is_named(tmp_path: Path) -> None:
    photo = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100)
    with pytest.raises(ControlImageInvalid, match="it is a HEIC photo. Use PNG, JPEG"):
        ImageStore(tmp_path, no_fetch).put_bytes(photo, LOCAL_ACCESS)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(100), "a video"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "a video"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_first_frames_what_is_no_image_is_named(tmp_path: Path, data: bytes, kind: str) -> None:
    with pytest.raises(ControlImageInvalid, match=f"it is {kind}"):
        ImageStore(tmp_path, no_fetch).put_bytes(data, LOCAL_ACCESS)
