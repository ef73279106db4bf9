"""wan-ui: LoRA inference for Wan video models, true to the reference server and to the trainer's previews."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wan_ui.inference import Engine

__version__ = "0.1.0"
__all__ = ["Engine", "__version__"]


def __getattr__(name: str) -> Any:
    """`from wan_ui import Engine` loads torch only when asked for, so that the pure rooms stay importable alone."""
    if name == "Engine":
        from wan_ui.inference import Engine

        return Engine
    raise AttributeError(f"module 'wan_ui' has no attribute {name!r}")
