"""What tests/forked.py imports once; later collections of garbage pass over it, each 0.3 s of CPU shorter."""

from __future__ import annotations

import gc

import wan_ui.inference  # noqa: F401

gc.freeze()
