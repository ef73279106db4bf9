"""Finds the files of a speed LoRA: on this server by name or content, else the address to download them from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wan_ui.errors import LoraNotFound
from wan_ui.speed_loras import SPEED_LORAS, SpeedFile, SpeedLora

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.lora.library import Library


def find_speed_file(file: SpeedFile, library: Library, access: Access, paths: Sequence[str]) -> str | None:
    """The path of a file that is on this server: by its names, by its content, or downloaded before; or None.

    `paths` are the library's. Files that were never hashed are not read for it: that takes minutes on a folder of
    large files.
    """
    named = [(index, path) for path in paths if (index := file.matches(path)) is not None]
    if named:
        return min(named, key=lambda entry: entry[0])[1]
    if file.sha256 is not None:
        same = library.with_sha256(file.sha256, access, like=file.hub, seconds=0)
        if same is not None:
            return same
    return file.hub if library.is_downloaded(file.hub) else None


def locate_speed_files(speed: SpeedLora, library: Library, access: Access) -> Mapping[str, str]:
    """The path or address of each file, by slot. Raises LoraNotFound where one is missing and may not be downloaded."""
    located, paths = {}, library.listing()
    for slot, file in speed.files.items():
        path = find_speed_file(file, library, access, paths)
        if path is None and not library.may_download(access):
            raise LoraNotFound(
                f"{speed.label} is not on this server, and its owner alone may download it: {file.hub}.", path=file.hub
            )
        located[slot] = path or file.hub
    return located


def speed_lora_bodies(library: Library, access: Access) -> list[dict[str, Any]]:
    """Every speed LoRA as schemas.SpeedLoraInfo: what it sets, and whether its files are here."""
    paths, missing = library.listing(), "download" if library.may_download(access) else "missing"
    bodies = []
    for speed in SPEED_LORAS.values():
        here = {slot: find_speed_file(file, library, access, paths) for slot, file in speed.files.items()}
        files = [
            {
                "slot": slot,
                "network_multiplier": file.scale,
                "hub": file.hub,
                "availability": missing if here[slot] is None else "here",
                "path": here[slot],
            }
            for slot, file in speed.files.items()
        ]
        bodies.append(
            {
                **{name: getattr(speed, name) for name in ("id", "label", "source", "note")},
                "models": list(speed.models),
                **speed.settings,
                "files": files,
                "availability": missing if None in here.values() else "here",
            }
        )
    return bodies
