"""The HTTP server against clients that are malformed, greedy or idle, and against its own description."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from sensor_helpers import eventually, serving
from sensor_service import http_server
from sensor_service.metrics import OWN_SECONDS

CONFIG = """
debug = true
[[sources]]
type = "simulated"
max_series = 700
[sources.options]
channels = 140
[[sources]]
type = "process"
"""


@pytest.fixture(name="address", scope="module")
def _address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("http") / "sensor.toml"
    file.write_text(CONFIG)
    with serving(SENSOR_CONFIG=str(file)) as (_, address):
        eventually(lambda: '"state":"ok"' in get(address, "/").replace(" ", ""))
        yield address


def get(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as response:
        text: str = response.read().decode()
        return text


def counted(address: str, labels: str) -> float:
    found = re.search(rf"^sensor_requests_total{{{labels}}} (\S+)$", get(address, "/metrics"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read_to_end(client: socket.socket) -> bytes:
    answer = b""
    while part := client.recv(65536):
        answer += part
    return answer


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: one\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ".ljust(http_server.MAX_REQUEST_BYTES, b"x"), 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
)
def test_what_never_reaches_the_application_is_answered_in_json_and_counted(
    address: str, request_: bytes, code: int
) -> None:
    labels = f'code="{code}",method="other",path="other"'
    before = counted(address, labels)
    with connect(address) as client:
        client.sendall(request_)
        head, _, body = read_to_end(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.") and head.split()[1] == str(code).encode()
    assert b"Content-Type: application/json" in head
    assert json.loads(body).keys() == {"error", "detail"}
    eventually(lambda: counted(address, labels) == before + 1)


def test_a_client_that_asks_and_does_not_read_is_cut_off(address: str) -> None:
    asked = 300  # for 30 MB, far more than the kernel's buffers take
    before = counted(address, 'code="200",method="GET",path="/sensor"')
    host, port = address.split(":")
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        greedy.connect((host, int(port)))
        greedy.sendall(b"GET /sensor HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
        answered = [0.0]

        def stopped() -> bool:
            time.sleep(3 * OWN_SECONDS)  # its counters are that old
            answered.append(counted(address, 'code="200",method="GET",path="/sensor"') - before)
            return answered[-1] == answered[-2] > 0

        eventually(stopped, 10)
        assert answered[-1] < asked / 2
        assert "ok" in get(address, "/healthz")  # the others are served


def test_idle_connections_keep_nobody_out(address: str) -> None:
    idle = [connect(address) for _ in range(http_server.MOST_CONNECTIONS + 50)]
    try:
        assert "ok" in get(address, "/healthz")
        assert idle[0].recv(1) == b""  # the oldest had to go
        idle[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in idle[-1].recv(4096)
    finally:
        for client in idle:
            client.close()


def test_a_burst_of_requests_writes_no_log(tmp_path: Path) -> None:
    with serving(SENSOR_LOG_LEVEL="INFO") as (process, address):
        clients = [connect(address) for _ in range(30)]
        for client in clients:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for client in clients:
            assert b" 200 OK" in read_to_end(client)
            client.close()
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_the_service_is_what_its_description_says(address: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    command = [program, "run", f"http://{address}/openapi.json", "--checks", "all", "--seed", "1", "--no-color"]
    done = subprocess.run(
        [*command, "--max-examples", "100"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 6" in done.stdout  # every path but that of the description itself
