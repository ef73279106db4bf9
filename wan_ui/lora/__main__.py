"""`python -m wan_ui.lora FILE`: prints the inspection of a LoRA file as JSON; it loads no torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from wan_ui.errors import WanUIError
from wan_ui.lora.report import inspect


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 with the inspection on stdout, or 1 with the error's body on stderr."""
    parser = argparse.ArgumentParser(prog="python -m wan_ui.lora", description="What a LoRA file is, from its header.")
    parser.add_argument("file", type=Path, metavar="FILE")
    path: Path = parser.parse_args(argv).file
    try:
        inspection = inspect(path)
    except WanUIError as error:
        print(json.dumps(error.body(), indent=2, ensure_ascii=False), file=sys.stderr)
        return 1
    print(json.dumps(inspection, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
