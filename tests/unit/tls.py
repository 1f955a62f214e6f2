"""Certificates, and servers on loopback that show them."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from unit import loopback

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
SERVERS = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def key_pem(self, passphrase: bytes = b"") -> bytes:
        encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def authority(name: str = "fleet", parent: Pair | None = None) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, key, parent, NOW - DAY, NOW + 365 * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return _signed(builder, key, parent)


def server(
    signed_by: Pair,
    names: Sequence[str] = ("hub-1",),
    start: datetime.datetime = NOW - DAY,
    end: datetime.datetime = NOW + 90 * DAY,
    usage: x509.ObjectIdentifier | None = SERVERS,
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("hub-1", key, signed_by, start, end)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return _signed(builder, key, signed_by)


@contextmanager
def serving(
    directory: Path, pair: Pair, chain: bytes = b"", answer: Callable[[str, str], tuple[int, bytes]] | None = None
) -> Iterator[int]:
    """The port of an HTTPS server that shows this certificate.

    `answer` gets path and Authorization of each POST, and gives status and body.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert answer is not None
            status, body = answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with loopback.listening(Handler, context(directory / "served.pem", pair, chain)) as port:
        yield port


def context(file: Path, pair: Pair, chain: bytes = b"") -> ssl.SSLContext:
    """What a server shows this certificate with; `file` gets it and its key."""
    file.write_bytes(pair.pem + chain + pair.key_pem())
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(file)
    return made


def _builder(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    parent: Pair | None,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.certificate.subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, parent: Pair | None) -> Pair:
    return Pair(builder.sign(parent.key if parent else key, hashes.SHA256()), key)


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
