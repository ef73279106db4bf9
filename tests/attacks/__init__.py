"""Attacks on a server process from outside; nothing here imports wan_ui, so that they run against any version."""
