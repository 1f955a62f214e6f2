"""Passwords that nobody has to store: computed from the fleet's secret and a name."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

KINDS = ("robot", "reader")


def credential(secret: str, kind: str, name: str) -> str:
    """The password of a robot or a reader at the hubs: HMAC-SHA256 (RFC 2104) of `<kind>/<name>` in hex, 64 digits.

    An empty secret gives an empty password, which the preflight refuses. The kind keeps a robot that is named like a
    reader from having the reader's password.
    """
    if kind not in KINDS:
        raise AnsibleFilterError(f"credential: {kind!r} is none of {', '.join(KINDS)}")
    if not secret:
        return ""
    return hmac.new(secret.encode(), f"{kind}/{name}".encode(), hashlib.sha256).hexdigest()


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"credential": credential}
