"""Files of upstream's releases over HTTP, as the controller's environment has it.

Proxies are those of the environment (HTTPS_PROXY, NO_PROXY), certificate authorities those of the system or of
SSL_CERT_FILE. A login is part of the URL, or netrc has it (NETRC, else ~/.netrc). It goes to the host of that URL and
to no other, wherever that redirects to, and no message has it.

Only what cannot be reached is an `UnreachableSource`: a name, a connection, silence, a gateway in trouble, a download
that is cut off again and again. A refusal (a login, too many requests, a certificate) is a plain `SourceError`.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import netrc
import os
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.message import Message
from pathlib import Path
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import background, retry

PINS = "group_vars/all/artifacts.yml"
PATIENCE = 30.0  # seconds that a server may be silent before or within an archive: a mirror may have to fetch it first
BLOCK = 1 << 16

_CERTIFICATE = (
    "{}: its certificate is not accepted ({}). If an authority of your site signed it, have that authority in the "
    "system's store (update-ca-certificates), or name a file with it: SSL_CERT_FILE=…"
)
_PROXY_LOGIN = "{}: the proxy wants a login, or another one (HTTP 407): HTTPS_PROXY=http://user:password@host:port"
_GIVE_LOGIN = "put it into ~/.netrc (machine {} login … password …), or from a vaulted variable into the URL (https://user:password@…)"


class SourceError(Exception):
    """A source has not what is wanted; the text says what, and what to do."""


class UnreachableSource(SourceError):
    """A source does not answer. The only failure after which the other source is asked."""


class UnreachableHost(UnreachableSource):
    """Nothing of this host can be reached."""


@dataclass(frozen=True)
class Place:
    """A URL, and apart from it the login that its host wants."""

    url: str
    authorization: str = field(default="", repr=False)

    @property
    def host(self) -> str:
        """The host, with its port if the URL has one."""
        return urllib.parse.urlsplit(self.url).netloc

    @property
    def filename(self) -> str:
        """The last part of the path."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rpartition("/")[2])


def place(url: str) -> Place:
    """Take the login off a URL, or find it in netrc. Raises SourceError."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
        if "@" in url and "@" not in parts.netloc:
            raise ValueError("a login that a / or # of it cuts off, as far as can be told")
    except ValueError:
        # Not even the reason is shown: it quotes what stands for the port, which may be a piece of the password.
        raise SourceError(
            f"an upstream URL of {PINS} cannot be read: percent-encode what its login has of : / ? # [ ] @, and any @ "
            "that is not the login's end"
        ) from None
    clean = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.scheme not in {"http", "https"} or not host:
        raise SourceError(f"{clean} is no http URL; correct it in {PINS}")
    if parts.username is not None:
        login = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
    else:
        login = _netrc(host)
    if not any(login):
        return Place(clean)
    return Place(clean, "Basic " + base64.b64encode(":".join(login).encode()).decode())


def _netrc(host: str) -> tuple[str, str]:
    """The login of a host. An entry `default` does not count: it would go to every host that is ever pinned."""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        login, _, password = netrc.netrc(str(path)).hosts.get(host, ("", None, ""))
    except FileNotFoundError:
        return "", ""
    except netrc.NetrcParseError as error:
        # Its text quotes the word that it stumbled over.
        raise SourceError(f"{path} cannot be read, from line {error.lineno} on; correct it") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    return login or "", password or ""


class Hosts:
    """The hosts of one run. Where one cannot be reached, nobody waits for it a second time."""

    def __init__(self) -> None:
        self._locks: dict[str, threading.Lock] = {}
        self._unreachable: dict[str, UnreachableHost] = {}

    def text(self, origin: Place, timeout: float) -> str:
        """The text at a URL, within `2 * timeout` seconds in all. Raises SourceError."""
        with self._locks.setdefault(origin.host, threading.Lock()):
            if origin.host in self._unreachable:
                raise self._unreachable[origin.host]
            try:
                return first_contact(origin, timeout)
            except UnreachableHost as error:
                self._unreachable[origin.host] = error
                raise


def first_contact(origin: Place, timeout: float) -> str:
    """The text at a URL within `2 * timeout` seconds in all.

    A timeout of sockets covers neither a name server that is silent nor a server that trickles. So the request
    is left behind when the time is over.
    """

    def attempt() -> bytes:
        with _request(origin, timeout) as response:
            return b"".join(_blocks(origin, response))

    asked = background.start(lambda: retry.patiently(attempt))
    try:
        found = background.result(asked, time.monotonic() + 2 * timeout, b"")
    except retry.Again as error:
        raise UnreachableSource(str(error)) from error
    if not asked.done():
        raise UnreachableHost(f"{origin.host}: no answer within {2 * timeout:g} s")
    return found.decode("utf-8", "replace")


def download(origin: Place, target: Path, report: Callable[[str], None]) -> None:
    """Have the file at a URL in `target`, which is not there yet. What is cut off is resumed, a few times.

    Whether it is the right file is for its checksum to say. Raises SourceError.
    """
    version = ""  # of the file, as the server names it: a changed one is not appended to what is there

    def attempt() -> None:
        nonlocal version
        begun = target.stat().st_size if target.exists() else 0
        headers = {"Range": f"bytes={begun}-"} if begun else {}
        if begun and version:
            headers["If-Range"] = version
        try:
            with _request(origin, PATIENCE, headers) as response:
                version = _version(response.headers)
                resumed = response.status == http.client.PARTIAL_CONTENT
                done = begun if resumed else 0
                total = None if response.length is None else done + response.length
                with target.open("ab" if resumed else "wb") as stream:
                    for block in _blocks(origin, response):
                        stream.write(block)
                        done += len(block)
                        report(_progress(done, total, origin.filename))
        except UnreachableSource as error:
            if not begun:
                raise
            raise retry.Again(str(error)) from error

    try:
        retry.patiently(attempt)
    except retry.Again as error:
        raise UnreachableSource(str(error)) from error


def _version(headers: Message) -> str:
    """What If-Range may ask for: no weak ETag, says RFC 9110."""
    etag = str(headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _progress(done: int, total: int | None, filename: str) -> str:
    of = "" if total is None else f" of {total / 1e6:.0f}"
    return f"{done / 1e6:.0f}{of} MB ({filename})"


def _blocks(origin: Place, response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What an answer has, as it comes. Raises Again where it breaks off."""
    try:
        while block := response.read1(BLOCK):
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise retry.Again(f"{origin.url}: broke off again and again: {error}") from error
    if response.length:
        raise retry.Again(f"{origin.url}: broke off again and again, {response.length} bytes before its end")


@contextlib.contextmanager
def _request(
    origin: Place, timeout: float, headers: Mapping[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """Open a URL. Raises SourceError, as the top of this file says."""
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects, _Login(origin))
    try:
        response = opener.open(urllib.request.Request(origin.url, headers=dict(headers or {})), timeout=timeout)  # noqa: S310  (`place` lets http alone pass)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(origin, origin.url + redirects.note, error.code, error.headers) from error
    except urllib.error.URLError as error:
        raise _failure(origin, redirects.note, error.reason) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failure(origin, redirects.note, error) from error
    with response:
        yield response


class _Login(urllib.request.BaseHandler):
    """Gives the login to its own host, in each request anew. urllib would carry it on to where a redirect leads."""

    def __init__(self, origin: Place) -> None:
        self.origin = origin

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        if self.origin.authorization and _server(request.full_url) == _server(self.origin.url):
            request.add_unredirected_header("Authorization", self.origin.authorization)
        return request

    https_request = http_request


def _server(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Remembers where they lead, for messages."""

    note = ""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        request = super().redirect_request(req, *args)
        if request is not None:
            # urllib has put the proxy's login there; to a host without a proxy it would go on.
            request.remove_header("Proxy-authorization")
            # Not the whole URL: an object store's is signed.
            self.note = f" (which redirects to {_server(request.full_url)[1]})"
        return request


def _failure(origin: Place, note: str, reason: object) -> SourceError:
    """What kept a request from being answered."""
    where = origin.host + note
    if isinstance(reason, ssl.SSLCertVerificationError):
        return SourceError(_CERTIFICATE.format(where, reason.verify_message))
    if isinstance(reason, (ValueError, http.client.InvalidURL)):
        # Its text may quote a piece of the proxy's password.
        return SourceError(
            f"{where}: its URL, the proxy's in HTTPS_PROXY or that of a redirect cannot be read; correct it"
        )
    where += _proxy(origin)
    if "Tunnel connection failed: 407" in str(reason):
        return SourceError(_PROXY_LOGIN.format(where))
    return UnreachableHost(f"{where}: {getattr(reason, 'strerror', None) or reason}")


def _proxy(origin: Place) -> str:
    """The proxy that is between, if one is, without its login."""
    parts = urllib.parse.urlsplit(origin.url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(str(parts.hostname)):
        return ""
    return " through the proxy " + proxy.rpartition("@")[2].rpartition("//")[2]


def _refusal(origin: Place, where: str, code: int, headers: Message) -> SourceError:
    """What an HTTP status means."""
    login = _GIVE_LOGIN.format(urllib.parse.urlsplit(origin.url).hostname)
    if code >= 500:
        return UnreachableSource(f"{where}: HTTP {code}")
    if code in {404, 410}:
        text = f"{where} does not exist (HTTP {code}); correct the version or the URL in {PINS}"
    elif code == 429 or (code == 403 and headers.get("X-RateLimit-Remaining") == "0"):
        text = (
            f"{where}: too many requests came from here (HTTP {code}). Run this again {_again(headers)}, "
            f"or name a mirror in {PINS}"
        )
    elif code == 401 and origin.authorization:
        text = f"{where} does not accept the login (HTTP 401); correct it in the URL or in ~/.netrc"
    elif code == 401:
        text = f"{where} wants a login (HTTP 401): {login}"
    elif code == 403 and origin.authorization:
        text = f"{where} is not for this login (HTTP 403): have it allowed there, or use another one"
    elif code == 403:
        text = f"{where} is refused (HTTP 403). If it is for a login, {login}"
    elif code == 407:
        text = _PROXY_LOGIN.format(where)
    else:
        text = f"{where}: HTTP {code}; correct the URL in {PINS}"
    return SourceError(text)


def _again(headers: Message) -> str:
    """When more requests are welcome: Retry-After (seconds or a date), else GitHub's seconds since 1970."""
    after, reset = headers.get("Retry-After"), headers.get("X-RateLimit-Reset")
    try:
        if after is not None and not after.isdecimal():
            moment = email.utils.parsedate_to_datetime(after).astimezone(timezone.utc)
        elif after is not None:
            moment = datetime.now(timezone.utc) + timedelta(seconds=int(after))
        else:
            moment = datetime.fromtimestamp(int(reset), timezone.utc)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return "later"
    return f"after {moment:%Y-%m-%d %H:%M} UTC"
