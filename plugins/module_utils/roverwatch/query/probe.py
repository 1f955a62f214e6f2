"""Ask a service over HTTP whether it is ready."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

BODY_LIMIT_BYTES = 1024 * 1024
NO_ANSWER = 0

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 0.5
PAUSE_GROWTH = 1.5
# One hanging answer must not eat the whole deadline: the next attempt may find the service ready.
ATTEMPT_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class ReadyResult:
    """How waiting ended. `seconds` is the time waited; `reason` the last answer, or why waiting stopped."""

    ready: bool
    seconds: float
    reason: str


def http_get(url: str, timeout_seconds: float, limit_bytes: int = BODY_LIMIT_BYTES) -> tuple[int, str]:
    """Status and body (its first MiB, or `limit_bytes`) of a GET; status 0 and the reason as body when nothing answers.

    The timeout holds for the connection and for each read, so a server that drips bytes can take longer.
    """
    # Without a proxy from the environment: a probe of 127.0.0.1 must not leave the robot.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_seconds) as response:
            return response.status, response.read(limit_bytes).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _error_body(error)
    except urllib.error.URLError as error:
        return NO_ANSWER, str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return NO_ANSWER, str(error) or type(error).__name__


def _nothing() -> str:
    return ""


def wait_ready(
    url: str, deadline_seconds: float, still_alive: Callable[[], bool], doubt: Callable[[], str] = _nothing
) -> ReadyResult:
    """Poll until the URL answers 2xx and there is no doubt, the deadline passes, or the service is no longer alive.

    `doubt` is asked after each such answer, and says why it is no proof yet.
    """
    start = time.monotonic()
    pause = FIRST_PAUSE_SECONDS
    while True:
        left = deadline_seconds - (time.monotonic() - start)
        status, body = http_get(url, min(ATTEMPT_TIMEOUT_SECONDS, max(left, FIRST_PAUSE_SECONDS)))
        reason = describe(status, body)
        if is_ready(status):
            doubted = doubt()
            elapsed = time.monotonic() - start
            if not doubted:
                return ReadyResult(True, elapsed, reason)
            reason = f"{reason}, but {doubted}"
            pause = FIRST_PAUSE_SECONDS
        elapsed = time.monotonic() - start
        if not still_alive():
            return ReadyResult(False, elapsed, f"the service stopped; last answer of {url}: {reason}")
        if elapsed >= deadline_seconds:
            return ReadyResult(False, elapsed, f"not ready in {deadline_seconds:g} s; {url}: {reason}")
        time.sleep(min(pause, deadline_seconds - elapsed))
        pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_SECONDS)


def is_ready(status: int) -> bool:
    """Whether an HTTP status means ready."""
    return 200 <= status < 300


def describe(status: int, body: str) -> str:
    """One short line about an answer, for a person to read."""
    first_line = next(iter(body.strip().splitlines()), "")[:200]
    if status == NO_ANSWER:
        return first_line
    return f"HTTP {status}: {first_line}" if first_line else f"HTTP {status}"


def _error_body(error: urllib.error.HTTPError) -> str:
    """The body of a 4xx/5xx; a connection that breaks in the middle of it still leaves the status."""
    try:
        return error.read(BODY_LIMIT_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as broken:
        return str(broken)
