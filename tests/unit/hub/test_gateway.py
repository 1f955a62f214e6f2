"""Real TLS on loopback: what a robot finds out about a hub's gateway."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import loopback
import pytest
import tls
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.hub import gateway

# A busy machine may take this long; what hangs on purpose waits for SHORT.
LONG, SHORT = 20.0, 0.5

CA = tls.authority()


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that refuses connections as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def knock(port: int, host: str = "localhost", authorities: bytes = CA.pem) -> gateway.Fault | None:
    return gateway.knock(f"https://{host}:{port}", gateway.trusting(authorities.decode()), LONG)


def kind(fault: gateway.Fault | None) -> str | None:
    return fault.kind if fault else None


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://hub-1:8427", ("hub-1", 8427)),
        ("https://hub-1.example:8427/", ("hub-1.example", 8427)),
        ("https://10.0.0.1", ("10.0.0.1", 443)),
        ("https://[fd00::1]:8427", ("fd00::1", 8427)),
    ],
)
def test_endpoint(url: str, found: tuple[str, int]) -> None:
    assert gateway.endpoint(url) == found


@pytest.mark.parametrize(
    "url",
    [
        "http://hub-1:8427",
        "hub-1:8427",
        "",
        "https://",
        "https://hub-1/api/v1/write",
        "https://me@hub-1",
        "https://h:x",
    ],
)
def test_no_endpoint(url: str) -> None:
    with pytest.raises(ValueError):
        gateway.endpoint(url)


def test_a_good_certificate(tmp_path: Path) -> None:
    with tls.serving(tmp_path, tls.server(CA, ["localhost", "127.0.0.1"])) as port:
        assert knock(port) is None
        assert knock(port, host="127.0.0.1") is None


def test_bad_certificates(tmp_path: Path) -> None:
    def found(pair: tls.Pair, host: str = "localhost") -> str | None:
        with tls.serving(tmp_path, pair) as port:
            return kind(knock(port, host))

    assert found(tls.server(tls.authority("another"), ["localhost"])) == gateway.AUTHORITY
    # Made anew under the same name: only the signature tells.
    assert found(tls.server(tls.authority(), ["localhost"])) == gateway.AUTHORITY
    assert found(tls.authority()) == gateway.AUTHORITY
    assert found(tls.server(CA, ["hub-1"])) == gateway.HOSTNAME
    assert found(tls.server(CA, ["localhost"]), "127.0.0.1") == gateway.HOSTNAME
    assert found(tls.server(CA, ["127.0.0.1"])) == gateway.HOSTNAME
    assert found(tls.server(CA, ["localhost"], start=tls.NOW - 9 * tls.DAY, end=tls.NOW - tls.DAY)) == gateway.EXPIRED
    assert found(tls.server(CA, ["localhost"], start=tls.NOW + tls.DAY)) == gateway.NOT_YET_VALID


def test_a_common_name_is_no_name(tmp_path: Path) -> None:
    # Go, which vmagent is made of, does not look at it.
    with tls.serving(tmp_path, tls.server(CA, names=[])) as port:
        context = gateway.trusting(CA.pem.decode())
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            pytest.raises(ssl.SSLCertVerificationError) as found,
        ):
            context.wrap_socket(plain, server_hostname="hub-1")
    assert gateway.fault(found.value).kind == gateway.HOSTNAME


def test_an_authority_need_not_be_a_root(tmp_path: Path) -> None:
    middle = tls.authority("middle", parent=CA)
    with tls.serving(tmp_path, tls.server(middle, ["localhost"])) as port:
        assert knock(port, authorities=middle.pem) is None
        assert kind(knock(port)) == gateway.AUTHORITY  # the server does not send the one in between
    with tls.serving(tmp_path, tls.server(middle, ["localhost"]), chain=middle.pem) as port:
        assert knock(port) is None


def test_without_authorities_the_systems_count(tmp_path: Path) -> None:
    with tls.serving(tmp_path, tls.server(CA, ["localhost"])) as port:
        assert kind(knock(port, authorities=b"")) == gateway.AUTHORITY


def test_no_authorities() -> None:
    with pytest.raises(ssl.SSLError):
        gateway.trusting("nonsense")


def test_nobody_there(nobody: int) -> None:
    assert kind(knock(nobody)) == gateway.REFUSED
    assert kind(knock(443, host="nosuch.invalid")) == gateway.NAME
    assert kind(knock(443, host="a" * 64)) == gateway.NAME


def test_a_port_that_hangs(silent_url: str) -> None:
    fault = gateway.knock(silent_url.replace("http:", "https:").removesuffix("/health"), gateway.trusting(None), SHORT)
    assert kind(fault) == gateway.TIMEOUT


def test_a_port_without_tls() -> None:
    with loopback.served(lambda _: (200, b"OK")) as url:
        assert kind(knock(int(url.rpartition(":")[2]))) == gateway.TLS


def test_all_are_asked_at_the_same_time(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=LONG)

    def meet(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            both.wait()  # breaks if the second knock waits for the first

    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        threads = [threading.Thread(target=meet, args=(listener,), daemon=True) for listener in (one, two)]
        for thread in threads:
            thread.start()
        urls = [f"https://127.0.0.1:{listener.getsockname()[1]}" for listener in (one, two)]
        found = gateway.knock_all(urls, None, LONG, LONG)
        for thread in threads:
            thread.join(LONG)
    assert not both.broken
    assert [kind(found[url]) for url in urls] == [gateway.TLS, gateway.TLS]


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(gateway, "knock", lambda *_: over.wait())
    found = gateway.knock_all(["https://hub-1:8427"], None, SHORT, SHORT)["https://hub-1:8427"]
    over.set()
    assert kind(found) == gateway.TIMEOUT
    assert found is not None
    assert "name server" in found.reason


@pytest.mark.parametrize(
    "end",
    [
        tls.NOW + 3 * tls.DAY,
        tls.NOW - 3 * tls.DAY,
        # From 2050 on, certificates write the time in another form (RFC 5280, 4.1.2.5).
        datetime.datetime(2061, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
    ],
)
def test_when_a_certificate_expires(tmp_path: Path, end: datetime.datetime) -> None:
    pair = tls.server(CA, [f"hub-{number}.example" for number in range(30)], start=tls.NOW - 9 * tls.DAY, end=end)
    assert gateway.not_after(pair.der) == end.timestamp()
    with tls.serving(tmp_path, pair) as port:
        assert gateway.expiry(port, LONG) == end.timestamp()


def test_no_certificate_to_be_seen(nobody: int) -> None:
    with pytest.raises(OSError):
        gateway.expiry(nobody, LONG)
