"""Certificates that an operator brings, looked at before they are deployed. On the controller only.

Each function returns what is wrong, and what will soon be, a line each.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from typing import List, Optional, Sequence, Tuple, Union

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

EXPIRES_SOON = timedelta(days=14)

Findings = Tuple[List[str], List[str]]
Name = Union[str, ipaddress.IPv4Address, ipaddress.IPv6Address]


def server(certificate: bytes, key: bytes, names: Sequence[str], now: datetime) -> Findings:
    """Whether a gateway can serve with this certificate (PEM, with its chain) and key: problems and warnings.

    `names` are the DNS names and IP addresses that clients use; `now` has a time zone.
    """
    chain = _certificates(certificate)
    private = _private_key(key)
    problems = []
    if chain is None:
        problems.append("vmauth_tls_cert: the file holds no certificate in PEM")
    if isinstance(private, str):
        problems.append("vmauth_tls_key: " + private)
    if chain is None:
        return problems, []
    leaf = chain[0]
    if not isinstance(private, str) and _public(private.public_key()) != _public(leaf.public_key()):
        problems.append(
            "vmauth_tls_key does not belong to the first certificate in vmauth_tls_cert, which is of {}: the server's "
            "own certificate must come first, intermediate ones below it".format(
                leaf.subject.rfc4514_string() or "nobody"
            )
        )
    if not _for_servers(leaf):
        problems.append(
            "vmauth_tls_cert: the certificate is not for servers (its extended key usage lacks serverAuth), and robots "
            "refuse it"
        )
    problems += _names(leaf, names)
    # Of the chain, robots need no more than one valid path: an old cross-signed certificate in it does not break it.
    late, soon = _validity("vmauth_tls_cert", [leaf], now)
    return problems + late, soon + [line for lines in _validity("vmauth_tls_cert", chain[1:], now) for line in lines]


def authorities(bundle: bytes, now: datetime) -> Findings:
    """Whether robots can verify hubs with these authorities (PEM): problems and warnings."""
    if b"PRIVATE KEY" in bundle:
        return [
            "vmagent_hub_ca: the file holds a private key, too, and would go to every robot: name certificates only"
        ], []
    found = _certificates(bundle)
    if found is None:
        return ["vmagent_hub_ca: the file holds no certificate in PEM"], []
    late, soon = _validity("vmagent_hub_ca", found, now)
    # While one authority replaces another, both are there.
    return (late, soon) if len(late) == len(found) else ([], late + soon)


def covers(pattern: str, name: str) -> bool:
    """Whether a DNS name of a certificate is that of a host; `*` stands for one whole label, the first (RFC 6125)."""
    pattern, name = pattern.lower().rstrip("."), name.lower().rstrip(".")
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:] and not name.startswith(".")
    return pattern == name


def _names(leaf: x509.Certificate, names: Sequence[str]) -> List[str]:
    """A line for the names that the certificate is not for."""
    try:
        own = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        if not names:
            return []
        return ["vmauth_tls_cert: the certificate has no subject alternative name, and robots look at no other"]
    dns = own.get_values_for_type(x509.DNSName)
    addresses = own.get_values_for_type(x509.IPAddress)
    missing = []
    for name in names:
        address = _address(name)
        if address not in addresses if address else not any(covers(pattern, name) for pattern in dns):
            missing.append(name)
    if not missing:
        return []
    return [
        "vmauth_tls_cert: the certificate is not for {}, only for {}. Bring one that has all of vmauth_tls_names, or "
        "take out what nobody uses; robots use the name in hub_url (hub_address)".format(
            " and ".join(missing), ", ".join([*dns, *map(str, addresses)]) or "no name at all"
        )
    ]


def _validity(variable: str, chain: Sequence[x509.Certificate], now: datetime) -> Findings:
    problems, warnings = [], []
    for certificate in chain:
        subject = "{}: the certificate of {}".format(variable, certificate.subject.rfc4514_string() or "nobody")
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if end <= now:
            problems.append("{} expired on {:%Y-%m-%d}: bring a new one".format(subject, end))
        elif start > now:
            problems.append(
                "{} is valid from {:%Y-%m-%d %H:%M} UTC on only: is the clock right?".format(subject, start)
            )
        elif end - now < EXPIRES_SOON:
            warnings.append("{} expires on {:%Y-%m-%d}: bring a new one before".format(subject, end))
    return problems, warnings


def _for_servers(leaf: x509.Certificate) -> bool:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _certificates(pem: bytes) -> Optional[List[x509.Certificate]]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return None


def _private_key(pem: bytes) -> Union[PrivateKeyTypes, str]:
    """The key, or why there is none."""
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        return (
            "the key has a passphrase, which nobody types on a hub: store it without, and encrypt the file with vault"
        )
    except (ValueError, UnsupportedAlgorithm):
        return "the file holds no private key in PEM"


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _address(name: str) -> Optional[Name]:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
