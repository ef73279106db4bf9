"""Files that a browser says it sent: only what Gradio keeps for the page; it knows no page and no file's meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

from wan_ui.errors import InvalidRequest


def arrived(path: Any, may_open: Callable[[str], bool]) -> Path:
    """A file that Gradio keeps for the page, from the path that the browser says; nothing else of this machine.

    The handlers take raw values, which Gradio checks only where they look like its own. `may_open` says of the name
    of a file's folder whether it is for the one who asks.
    """
    folder = Path(get_upload_folder()).resolve()
    try:
        found = Path(str(path)).resolve()
        if folder in found.parents and found.is_file() and may_open(found.relative_to(folder).parts[0]):
            return found
    except (OSError, ValueError, RuntimeError):
        pass  # a name that no file can have
    raise InvalidRequest("That file is not here, or no longer: choose it again.")
