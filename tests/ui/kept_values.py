"""What the browser keeps of the page's values, as its tests read it."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from playwright.sync_api import Page

from tests.waiting import wait_until
from wan_ui.ui.form import STORAGE_SECRET

KEY_BYTES, IV_BYTES, MD5_BYTES = 32, 16, 16


def kept(page: Page, name: str) -> Any:
    """What the browser keeps under a name. Gradio encrypts it as CryptoJS does: OpenSSL's salted AES, keys by MD5."""
    text = page.evaluate("name => localStorage.getItem(`wan-ui:${name}`)", name)
    if text is None:
        return None
    data, key = base64.b64decode(text.rpartition(":")[2]), b""
    secret = hashlib.sha256(STORAGE_SECRET.encode()).hexdigest().encode()
    while len(key) < KEY_BYTES + IV_BYTES:
        key += hashlib.md5(key[-MD5_BYTES:] + secret + data[8:16]).digest()
    cipher = Cipher(algorithms.AES(key[:KEY_BYTES]), modes.CBC(key[KEY_BYTES:])).decryptor()
    padded = cipher.update(data[16:]) + cipher.finalize()
    return json.loads(padded[: -padded[-1]])


def wait_for_draft(page: Page, **values: Any) -> None:
    """Waits until the browser keeps these values of the form's controls, which a reload brings back."""

    def draft() -> dict[str, Any]:
        return dict((kept(page, "draft:form") or {}).get("values", {}))

    wait_until(lambda: values.items() <= draft().items(), state=draft)


def wait_for_tab(page: Page, name: str) -> None:
    """Waits until the browser keeps the id of the open tab."""
    wait_until(lambda: kept(page, "tab") == name, state=lambda: kept(page, "tab"))
