"""A job's folder and its ZIP: what is found, and what a hostile archive cannot do."""

from __future__ import annotations

import random
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from wan_ui.errors import DiskFull, JobConfigInvalid, PayloadTooLarge, WanUIError
from wan_ui.trainer.folder import Limits, check_kind, locate_folder, read_folder, unpack
from wan_ui.trainer.safe_yaml import LARGEST_TEXT

CONFIG = b"job: extension\nconfig:\n  name: fox\n"
FILES: Mapping[str, bytes] = {
    "config.yaml": CONFIG,
    "fox_000000250_high_noise.safetensors": b"a",
    "fox_000000250_low_noise.safetensors": b"b",
    "fox_000001000_high_noise.safetensors": b"c",
    "fox_000001000_low_noise.safetensors": b"d",
    "fox_high_noise.safetensors": b"e",
    "fox_low_noise.safetensors": b"f",
    "optimizer.pt": b"no",
    "samples/1750000000000__000000250_0.webp": b"old",
    "samples/1750000000009__000000250_0.webp": b"new",
    "samples/1750000000001__000000250_1.jpg": b"1",
    "samples/1750000000002__000001000_0.webp": b"2",
    "samples/notes.webp": b"3",
    "images/cat.png": b"4",
}


def folder(at: Path, files: Mapping[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(data)
    return at


def zipped(at: Path, files: Mapping[str, bytes], under: str = "") -> Path:
    with zipfile.ZipFile(at, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(under + name, data)
    return at


def inside(at: Path) -> set[str]:
    return {path.relative_to(at).as_posix() for path in at.rglob("*") if path.is_file()}


def test_a_folder(tmp_path: Path) -> None:
    job = read_folder(folder(tmp_path / "fox"))
    assert job.config_text == CONFIG
    assert [one.step for one in job.checkpoints] == [250, 1000, None]
    assert all(sorted(one.files) == ["high", "low"] and one.name == "fox" for one in job.checkpoints)
    assert (job.root / job.checkpoints[0].files["low"]).read_bytes() == b"b"
    assert [(one.step, one.index) for one in job.samples] == [(250, 0), (250, 1), (1000, 0)]
    first = job.sample(250, 0)
    assert first is not None and (job.root / first.path).read_bytes() == b"new"
    assert job.sample(500, 0) is None
    assert job.steps == (250, 1000)
    assert job.messages == ()
    assert {str(path) for path in job.images} == {"images/cat.png", "samples/notes.webp"}


def test_one_transformer_and_a_missing_half(tmp_path: Path) -> None:
    files = {
        "config.yaml": CONFIG, "fox.safetensors": b"", "fox_000000010.safetensors": b"",
        "fox_000000020_high_noise.safetensors": b"", "deep/b.safetensors": b"",
    }  # fmt: skip
    job = read_folder(folder(tmp_path, files))
    assert [(one.step, list(one.files), one.missing) for one in job.checkpoints] == [
        (10, ["whole"], None), (20, ["high"], "low"), (None, ["whole"], None),
    ]  # fmt: skip
    assert job.messages == ("The checkpoint fox, step 20 has no low-noise half.",)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("/home/me/images/cat.png", "images/cat.png"),
        ("C:\\data\\CAT.PNG", "images/cat.png"),
        ("other/dog.png", "other/dog.png"),
        ("dog.png", None),
        ("../../images/dog.png", "images/dog.png"),
        ("mouse.png", None),
        ("", None),
    ],
)
def test_the_first_frame_that_a_config_names(tmp_path: Path, written: str, found: str | None) -> None:
    images = dict.fromkeys(("images/cat.png", "images/dog.png", "other/dog.png"), b"")
    job = read_folder(folder(tmp_path, {"config.yaml": CONFIG, **images}))
    assert job.find_image(written) == (None if found is None else Path(found))


def test_a_folder_without_a_config_or_with_two_jobs(tmp_path: Path) -> None:
    with pytest.raises(JobConfigInvalid, match="no config.yaml"):
        read_folder(folder(tmp_path / "none", {"a.safetensors": b""}))
    with pytest.raises(JobConfigInvalid, match="2 jobs"):
        read_folder(folder(tmp_path / "two", {"a/config.yaml": b"", "b/config.yaml": b""}))
    job = read_folder(folder(tmp_path / "one", {"config.yaml": b"outer", "b/config.yaml": b""}))
    assert job.config_text == b"outer"


def test_u13_only_the_trainers_own_names_are_saves(tmp_path: Path) -> None:
    saves = ["fox_000000250", "fox_000000500", "fox"]
    others = ["fox_000000500_comfy", "fox_500", "fox-final", "foxes", "my_fox", "fox (1)", "zzz"]
    files = {f"{name}.safetensors": b"" for name in (*saves, *others)}
    job = read_folder(folder(tmp_path, {"config.yaml": CONFIG, **files}))
    assert [one.files["whole"].stem for one in job.checkpoints] == saves
    assert sorted(path.stem for path in job.others) == sorted(others)
    assert len(job.messages) == 1 and "foxes.safetensors" in job.messages[0] and "by hand" in job.messages[0]


def test_u13_a_name_that_looks_like_a_step_or_a_half(tmp_path: Path) -> None:
    name = "a.*(b)_000000001_high_noise"
    config = f"config:\n  name: '{name}'\n".encode()
    files = {f"{name}{end}.safetensors": b"" for end in ("", "_000000250", "_LoRA_000000500")}
    job = read_folder(folder(tmp_path, {"config.yaml": config, "axxb.safetensors": b"", **files}))
    assert [(one.step, list(one.files)) for one in job.checkpoints] == [
        (250, ["whole"]), (500, ["whole"]), (None, ["whole"]),
    ]  # fmt: skip
    assert job.others == (Path("axxb.safetensors"),)


def test_u13_without_a_name_every_file_is_a_save(tmp_path: Path) -> None:
    job = read_folder(
        folder(tmp_path, {"config.yaml": b"config: {}", "a.safetensors": b"", "b_000000001.safetensors": b""})
    )
    assert [one.name for one in job.checkpoints] == ["b", "a"] and job.others == ()


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
        (b"Rar!\x1a\x07\x01\0", "a RAR archive"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"\xfd7zXZ\x00", "an xz archive"),
        (b"fox/config.yaml".ljust(257, b"\0") + b"ustar  ", "a tar archive"),
        (b"SQLite format 3\x00", "a database"),
        (b"\x40\0\0\0\0\0\0\0{}", "a LoRA file"),
    ],
)
def test_u15_what_is_no_job_is_named(start: bytes, what: str) -> None:
    with pytest.raises(JobConfigInvalid, match=what) as refused:
        check_kind(start)
    assert "config" in refused.value.message


@pytest.mark.parametrize("start", [b"", b"PK\x03\x04", CONFIG, b"{}", b'{\n\t"job": "extension"'])
def test_u15_configs_and_zips_pass(start: bytes) -> None:
    check_kind(start)


@pytest.mark.parametrize("name", ["config.yml", ".job_config.json", "my_job.yaml", "config.json", "fox.json"])
def test_other_names_of_a_config(tmp_path: Path, name: str) -> None:
    assert read_folder(folder(tmp_path, {f"job/{name}": CONFIG})).root == tmp_path / "job"


def test_a_config_of_10_mb_is_not_read_whole(tmp_path: Path) -> None:
    assert len(read_folder(folder(tmp_path, {"config.yaml": b"a" * 10_000_000})).config_text) == LARGEST_TEXT + 1


def test_links_out_of_a_folder_are_passed_over(tmp_path: Path) -> None:
    folder(tmp_path / "loras" / "shared", {"x.safetensors": b"x"})
    folder(tmp_path / "outside", {"secret.safetensors": b"s", "config.yaml": b"secret"})
    job = folder(tmp_path / "loras" / "fox", {"config.yaml": CONFIG})
    (job / "fox.safetensors").symlink_to(tmp_path / "loras" / "shared" / "x.safetensors")
    (job / "out.safetensors").symlink_to(tmp_path / "outside" / "secret.safetensors")
    (job / "samples").symlink_to(tmp_path / "outside")
    found = read_folder(locate_folder("fox", tmp_path / "loras"), tmp_path / "loras")
    assert [one.name for one in found.checkpoints] == ["fox"]
    assert found.messages == ("out.safetensors is a link that leads out of the folder: it is skipped.",)


@pytest.mark.parametrize(
    "source", ["", "/etc", "../outside", "a/../../outside", "gone", "out", "a\\b", "a\0", "file.txt"]
)
def test_a_folder_outside_of_the_lora_folder(tmp_path: Path, source: str) -> None:
    folder(tmp_path, {"loras/file.txt": b"", "outside/config.yaml": b""})
    (tmp_path / "loras" / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(JobConfigInvalid):
        locate_folder(source, tmp_path / "loras")


@pytest.mark.parametrize("under", ["", "fox/"])
def test_a_zip(tmp_path: Path, under: str) -> None:
    job = unpack(zipped(tmp_path / "job.zip", FILES, under), tmp_path / "job")
    assert job.root == tmp_path / "job" / under
    assert [one.step for one in job.checkpoints] == [250, 1000, None]
    assert len(job.samples) == 3 and job.config_text == CONFIG
    assert inside(job.root) == set(FILES) - {"optimizer.pt"}
    assert {path.name for path in tmp_path.iterdir()} == {"job.zip", "job"}


@pytest.mark.parametrize(
    "name", ["../evil.yaml", "a/../../evil.yaml", "/evil.yaml", "C:/evil.yaml", "..\\evil.yaml", "\\\\host\\evil.yaml"]
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    box = tmp_path / "data"
    box.mkdir()
    archive = zipped(tmp_path / "job.zip", {"config.yaml": CONFIG, name: b"evil"})
    with pytest.raises(JobConfigInvalid, match="leads out"):
        unpack(archive, box / "job")
    assert list(box.iterdir()) == [] and not list(tmp_path.rglob("evil*"))


def test_entries_that_are_passed_over(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "job.zip", "w") as archive:
        archive.writestr("config.yaml", CONFIG)
        link = zipfile.ZipInfo("link.safetensors")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("Config.yaml", b"other")
        archive.writestr("config.yaml/x.png", b"")
        archive.writestr("a/b/c/d/e/f/g.png", b"")
        archive.writestr("n" * 201 + ".png", b"")
        archive.writestr("bell\a.png", b"")
        archive.writestr("run.py", b"")
        archive.writestr("inner.zip", b"")
        archive.writestr("__MACOSX/config.yaml", b"mac")
        archive.writestr(".hidden.png", b"")
        archive.writestr(zipfile.ZipInfo("slow.png"), b"", compress_type=zipfile.ZIP_LZMA)
    job = unpack(tmp_path / "job.zip", tmp_path / "job")
    assert inside(tmp_path / "job") == {"config.yaml"} and job.config_text == CONFIG
    said = "\n".join(job.messages)
    for part in ("link.safetensors is a link", "Config.yaml is in the ZIP twice", "g.png is more than 5", "nnn", "bell",
                 "slow.png is compressed in an unsupported way"):  # fmt: skip
        assert part in said
    assert "run.py" not in said and "\a" not in said


def test_bombs(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "bomb.zip", {"config.yaml": CONFIG, "a.safetensors": bytes(4_000_000)})
    with pytest.raises(JobConfigInvalid, match="bomb"):
        unpack(bomb, tmp_path / "job")
    many = zipped(tmp_path / "many.zip", {f"{index}.png": b"" for index in range(30)})
    with pytest.raises(PayloadTooLarge, match="more than 20 files"):
        unpack(many, tmp_path / "job", Limits(entries=20))
    long = zipped(tmp_path / "long.zip", {f"{index:0900}.png": b"" for index in range(30)})
    with pytest.raises(PayloadTooLarge, match="more than 2 files"):  # by its table of contents, before it is read
        unpack(long, tmp_path / "job", Limits(entries=2))
    noise = random.Random(0).randbytes(200)
    large = zipped(tmp_path / "large.zip", {"config.yaml": CONFIG, "a.png": noise, "b.png": noise})
    with pytest.raises(PayloadTooLarge, match="larger than"):
        unpack(large, tmp_path / "job", Limits(total_bytes=300))
    assert not (tmp_path / "job").exists() and not list(tmp_path.glob(".part-*"))


def test_a_size_that_lies(tmp_path: Path) -> None:
    """The header says 10 bytes, the data inflates to 3 MB: no more than the header's is ever written."""
    archive = zipped(tmp_path / "lie.zip", {"config.yaml": CONFIG, "a.png": bytes(3_000_000)})
    data = archive.read_bytes()
    archive.write_bytes(data.replace((3_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(JobConfigInvalid, match="damaged"):
        unpack(archive, tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_no_zip_and_no_config(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_bytes(b"<html>")
    with pytest.raises(JobConfigInvalid, match="not a ZIP"):
        unpack(tmp_path / "text.zip", tmp_path / "job")
    with pytest.raises(JobConfigInvalid, match="no config.yaml"):
        unpack(zipped(tmp_path / "a.zip", {"a.png": b""}), tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_any_damage_is_said_as_ours(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "job.zip", FILES).read_bytes()
    chance = random.Random(7)
    for index in range(150):
        data = bytearray(whole[: chance.choice((len(whole), chance.randrange(len(whole))))])
        for _ in range(chance.randrange(1, 6)):
            if data:
                data[chance.randrange(len(data))] = chance.choice((0, 0xFF, chance.randrange(256)))
        (tmp_path / "bad.zip").write_bytes(data)
        box = tmp_path / f"box{index}"
        box.mkdir()
        try:
            unpack(tmp_path / "bad.zip", box / "job")
        except WanUIError:
            assert list(box.iterdir()) == []


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "job.zip", FILES)
    with pytest.raises(DiskFull):
        unpack(archive, tmp_path / "job", free=lambda folder: 20)
    assert {path.name for path in tmp_path.iterdir()} == {"job.zip"}
