"""Starts the server from a clone: `python app.py`, the same as the installed command `wan-ui`."""

from __future__ import annotations

from wan_ui.__main__ import main

if __name__ == "__main__":
    main()
