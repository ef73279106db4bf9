"""The LoRA files that a server on another machine has sent for a clip, found by their paths in its request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from wan_ui.access import Access
from wan_ui.errors import LoraNotFound
from wan_ui.files import write_file
from wan_ui.lora.library import Library, LoraFile
from wan_ui.text import one_line


class ReceivedLoras(Library):
    """A library of the files that `index` lists, which is written anew before each clip."""

    def __init__(self, index: Path) -> None:
        super().__init__(index.parent)
        self._index = index

    def locate(self, source: str, access: Access, sha256: str | None = None) -> LoraFile:
        """The file that was sent for a source; its content was checked when it arrived.

        Raises LoraNotFound, and LoraInvalid when it is no LoRA.
        """
        listed = json.loads(self._index.read_bytes()).get(source)
        if listed is None:
            raise LoraNotFound("The server has not sent this LoRA.", path=one_line(source, 120))
        path, digest, name = listed
        return self._checked(Path(path), name, lambda _path: digest)


def write_index(index: Path, files: Mapping[str, tuple[Path, str, str]]) -> None:
    """Writes the index: by path in the request each file's own path, its SHA-256 and its name. Raises OSError."""
    listed = {source: [str(path), sha256, name] for source, (path, sha256, name) in files.items()}
    write_file(index, json.dumps(listed).encode())
