"""The Hugging Face token that a request brings for its own downloads: its type, which no log or dump shows."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

TOKEN_NOTE = "The request's Hugging Face token is kept in memory until its LoRA files are downloaded."
"""A note of every job that waits for downloads with such a token: where it is gone, the job cannot go on."""


NO_TOKEN = ""
"""In place of a token's text: none is sent, not even this machine's own."""


def _printable(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if not ((text.isascii() and text.isprintable()) or not text):
        raise ValueError("must be printable ASCII")
    return token


HubToken = Annotated[SecretStr, Field(max_length=500), AfterValidator(_printable)]
"""A token as a field of a request."""


def secret(token: SecretStr | None) -> str | None:
    """The token's text, None for an empty one."""
    return (token.get_secret_value().strip() or None) if token is not None else None
