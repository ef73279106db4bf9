"""`python -m wan_ui.media FILE.mp4`: prints the settings inside a video made by wan-ui, as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from wan_ui.errors import VideoEncodingFailed, WanUIError
from wan_ui.media import video


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 with what the file carries on stdout, or 1 with the error's body on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m wan_ui.media",
        description="What a video made by wan-ui carries: its request and how it was made.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    path: Path = parser.parse_args(argv).file
    try:
        if not path.is_file():
            raise VideoEncodingFailed(f"There is no file {path.name}.")
        said = video.read_metadata(path)
    except WanUIError as error:
        print(json.dumps(error.body(), indent=2, ensure_ascii=False), file=sys.stderr)
        return 1
    print(json.dumps(said, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
