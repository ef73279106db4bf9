"""Splits what uv locked into the three requirements files; scripts/lock calls it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
# torch and what its CUDA build brings along: which of them a machine needs is decided by the build that it takes.
OF_TORCH = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)$")
_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?P<rest>[^\n]*(?:\n    [^\n]*)*)$", re.MULTILINE)

TORCH_HEAD = """\
# Installed first, without hashes: PyPI has the CUDA build, other indexes have builds for the CPU or for other GPUs.
"""
RUN_HEAD = """\
# What the app runs on, with the hashes of every platform's files: the golden frames in tests/golden hold for these
# versions. Written by scripts/lock. Install requirements-torch.txt first, then:
#   pip install --no-deps --require-hashes -r requirements.txt
"""
DEV_HEAD = """\
# What tests and checks need on top of requirements.txt. Written by scripts/lock.
"""


def entries(text: str) -> dict[str, str]:
    """A lock's packages by name, each with its version, marker and hashes as they are written."""
    return {match["name"]: match[0] for match in _ENTRY.finditer(text)}


def split(run: Mapping[str, str], dev: Mapping[str, str]) -> tuple[str, str, str]:
    """The texts of requirements-torch.txt, requirements.txt and requirements-dev.txt.

    Triton stands with the tests: where torch is a CPU build they need it for its interpreter.
    """
    torch = run["torch"].splitlines()[0].split(" ")[0]
    own = [entry for name, entry in run.items() if not OF_TORCH.match(name)]
    tests = [entry for name, entry in dev.items() if name == "triton" or (name not in run and not OF_TORCH.match(name))]
    return (
        TORCH_HEAD + torch + "\n",
        RUN_HEAD + "\n".join(own) + "\n",
        DEV_HEAD + "\n".join(tests) + "\n",
    )


def main(run: Path, dev: Path) -> None:
    """Writes the three files from uv's two."""
    texts = split(entries(run.read_text()), entries(dev.read_text()))
    for name, text in zip(("-torch", "", "-dev"), texts, strict=True):
        (ROOT / f"requirements{name}.txt").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
