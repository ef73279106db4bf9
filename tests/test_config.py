"""Flags over environment over defaults, and a line that names what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from wan_ui.config import OPTIONS, Settings, read

FLAGS = [
    ("--models-dir", "WAN_UI_MODELS_DIR", "m", "models_dir", Path("m")),
    ("--comfy-dir", "WAN_UI_COMFY_DIR", "c", "comfy_dir", Path("c")),
    ("--jobs-dir", "WAN_UI_JOBS_DIR", "j", "jobs_dir", Path("j")),
    ("--configs-dir", "WAN_UI_CONFIGS_DIR", "f", "configs_dir", Path("f")),
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


@pytest.mark.parametrize(
    ("flag", "wrong"),
    [
        ("--port", ["x", "-1", "65536", "80.5"]),
        ("--memory", ["none"]),
        ("--compile", ["on"]),
        ("--log-format", ["xml"]),
        ("--job-timeout", ["-1", "inf", "nan", "x"]),
        ("--max-attempts", ["0"]),
        ("--max-waiting", ["0", "1.5"]),
        ("--max-waiting-each", ["0"]),
        ("--max-cost", ["0", "nan", "inf"]),
        ("--max-upload-gb", ["-1", "inf", "nan"]),
        ("--max-disk-gb", ["0", "-1", "nan"]),
        ("--keep-days", ["0", "36500", "nan"]),
        ("--auth", ["name", ":password", "name:"]),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_flag_and_variable(
    flag: str, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    variable = "WAN_UI_" + flag[2:].replace("-", "_").upper()
    for text in wrong:
        for arguments, environment in (([f"{flag}={text}"], {}), ([], {variable: text})):
            with pytest.raises(SystemExit) as caught:
                read(arguments, environment)
            error = capsys.readouterr().err
            assert caught.value.code == 2 and flag in error and variable in error


def test_each_field_is_an_option_with_a_flag_of_its_own() -> None:
    assert set(OPTIONS) == set(Settings.__dataclass_fields__) - {"chose_lora_dir", "notify_secret"}
    assert len({option.flag for option in OPTIONS.values()}) == len(OPTIONS)


def test_a_password_is_neither_shown_nor_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert "secret" not in repr(read(["--auth", "ann:secret"], {}))
    assert read(["--auth", "ann:sec:ret"], {}).auth == ("ann", "sec:ret")
    assert read(["--auth", ""], {"WAN_UI_AUTH": ""}).auth is None
    with pytest.raises(SystemExit):
        read(["--auth", "secret"], {})
    assert "secret" not in capsys.readouterr().err


def test_a_job_timeout_of_zero_is_none() -> None:
    assert read(["--job-timeout", "0"], {}).job_timeout is None
    assert read([], {"WAN_UI_JOB_TIMEOUT": "2.5"}).job_timeout == 2.5


def test_a_share_server_needs_its_program() -> None:
    with pytest.raises(SystemExit):
        read(["--share-server", "a:1"], {})
    assert read(["--share-server", "a:1", "--share-program", "frpc"], {}).share_program == Path("frpc")


def test_notifications_need_a_secret_from_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "0123456789abcdef"
    settings = read(["--notify-url", "https://example.com/hook?key=hidden"], {"WAN_UI_NOTIFY_SECRET": secret})
    assert (settings.notify_url, settings.notify_secret) == ("https://example.com/hook?key=hidden", secret)
    assert "hidden" not in repr(settings) and secret not in repr(settings)
    for url, environment in (
        ("https://example.com/", {}),
        ("https://example.com/", {"WAN_UI_NOTIFY_SECRET": "short"}),
        ("file:///etc/passwd", {"WAN_UI_NOTIFY_SECRET": secret}),
        ("example.com", {"WAN_UI_NOTIFY_SECRET": secret}),
    ):
        with pytest.raises(SystemExit):
            read(["--notify-url", url], environment)
    assert "WAN_UI_NOTIFY_SECRET" in capsys.readouterr().err
