"""Long texts taken out of a large MCP message: the protocol's library then decodes a short one in the event loop."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from wan_ui.api.bodies import decode_json
from wan_ui.errors import BadJson, PayloadTooLarge

LONG = 64  # characters of a text that is taken out
MOST_LEFT = 1 << 20  # bytes of a message without them
MOST_DEPTH = 64  # of arrays and objects in a tool's arguments

Texts = Mapping[str, str]
"""The long texts of a message by what stands in their place."""


def extract_texts(message: bytes) -> tuple[bytes, Texts]:
    """A message with a short text in place of each long one of its tool's arguments, and those texts.

    Raises what decode_json raises, BadJson for arguments that are nested too deeply, and PayloadTooLarge for a message
    that is large elsewhere.
    """
    body, texts = decode_json(message), dict[str, str]()
    mark = secrets.token_hex(16)  # random: no text of the sender is one of these by chance

    def shorten(text: str) -> str:
        if len(text) <= LONG:
            return text
        texts[name := f"{mark}-{len(texts)}"] = text
        return name

    params = body.get("params") if isinstance(body, dict) else None
    if isinstance(params, dict) and "arguments" in params:
        body = {**body, "params": {**params, "arguments": _replaced(params["arguments"], shorten)}}
    short = json.dumps(body).encode()
    if len(short) > MOST_LEFT:
        raise PayloadTooLarge(
            f"Only texts in a tool's arguments may be larger than {MOST_LEFT} bytes.", limit=MOST_LEFT
        )
    return short, texts


def insert_texts(arguments: Any, texts: Texts) -> Any:
    """A tool's arguments with the long texts in their places again."""
    return _replaced(arguments, lambda text: texts.get(text, text)) if texts else arguments


def _replaced(value: Any, change: Callable[[str], str], depth: int = 0) -> Any:
    if isinstance(value, str):
        return change(value)
    if depth > MOST_DEPTH:
        raise BadJson("The tool's arguments are nested too deeply.")
    if isinstance(value, dict):
        return {name: _replaced(item, change, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, change, depth + 1) for item in value]
    return value
