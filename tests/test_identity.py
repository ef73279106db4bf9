"""Sessions: signed, read back, rejected when anything is changed; cookies of wan-ui 0.1; and the signing key."""

from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from wan_ui.errors import HostError
from wan_ui.identity import KEY_FILE, Session, Sessions, load_key

KEY = b"k" * 32


def old_cookie(key: bytes, visitor: str, role: str = "v", password: str = "-") -> str:
    """A cookie value as wan-ui 0.1 signed it."""
    said = f"{visitor}.{role}.{password}"
    return f"{said}.{hmac.new(key, b'badge:' + said.encode('ascii'), hashlib.sha256).hexdigest()}"


def changes(text: str) -> list[str]:
    """Every change of one character, and what is cut off or added."""
    other = {at: "b" if text[at] != "b" else "c" for at in range(len(text))}
    return [
        *(text[:at] + character + text[at + 1 :] for at, character in other.items()),
        *(text[:length] for length in range(len(text))),
        text.upper(),
        f"{text}\n",
        f"{text}.{text}",
        f" {text}",
    ]


def test_a_session_is_read_as_it_was_signed() -> None:
    sessions = Sessions(KEY)
    for session in (sessions.new(), sessions.new("owner"), sessions.new("guest", sessions.mark("secret"))):
        read = sessions.read(sessions.text(session))
        assert read == session and not read.outdated
    assert sessions.new().visitor != sessions.new().visitor
    assert "secret" not in sessions.text(sessions.new("guest", sessions.mark("secret")))


def test_a_cookie_value_needs_no_quotes() -> None:
    text = Sessions(KEY).text(Sessions(KEY).new("guest", "0123456789abcdef"))
    assert all(character.isalnum() or character in "-_." for character in text)


def test_a_session_that_was_not_signed_here_is_rejected() -> None:
    sessions = Sessions(KEY)
    text = sessions.text(Session("0" * 32, "visitor"))
    owner = sessions.text(Session("0" * 32, "owner"))
    signature = text.rpartition(".")[2]
    for changed in (*changes(text), f"{owner.rpartition('.')[0]}.{signature}", "", ".", "é", "\udc80"):
        assert sessions.read(changed) is None, changed
    assert Sessions(b"l" * 32).read(text) is None
    assert Sessions(b"l" * 32).name != sessions.name


@pytest.mark.parametrize(
    ("role", "password", "session"),
    [
        ("v", "-", Session("a" * 32, "visitor")),
        ("g", "0123456789abcdef", Session("a" * 32, "guest", "0123456789abcdef")),
        ("o", "-", Session("a" * 32, "owner")),
    ],
)
def test_a_cookie_of_version_0_1_is_read_and_marked_outdated(role: str, password: str, session: Session) -> None:
    sessions = Sessions(KEY)
    read = sessions.read(old_cookie(KEY, "a" * 32, role, password))
    assert read == session and read.outdated
    assert sessions.read(sessions.text(read)) == session


def test_a_changed_cookie_of_version_0_1_is_rejected() -> None:
    sessions = Sessions(KEY)
    text = old_cookie(KEY, "a" * 32)
    for changed in (*changes(text), text.replace(".v.", ".o."), text.replace(".-.", f".{sessions.mark('secret')}.")):
        assert sessions.read(changed) is None, changed
    assert sessions.read(old_cookie(b"l" * 32, "a" * 32, "o")) is None


def test_the_key_is_made_once_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert len(key) == 32 and load_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    (tmp_path / KEY_FILE).chmod(0o644)
    assert load_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_a_key_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(HostError, match="damaged"):
        load_key(tmp_path)
    with pytest.raises(HostError, match="cannot be used"):
        load_key(tmp_path / "nowhere")
