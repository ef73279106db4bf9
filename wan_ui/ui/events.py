"""How the page's events are sent, and what their handlers answer; it knows no component."""

from __future__ import annotations

import json
from typing import Any

Update = dict[Any, Any]
"""What a handler changes; outputs it leaves out stay as they are. Gradio reads it in the handlers' own modules."""

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
POLL: dict[str, Any] = {**QUIET, "queue": False}
EDIT: dict[str, Any] = {**QUIET, "concurrency_limit": None}


def filled(form: str) -> dict[str, Any]:
    """An event in the browser alone: a form now holds what the browser had kept for it, see page.js."""
    return {**POLL, "fn": None, "js": f"() => window.wanUi.filled({json.dumps(form)})"}
