"""How a test's Gradio server ends."""

from __future__ import annotations

import gradio as gr


def stop_server(blocks: gr.Blocks) -> None:
    """Stops it without waiting for its clients: a page that is still open would hold its connections for seconds."""
    if blocks.is_running:
        blocks.server.config.timeout_graceful_shutdown = 0
    blocks.close(verbose=False)
