"""Who asks: the signed badge that a browser carries, and what it says; it knows no cookie, no door and no job."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_ui.errors import HostError

Role = Literal["visitor", "guest", "owner"]
"""A browser that came by, one that gave the password, and the one that opened the owner's address."""

KEY_FILE = "visitors.key"
IDENTITY_SCOPE_KEY = "wan_ui.who"
"""The key in an ASGI scope under which the Who of its request stands."""

_KEY_BYTES = 32
_MARKS: dict[Role, str] = {"visitor": "v", "guest": "g", "owner": "o"}
_BADGE = re.compile(r"(?P<visitor>[0-9a-f]{32})\.(?P<mark>[vgo])\.(?P<password>[0-9a-f]{16}|-)\.(?P<seal>[0-9a-f]{64})")


@dataclass(frozen=True)
class Identity:
    """Who asks: a browser's random id (None without one: another program, over HTTP), and whether it may do all."""

    visitor: str | None
    owner: bool


LOCAL_IDENTITY = Identity(None, True)
"""This program itself, and whoever runs it without a door in between."""

current_identity: ContextVar[Identity] = ContextVar("asking")
"""Who sent the HTTP request that is being answered. Set for every request, so that reading it unset is an error."""


@dataclass(frozen=True)
class Session:
    """What a browser is known by. `password` marks the password that was given, see Badges.mark; "" for none."""

    visitor: str
    role: Role
    password: str = ""


class Sessions:
    """Signs badges and reads them back. Whoever knows `key` can make any of them."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @property
    def name(self) -> str:
        """A name of this key, for a cookie: two servers of one machine share their browsers' cookies."""
        return hmac.new(self._key, b"name", hashlib.sha256).hexdigest()[:8]

    def new(self, role: Role = "visitor", password: str = "") -> Session:
        """A badge with a fresh id."""
        return Session(secrets.token_hex(16), role, password)

    def mark(self, password: str) -> str:
        """What stands for a password in a badge: another password, another mark; nothing can be read from it."""
        return hmac.new(self._key, b"password:" + password.encode(), hashlib.sha256).hexdigest()[:16]

    def text(self, session: Session) -> str:
        """A badge as signed text."""
        said = f"{session.visitor}.{_MARKS[session.role]}.{session.password or '-'}"
        return f"{said}.{self._seal(said)}"

    def read(self, text: str) -> Session | None:
        """The badge of a text, or None for one that this key has not signed."""
        match = _BADGE.fullmatch(text)
        if match is None or not hmac.compare_digest(match["seal"], self._seal(text.rsplit(".", 1)[0])):
            return None
        role = next(role for role, mark in _MARKS.items() if mark == match["mark"])
        return Session(match["visitor"], role, "" if match["password"] == "-" else match["password"])

    def _seal(self, said: str) -> str:
        return hmac.new(self._key, b"badge:" + said.encode("ascii"), hashlib.sha256).hexdigest()


def load_key(folder: Path, make: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """The key of a data folder, made at its first use, readable by its user alone.

    Without that file every browser is a stranger again. Raises HostError when it cannot be read or written.
    """
    path = folder / KEY_FILE
    try:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = path.read_bytes()
            if len(key) != _KEY_BYTES:
                raise HostError(f"{KEY_FILE} in the data folder is damaged: remove it and start again.") from None
            path.chmod(0o600)
            return key
        with os.fdopen(handle, "wb") as file:
            key = make(_KEY_BYTES)
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        return key
    except OSError as error:
        raise HostError(f"{KEY_FILE} in the data folder cannot be used ({error.strerror}).") from error
