"""The HTTP API under /v1, in the reference server's shapes."""
