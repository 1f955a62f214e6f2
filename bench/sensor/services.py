"""Starts what is measured: the sensor service as a process and as a container, and the baselines."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.report import ROOT
from bench.sensor.series import CHANNELS, SENSORS, SERIES

# One core serves and another one asks, so that neither takes the other's time.
SERVER_CORE, CLIENT_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
START_TIMEOUT_SECONDS = 30
POLL_SECONDS = 0.005
# The cap that the role gives the container.
CAP_BYTES = 80 << 20


@dataclass(frozen=True)
class Service:
    """How a program is run, with ``{port}`` for its port, and the path that answers once it is ready."""

    name: str
    command: tuple[str, ...]
    paths: tuple[str, ...]
    ready: str


@dataclass(frozen=True)
class Running:
    """A service that is ready, and how long that took."""

    url: str
    start_seconds: float


EXPORTER = Service("prometheus_client", (sys.executable, "-m", "bench.sensor.exporter", "{port}"), ("/metrics",), "/")
NAIVE = Service("naive service", (sys.executable, "-m", "bench.sensor.naive", "{port}"), ("/metrics", "/sensor"), "/")


def sensor_service(config: Path) -> Service:
    """The service of app/ with this configuration."""
    command = ("env", "SENSOR_LISTEN=127.0.0.1:{port}", sys.executable, "-m", "sensor_service", "--config", str(config))
    return Service("sensor service", command, ("/metrics", "/sensor"), "/readyz")


def write_config(path: Path, more: str = "") -> Path:
    """Configure as many series as the baselines have, and the process's own figures."""
    path.write_text(f"""
[[sources]]
type = "simulated"
max_series = {SERIES}
[sources.options]
channels = {CHANNELS}
sensors = {list(SENSORS)}

[[sources]]
type = "process"
{more}""")
    path.chmod(0o644)  # the container's user reads it
    return path


def environment(bytecode: Path) -> dict[str, str]:
    """As in the image: no docstrings, and bytecode that is kept."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT / 'app' / 'src'}:{ROOT}",
        "PYTHONOPTIMIZE": "2",
        "PYTHONPYCACHEPREFIX": str(bytecode),
    }


@contextmanager
def process(service: Service, variables: Mapping[str, str]) -> Iterator[Running]:
    """Run a service on the core that serves."""
    port = free_port()
    command = ["taskset", "-c", str(SERVER_CORE), *(word.replace("{port}", str(port)) for word in service.command)]
    started = time.monotonic()
    child = subprocess.Popen(
        command, env=dict(variables), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_ready(port, service.ready, " ".join(command))
        yield Running(f"http://127.0.0.1:{port}", time.monotonic() - started)
    finally:
        child.kill()
        child.wait()


@dataclass(frozen=True)
class Container(Running):
    """A service in a container, and its process."""

    pid: int


@contextmanager
def container(image: str, config: Path, *options: str) -> Iterator[Container]:
    """Run the sensor service's image as the role does."""
    port = free_port()
    command = [
        *("docker", "run", "--detach", "--rm", "--pull=never", "--network=host", "--read-only", "--cap-drop=all"),
        *("--security-opt=no-new-privileges", "--pids-limit=64", f"--memory={CAP_BYTES}", f"--memory-swap={CAP_BYTES}"),
        *(f"--volume={config}:/etc/roverwatch/config.toml:ro", f"--env=SENSOR_LISTEN=127.0.0.1:{port}", *options),
        *(image, "--config", "/etc/roverwatch/config.toml"),
    ]
    started = time.monotonic()
    identity = output(*command)
    try:
        wait_until_ready(port, "/readyz", " ".join(command))
        seconds = time.monotonic() - started
        pid = int(output("docker", "inspect", "--format", "{{.State.Pid}}", identity))
        yield Container(f"http://127.0.0.1:{port}", seconds, pid)
    finally:
        output("docker", "rm", "--force", identity)


def output(*command: str) -> str:
    """What a command prints to its standard output; its errors are shown."""
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def status(port: int, path: str) -> int | None:
    """The status of an answer, None if there is none yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def wait_until_ready(port: int, path: str, command: str) -> None:
    """Ask until the answer is 200."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while status(port, path) != 200:
        if time.monotonic() > deadline:
            sys.exit(f"not ready after {START_TIMEOUT_SECONDS} s; run it to see why: {command}")
        time.sleep(POLL_SECONDS)
