"""Probes against a real server on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import loopback
import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.query import probe
from stopwatch import Stopwatch


class Server:
    """A server whose answer to each request, by number from 1, is what `answer` says."""

    def __init__(self) -> None:
        self.answer: Callable[[int], loopback.Answer] = lambda _: (200, b"OK")
        self.requests = 0
        self.url = ""

    def next(self, _: str) -> loopback.Answer:
        self.requests += 1
        return self.answer(self.requests)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with loopback.served(server.next) as url:
        server.url = f"{url}/health"
        yield server


@pytest.fixture
def closed_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/health"


def test_get(server: Server) -> None:
    assert probe.http_get(server.url, 1) == (200, "OK")


def test_error_status_keeps_its_body(server: Server) -> None:
    server.answer = lambda _: (503, b"still loading")
    assert probe.http_get(server.url, 1) == (503, "still loading")


def test_body_ends_after_a_mebibyte(server: Server) -> None:
    server.answer = lambda _: (200, b"x" * (probe.BODY_LIMIT_BYTES + 10))
    status, body = probe.http_get(server.url, 2)
    assert (status, len(body)) == (200, 1024 * 1024)


def test_no_answer_is_status_zero_and_the_reason(closed_url: str) -> None:
    status, reason = probe.http_get(closed_url, 1)
    assert status == probe.NO_ANSWER
    assert "refused" in reason


def test_silence_ends_at_the_timeout(silent_url: str) -> None:
    watch = Stopwatch()
    status, reason = probe.http_get(silent_url, 0.2)
    assert watch.seconds < 1
    assert (status, reason) == (0, "timed out")


def test_answer_that_is_not_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        threading.Thread(target=talk, daemon=True).start()
        status, reason = probe.http_get(f"http://127.0.0.1:{listener.getsockname()[1]}/", 1)
    assert status == 0
    assert "SSH-2.0" in reason


def test_proxy_of_the_environment_is_not_asked(
    server: Server, closed_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, closed_url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert probe.http_get(server.url, 1)[0] == 200


def test_wait_returns_once_ready(server: Server) -> None:
    server.answer = lambda number: (200, b"OK") if number == 3 else (503, b"loading")
    result = probe.wait_ready(server.url, 5, lambda: True)
    assert result.ready
    assert result.reason == "HTTP 200: OK"
    # Pauses of 0.1 s and 0.15 s lie between three requests.
    assert 0.25 <= result.seconds < 2
    assert server.requests == 3


def test_wait_gives_up_when_the_service_is_dead(closed_url: str) -> None:
    result = probe.wait_ready(closed_url, 30, lambda: False)
    assert not result.ready
    assert result.seconds < 1
    assert "the service stopped" in result.reason
    assert "refused" in result.reason


def test_wait_gives_up_at_the_deadline_with_the_last_answer(server: Server) -> None:
    server.answer = lambda _: (503, b"loading\nmore")
    watch = Stopwatch()
    result = probe.wait_ready(server.url, 0.6, lambda: True)
    assert not result.ready
    assert watch.seconds < 1
    assert result.reason == f"not ready in 0.6 s; {server.url}: HTTP 503: loading"


def test_wait_on_a_silent_port_keeps_the_deadline(silent_url: str) -> None:
    watch = Stopwatch()
    assert not probe.wait_ready(silent_url, 0.5, lambda: True).ready
    assert watch.seconds < 1.2


def test_pauses_grow_to_half_a_second(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(probe.time, "sleep", pauses.append)
    server.answer = lambda number: (200 if number == 9 else 503, b"")
    assert probe.wait_ready(server.url, 60, lambda: True).ready
    assert pauses[0] == 0.1
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.5


@pytest.mark.parametrize(("status", "ready"), [(0, False), (200, True), (204, True), (304, False), (503, False)])
def test_ready_is_any_2xx(status: int, ready: bool) -> None:
    assert probe.is_ready(status) is ready


def test_description_of_an_empty_answer() -> None:
    assert probe.describe(500, "") == "HTTP 500"
