"""Real programs of the artifact store, on loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.query import probe

T = TypeVar("T")

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
PATIENCE_SECONDS = 60.0


def find(name: str) -> Path:
    """A program that runs here; the test is skipped where `make artifacts` was never run."""
    found = sorted(ARTIFACTS.glob(f"{name}/*/x86_64/{name}"))
    if not found:
        pytest.skip(f"{name} is not in the artifact store")
    return found[-1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def eventually(look: Callable[[], T], what: str) -> T:
    """The first true answer of `look`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


@contextmanager
def running(name: str, arguments: Sequence[str], ready_url: str) -> Iterator[None]:
    process = subprocess.Popen([find(name), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ready = probe.wait_ready(ready_url, PATIENCE_SECONDS, lambda: process.poll() is None)
        assert ready.ready, ready.reason
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


@contextmanager
def victoriametrics(directory: Path) -> Iterator[str]:
    """The base URL of a VictoriaMetrics."""
    url = f"127.0.0.1:{free_port()}"
    arguments = [f"-httpListenAddr={url}", f"-storageDataPath={directory / 'data'}", "-retentionPeriod=2d"]
    arguments += ["-memory.allowedBytes=64MB", "-loggerLevel=ERROR"]
    with running("victoriametrics", arguments, f"http://{url}/health"):
        yield f"http://{url}"
