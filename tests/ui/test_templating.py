"""The templates: escaping, missing values, white space, and that nothing else writes HTML."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from jinja2 import Environment, UndefinedError

from wan_ui.ui import templating
from wan_ui.ui.templating import TEMPLATES, JoinLines, render_template

UI = TEMPLATES.parent
TAG = re.compile(r"(?<!\?P)</?[a-z][a-z0-9]*[ >/]")  # not a group of a regular expression
EVIL = "<img src=x onerror=\"alert('1')\">"


def test_values_are_escaped():
    assert render_template("heading", text=EVIL) == ("<h2>&lt;img src=x onerror=&#34;alert(&#39;1&#39;)&#34;&gt;</h2>")


def test_a_value_that_is_missing_is_an_error_and_not_an_empty_text():
    with pytest.raises(UndefinedError):
        render_template("heading")


@pytest.mark.parametrize(
    ("source", "joined"),
    [
        ("<p>\n  <b>a</b>\n  <i>b</i>\n</p>\n", "<p><b>a</b><i>b</i></p>"),
        ("<p>\n  two\n  words\n</p>", "<p>two words</p>"),
        ("{% if true %}\n  yes\n{% endif %}", "yes"),
        ("<b>a</b> <i>b</i>", "<b>a</b> <i>b</i>"),
        ("<script>\n// a\nb\n</script>\n<p>\nc</p>", "<script>\n// a\nb\n</script><p>c</p>"),
    ],
)
def test_indentation_of_a_template_does_not_reach_the_page(source: str, joined: str):
    environment = Environment(extensions=[JoinLines], autoescape=True)
    assert environment.from_string(source).render() == joined


def test_a_text_with_line_breaks_keeps_them():
    checklist = render_template("checklist", wrong=[], matching=[], matching_count="", text="a\n  b")
    assert "<pre>a\n  b</pre>" in checklist


def test_command_line_flags_are_found():
    assert templating.flag_parts("Raise --max-disk-gb.") == ["Raise ", "--max-disk-gb", "."]


def test_no_python_module_of_the_page_writes_html():
    written = {
        path.name: texts
        for path in sorted({*UI.glob("*.py")} - {Path(templating.__file__)})
        if (texts := _html_in(path))
    }
    assert written == {}


def _html_in(path: Path) -> list[str]:
    """The string constants with a tag in them, docstrings apart."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str) and TAG.search(node.value)]


def test_every_template_is_used():
    source = "".join(path.read_text(encoding="utf-8") for path in UI.glob("*.py"))
    names = {path.stem for path in TEMPLATES.glob("*.html")} - {"macros"}
    assert {name for name in names if f'"{name}"' not in source} == set()


def test_templates_stand_beside_the_package():
    assert Path(templating.__file__).parent == UI


def test_no_template_reads_a_method_of_a_mapping():
    """`entry.values` of a dict is its method and not its value."""
    methods = re.compile(r"\{[{%][^}]*\b\w+\.(?:values|items|keys|get|pop|update|copy|clear)\b")
    texts = {path.name: path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.html")}
    assert {name: methods.findall(text) for name, text in texts.items() if methods.search(text)} == {}
