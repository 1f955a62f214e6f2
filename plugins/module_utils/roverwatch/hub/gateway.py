"""A hub's gateway, as a robot sees it: its name, its port, its certificate, and whether it takes a credential.

Standard library only: this runs on robots.
"""

from __future__ import annotations

import base64
import calendar
import http.client
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from ..common import background

DEFAULT_PORT = 443

# Kinds of faults. The first four mean that nobody answers there: the network, or the hub is down.
NAME = "name"
REFUSED = "refused"
TIMEOUT = "timeout"
NETWORK = "network"
AUTHORITY = "authority"
HOSTNAME = "hostname"
EXPIRED = "expired"
NOT_YET_VALID = "not_yet_valid"
TLS = "tls"
NO_ANSWER = frozenset({NAME, REFUSED, TIMEOUT, NETWORK})

# Of openssl's x509_vfy.h. Every other error of a certificate is one of its chain.
_VERIFY_KINDS = {9: NOT_YET_VALID, 10: EXPIRED, 62: HOSTNAME, 64: HOSTNAME}

# X509_V_FLAG_PARTIAL_CHAIN; ssl has a name for it from Python 3.10 on.
_PARTIAL_CHAIN = 0x80000

_CONTEXT_TAG = 0xA0
_UTC_TIME = 0x17
_LONG_LENGTH = 0x80


@dataclass(frozen=True)
class Fault:
    """Why a gateway cannot be used: one of the kinds above, and what the system says of it."""

    kind: str
    reason: str


class Endpoint(NamedTuple):
    """Where a gateway listens."""

    host: str
    port: int


def endpoint(url: str) -> Endpoint:
    """Host and port of `https://host[:port]`. Raises ValueError for anything else."""
    parts = urlsplit(url)
    wrong = ValueError("{!r} is no https://host:port".format(url))
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise wrong from None
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise wrong
    return Endpoint(parts.hostname, port)


def trusting(authorities: str | None) -> ssl.SSLContext:
    """Verifies certificates and host names with these authorities (PEM), or with those of the system.

    As vmagent does, which is Go's way: an authority need not be a root, a name counts only as a subject alternative
    name, and what Python from 3.13 on asks of certificates beyond that is not asked. Raises ssl.SSLError if these are
    no authorities.
    """
    context = ssl.create_default_context(cadata=authorities or None)
    context.verify_flags = (context.verify_flags | _PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    return context


def knock(url: str, context: ssl.SSLContext, timeout_seconds: float) -> Fault | None:
    """Resolve, connect and shake hands; None if all is well. The timeout holds for each address and each read."""
    try:
        host, port = endpoint(url)
        with socket.create_connection((host, port), timeout_seconds) as connection:
            context.wrap_socket(connection, server_hostname=host).close()
        return None
    except (OSError, UnicodeError) as error:
        return fault(error)


def knock_all(
    urls: Sequence[str], authorities: str | None, timeout_seconds: float, deadline_seconds: float
) -> dict[str, Fault | None]:
    """Knock at all of them at the same time. Raises ssl.SSLError if the authorities are none."""
    context = trusting(authorities)
    jobs = {url: background.start(partial(knock, url, context, timeout_seconds)) for url in urls}
    deadline = time.monotonic() + deadline_seconds
    # Connections time out before: what has no limit of its own is the resolver.
    late = Fault(TIMEOUT, "no answer in {:g} s; does the robot's name server answer?".format(deadline_seconds))
    return {url: background.result(job, deadline, late) for url, job in jobs.items()}


def fault(error: Exception) -> Fault:  # noqa: PLR0911  (a table of errors)
    """What an error of a connection means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Fault(_VERIFY_KINDS.get(error.verify_code, AUTHORITY), error.verify_message)
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return Fault(NAME, getattr(error, "strerror", None) or "no valid name")
    if isinstance(error, (socket.timeout, TimeoutError)):
        return Fault(TIMEOUT, "no answer in time")
    if isinstance(error, ConnectionRefusedError):
        return Fault(REFUSED, "connection refused")
    if isinstance(error, (ssl.SSLError, ConnectionResetError, BrokenPipeError)):
        return Fault(TLS, getattr(error, "reason", None) or error.strerror or str(error))
    if isinstance(error, OSError):
        return Fault(NETWORK, error.strerror or str(error))
    return Fault(TLS, type(error).__name__)


def offer(url: str, username: str, password: str, context: ssl.SSLContext, timeout_seconds: float) -> tuple[int, str]:
    """Status and body of an empty remote write: 2xx if the gateway takes the credential, 401 if not.

    Raises OSError, UnicodeError or http.client.HTTPException where there is no answer.
    """
    host, port = endpoint(url)
    connection = http.client.HTTPSConnection(host, port, timeout=timeout_seconds, context=context)
    token = base64.b64encode("{}:{}".format(username, password).encode()).decode()
    try:
        connection.request("POST", "/api/v1/write", b"", {"Authorization": "Basic " + token})
        answer = connection.getresponse()
        return answer.status, answer.read(1024).decode("utf-8", "replace")
    finally:
        connection.close()


def expiry(port: int, timeout_seconds: float) -> float:
    """When the certificate at this port of this machine expires, as seconds since the epoch.

    It is read and not verified: how long it is good for does not depend on who signed it. Raises OSError if nothing
    speaks TLS there.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout_seconds) as plain, context.wrap_socket(plain) as secured:
        certificate = secured.getpeercert(binary_form=True)
    assert certificate is not None  # a TLS server without one does not get through the handshake
    return not_after(certificate)


def not_after(certificate: bytes) -> float:
    """The end of validity of a certificate (DER, RFC 5280), as seconds since the epoch.

    Python's ssl says it only of a certificate that it has verified.
    """
    (_, signed), *_ = _elements(next(_elements(certificate))[1])
    # Version, which may be missing; then serial number, algorithm, issuer, validity.
    fields = [content for tag, content in _elements(signed) if tag != _CONTEXT_TAG]
    _, (tag, text) = _elements(fields[3])
    return calendar.timegm(time.strptime(text.decode(), "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"))


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each DER element, one after another."""
    while der:
        length, start = der[1], 2
        if length & _LONG_LENGTH:
            start += length & ~_LONG_LENGTH
            length = int.from_bytes(der[2:start], "big")
        yield der[0], der[start : start + length]
        der = der[start + length :]
