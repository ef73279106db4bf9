"""What tests/forked.py imports once; later collections of garbage pass over it, each 0.3 s of CPU shorter."""

from __future__ import annotations

import gc
import sys

import wan_ui.inference  # noqa: F401

WITH_THE_ENGINE = frozenset(sys.modules)
gc.freeze()


def print_imported(*names: str) -> None:
    """Prints which of these modules are imported with the engine."""
    print([name for name in names if name in WITH_THE_ENGINE])
