"""Signed sessions of browsers, and the identity that they carry."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from itsdangerous import BadSignature, URLSafeSerializer

from wan_ui.errors import HostError

Role = Literal["visitor", "guest", "owner"]
"""A browser that opened the page, one that gave the password, and one that opened the owner's address."""

KEY_FILE = "visitors.key"
ENDED_FILE = "visitors.ended"
IDENTITY_SCOPE_KEY = "wan_ui.identity"
"""The key of an ASGI scope under which the Identity of its request is stored."""

_KEY_BYTES = 32
_ALL = "all "  # begins a line of ENDED_FILE that ends all sessions before it
_OLD_ROLES: dict[str, Role] = {"v": "visitor", "g": "guest", "o": "owner"}
_OLD_COOKIE = re.compile(
    r"(?P<visitor>[0-9a-f]{32})\.(?P<role>[vgo])\.(?P<password>[0-9a-f]{16}|-)\.(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True)
class Identity:
    """Who makes a request.

    `visitor` is the random id of a browser, None for a program that sends no cookie. `owner`: everything is allowed.
    """

    visitor: str | None
    owner: bool


LOCAL_IDENTITY = Identity(None, True)
"""This program itself, and whoever uses its classes from Python."""

current_identity: ContextVar[Identity] = ContextVar("current_identity")
"""The identity of the HTTP request that is being answered; it has no default, so that a request without one fails."""


@dataclass(frozen=True)
class Session:
    """What the cookie of a browser says.

    `password` is the mark of the password that was valid when it began (Sessions.mark), "" for none. `issued` is that
    moment in seconds since 1970, 0 where the cookie does not say. `outdated`: the cookie was signed by an earlier
    version and is to be replaced by one in today's form.
    """

    visitor: str
    role: Role
    password: str = ""
    issued: int = field(default=0, compare=False)
    outdated: bool = field(default=False, compare=False)


class Sessions:
    """Signs sessions and verifies them with `key`, which whoever knows it can do too.

    `ended` holds which sessions were ended before their time; without it none ever is. `clock`: seconds since 1970.
    """

    def __init__(self, key: bytes, ended: EndedSessions | None = None, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._ended = ended
        self._clock = clock
        self._serializer = URLSafeSerializer(
            key, salt="session", signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
        )

    @property
    def name(self) -> str:
        """A suffix for the cookie's name, derived from the key: servers on one machine share the browser's cookies."""
        return hmac.new(self._key, b"name", hashlib.sha256).hexdigest()[:8]

    def now(self) -> int:
        """Seconds since 1970."""
        return int(self._clock())

    def new(self, role: Role = "visitor", password: str = "") -> Session:
        """A session with a new random visitor id."""
        return Session(secrets.token_hex(16), role, password, self.now())

    def age(self, session: Session) -> float:
        """Seconds since a session began; a moment in the future, after a change of the clock, is now."""
        return max(0.0, self._clock() - session.issued)

    def mark(self, password: str) -> str:
        """A keyed hash of a password, which tells whether a session was given for today's password.

        It changes when all sessions are ended.
        """
        period = "" if self._ended is None else self._ended.period
        text = f"password:{password}{f'|{period}' if period else ''}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:16]

    def end(self, session: Session) -> None:
        """Makes a session invalid, whoever has its cookie. Raises HostError."""
        if self._ended is not None:
            self._ended.add(session.visitor)

    def end_all(self) -> None:
        """Makes every session that was given for a password invalid. Raises HostError."""
        if self._ended is not None:
            self._ended.add_all()

    def text(self, session: Session) -> str:
        """A session as a signed cookie value."""
        text = self._serializer.dumps([session.visitor, session.role, session.password, session.issued])
        return text if isinstance(text, str) else text.decode("ascii")

    def read(self, text: str) -> Session | None:
        """The session of a cookie value, or None if this key has not signed it or the session was ended."""
        session = self._signed(text) if text.isascii() else None
        is_ended = session is not None and self._ended is not None and session.visitor in self._ended
        return None if is_ended else session

    def _signed(self, text: str) -> Session | None:
        try:
            visitor, role, password, *issued = self._serializer.loads(text)
        except BadSignature:
            return self._read_old(text)
        return Session(
            visitor, role, password, issued[0] if issued else 0, outdated=not issued
        )  # builds before 0.2.0 gave no moment

    def _read_old(self, text: str) -> Session | None:
        """The session of a cookie value as wan-ui 0.1 signed it: `visitor.role.password.signature`."""
        match = _OLD_COOKIE.fullmatch(text)
        if match is None:
            return None
        signed = text.rpartition(".")[0].encode("ascii")
        signature = hmac.new(self._key, b"badge:" + signed, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(match["signature"], signature):
            return None
        password = "" if match["password"] == "-" else match["password"]
        return Session(match["visitor"], _OLD_ROLES[match["role"]], password, outdated=True)


class EndedSessions:
    """The sessions that were ended before their time, in a file of the data folder. Raises HostError."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ENDED_FILE
        try:
            lines = self._path.read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            lines = []
        except (OSError, UnicodeDecodeError) as error:
            raise HostError(
                f"{ENDED_FILE} in the data folder cannot be read. Check the folder's permissions."
            ) from error
        periods = [index for index, line in enumerate(lines) if line.startswith(_ALL)]
        self.period = lines[periods[-1]].removeprefix(_ALL) if periods else ""
        """Changes whenever all sessions are ended; "" until the first time."""
        self._visitors = {line for line in lines[periods[-1] + 1 if periods else 0 :] if line}

    def __contains__(self, visitor: str) -> bool:
        return visitor in self._visitors

    def add(self, visitor: str) -> None:
        """Ends the sessions of one browser."""
        self._visitors.add(visitor)
        self._append(visitor)

    def add_all(self) -> None:
        """Ends the sessions of all browsers."""
        self.period = secrets.token_hex(8)
        self._append(_ALL + self.period)

    def _append(self, line: str) -> None:
        try:
            with self._path.open("a", encoding="ascii") as file:
                file.write(f"{line}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise HostError(
                f"{ENDED_FILE} in the data folder cannot be written ({error.strerror}): the sign-out is lost at the "
                "next start."
            ) from error


def load_key(folder: Path) -> bytes:
    """The signing key of a data folder, made at its first use and readable by its user alone.

    If the file is removed, every session becomes invalid. Raises HostError if it cannot be read or written.
    """
    path = folder / KEY_FILE
    try:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = path.read_bytes()
            if len(key) != _KEY_BYTES:
                raise HostError(
                    f"{KEY_FILE} in the data folder is damaged. Remove it and start again; browsers then sign in anew."
                ) from None
            path.chmod(0o600)
            return key
        with os.fdopen(handle, "wb") as file:
            key = secrets.token_bytes(_KEY_BYTES)
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        return key
    except OSError as error:
        raise HostError(
            f"{KEY_FILE} in the data folder cannot be used ({error.strerror}). Check the folder's permissions."
        ) from error
