"""Certificates that an operator brings: what is wrong with them is said before they are deployed."""

from __future__ import annotations

import pytest
import tls
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import certificates

CA = tls.authority()
NAMES = ["hub-1.example", "10.0.0.1"]
GOOD = tls.server(CA, NAMES)


def looked_at(
    pair: tls.Pair = GOOD, key: bytes | None = None, names: list[str] = NAMES, chain: bytes = b""
) -> certificates.Findings:
    return certificates.server(pair.pem + chain, pair.key_pem() if key is None else key, names, tls.NOW)


def test_a_good_one() -> None:
    assert looked_at() == ([], [])
    assert looked_at(chain=tls.authority("middle", parent=CA).pem) == ([], [])
    assert looked_at(names=[]) == ([], [])


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("hub-1.example", "hub-1.example", True),
        ("Hub-1.Example", "hub-1.example.", True),
        ("*.example", "hub-1.example", True),
        ("*.example", "a.hub-1.example", False),
        ("*.example", "example", False),
        ("*.example", ".example", False),
        ("hub-1.example", "hub-1", False),
        ("hub-*.example", "hub-1.example", False),
    ],
)
def test_names_and_patterns(pattern: str, name: str, covered: bool) -> None:
    assert certificates.covers(pattern, name) is covered


def test_names_that_are_missing() -> None:
    ((problem,), warnings) = looked_at(names=["hub-1.example", "hub-2.example", "10.0.0.2", "10.0.0.1"])
    assert warnings == []
    assert "is not for hub-2.example and 10.0.0.2, only for hub-1.example, 10.0.0.1" in problem
    assert "vmauth_tls_names" in problem


def test_an_address_is_no_dns_name() -> None:
    pair = tls.server(CA, ["hub-1.example"])
    ((problem,), _) = looked_at(pair, names=["10.0.0.1"])
    assert "is not for 10.0.0.1" in problem


def test_no_names_at_all() -> None:
    ((problem,), _) = looked_at(tls.server(CA, names=[]))
    assert "no subject alternative name" in problem
    assert looked_at(tls.server(CA, names=[]), names=[]) == ([], [])


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (-9, -1, "expired on"),
        (-9, 0, "expired on"),
        (1, 90, "is valid from"),
    ],
)
def test_out_of_its_time(start: int, end: int, words: str) -> None:
    pair = tls.server(CA, NAMES, start=tls.NOW + start * tls.DAY, end=tls.NOW + end * tls.DAY)
    ((problem,), warnings) = looked_at(pair)
    assert warnings == []
    assert problem.startswith("vmauth_tls_cert: the certificate of CN=hub-1")
    assert words in problem


@pytest.mark.parametrize(("days", "warned"), [(13, True), (14, False), (15, False)])
def test_about_to_expire(days: int, warned: bool) -> None:
    problems, warnings = looked_at(tls.server(CA, NAMES, end=tls.NOW + days * tls.DAY))
    assert problems == []
    assert [f"{tls.NOW + days * tls.DAY:%Y-%m-%d}" in warning for warning in warnings] == [True] * warned


def test_an_old_certificate_further_down_the_chain_is_a_warning() -> None:
    old = tls.server(CA, NAMES, start=tls.NOW - 9 * tls.DAY, end=tls.NOW - tls.DAY)
    problems, (warning,) = looked_at(chain=old.pem)
    assert problems == []
    assert "expired" in warning


def test_the_key_of_another() -> None:
    ((problem,), _) = looked_at(key=tls.server(CA).key_pem())
    assert "vmauth_tls_key does not belong to" in problem
    # The most common way to get there.
    upside_down = certificates.server(CA.pem + GOOD.pem, GOOD.key_pem(), [], tls.NOW)[0]
    assert any("must come first" in line for line in upside_down)


def test_what_is_no_certificate_and_no_key() -> None:
    problems, _ = certificates.server(b"nonsense", b"nonsense", NAMES, tls.NOW)
    assert problems == [
        "vmauth_tls_cert: the file holds no certificate in PEM",
        "vmauth_tls_key: the file holds no private key in PEM",
    ]
    assert certificates.server(GOOD.key_pem(), GOOD.pem, NAMES, tls.NOW)[0] == problems


def test_a_key_with_a_passphrase() -> None:
    ((problem,), _) = looked_at(key=GOOD.key_pem(b"open sesame"))
    assert problem.startswith("vmauth_tls_key: the key has a passphrase")


def test_a_certificate_for_clients() -> None:
    pair = tls.server(CA, NAMES, usage=tls.ExtendedKeyUsageOID.CLIENT_AUTH)
    ((problem,), _) = looked_at(pair)
    assert "serverAuth" in problem
    assert looked_at(tls.server(CA, NAMES, usage=None)) == ([], [])


def test_everything_wrong_is_said_at_once() -> None:
    pair = tls.server(CA, ["other"], end=tls.NOW - tls.DAY, start=tls.NOW - 9 * tls.DAY)
    assert len(looked_at(pair, key=GOOD.key_pem())[0]) == 3


def test_authorities() -> None:
    old = tls.server(CA, start=tls.NOW - 9 * tls.DAY, end=tls.NOW - tls.DAY)
    assert certificates.authorities(CA.pem, tls.NOW) == ([], [])
    ((problem,), _) = certificates.authorities(b"", tls.NOW)
    assert problem == "vmagent_hub_ca: the file holds no certificate in PEM"
    ((problem,), _) = certificates.authorities(old.pem, tls.NOW)
    assert "expired" in problem
    # One replaces the other.
    problems, (warning,) = certificates.authorities(old.pem + CA.pem, tls.NOW)
    assert problems == []
    assert "expired" in warning


def test_a_private_key_must_not_go_to_robots() -> None:
    ((problem,), _) = certificates.authorities(CA.pem + CA.key_pem(), tls.NOW)
    assert "private key" in problem
