"""Finds the LoRA files of a stored request again, by the SHA-256 of their content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from wan_ui.access import Access
from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.lora.pair_names import partner_name
from wan_ui.lora.remote import is_remote, shown_name
from wan_ui.request import AXES
from wan_ui.text import one_line

if TYPE_CHECKING:
    from wan_ui.lora.library import Library

SHORT = 12  # digits of a hash that are shown


@dataclass(frozen=True)
class LocatedRequest:
    """A request to open again. `notes` are sentences on what differs from then; none: every file was found."""

    request: dict[str, Any]
    notes: tuple[str, ...]


def hashes_of(loras: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """SHA-256 by path of the LoRAs that a generation lists; None where it was not recorded."""
    sha256s: dict[str, str | None] = {}
    for use in loras:
        path = str(use["path"])
        sha256s[path] = sha256s.get(path) or use.get("sha256")
    return sha256s


def locate_loras(
    request: Mapping[str, Any], library: Library, sha256s: Mapping[str, str | None], access: Access
) -> LocatedRequest:
    """A stored request, in wire form, with each LoRA file located by its SHA-256, never by its name.

    `sha256s` are those that were used, by path. A path that the request does not name, such as the other half of a
    pair that was found beside the named file, is only checked. A file that is not found is left out of the request,
    and the notes say so. A URL stays in the request and is downloaded again when the request runs.
    """
    notes: list[str] = []
    compared = set(_axis_paths(request))
    named = {str(item["path"]) for item in request.get("loras", ())} | compared
    here: dict[str, str | None] = {}
    lonely: set[str] = set()  # names of files whose other half is no longer beside them
    for path in dict.fromkeys((*sorted(named), *sha256s)):
        if compared and path not in sha256s:
            here[path] = path  # replaced by an axis, so that no video was made with it
            continue
        here[path], note = _locate(path, sha256s.get(path), library, access, path in named)
        if note:
            notes.append(note)
            lonely |= {partner_name(PurePosixPath(path).name) or ""} if path not in named else set()
    for path in compared:
        if PurePosixPath(path).name in lonely:
            here[path] = None
    located = dict(request)
    located["loras"] = [
        {**item, "path": here[str(item["path"])]} for item in request.get("loras", ()) if here[str(item["path"])]
    ]
    if request.get("compare"):
        located["compare"] = {
            name: _axis(axis, here) if name in AXES and axis else axis for name, axis in request["compare"].items()
        }
    return LocatedRequest(located, tuple(dict.fromkeys(notes)))


def _locate(path: str, sha256: str | None, library: Library, access: Access, is_named: bool) -> tuple[str | None, str]:
    """The path of a file now, None if it is not found, and a note about it, "" for none."""
    name = _name(path, library, access)
    if sha256 is None:
        return None, f"{name} is left out: which file it was is not recorded."
    short = sha256[:SHORT]
    now = _sha256_of(path, library, access)
    if now == sha256:
        return path, ""
    elsewhere = library.with_sha256(sha256, access, name)
    if elsewhere is not None:
        if not is_named:
            return elsewhere, (
                f"{name} is no longer beside its other half, but at {_name(elsewhere, library, access)}: put them into "
                "one folder to compare them again. The pair is left out."
            )
        return elsewhere, f"{name} was found by its content, as {_name(elsewhere, library, access)}."
    if is_remote(path):
        changed = "the copy on this machine is another file" if now is not None else "there is no copy on this machine"
        return path, (
            f"{name} will be downloaded again: {changed}. The video was made with SHA-256 {short}…; compare "
            "it with the new file's."
        )
    if not is_named:
        return None, f"{name} was not found (SHA-256 {short}…), so its other half is left out too."
    left = library.unread()
    unread = f" {len(left)} files were not read because it took too long; try again to continue." if left else ""
    if now is not None:
        return None, (
            f"{name} has changed: this name now belongs to another file (SHA-256 {now[:SHORT]}…, then {short}…), so "
            f"it is left out.{unread}"
        )
    return (
        None,
        f"{name} is missing (SHA-256 {short}…), so it is left out: put it in the LoRA folder or upload it.{unread}",
    )


def _sha256_of(path: str, library: Library, access: Access) -> str | None:
    try:
        return library.locate(path, access).sha256
    except (LoraInvalid, LoraNotFound):
        return None


def _name(path: str, library: Library, access: Access) -> str:
    """The name of a source's file, for people."""
    if is_remote(path):
        return shown_name(path)
    if path.startswith("upload://"):
        try:
            return f"the upload {library.locate(path, access).name}"
        except (LoraInvalid, LoraNotFound):
            rest = PurePosixPath(path.removeprefix("upload://")).parts[1:]
            return f"the upload {one_line(rest[-1], 120)}" if rest else "an uploaded LoRA"
    return one_line(path, 120)


def _axis_paths(request: Mapping[str, Any]) -> list[str]:
    paths = []
    for name in AXES:
        axis = (request.get("compare") or {}).get(name) or {}
        if axis.get("field") == "lora":
            for value in axis.get("values", ()):
                paths += [str(path) for path in (value.values() if isinstance(value, Mapping) else (value,))]
    return paths


def _axis(axis: Mapping[str, Any], here: Mapping[str, str | None]) -> dict[str, Any]:
    """An axis with the paths of its LoRA files now, without the values whose files were not found."""
    if axis.get("field") != "lora":
        return dict(axis)
    values: list[Any] = []
    for value in axis.get("values", ()):
        if isinstance(value, Mapping):
            pair = {slot: here[str(path)] for slot, path in value.items()}
            if all(pair.values()):
                values.append(pair)
        elif here[str(value)]:
            values.append(here[str(value)])
    return {**axis, "values": values}
