"""The HTTP server: waitress, held to a footprint that no client can grow.

What one client can hold is bounded: a request by MAX_REQUEST_BYTES, what it has asked for and does not read by
MAX_UNREAD_BYTES and one answer, an idle connection by IDLE_SECONDS. Of more than CONNECTIONS those that were quiet
for longest are closed every second: idle clients keep nobody out.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any, cast

from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from .metrics import Metrics

THREADS = 4
CONNECTIONS = 100
QUIET_SECONDS = 1.0  # or the connection of a client that is about to ask would be closed
MOST_CONNECTIONS = 500  # until then, and if none of them is quiet; more have to wait
IDLE_SECONDS = 30
STOP_SECONDS = 0.3  # for requests that are being answered
MAX_REQUEST_BYTES = 64 * 1024  # nothing here takes a body; waitress would spool a large one to a file
MAX_UNREAD_BYTES = 128 * 1024

log = logging.getLogger(__name__)


class HttpServer:
    """Waitress in a thread, so that the main thread is free to wait for signals."""

    def __init__(self, app: Any, listener: socket.socket, metrics: Metrics, on_end: Callable[[], object]) -> None:
        host, port = listener.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._on_end = on_end
        # It warns of every request that waits for a thread, which would let a client fill the log.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._server = cast(
            Any,
            create_server(
                app,
                sockets=[listener],
                threads=THREADS,
                connection_limit=MOST_CONNECTIONS,
                cleanup_interval=1,
                ident=None,
                max_request_body_size=MAX_REQUEST_BYTES,
                max_request_header_size=MAX_REQUEST_BYTES,
            ),
        )
        self._server.maintenance = self._close_idle
        self._server.channel_class = type("Channel", (_Channel,), {"metrics": metrics})
        self._pulled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Let the requests in hand finish, then close every connection."""
        self._server.task_dispatcher.shutdown(timeout=STOP_SECONDS)
        self._server.trigger.pull_trigger(self._close)
        self._pulled.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            self._server.run()
        except Exception:
            log.exception("the HTTP server failed")
        finally:
            self._on_end()

    def _close_idle(self, now: float) -> None:
        channels = self._server.active_channels.values()
        excess = len(channels) - CONNECTIONS
        idle = sorted((item for item in channels if not item.requests), key=lambda item: item.last_activity)
        for position, channel in enumerate(idle):
            if now - channel.last_activity > (QUIET_SECONDS if position < excess else IDLE_SECONDS):
                channel.will_close = True

    def _close(self) -> None:
        # Runs in the server's own thread: its loop ends when nothing is left open. The trigger is closed with the rest,
        # and may have been pulled for another reason: stop() would then still have to write to it.
        self._pulled.wait()
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.close()


class _ErrorTask(ErrorTask):
    """Answers what never gets to the application, such as a malformed request, in the words of the application."""

    def execute(self) -> None:
        request, channel = cast(Any, self.request), cast(Any, self.channel)
        error = request.error
        channel.metrics.requests.labels("other", "other", error.code).inc()
        body = json.dumps({"error": error.reason, "detail": error.body}).encode() + b"\n"
        self.status = f"{error.code} {error.reason}"
        self.response_headers = [("Content-Type", "application/json")]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    metrics: Metrics
    error_task_class = _ErrorTask

    def write_soon(self, data: Any) -> int:
        """Cut off a client that goes on asking and does not read: its answers would add up in memory."""
        if self.total_outbufs_len > MAX_UNREAD_BYTES:
            raise ClientDisconnected
        return super().write_soon(data)
