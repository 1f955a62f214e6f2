"""The life of the process: start the sampler, serve until a signal, stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from typing import Any

from . import __version__
from .config import Config, SourceConfig, split_listen
from .sampler import Sampler, SourceSampler
from .sources import source_class

THREADS = 4
STOP_SECONDS = 0.3  # for requests that are being answered, and again for samples that are being taken
MAX_REQUEST_BYTES = 64 * 1024  # nothing here takes a body; waitress would spool a large one to a file

log = logging.getLogger(__name__)


class ListenError(Exception):
    """The address cannot be had."""


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code. Raises ListenError.

    The handlers come first: as PID 1 of a container the process would otherwise ignore a stop during the
    imports. A handler only writes to a pipe, so it is safe wherever it interrupts the main thread.
    """
    wake_read, wake_write = os.pipe()

    def wake(*_: object) -> None:
        os.write(wake_write, b"s")

    signal.signal(signal.SIGTERM, wake)
    signal.signal(signal.SIGINT, wake)

    # The slow imports, which --check-config does not need.
    import prometheus_client  # noqa: PLC0415  (slow)

    from .metrics import Metrics  # noqa: PLC0415  (slow)
    from .web import create_app  # noqa: PLC0415  (slow)

    # A _created series for every counter doubles them and says nothing that process_start_time does not.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    listener = _bind(config.listen)
    metrics = Metrics()
    sampler = Sampler([_make_source(source) for source in config.sources], metrics.cpu_spike.observe)
    http = _Http(create_app(sampler, metrics), listener, on_end=lambda: os.write(wake_write, b"e"))
    sampler.start()
    http.start()
    log.info("serving", extra={"fields": {"address": http.address, "version": __version__}})

    ended_by_itself = os.read(wake_read, 1) == b"e"
    http.stop()
    sampler.stop(STOP_SECONDS)
    if ended_by_itself:
        log.critical("the HTTP server ended by itself")
    return int(ended_by_itself)


def _make_source(config: SourceConfig) -> SourceSampler:
    return SourceSampler(
        name=config.name,
        type_name=config.type,
        source=source_class(config.type)(config.options),
        interval_seconds=config.interval_seconds,
        timeout_seconds=config.timeout_seconds,
    )


def _bind(listen: str) -> socket.socket:
    host, port = split_listen(listen)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ListenError(f"cannot listen on {listen}: {error.strerror}") from error


class _Http:
    """Waitress in a thread, so that the main thread is free to wait for signals."""

    def __init__(self, app: Any, listener: socket.socket, on_end: Any) -> None:
        from waitress.server import create_server  # noqa: PLC0415  (slow)

        host, port = listener.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._on_end = on_end
        self._server: Any = create_server(
            app,
            sockets=[listener],
            threads=THREADS,
            ident=None,
            max_request_body_size=MAX_REQUEST_BYTES,
            max_request_header_size=MAX_REQUEST_BYTES,
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Let the requests in hand finish, then close every connection."""
        self._server.task_dispatcher.shutdown(timeout=STOP_SECONDS)
        self._server.trigger.pull_trigger(self._close)
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            self._server.run()
        except Exception:
            log.exception("the HTTP server failed")
        finally:
            self._on_end()

    def _close(self) -> None:
        # Runs in the server's own thread: its loop ends when nothing is left open.
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.close()
