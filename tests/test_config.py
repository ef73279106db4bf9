"""Flags over environment over defaults, and a line that names what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from wan_ui.config import Settings, read

FLAGS = [
    ("--models-dir", "WAN_UI_MODELS_DIR", "m", "models_dir", Path("m")),
    ("--lora-dir", "WAN_UI_LORA_DIR", "l", "lora_dir", Path("l")),
    ("--data-dir", "WAN_UI_DATA_DIR", "d", "data_dir", Path("d")),
    ("--device", "WAN_UI_DEVICE", "cuda:1", "device", "cuda:1"),
    ("--memory", "WAN_UI_MEMORY", "pair", "memory", "pair"),
    ("--port", "WAN_UI_PORT", "8080", "port", 8080),
    ("--allow-url-host", "WAN_UI_ALLOW_URL_HOST", "nas.local", "allow_url_hosts", ("nas.local",)),
]


def test_defaults() -> None:
    assert read([], {}) == Settings(
        models_dir=None, lora_dir=Path("./loras"), data_dir=Path("./data"), device=None, memory="auto", port=7860
    )


def test_a_lora_folder_that_was_named_takes_the_place_of_the_demos() -> None:
    assert not read(["--demo"], {"WAN_UI_LORA_DIR": ""}).chose_lora_dir
    assert read(["--demo", "--lora-dir", "./loras"], {}).chose_lora_dir
    assert read([], {"WAN_UI_LORA_DIR": "l"}).chose_lora_dir


@pytest.mark.parametrize(("flag", "variable", "text", "field", "value"), FLAGS)
def test_a_flag_and_its_variable(flag: str, variable: str, text: str, field: str, value: object) -> None:
    assert getattr(read([flag, text], {}), field) == value
    assert getattr(read([], {variable: text}), field) == value


@pytest.mark.parametrize(("flag", "variable", "text", "field", "value"), FLAGS)
def test_the_flag_wins(flag: str, variable: str, text: str, field: str, value: object) -> None:
    other = {"memory": "stream", "port": "1"}.get(field, "other")
    assert getattr(read([flag, text], {variable: other}), field) == value


@pytest.mark.parametrize(("flag", "variable", "text", "field", "value"), FLAGS)
def test_an_empty_variable_is_none(flag: str, variable: str, text: str, field: str, value: object) -> None:
    assert getattr(read([], {variable: ""}), field) == getattr(Settings(), field)


@pytest.mark.parametrize(
    ("text", "on"),
    [("1", True), ("true", True), ("Yes", True), (" on ", True), ("0", False), ("", False), ("no", False)],
)
def test_demo(text: str, on: bool) -> None:
    assert read([], {"WAN_UI_DEMO": text}).demo is on
    assert read(["--demo"], {}).demo is True


def test_several_hosts() -> None:
    assert read(["--allow-url-host", "a", "--allow-url-host", "b"], {}).allow_url_hosts == ("a", "b")
    assert read([], {"WAN_UI_ALLOW_URL_HOST": "a b"}).allow_url_hosts == ("a", "b")


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--port", "x"], {}, "--port"),
        (["--port", "65536"], {}, "--port"),
        (["--port", "-1"], {}, "--port"),
        (["--memory", "none"], {}, "--memory"),
        (["--nonsense"], {}, "--nonsense"),
        ([], {"WAN_UI_PORT": "x"}, "--port"),
        ([], {"WAN_UI_MEMORY": "none"}, "WAN_UI_MEMORY"),
    ],
)
def test_a_wrong_value_ends_with_a_line_that_names_it(
    arguments: list[str], environment: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read(arguments, environment)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_clips_stay_for_ever_unless_said_otherwise() -> None:
    chosen = read([], {})
    assert (chosen.keep_days, chosen.keep_gb) == (None, None)
    chosen = read(["--keep-days", "0.5"], {"WAN_UI_KEEP_GB": "200"})
    assert (chosen.keep_days, chosen.keep_gb) == (0.5, 200.0)


@pytest.mark.parametrize(
    "flag", ["--keep-days=0", "--keep-days=-1", "--keep-days=inf", "--keep-days=nan", "--keep-gb=0"]
)
def test_a_retention_that_is_none_ends_the_start(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read([flag], {})
    assert "must be a number above 0" in capsys.readouterr().err
