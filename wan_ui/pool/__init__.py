"""Slots: the places where a loaded model renders clips, each a GPU with a process of its own."""
