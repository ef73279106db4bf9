"""Badges: signed, read back, refused when anything of them is changed; and the key they are signed with."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from wan_ui.errors import HostError
from wan_ui.visitors import KEY_FILE, Badge, Badges, load_key


def test_a_badge_comes_back_as_it_was() -> None:
    badges = Badges(b"k" * 32)
    for badge in (badges.new(), badges.new("owner"), badges.new("guest", badges.mark("secret"))):
        assert badges.read(badges.text(badge)) == badge
    assert badges.new().visitor != badges.new().visitor
    assert "secret" not in badges.text(badges.new("guest", badges.mark("secret")))


def test_a_badge_that_was_not_signed_here_is_none() -> None:
    badges = Badges(b"k" * 32)
    text = badges.text(Badge("0" * 32, "visitor"))
    for changed in (
        text.replace(".v.", ".o."),
        text.replace(".v.", ".g."),
        text.replace(".-.", f".{badges.mark('secret')}."),
        text.replace("0" * 32, "1" * 32),
        text[:-1] + ("0" if text[-1] != "0" else "1"),
        text.upper(),
        text.rsplit(".", 1)[0],
        f"{text}\n",
        "",
        "é",
    ):
        assert badges.read(changed) is None
    assert Badges(b"l" * 32).read(text) is None
    assert Badges(b"l" * 32).name != badges.name


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
