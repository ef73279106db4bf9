"""Lists an AI Toolkit job's folder or ZIP: its config, its checkpoints by step, and its samples."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, BinaryIO

from wan_ui.errors import JobConfigInvalid, PayloadTooLarge
from wan_ui.files import PART_PREFIX, disk_full, disk_full_mapped, free_bytes
from wan_ui.text import is_utf8, one_line
from wan_ui.trainer.config_reader import job_name
from wan_ui.trainer.safe_yaml import LARGEST_TEXT

CHECKPOINT = ".safetensors"
CONFIGS = frozenset({".yaml", ".yml", ".json"})
IMAGES = frozenset({".webp", ".png", ".jpg", ".jpeg", ".gif"})
KEPT = CONFIGS | IMAGES | {CHECKPOINT, ".mp4"}
CONFIG_NAMES = ("config.yaml", "config.yml", ".job_config.json", "config.json")  # the third: the trainer's UI's
SAMPLES = "samples"
DEEPEST = 5  # folders under the one that was given
MOST_FILES = 20_000  # looked at in a folder
LONGEST_NAME = 200  # bytes of one part of a path
MOST_MESSAGES = 20

_SAVE = r"(?P<name>{name})(?:_(?P<step>[0-9]{{9}}))?(?:_(?P<side>high|low)_noise)?\.safetensors"
_NO_JOB: tuple[tuple[int, bytes, str], ...] = (
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"SQLite format 3\x00", "a database, as AI Toolkit's aitk_db.db"),
)
"""What people give in place of a job: where its first bytes stand, these, and what it is."""
_SAMPLE = re.compile(r"(?P<time>[0-9]{1,20})__(?P<step>[0-9]{9})_(?P<index>[0-9]{1,6})\.(?:webp|jpe?g|png|gif|mp4)")
_CHUNK = 1 << 20
# What zipfile raises on a malformed file; ValueError: an offset before the start of the file.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    ValueError,
    OverflowError,
    RuntimeError,
)


@dataclass(frozen=True)
class Limits:
    """Limits of a ZIP: entries, bytes of all unpacked files, and the compression ratio of one entry.

    `ratio` applies to entries larger than `free_bytes`: a LoRA of a job's first steps is half zeros, a bomb all zeros.
    """

    entries: int = 5_000
    total_bytes: int = 64 * 2**30
    ratio: int = 100
    free_bytes: int = 2**20


@dataclass(frozen=True)
class CheckpointFiles:
    """One checkpoint. `step` is None for the final one; `files` by side: "high" and "low", or "whole" for one file."""

    name: str
    step: int | None
    files: Mapping[str, Path]

    @property
    def missing(self) -> str | None:
        """The missing side of a pair of which only one half exists, or None."""
        (only,) = self.files if len(self.files) == 1 else ("whole",)
        return {"high": "low", "low": "high"}.get(only)


@dataclass(frozen=True)
class SampleFile:
    """A sample file that the trainer wrote: its step, the index of the job's sample, and its path."""

    step: int
    index: int
    path: Path


@dataclass(frozen=True)
class JobFolder:
    """The contents of a job's folder; every path is relative to `root`, the folder with the config.

    `checkpoints` by step, the final one last; `others` are LoRA files that the trainer does not name so, which are no
    saves of this job. `samples` by (step, index), the newest file of each; `images` are the other pictures, first
    frames among them. `config_text` is cut one byte past what safe_yaml reads, which refuses it. `messages` are
    sentences for the user.
    """

    root: Path
    config_text: bytes
    checkpoints: tuple[CheckpointFiles, ...]
    samples: tuple[SampleFile, ...]
    images: tuple[Path, ...]
    messages: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that have samples, ascending."""
        return tuple(sorted({sample.step for sample in self.samples}))

    def sample(self, step: int, index: int) -> SampleFile | None:
        """The file of one sample at one step."""
        return next((sample for sample in self.samples if (sample.step, sample.index) == (step, index)), None)

    def find_image(self, written: str) -> Path | None:
        """The image that a job's config names, matched by the end of its path; None: no match, or several.

        `written` may be another machine's absolute path, with either kind of slash. The result is relative to `root`.
        """
        wanted = [part for part in re.split(r"[/\\]+", written.lower()) if part not in ("", ".")]
        best, matches = 0, list[Path]()
        for path in self.images:
            parts = [part.lower() for part in path.parts]
            same = 0
            while same < min(len(parts), len(wanted)) and parts[-1 - same] == wanted[-1 - same]:
                same += 1
            if same > best:
                best, matches = same, [path]
            elif same and same == best:
                matches.append(path)
        return matches[0] if len(matches) == 1 else None


def locate_folder(source: str, lora_dir: Path) -> Path:
    """The folder at a relative path under the LoRA folder. Raises JobConfigInvalid for any other, and for links out."""
    root = lora_dir.resolve()
    parts = PurePosixPath(source).parts
    if not source or len(source) > 4096 or "\0" in source or "\\" in source or source.startswith("/") or ".." in parts:
        raise invalid("give the job's folder as a path under the LoRA folder, without ..")
    try:
        path = (root / source).resolve()
        good = path.is_dir() and path.is_relative_to(root)
    except (OSError, RuntimeError) as error:
        raise invalid("this folder cannot be opened") from error
    if not good:
        raise invalid(f"there is no folder {one_line(source, 120)} under the LoRA folder")
    return path


def read_folder(folder: Path, within: Path | None = None) -> JobFolder:
    """The contents of a job's folder. Links that lead out of `within` (None: of `folder`) are skipped.

    The config may be in `folder` or in one folder inside it. Raises JobConfigInvalid when it is missing or there
    are several jobs, and PayloadTooLarge for a folder of too many files.
    """
    messages: list[str] = []
    files = sorted(_files(folder, (within or folder).resolve(), messages))
    config = _config(files)
    base = config.parent
    inside = [path.relative_to(base) for path in files if path.is_relative_to(base)]
    samples = _samples(inside)
    pictures = [path for path in inside if path.suffix.lower() in IMAGES and not _SAMPLE.fullmatch(path.name.lower())]
    try:
        with (folder / config).open("rb") as file:
            text = file.read(LARGEST_TEXT + 1)
    except OSError as error:
        raise invalid(f"{one_line(config.name, 80)} cannot be opened") from error
    name = job_name(text)
    checkpoints, others = _checkpoints(inside, name)
    if others and name is not None:
        messages.append(_others_message(others, name))
    messages += [
        f"The checkpoint {one_line(_title(checkpoint), 120)} has no {checkpoint.missing}-noise half."
        for checkpoint in checkpoints
        if checkpoint.missing
    ]
    if not checkpoints:
        messages.append("This job's folder has no checkpoint: choose the LoRA files by hand.")
    return JobFolder(
        folder / base, text, checkpoints, samples, tuple(pictures), tuple(messages[:MOST_MESSAGES]), others
    )


def no_check(size: int) -> None:
    """A `check_room` for which there is always room."""


def unpack(
    archive: Path,
    into: Path,
    limits: Limits = Limits(),
    free: Callable[[Path], int] = free_bytes,
    check_room: Callable[[int], None] = no_check,
) -> JobFolder:
    """Unpacks a ZIP of a job to the new folder `into`, which appears complete or not at all.

    Only the kinds of files that a job has are unpacked; links, encrypted and odd entries are skipped, with a message.
    Raises JobConfigInvalid for what is not a ZIP, is damaged, has a name that leads out of the folder, is compressed
    beyond `limits.ratio`, or has no config; PayloadTooLarge beyond the other limits; DiskFull; and what `check_room`
    raises, which is given the bytes of the unpacked files before the first of them is written.
    """
    try:
        with (
            disk_full_mapped("the files of this job"),
            archive.open("rb") as file,
            tempfile.TemporaryDirectory(dir=into.parent, prefix=PART_PREFIX) as folder,
        ):
            part = Path(folder, "job")
            part.mkdir()
            messages = _unpack(file, part, limits, free(part), check_room)
            read_folder(part)  # without a config nothing is left behind
            part.rename(into)
    except _DAMAGED as error:
        raise invalid("the ZIP is damaged or cut off") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # a seek beyond all bounds
            raise invalid("the ZIP is damaged or cut off") from error
        raise
    job = read_folder(into)
    return replace(job, messages=(*messages, *job.messages)[:MOST_MESSAGES])


def invalid(problem: str) -> JobConfigInvalid:
    """The error for a job that cannot be read."""
    return JobConfigInvalid(f"The job cannot be read: {problem}.", fields=[{"loc": "job", "msg": problem}])


def check_kind(start: bytes) -> None:
    """Raises JobConfigInvalid, with what it is, for a file that is neither a config nor a ZIP, by its first bytes."""
    for offset, magic, what in _NO_JOB:
        if start[offset : offset + len(magic)] == magic:
            raise invalid(f"this is {what}. Give the job's config.yaml, or its folder as a ZIP")
    if len(start) > 8 and start[8:9] == b"{" and 0 < struct.unpack_from("<Q", start)[0] < 1 << 32:
        raise invalid("this is a LoRA file. Choose it on the model's tab, or give it together with its job's config")


# A folder


def _files(folder: Path, within: Path, messages: list[str]) -> Iterator[Path]:
    """The paths, relative to the folder, of the kinds of files that a job has."""
    seen = 0
    for at, folders, files in os.walk(folder):
        depth = len(Path(at).relative_to(folder).parts)
        folders[:] = sorted(
            name for name in folders if depth < DEEPEST and not name.startswith(".") and name != "__MACOSX"
        )
        for name in files:
            seen += 1
            if seen > MOST_FILES:
                raise PayloadTooLarge(f"The folder holds more than {MOST_FILES} files: choose the job's own folder.")
            path = Path(at, name)
            if path.suffix.lower() not in KEPT or (name.startswith(".") and name not in CONFIG_NAMES):
                continue
            if not is_utf8(str(path)):
                messages.append(f"{one_line(name, 120)} has a name that is not UTF-8: it is skipped.")
            elif path.is_symlink() and not path.resolve().is_relative_to(within):
                messages.append(f"{one_line(name, 120)} is a link that leads out of the folder: it is skipped.")
            elif path.is_file():
                yield path.relative_to(folder)


def _config(files: list[Path]) -> Path:
    """The config nearest to the top; by its usual name, else the only one."""
    for name in CONFIG_NAMES:
        configs = [path for path in files if path.name == name]
        if configs:
            break
    else:
        configs = [path for path in files if path.suffix.lower() in (".yaml", ".yml")]
        configs = configs or [path for path in files if path.suffix.lower() == ".json"]
    if not configs:
        raise invalid("it has no config.yaml")
    depth = min(len(path.parts) for path in configs)
    nearest = [path for path in configs if len(path.parts) == depth]
    if len(nearest) > 1:
        raise invalid(f"it holds {len(nearest)} jobs or configs: give one job's folder")
    return nearest[0]


def _checkpoints(files: list[Path], name: str | None) -> tuple[tuple[CheckpointFiles, ...], tuple[Path, ...]]:
    """The saves beside the config, and the other LoRA files there.

    The trainer writes `<name>_<step, 9 digits>.safetensors` and at the end `<name>.safetensors`, each with _high_noise
    or _low_noise before the ending for a pair, and `_LoRA` behind the name where it trains an adapter or embedding too.
    Without a `name` any name will do.
    """
    named = re.compile(_SAVE.format(name=".*?" if name is None else f"{re.escape(name)}(?:_LoRA)?"), re.DOTALL)
    others: list[Path] = []
    saves: defaultdict[tuple[str, int | None], dict[str, Path]] = defaultdict(dict)
    for path in files:
        if path.suffix.lower() != CHECKPOINT or len(path.parts) != 1:
            continue
        match = named.fullmatch(path.name)
        if match is None:
            others.append(path)
        else:
            step = None if match["step"] is None else int(match["step"])
            saves[match["name"], step][match["side"] or "whole"] = path
    ordered = sorted(saves.items(), key=lambda save: (save[0][1] is None, save[0][1] or 0, save[0][0]))
    checkpoints = tuple(CheckpointFiles(stem, step, MappingProxyType(sides)) for (stem, step), sides in ordered)
    return checkpoints, tuple(others)


def _others_message(others: tuple[Path, ...], name: str) -> str:
    listed = ", ".join(one_line(path.name, 60) for path in others[:5]) + (", …" if len(others) > 5 else "")
    return (
        f"Not saved by this job, whose files start with {one_line(name, 60)}: {listed}. To use one of them, choose it "
        "by hand."
    )


def _title(checkpoint: CheckpointFiles) -> str:
    return f"{checkpoint.name}, {'final' if checkpoint.step is None else f'step {checkpoint.step}'}"


def _samples(files: list[Path]) -> tuple[SampleFile, ...]:
    newest: dict[tuple[int, int], tuple[int, Path]] = {}
    for path in files:
        match = _SAMPLE.fullmatch(path.name.lower())
        if match is not None and path.parent.name == SAMPLES:
            key, made = (int(match["step"]), int(match["index"])), (int(match["time"]), path)
            newest[key] = max(newest.get(key, made), made)
    return tuple(SampleFile(step, index, path) for (step, index), (_, path) in sorted(newest.items()))


# A ZIP


def _unpack(file: BinaryIO, into: Path, limits: Limits, free: int, check_room: Callable[[int], None]) -> list[str]:
    """Unpacks the entries that a job has; returns messages about the others."""
    if _directory_bytes(file) > limits.entries * (46 + 1024):  # an entry's fixed part, and a generous name
        raise _too_many(limits)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > limits.entries:
            raise _too_many(limits)
        messages: list[str] = []
        chosen = _chosen(entries, limits, messages)
        total = sum(entry.file_size for entry, _ in chosen)
        if total > limits.total_bytes:
            raise _too_large(limits)
        if total > free:
            raise disk_full("the files of this job")
        check_room(total)
        left = limits.total_bytes
        for entry, path in chosen:
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("xb") as out:
                left = _copy(source, out, left, limits)
    return messages


def _chosen(
    entries: list[zipfile.ZipInfo], limits: Limits, messages: list[str]
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    chosen: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    taken: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for entry in entries:
        path = _safe(entry)
        if entry.filename.endswith("/"):  # is_dir fails for a name that starts with NUL, which zipfile cuts there
            continue
        lower = PurePosixPath(str(path).lower())
        problem = _problem(entry, path)
        if problem is None and (lower in taken | folders or taken & set(lower.parents)):
            problem = "is in the ZIP twice, or as a file and a folder"
        if problem is not None:
            messages.append(f"{one_line(entry.filename, 120)} {problem}: it is skipped.")
        elif _is_kept(path):
            if entry.file_size > limits.free_bytes and entry.file_size > limits.ratio * max(1, entry.compress_size):
                raise invalid(
                    f"{one_line(entry.filename, 120)} is compressed more than {limits.ratio} times: a ZIP bomb"
                )
            taken.add(lower)
            folders.update(lower.parents)
            chosen.append((entry, path))
    return chosen


def _safe(entry: zipfile.ZipInfo) -> PurePosixPath:
    """The entry's path. Raises JobConfigInvalid for one that leads out of the folder, on any system."""
    # orig_filename: zipfile cuts a name at its first NUL.
    name = entry.orig_filename.replace("\\", "/")
    path = PurePosixPath(name)
    if not name or name.startswith("/") or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise invalid(f"the name {one_line(entry.orig_filename, 120)} in the ZIP leads out of the job's folder")
    return path


def _problem(entry: zipfile.ZipInfo, path: PurePosixPath) -> str | None:
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a link or a device"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in an unsupported way"
    if len(path.parts) > DEEPEST + 1:
        return f"is more than {DEEPEST} folders deep"
    if any(len(part.encode("utf-8", "replace")) > LONGEST_NAME or not part.isprintable() for part in path.parts):
        return "has a name that is too long, or has control characters"
    return None


def _is_kept(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") for part in path.parts) and path.name not in CONFIG_NAMES
    return path.suffix.lower() in KEPT and not hidden and "__MACOSX" not in path.parts


def _copy(source: IO[bytes], out: BinaryIO, left: int, limits: Limits) -> int:
    """Copies within the rest of the limit, whatever the entry's header states; returns the new rest."""
    while chunk := source.read(_CHUNK):
        left -= len(chunk)
        if left < 0:
            raise _too_large(limits)
        out.write(chunk)
    return left


def _too_many(limits: Limits) -> PayloadTooLarge:
    return PayloadTooLarge(f"The ZIP holds more than {limits.entries} files: zip the job's own folder.")


def _too_large(limits: Limits) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The files in the ZIP are larger than {limits.total_bytes / 2**30:.3g} GiB together: leave out checkpoints.",
        max_bytes=limits.total_bytes,
    )


def _directory_bytes(file: BinaryIO) -> int:
    """The size of the ZIP's central directory, which zipfile reads into memory before its entries can be counted."""
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - (22 + 65_535 + 20 + 56))  # the last record, its comment, and those of a ZIP64 before it
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise invalid("it is not a ZIP")
    sizes: list[int] = [struct.unpack_from("<L", tail, at + 12)[0]]
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07":
        sizes = [struct.unpack_from("<Q", tail, at - 76 + 40)[0]]
        where = struct.unpack_from("<Q", tail, at - 12)[0]
        if start <= where <= start + at - 76:
            sizes.append(struct.unpack_from("<Q", tail, where - start + 40)[0])
    return min(end, max(sizes))
