"""What a clip was made with, against what is here now: its LoRA files by their content; it knows no page and no job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from wan_ui.access import Access
from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.lora.pair_names import partner_name
from wan_ui.lora.remote import is_remote, shown_name
from wan_ui.text import one_line

if TYPE_CHECKING:
    from wan_ui.lora.library import Library

SHORT = 12  # digits of a hash that are shown


@dataclass(frozen=True)
class LocatedRequest:
    """A request to be opened again. `notes` are sentences on what is not as it was; none: all is here."""

    request: dict[str, Any]
    notes: tuple[str, ...]


def hashes_of(loras: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """SHA-256 by path, of the uses that a generation lists; None where it was never known."""
    found: dict[str, str | None] = {}
    for use in loras:
        path = str(use["path"])
        found[path] = found.get(path) or use.get("sha256")
    return found


def locate_loras(
    request: Mapping[str, Any], library: Library, sha256s: Mapping[str, str | None], access: Access
) -> LocatedRequest:
    """A stored request, in wire form, with each LoRA file found again by its SHA-256, never by its name.

    `sha256s` are those that were used, by the path that the request names; one that names none, such as the other half
    of a pair that was found beside its path, is only looked at. A file that is not here is left out of the request,
    and the notes say so. Of an address the file is fetched again by whoever runs the request.
    """
    notes: list[str] = []
    compared = set(_axis_paths(request))
    named = {str(item["path"]) for item in request.get("loras", ())} | compared
    here: dict[str, str | None] = {}
    lonely: set[str] = set()  # names of files whose other half, which only its place tells, is not beside them
    for path in dict.fromkeys((*sorted(named), *sha256s)):
        if compared and path not in sha256s:
            here[path] = path  # an axis took its place, so that no video was made with it
            continue
        here[path], note = _found(path, sha256s.get(path), library, access, path in named)
        if note:
            notes.append(note)
            lonely |= {partner_name(PurePosixPath(path).name) or ""} if path not in named else set()
    for path in compared:
        if PurePosixPath(path).name in lonely:
            here[path] = None
    found = dict(request)
    found["loras"] = [
        {**item, "path": here[str(item["path"])]} for item in request.get("loras", ()) if here[str(item["path"])]
    ]
    if request.get("compare"):
        found["compare"] = {
            name: _axis(axis, here) if name in ("columns", "rows") and axis else axis
            for name, axis in request["compare"].items()
        }
    return LocatedRequest(found, tuple(dict.fromkeys(notes)))


def _found(path: str, sha256: str | None, library: Library, access: Access, is_named: bool) -> tuple[str | None, str]:
    """Where the file of a path is now, None where it is not; and what there is to say about it."""
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
                f"{name} is not beside its other half any more, but at {_name(elsewhere, library, access)}: put them "
                "together to compare them again. The pair is left out."
            )
        return elsewhere, f"{name} was found again by its content, as {_name(elsewhere, library, access)}."
    if is_remote(path):
        changed = "what was fetched last is another file" if now is not None else "it is not here"
        return path, (
            f"{name} will be fetched again from its address: {changed}. The clip was made with SHA-256 {short}…; "
            "compare it with the new one."
        )
    if not is_named:
        return None, f"{name} is not here as it was (SHA-256 {short}…), so its other half is left out too."
    left = library.unread()
    unread = f" {len(left)} files were not looked into for want of time; try again to go on." if left else ""
    if now is not None:
        return None, (
            f"{name} has changed: the file of this name is another one now (SHA-256 {now[:SHORT]}…, then {short}…), so "
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
    """What a person calls the file of a source."""
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
    found = []
    for name in ("columns", "rows"):
        axis = (request.get("compare") or {}).get(name) or {}
        if axis.get("field") == "lora":
            for value in axis.get("values", ()):
                found += [str(path) for path in (value.values() if isinstance(value, Mapping) else (value,))]
    return found


def _axis(axis: Mapping[str, Any], here: Mapping[str, str | None]) -> dict[str, Any]:
    """An axis with its LoRA files where they are now, and without the values of those that are gone."""
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
