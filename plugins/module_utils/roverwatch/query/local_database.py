"""Ask the VictoriaMetrics of this machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from ..common.retry import Again, patiently

T = TypeVar("T")

UNIT = "roverwatch-victoriametrics"
# Its own limit of a query is 30 s.
TIMEOUT_SECONDS = 60.0
# Too many queries at once, and a gateway in front of what restarts.
BUSY = (429, 502, 503)
ERROR_LIMIT = 500


class DatabaseError(Exception):
    """No answer, or an error; the text names the URL and says why."""


class Stream(Protocol):
    """What an answer is read from, by lines or as a whole."""

    def read(self) -> bytes: ...

    def __iter__(self) -> Iterator[bytes]: ...


def ask(url: str, parameters: Mapping[str, object], read: Callable[[Stream], T]) -> T:
    """POST the parameters as a form, and have the answer read; both again if it is busy or breaks off.

    Raises DatabaseError. What `read` raises of its own goes to the caller.
    """
    form = urllib.parse.urlencode(parameters, doseq=True).encode()
    # Without a proxy from the environment: what is asked is this machine's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def attempt() -> T:
        try:
            with opener.open(url, data=form, timeout=TIMEOUT_SECONDS) as response:
                return read(response)
        except urllib.error.HTTPError as error:
            with error:
                reason = f"HTTP {error.code}: {_error_text(error)}"
            if error.code in BUSY:
                raise Again(reason) from error
            raise DatabaseError(f"{url} answers with {reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Again(str(getattr(error, "reason", error)) or type(error).__name__) from error

    try:
        return patiently(attempt)
    except Again as error:
        raise DatabaseError(f"{url} does not answer: {error}. There: systemctl status {UNIT}") from error


def ask_json(url: str, parameters: Mapping[str, object]) -> Any:
    """The `data` of an answer of Prometheus' query API. Raises DatabaseError."""
    body = ask(url, parameters, lambda stream: stream.read())
    try:
        return json.loads(body)["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise DatabaseError(f"{url} answers something else than data: {body[:100]!r}") from error


def _error_text(error: urllib.error.HTTPError) -> str:
    """What it says about an error, without the JSON around it."""
    body = b""
    with contextlib.suppress(OSError, http.client.HTTPException):
        body = error.read(10 * ERROR_LIMIT)
    text = body.decode(errors="replace").strip()
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"])
    return text[:ERROR_LIMIT]
