"""scripts/find_flaky over real runs of pytest: a test that fails once, one that fails always, one that is known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = """
from pathlib import Path

def test_good(): pass

def test_bad(): assert not Path("bad").exists()

def test_flaky():
    mark = Path("flaky")
    if mark.exists():
        mark.unlink()
        raise AssertionError

"""


def find_flaky(folder: Path, known: str = "", *, command: str = "") -> tuple[int, str]:
    """Its exit code and what it printed, over the tests above in a folder of their own."""
    (folder / "test_some.py").write_text(TESTS)
    (folder / "pytest.ini").touch()
    (folder / "known.txt").write_text(known)
    pytest_there = f'cd {folder} && PYTHONPATH={ROOT} {sys.executable} -m pytest -q -p tests.failed_tests "$@"'
    (folder / "run").write_text(command or pytest_there)
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # each of the plugins takes its time to import
    environment |= {"WAN_UI_TESTS_AGAIN": f"bash {folder}/run", "WAN_UI_KNOWN_FLAKY": str(folder / "known.txt")}
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "find_flaky", "bash", folder / "run"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return run.returncode, run.stdout + run.stderr


def verdicts(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(("FLAKY:", "FAILED:"))]


@pytest.mark.slow
def test_all_good(tmp_path: Path) -> None:
    code, output = find_flaky(tmp_path)
    assert (code, verdicts(output)) == (0, [])
    assert "3 passed" in output


@pytest.mark.slow
def test_a_flaky_test_is_named_and_fails_the_run_unless_it_is_known(tmp_path: Path) -> None:
    (tmp_path / "flaky").touch()
    code, output = find_flaky(tmp_path)
    assert (code, verdicts(output)) == (1, ["FLAKY: test_some.py::test_flaky"])
    (tmp_path / "flaky").touch()
    code, output = find_flaky(tmp_path, "# of these\n\ntest_some.py::test_flaky  # the file system's own\n")
    assert (code, verdicts(output)) == (0, ["FLAKY: test_some.py::test_flaky  (known)"])


@pytest.mark.slow
def test_a_test_that_fails_twice_fails_the_run_beside_a_known_one(tmp_path: Path) -> None:
    (tmp_path / "flaky").touch()
    (tmp_path / "bad").touch()
    code, output = find_flaky(tmp_path, "test_some.py::test_flaky  # the file system's own\n")
    assert code == 1
    assert verdicts(output) == ["FAILED: test_some.py::test_bad", "FLAKY: test_some.py::test_flaky  (known)"]


@pytest.mark.parametrize(
    "known", ["test_some.py::test_flaky", "".join(f"test_some.py::test_{n}  # why\n" for n in range(6))]
)
def test_a_list_without_reasons_or_too_long_is_refused(tmp_path: Path, known: str) -> None:
    code, output = find_flaky(tmp_path, known, command="exit 0")
    assert code == 1 and "known flaky test" in output


def test_what_is_no_test_is_not_run_again(tmp_path: Path) -> None:
    code, output = find_flaky(tmp_path, command="echo once; exit 3")
    assert (code, output) == (3, "once\n")


def test_the_projects_own_list_names_tests_that_exist() -> None:
    lines = (ROOT / "tests" / "known_flaky.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            path, _, name = line.partition("  # ")[0].partition("[")[0].partition("::")
            assert f"def {name.split('::')[-1]}(" in (ROOT / path).read_text(encoding="utf-8")
