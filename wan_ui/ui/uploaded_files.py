"""What a browser sends: files, only those that Gradio keeps for the page, and JSON as text; it knows no page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

from wan_ui.errors import BadJson, InvalidRequest


def uploaded_files(path: Any, may_open: Callable[[str], bool]) -> Path:
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


def decoded(text: str) -> Any:
    """A request's text as JSON. Raises BadJson, which says where it breaks."""
    if not text.strip():
        raise BadJson("Paste a request first: the JSON that this page or POST /v1/inference takes.")
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadJson(f"This is not JSON: {error}.") from error
    except RecursionError as error:
        raise BadJson("This JSON is nested too deeply to be a request.") from error
