"""ASGI middleware around the page and the API: authentication, origins, uploads, headers, metrics."""
