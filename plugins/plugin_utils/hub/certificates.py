"""The fleet's certificate authority and the hubs' certificates, as files in a directory of the controller.

ca.key, ca.pem          the authority, for ten years
<hub>.key, <hub>.pem    each hub's, for thirteen months
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import disk
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY = "ca"
AUTHORITY_NAME = "Roverwatch hubs"
AUTHORITY_LASTS = timedelta(days=3650)
LASTS = timedelta(days=397)
RENEWED_BEFORE = timedelta(days=30)
# Clocks differ: what is valid from this second on is not valid yet for some.
BACKDATED = timedelta(hours=1)
DIRECTORY_MODE, KEY_MODE, CERTIFICATE_MODE = 0o700, 0o600, 0o644
LONGEST_COMMON_NAME = 64


class CertificateError(Exception):
    """What is there cannot be used and must not be replaced; the text says what to do."""


class HubCertificates:
    """What `ensure` made is in `made`, a line each; with `only_say` it is what would be made, and nothing is."""

    def __init__(self, directory: Path, now: datetime, only_say: bool = False) -> None:
        self.directory = directory
        self.now = now
        self.only_say = only_say
        self.made: list[str] = []

    def ensure(self, hub: str, names: Sequence[str]) -> None:
        """Have a certificate for the hub under these DNS names and addresses, and an authority that it is of."""
        if not self.only_say:
            self.directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        self._mode(self.directory, DIRECTORY_MODE)
        with self._locked():
            authority, authority_key = self._authority()
            key = self._key(hub)
            path = self.directory / f"{hub}.pem"
            why = self._outdated(path, names, key, authority)
            if not why:
                self._mode(path, CERTIFICATE_MODE)
                return
            if authority_key is None:
                raise CertificateError(
                    f"{path} is to be made ({why}), but ca.key, which signs it, is not in {self.directory}. Bring it "
                    "back; or delete ca.pem for a new authority, which every robot has to get"
                )
            made = self._issue(hub, names, key, authority, authority_key)
            self._write(path, made.public_bytes(Encoding.PEM), CERTIFICATE_MODE, why)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hubs are deployed at the same time, and there is one authority."""
        if not self.directory.is_dir():
            yield  # nothing to read, and nothing is written
            return
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey | None]:
        path, key_path = (self.directory / f"{AUTHORITY}.{kind}" for kind in ("pem", "key"))
        if path.is_file() and not key_path.is_file():
            # Kept elsewhere; it is only needed where something is signed.
            return _certificate(path), None
        key = self._key(AUTHORITY)
        if path.is_file():
            found = _certificate(path)
            if found.public_key() == key.public_key():
                self._mode(path, CERTIFICATE_MODE)
                return found, key
        made = self._self_signed(key)
        why = "for a key that is new" if path.is_file() else "an authority for ten years"
        self._write(path, made.public_bytes(Encoding.PEM), CERTIFICATE_MODE, why)
        return made, key

    def _key(self, name: str) -> ec.EllipticCurvePrivateKey:
        path = self.directory / f"{name}.key"
        if path.is_file():
            self._mode(path, KEY_MODE)
            return _private_key(path)
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._write(path, pem, KEY_MODE, "a key")
        return key

    def _outdated(
        self, path: Path, names: Sequence[str], key: ec.EllipticCurvePrivateKey, authority: x509.Certificate
    ) -> str:
        """Why a hub's certificate has to be made; empty if it is good."""
        if not path.is_file():
            return "a certificate for thirteen months"
        found = _certificate(path)
        try:
            found.verify_directly_issued_by(authority)
        except (InvalidSignature, TypeError, ValueError):
            return "of an authority that is new"
        if found.public_key() != key.public_key():
            return "for a key that is new"
        has = _names_of(found)
        if set(has) != set(_general_names(names)):
            before = " and ".join(str(name.value) for name in has)
            return f"for {' and '.join(names) or 'no name'}, not {before or 'none'}"
        if found.not_valid_after_utc - self.now < RENEWED_BEFORE:
            return f"the one before ends on {found.not_valid_after_utc:%Y-%m-%d}"
        return ""

    def _self_signed(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        usage = dict.fromkeys(_KEY_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        name = _subject(AUTHORITY_NAME)
        return (
            self._builder(name, name, key.public_key(), AUTHORITY_LASTS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .sign(key, hashes.SHA256())
        )

    def _issue(
        self,
        hub: str,
        names: Sequence[str],
        key: ec.EllipticCurvePrivateKey,
        authority: x509.Certificate,
        authority_key: ec.EllipticCurvePrivateKey,
    ) -> x509.Certificate:
        builder = (
            self._builder(_subject(hub), authority.subject, key.public_key(), LASTS)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        return builder.sign(authority_key, hashes.SHA256())

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lasts: timedelta
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - BACKDATED)
            .not_valid_after(self.now + lasts)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )

    def _write(self, path: Path, pem: bytes, mode: int, why: str) -> None:
        self.made.append(f"{path}: {why}")
        if not self.only_say:
            disk.write(path, pem, mode)

    def _mode(self, path: Path, mode: int) -> None:
        if not path.exists():
            self.made.append(f"{path}: a directory of its owner alone")
        elif path.stat().st_mode & 0o7777 != mode:
            self.made.append(f"{path}: mode {mode:04o}")
            if not self.only_say:
                path.chmod(mode)


_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:LONGEST_COMMON_NAME])])


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    return [_general_name(name) for name in dict.fromkeys(names)]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise CertificateError(f"{path} holds no certificate in PEM: bring it back, or delete it ({error})") from error


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path} holds no private key that can be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{path} holds a key that is not of an elliptic curve, as those made here are")
    return key
