"""The engine: one loaded model, and what it renders."""
