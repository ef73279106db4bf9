"""Checks what a browser sends: paths, which must be uploads that Gradio stored for this visitor, and JSON text."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

from wan_ui.errors import BadJson, InvalidRequest
from wan_ui.field_errors import check_count
from wan_ui.files import PART_PREFIX, disk_full_mapped


def uploaded_files(path: Any, may_open: Callable[[str], bool]) -> Path:
    """The uploaded file at a path that the browser sent; InvalidRequest for any other path of this machine.

    The handlers take raw values, which Gradio does not check. `may_open` says by the name of an upload's folder
    whether the visitor may read it.
    """
    folder = Path(get_upload_folder()).resolve()
    try:
        file = Path(str(path)).resolve()
        if folder in file.parents and file.is_file() and may_open(file.relative_to(folder).parts[0]):
            return file
    except (OSError, ValueError, RuntimeError):
        pass  # not a possible file name
    raise InvalidRequest("This upload was not found. Choose the file again.")


@contextmanager
def taken_file(path: Any, may_take: Callable[[str], bool]) -> Iterator[Path]:
    """As `uploaded_files`, for a handler that moves the file: a second name of it, which the handler may take.

    Gradio keeps equal files of several browsers once, so that the first name must stay for the others.
    """
    file = uploaded_files(path, may_take)
    taken = file.with_name(f"{PART_PREFIX}{secrets.token_hex(8)}{file.suffix}")
    try:
        with disk_full_mapped("this file"):
            try:
                os.link(file, taken)
            except OSError:  # a file system without hard links
                shutil.copyfile(file, taken)
        yield taken
    finally:
        taken.unlink(missing_ok=True)


def decoded(text: str) -> Any:
    """A request's text as JSON. Raises BadJson with the position of the mistake, InvalidRequest for too many values."""
    if not text.strip():
        raise BadJson("Paste a request first: the JSON that this page or POST /v1/inference takes.")
    try:
        body = json.loads(text)
    except ValueError as error:
        raise BadJson(f"This is not JSON: {error}.") from error
    except RecursionError as error:
        raise BadJson("This JSON is nested too deeply to be a request.") from error
    check_count(body)
    return body
