"""Work that may hang, beside the rest and under a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

T = TypeVar("T")


def start(work: Callable[[], T]) -> futures.Future[T]:
    """Run in a daemon thread: unlike an executor's, one that hangs does not keep the module from ending."""
    future: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  (raised again where the result is asked for)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def result(job: futures.Future[T], deadline: float, otherwise: T) -> T:
    """The job's result, or `otherwise` when it has none by the deadline (of time.monotonic())."""
    futures.wait([job], max(0.0, deadline - time.monotonic()))
    return job.result() if job.done() else otherwise
