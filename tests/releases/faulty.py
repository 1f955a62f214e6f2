"""The sensor service with a fault: ``python3 -m faulty`` is ``python3 -m sensor_service`` but for what $FAULT says.

A check of the configuration finds nothing: a fault shows where the service runs.
"""

from __future__ import annotations

import http.client
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sensor_service import cli, config, logs

LEAK_BYTES_PER_SECOND = 6 << 20
STEP_SECONDS = 0.1


def crash() -> None:
    """End before there is anything to ask."""
    logs.configure("INFO")
    logging.getLogger("faulty").critical("this release cannot start")
    sys.exit(1)


def leak() -> None:
    """Take more and more memory, from when the service is ready until the kernel has enough."""
    threading.Thread(target=_hoard, daemon=True).start()


def _hoard() -> None:
    listen = config.load(Path(sys.argv[sys.argv.index("--config") + 1]), os.environ).listen
    while not _is_ready(listen):
        time.sleep(STEP_SECONDS)
    hoard = []
    while True:
        # Not zeros: the kernel counts a page once it was written.
        hoard.append(b"x" * int(LEAK_BYTES_PER_SECOND * STEP_SECONDS))
        time.sleep(STEP_SECONDS)


def _is_ready(listen: str) -> bool:
    connection = http.client.HTTPConnection(listen, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


FAULTS: dict[str, Callable[[], None]] = {"none": lambda: None, "crash": crash, "leak": leak}

if __name__ == "__main__":
    if "--check-config" not in sys.argv:
        FAULTS[os.environ["FAULT"]]()
    sys.exit(cli.main())
