"""Ask again what is busy or restarting, a few times and with longer and longer pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 1.0


class Again(Exception):
    """This attempt failed, and the next one may not; the text says why."""


def patiently(attempt: Callable[[], T]) -> T:
    """What the first attempt gives that does not raise Again. After the last one, Again goes on to the caller."""
    for number in range(ATTEMPTS - 1):
        try:
            return attempt()
        except Again:
            time.sleep(FIRST_PAUSE_SECONDS * 2**number)
    return attempt()
