"""The service as a process: its command line, its signals, its exit codes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser
from sensor_helpers import SOURCE, eventually, serving, start
from sensor_service import __version__, cli
from sensor_service.http_server import HttpServer
from sensor_service.metrics import Metrics
from stopwatch import Stopwatch


@pytest.fixture(name="service")
def _service() -> Iterator[tuple[subprocess.Popen[str], str]]:
    with serving() as service:
        yield service


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_with_0(service: tuple[subprocess.Popen[str], str], number: int) -> None:
    process, address = service

    def ready() -> bool:
        with urllib.request.urlopen(f"http://{address}/readyz") as response:
            return bool(response.status == 200)

    eventually(ready)
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as idle:  # must not hold up the end
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in idle.recv(4096)
        watch = Stopwatch(process.pid)
        process.send_signal(number)
        assert watch.seconds < 1
        assert process.wait(5) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


HANGING = """
import sys, threading, types
from sensor_service import cli, sources

class Hang(sources.Source):
    def __init__(self, options): pass
    def sample(self, timeout_seconds): threading.Event().wait()

sys.modules["sensor_service.sources.hang"] = types.SimpleNamespace(Hang=Hang)
sources.SOURCES["simulated"] = "hang:Hang"
sys.exit(cli.main([]))
"""


def test_a_hanging_source_does_not_hold_up_the_end() -> None:
    environment = {
        "PYTHONPATH": str(SOURCE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SENSOR_LISTEN": "127.0.0.1:0",
        "SENSOR_LOG_LEVEL": "INFO",
    }
    command = [sys.executable, "-c", HANGING]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "serving" in process.stderr.readline()
            watch = Stopwatch(process.pid)
            process.terminate()
            assert watch.seconds < 1
            assert process.wait(5) == 0
        finally:
            process.kill()


@pytest.fixture(name="http")
def _http() -> Iterator[tuple[HttpServer, socket.socket]]:
    """A server, and a client whose connection is idle after an answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def app(_environ: object, respond: Any) -> list[bytes]:
        respond("200 OK", [("Content-Length", "2")])  # the length keeps the connection open
        return [b"ok"]

    http = HttpServer(app, listener, Metrics(), on_end=lambda: None)
    http.start()
    with socket.create_connection(listener.getsockname(), timeout=5) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"ok"):
            answer += idle.recv(4096)
        yield http, idle
    assert not http._thread.is_alive()


def test_the_server_closes_idle_connections_when_it_stops(http: tuple[HttpServer, socket.socket]) -> None:
    server, idle = http
    server.stop()
    assert idle.recv(4096) == b""


def test_the_server_stops_beside_the_end_of_an_answer(
    http: tuple[HttpServer, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which pulls the same trigger: the server may know of the stop before stop() has pulled it."""
    server, idle = http
    pull = server._server.trigger._physical_pull

    def pull_twice() -> None:
        pull()
        server._thread.join(0.2)
        pull()

    monkeypatch.setattr(server._server.trigger, "_physical_pull", pull_twice)
    server.stop()
    assert idle.recv(4096) == b""


def test_a_large_body_is_refused_and_not_spooled_to_disk(service: tuple[subprocess.Popen[str], str]) -> None:
    host, port = service[1].split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert b" 413 " in client.recv(4096)


def test_every_address_means_those_of_both_versions() -> None:
    with serving(SENSOR_LISTEN="[::]:0") as (_, address):
        port = int(address.rsplit(":", 1)[1])
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=5) as client:
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b" 200 " in client.recv(4096), host


def test_an_address_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(SENSOR_LISTEN=address)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert errors.startswith(f"cannot listen on {address}: Address already in use")
    assert len(errors.splitlines()) == 1


def test_a_bad_configuration_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sensor.toml"
    file.write_text("listen = 1\ncolour = 2\n")
    process = start(SENSOR_CONFIG=str(file))
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 2
    assert "Traceback" not in errors


def test_check_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sensor.toml"
    file.write_text('log_level = "INFO"\n')
    assert cli.main(["--check-config", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: ok\n"
    file.write_text('log_level = "LOUD"\n[[sources]]\ntype = "x"\n')
    assert cli.main(["--check-config", str(file)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert [line.split(" = ")[0] for line in output.err.splitlines()] == [
        f"{file}: log_level",
        f"{file}: sources[0].type",
    ]


def test_the_file_given_wins_over_the_one_of_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSOR_CONFIG", str(tmp_path / "environment.toml"))
    assert cli.main(["--config", str(tmp_path / "given.toml")]) == 2
    assert "given.toml: cannot be read" in capsys.readouterr().err
    assert cli.main([]) == 2
    assert "environment.toml: cannot be read" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"sensor_service {__version__}\n"


MISBEHAVING = """
[[sources]]
type = "simulated"
name = "good"
interval_seconds = 0.1
[[sources]]
type = "simulated"
name = "failing"
interval_seconds = 0.1
[sources.options]
fail_every = 2
[[sources]]
type = "simulated"
name = "hanging"
interval_seconds = 0.1
timeout_seconds = 0.1
[sources.options]
stall_every = 2
[[sources]]
type = "simulated"
name = "bursting"
interval_seconds = 0.1
max_series = 20
[sources.options]
burst_every = 2
"""


def test_sources_that_fail_hang_and_burst_harm_nothing_but_themselves(tmp_path: Path) -> None:
    file = tmp_path / "sensor.toml"
    file.write_text(MISBEHAVING)
    with serving(noisy=True, SENSOR_CONFIG=str(file)) as (process, address):

        def scrape() -> dict[tuple[str, str], float]:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
                text = response.read().decode()
            return {
                (sample.name, sample.labels["source"]): sample.value
                for family in parser.text_string_to_metric_families(text)
                for sample in family.samples
                if "source" in sample.labels
            }

        def all_seen() -> bool:
            seen = scrape()
            return (
                seen["sensor_failed_total", "failing"] >= 3
                and seen["sensor_failed_total", "hanging"] >= 1
                and seen["sensor_readings_dropped_total", "bursting"] >= 1000
                and seen["sensor_source_stale", "hanging"] == 1
            )

        eventually(all_seen)
        before = scrape()
        loops = ("sensor_loop_iterations_total", "good")
        eventually(lambda: scrape()[loops] > before[loops])
        seen = scrape()
        assert (seen["sensor_failed_total", "good"], seen["sensor_source_up", "good"]) == (0, 1)
        assert seen["sensor_queue_depth", "bursting"] <= 500
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{address}/readyz", timeout=5)
        assert [one["name"] for one in json.load(caught.value)["sources"]] == ["hanging"]
        watch = Stopwatch(process.pid)
        process.terminate()
        assert watch.seconds < 1
        assert process.wait(5) == 0
