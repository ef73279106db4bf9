"""The rules of the code base that a test can check: who imports whom, who knows a model by name, who raises what."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from wan_ui import errors
from wan_ui.models import MODELS

ROOT = Path(__file__).parent.parent
SOURCES = (*sorted((ROOT / "wan_ui").rglob("*.py")), ROOT / "app.py")
FRAMEWORKS = ("gradio", "torch", "diffusers", "transformers", "peft", "accelerate", "fastapi", "starlette")
PURE_MODULES = (
    "wan_ui",
    "wan_ui.models",
    "wan_ui.errors",
    "wan_ui.config",
    "wan_ui.request",
    "wan_ui.axes",
    "wan_ui.compare",
    "wan_ui.render_order",
    "wan_ui.lora.fit",
    "wan_ui.lora.header",
    "wan_ui.lora.library",
    "wan_ui.provenance.lora_search",
    "wan_ui.provenance.restoring",
    "wan_ui.media.boxes",
    "wan_ui.provenance.embedded_metadata",
    "wan_ui.engine.result",
    "wan_ui.engine.recipes",
    "wan_ui.engine.speedups",
    "wan_ui.engine.core",
    "wan_ui.jobs.store",
    "wan_ui.trainer.folder",
    "wan_ui.trainer.job",
    "wan_ui.trainer.checklist",
    "wan_ui.trainer.checklist_rows",
    "wan_ui.trainer.sample_files",
    "wan_ui.trainer.sample_comparison",
    "wan_ui.trainer.sample_block",
    "wan_ui.trainer.imported_job",
    "wan_ui.trainer.imported_jobs",
    "wan_ui.jobs.sample_comparisons",
    "wan_ui.files",
    "wan_ui.text",
)
# Where a framework may be imported: a package, or a module, by its start.
CHECKPOINT_READERS = tuple(f"wan_ui.checkpoints.{name}" for name in ("fp8_linear", "modules", "tensors", "tokenizers"))
ALLOWED_IMPORTERS = {
    "gradio": ("wan_ui.ui.", "wan_ui.server", "wan_ui.compose"),
    "fastapi": ("wan_ui.api.", "wan_ui.web.", "wan_ui.server", "wan_ui.compose"),
    "starlette": ("wan_ui.api.", "wan_ui.web.", "wan_ui.server", "wan_ui.compose"),
    "mcp": ("wan_ui.api.mcp_server",),
    "uvicorn": ("wan_ui.web.connections",),
    "ray": ("wan_ui.pool.ray_",),
    "prometheus_client": ("wan_ui.web.",),
    "torch": (
        "wan_ui.engine.",
        *CHECKPOINT_READERS,
        "wan_ui.lora.convert",
        "wan_ui.demo.",
        "wan_ui.inference",
        "wan_ui.server",
        "wan_ui.compose",
    ),
    "diffusers": ("wan_ui.engine.", "wan_ui.checkpoints.modules", "wan_ui.demo."),
    "transformers": ("wan_ui.engine.", *CHECKPOINT_READERS, "wan_ui.demo."),
    "peft": ("wan_ui.engine.",),
}
MODEL_NAME = re.compile(r"\bwan2\d_\w+")

BLOCKED_IMPORT = """
import importlib, sys
sys.modules.update(dict.fromkeys({frameworks!r}))
for room in {rooms!r}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "wan_ui"]:
        del sys.modules[name]
    importlib.import_module(room)
"""


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def _rooms_imported(path: Path, rooms: Collection[str]) -> set[str]:
    """The rooms of the project that a module imports, those for its types too."""
    found: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {name if (name := f"{node.module}.{one.name}") in rooms else node.module for one in node.names}
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
    return found & set(rooms)


def _docstrings(tree: ast.Module) -> set[int]:
    """Ids of the constants that are documentation: a string standing alone as a statement."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def _error_types() -> list[type[errors.WanUIError]]:
    return [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.WanUIError)
    ]


def _leaves() -> list[type[errors.WanUIError]]:
    return [error for error in _error_types() if not error.__subclasses__()]


def _without_frameworks(*rooms: str) -> subprocess.CompletedProcess[str]:
    """An interpreter that imports each of the modules alone, without those before; no framework can be imported."""
    program = BLOCKED_IMPORT.format(frameworks=FRAMEWORKS, rooms=rooms)
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


def test_each_pure_room_imports_alone_and_without_the_frameworks() -> None:
    done = _without_frameworks(*PURE_MODULES)
    assert done.returncode == 0, done.stderr


def test_the_block_blocks() -> None:
    done = _without_frameworks("torch")
    assert done.returncode != 0 and "ModuleNotFoundError" in done.stderr


def test_each_framework_stays_in_its_rooms() -> None:
    strays = [
        f"{_module(path)} imports {name}"
        for path in SOURCES
        for name in _imports(_tree(path))
        if (homes := ALLOWED_IMPORTERS.get(name.split(".")[0])) is not None and not _module(path).startswith(homes)
    ]
    assert strays == []


def test_imports_go_one_way() -> None:
    """No module imports one that imports it, however far around: not for a type either."""
    # The package itself offers the Engine lazily, at the end of all.
    paths = {name: path for path in SOURCES if (name := _module(path)) != "wan_ui"}
    below = {name: _rooms_imported(path, paths) for name, path in paths.items()}
    while free := {name for name, needs in below.items() if not needs}:
        below = {name: needs - free for name, needs in below.items() if name not in free}
    assert below == {}


def test_only_the_table_knows_a_model_by_name() -> None:
    """A line that says == "wan22_…" means that a column of the table is missing."""
    families = {row.family for row in MODELS.values()}
    known = set(MODELS) | families
    strays = []
    for path in SOURCES:
        if path == ROOT / "wan_ui" / "models.py":
            continue
        tree = _tree(path)
        documentation = _docstrings(tree)
        strays += [
            f"{path.relative_to(ROOT)}:{node.lineno}: {node.value[:60]!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documentation
            and (node.value in known or MODEL_NAME.search(node.value))
        ]
    for path in sorted((ROOT / "wan_ui").rglob("*")):
        if path.suffix in {".js", ".css", ".html"} and MODEL_NAME.search(path.read_text(encoding="utf-8")):
            strays.append(str(path.relative_to(ROOT)))
    assert strays == []


def _named(tree: ast.Module) -> set[str]:
    """Every name and attribute that code (no import, no annotation of an except clause) calls or raises."""
    found: set[str] = set()
    for node in ast.walk(tree):
        target = node.func if isinstance(node, ast.Call) else node.exc if isinstance(node, ast.Raise) else None
        if isinstance(target, ast.Name):
            found.add(target.id)
        elif isinstance(target, ast.Attribute):
            found.add(target.attr)
    return found


def test_each_error_type_has_a_raiser() -> None:
    used = set().union(*(_named(_tree(path)) for path in SOURCES if path.name != "errors.py"))
    assert [error.__name__ for error in _leaves() if error.__name__ not in used] == []


def test_each_error_type_is_in_a_test() -> None:
    """By its name or by its wire code."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    words = set(re.findall(r"\w+", text))
    assert [error.__name__ for error in _leaves() if not {error.__name__, error.code} & words] == []


def test_the_tree_of_errors_in_the_docstring_is_the_tree_there_is() -> None:
    drawn = {
        name: (len(indent) // 4, int(status) if status else None)
        for indent, name, status in re.findall(
            r"^([│├└─ ]*)([A-Z]\w+)(?: +(\d{3})\b)?", errors.__doc__ or "", flags=re.MULTILINE
        )
        if name[0].isupper() and name in vars(errors)
    }
    assert set(drawn) == {error.__name__ for error in _error_types()}
    for error in _error_types():
        depth, status = drawn[error.__name__]
        assert depth == len(error.__mro__) - len(errors.WanUIError.__mro__), error.__name__
        assert status is None or status == error.status, error.__name__
    codes = [error.code for error in _error_types()]
    assert len(set(codes)) == len(codes)


def test_each_process_has_one_place_that_catches_everything() -> None:
    """Ruff's BLE001 keeps blind catches out of the other files; here the exemptions are listed."""
    broad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
    ]
    assert [place.split(":")[0] for place in broad] == ["wan_ui/jobs/job_errors.py", "wan_ui/pool/slot_process.py"], (
        broad
    )


def test_every_room_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.stat().st_size and not (ast.get_docstring(_tree(path)) or "").split("\n")[0].endswith(".")
    ]
    assert silent == []
