"""Retired names and phrases stay out of the code, its messages and the documentation.

`python -m tests.test_terms [FOLDER]` counts the uses of each in a checkout.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Identifiers, matched whole and with their case, anywhere in Python code: names, attributes, keyword arguments.
IDENTIFIERS = (
    *("Desk", "VisitorDesk", "DeskLike", "desk", "visitor_desk", "Badge", "Badges", "badges", "Brake", "weigh"),
    *("Shelf", "shelf", "KeptJob", "Dressing", "dressing", "Worn", "worn", "wear", "undress", "Residence", "residence"),
    *("CudaLanes", "at_home", "Aftermath", "aftermath", "Told", "told", "Survey", "survey", "Midway", "Originals"),
    *("readahead", "ReadAhead", "ran_out", "House", "house", "seen_by", "put_back", "NOTHING_KNOWN", "BARE"),
    *("is_bare", "Fusion", "Drawer", "drawer", "PURE_ROOMS"),
)
# Phrases of text (docstrings, comments, messages, documentation), as regular expressions without regard to case.
PHRASES = (
    r"\bHTTP doors?\b",
    r"\b(?:the|a|both|whole|these|this|its|no) doors?\b",
    r"\b(?:the|both|one|this) desks?\b",
    r"\bline of jobs\b",
    r"\b(?:jobs?|requests?|wait|waits|put|puts|back|stands?) in line\b",
    r"\b(?:signed|its|a) badges?\b",
    r"\bwears?\b",
    r"\bundress\w*",
    r"\bdress(?:es|ed|ing)\b",
    r"\b(?:goes|go|stays?|lies|is|are|at) (?:at )?home\b",
    r"\b(?:every|pure|each|six) rooms?\b",
    r"\bhouse rules?\b",
    r"\bit knows (?:no|neither|nothing|the)\b",
    r"\bwhat (?:one|a) transformer wears\b",
    r"\bnot here any ?more\b",
    r"\bthe one who asks\b",
    r"\bwho(?:ever)? asks\b",
    r"\bhas no name yet\b",
    r"\bno more may\b",
    r"\bputs? away\b",
    r"\bread ahead\b",
    r"\blets? go of\b",
    r"\bnotes? that a browser brought\b",
    r"\bhalf packed\b",
)
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    # File: patterns that are allowed there, with the reason beside each.
    "CONTRIBUTING.md": (*PHRASES, *IDENTIFIERS),  # its glossary lists what was renamed
    "tests/test_terms.py": (*PHRASES, *IDENTIFIERS),
}
SKIPPED = ("tests/golden/", "wan_ui/demo/weights/", "docs/performance.json")
TEXT_SUFFIXES = (".md", ".js", ".css", ".html", ".json")
LITERALS = (tokenize.STRING, tokenize.COMMENT)


def files(root: Path) -> Iterator[Path]:
    """The tracked kinds of files with names or text of ours."""
    folders = ("wan_ui", "tests", "docs", "benchmarks", "tools", "deploy")
    for path in (*root.glob("*.md"), *root.glob("*.py"), *(p for name in folders for p in (root / name).rglob("*"))):
        relative = path.relative_to(root).as_posix()
        if path.is_file() and path.suffix in (".py", *TEXT_SUFFIXES) and not relative.startswith(SKIPPED):
            yield path


def parts(path: Path) -> tuple[list[str], str]:
    """A file's identifiers (of Python code) and its text: literals and comments, or all of it."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [], source
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    names = [token.string for token in tokens if token.type == tokenize.NAME]
    return names, "\n".join(token.string for token in tokens if token.type in LITERALS)


def uses(root: Path) -> dict[str, Counter[str]]:
    """How often each retired term occurs in each file, without the exceptions."""
    identifiers = set(IDENTIFIERS)
    found: dict[str, Counter[str]] = {}
    for path in files(root):
        name = path.relative_to(root).as_posix()
        names, text = parts(path)
        text = " ".join(text.split())
        counts = Counter(item for item in names if item in identifiers)
        counts.update({phrase: len(re.findall(phrase, text, re.IGNORECASE)) for phrase in PHRASES})
        allowed = EXCEPTIONS.get(name, ())
        counts = Counter({term: count for term, count in counts.items() if count and term not in allowed})
        if counts:
            found[name] = counts
    return found


def test_no_retired_term_is_used() -> None:
    assert uses(ROOT) == {}


@pytest.mark.parametrize(
    "text", ["the HTTP door", "a job in line", "A transformer that wears a LoRA", "back in line", "it knows no job"]
)
def test_the_phrases_are_found(text: str) -> None:
    assert any(re.search(phrase, text, re.IGNORECASE) for phrase in PHRASES)


if __name__ == "__main__":
    total: Counter[str] = Counter()
    for counted in uses(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT).values():
        total.update(counted)
    for term, number in total.most_common():
        print(f"{number:6}  {term}")
    print(f"{total.total():6}  in all")
