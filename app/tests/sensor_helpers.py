"""Sources that misbehave on purpose, and waiting without guessing how long."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sensor_service.readings import Measurement
from sensor_service.sampler import SourceSampler
from sensor_service.sources import Source

SOURCE = Path(__file__).parents[1] / "src"
GOOD = Measurement("temperature_celsius", "celsius", 21.5)


def eventually(condition: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Wait until the condition holds and return what it gave; fail after the deadline."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.005)
    return result


class Scripted(Source):
    """Answers with the next item of a script, its last one for ever; an exception is raised."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script) or [[GOOD]]
        self.closed = threading.Event()

    def sample(self, timeout_seconds: float) -> Iterable[Measurement]:
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed.set()


class Hanging(Source):
    """Answers only once ``release`` is set."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.release = threading.Event()

    def sample(self, timeout_seconds: float) -> Iterable[Measurement]:
        self.called.set()
        self.release.wait()
        return [GOOD]


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sampler_of(source: Source, name: str = "probe", **overrides: Any) -> SourceSampler:
    """Make a SourceSampler with an interval and a timeout of 1 s, and 500 series."""
    settings: dict[str, Any] = {"interval_seconds": 1.0, "timeout_seconds": 1.0, "max_series": 500} | overrides
    return SourceSampler(name=name, type_name="test", source=source, **settings)


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the service with nothing in its environment: no HOME, no PATH."""
    return subprocess.Popen(
        [sys.executable, "-m", "sensor_service", *arguments],
        env={"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def serving(noisy: bool = False, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the service on a free port of 127.0.0.1 and give the process and its address.

    Its first words are that it serves, unless it is noisy: a source that fails may be the first to speak.
    """
    process = start(**{"SENSOR_LISTEN": "127.0.0.1:0", "SENSOR_LOG_LEVEL": "INFO"} | environment)
    try:
        assert process.stderr is not None
        event = json.loads(process.stderr.readline())
        while noisy and event["message"] != "serving":
            event = json.loads(process.stderr.readline())
        assert event["message"] == "serving"
        yield process, event["address"]
    finally:
        process.kill()
        process.communicate()
