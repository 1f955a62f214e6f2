"""Talks to a hub's gateway as a robot or a reader would, from this machine, at the port that the lab publishes."""

from __future__ import annotations

import base64
import datetime
import http.client
import ipaddress
import json
import ssl
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fleet
from ansible_collections.roverwatch.fleet.plugins.filter.credential import credential
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

READER = "operator"
PORT = 8427


def secret() -> str:
    return (fleet.STATE / "fleet_secret").read_text()


def robot_password(robot: str, fleet_secret: str | None = None) -> str:
    return credential(fleet_secret or secret(), "robot", robot)


def reader_password(reader: str = READER) -> str:
    return credential(secret(), "reader", reader)


@dataclass(frozen=True)
class Answer:
    status: int
    body: str


def ask(
    hub: str,
    path: str,
    body: str | None = None,
    *,
    user: str = "",
    password: str = "",
    ca: Path | None = None,
) -> Answer:
    """GET, or POST with a body. The hub's certificate is always verified; raises ssl.SSLError if it is not right."""
    context = ssl.create_default_context(cafile=str(ca or fleet.STATE / "pki" / "ca.pem"))
    address = fleet.docker("port", fleet.container(hub), f"{PORT}/tcp").splitlines()[0].rsplit(":", 1)
    headers = {}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    connection = http.client.HTTPSConnection(address[0], int(address[1]), context=context, timeout=10)
    connection.request("GET" if body is None else "POST", path, body, headers)
    response = connection.getresponse()
    return Answer(response.status, response.read().decode())


def as_robot(hub: str, robot: str, path: str, body: str | None = None, *, fleet_secret: str | None = None) -> Answer:
    return ask(hub, path, body, user=robot, password=robot_password(robot, fleet_secret))


def as_reader(hub: str, path: str, body: str | None = None) -> Answer:
    return ask(hub, path, body, user=READER, password=reader_password())


def rows(hub: str, promql: str) -> list[dict[str, str]]:
    """The labels of each series of an instant query."""
    query = urllib.parse.urlencode({"query": promql, "nocache": "1"})
    answer = as_reader(hub, f"/api/v1/query?{query}")
    assert answer.status == 200, answer
    return [row["metric"] for row in json.loads(answer.body)["data"]["result"]]


def write_certificate(cert: Path, key: Path, names: Sequence[str], days: int, authority: Path | None = None) -> None:
    """A certificate that ends in so many days (past: negative), of an authority's directory or else signed by itself.

    The key is made if it is not there. `names` are host names and IP addresses.
    """
    if not key.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key.write_bytes(made.private_bytes(*form))
    own = _key(key)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    issuer = x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes()).subject if authority else subject
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=400))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    )
    signed = builder.sign(_key(authority / "ca.key") if authority else own, hashes.SHA256())
    cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
