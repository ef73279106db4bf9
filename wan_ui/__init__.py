"""wan-ui: LoRA inference for Wan video models, with the results of the reference server and of the trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wan_ui._version import __version__

if TYPE_CHECKING:
    from wan_ui.inference import Engine

__all__ = ["Engine", "__version__"]


def __getattr__(name: str) -> Any:
    """`from wan_ui import Engine` imports torch only when it is asked for, so that other modules import without it."""
    if name == "Engine":
        from wan_ui.inference import Engine

        return Engine
    raise AttributeError(f"module 'wan_ui' has no attribute {name!r}")
