"""Badges: signed, read back, refused when anything of them is changed; and the key they are signed with."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from wan_ui.errors import HostError
from wan_ui.identity import KEY_FILE, Session, Sessions, load_key


def test_a_badge_comes_back_as_it_was() -> None:
    sessions = Sessions(b"k" * 32)
    for session in (sessions.new(), sessions.new("owner"), sessions.new("guest", sessions.mark("secret"))):
        assert sessions.read(sessions.text(session)) == session
    assert sessions.new().visitor != sessions.new().visitor
    assert "secret" not in sessions.text(sessions.new("guest", sessions.mark("secret")))


def test_a_badge_that_was_not_signed_here_is_none() -> None:
    sessions = Sessions(b"k" * 32)
    text = sessions.text(Session("0" * 32, "visitor"))
    for changed in (
        text.replace(".v.", ".o."),
        text.replace(".v.", ".g."),
        text.replace(".-.", f".{sessions.mark('secret')}."),
        text.replace("0" * 32, "1" * 32),
        text[:-1] + ("0" if text[-1] != "0" else "1"),
        text.upper(),
        text.rsplit(".", 1)[0],
        f"{text}\n",
        "",
        "é",
    ):
        assert sessions.read(changed) is None
    assert Sessions(b"l" * 32).read(text) is None
    assert Sessions(b"l" * 32).name != sessions.name


def test_the_key_is_made_once_and_is_its_users_alone(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert len(key) == 32 and load_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    (tmp_path / KEY_FILE).chmod(0o644)
    assert load_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_a_key_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(HostError, match="damaged"):
        load_key(tmp_path)
    with pytest.raises(HostError, match="cannot be used"):
        load_key(tmp_path / "nowhere")
