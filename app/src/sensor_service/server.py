"""The life of the process: start the sampler, serve until a signal, stop."""

from __future__ import annotations

import logging
import os
import signal
import socket

from . import __version__
from .config import Config, SourceConfig, split_listen
from .sampler import Sampler, SourceSampler
from .sources import Source, source_class

STOP_SECONDS = 0.3  # for samples that are being taken

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

    from .http_server import HttpServer  # noqa: PLC0415  (slow)
    from .metrics import Metrics  # noqa: PLC0415  (slow)
    from .web import create_app  # noqa: PLC0415  (slow)

    # A _created series for every counter doubles them and says nothing that process_start_time does not.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    listener = _bind(config.listen)
    sources = [source_class(source.type)(source.options) for source in config.sources]
    sampler = Sampler([_make_sampler(*pair) for pair in zip(config.sources, sources, strict=True)])
    metrics = Metrics(collector for source in sources for collector in source.collectors)
    app = create_app(sampler, metrics, debug=config.debug)
    http = HttpServer(app, listener, metrics, on_end=lambda: os.write(wake_write, b"e"))
    sampler.start()
    http.start()
    log.info("serving", extra={"fields": {"address": http.address, "version": __version__}})

    ended_by_itself = os.read(wake_read, 1) == b"e"
    http.stop()
    sampler.stop(STOP_SECONDS)
    if ended_by_itself:
        log.critical("the HTTP server ended by itself")
    return int(ended_by_itself)


def _make_sampler(config: SourceConfig, source: Source) -> SourceSampler:
    return SourceSampler(
        name=config.name,
        type_name=config.type,
        source=source,
        interval_seconds=config.interval_seconds,
        timeout_seconds=config.timeout_seconds,
        max_series=config.max_series,
    )


def _bind(listen: str) -> socket.socket:
    host, port = split_listen(listen)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # [::] is for both versions: Linux hands what comes over IPv4 to the same socket.
        return socket.create_server(address[:2], family=family, dualstack_ipv6=host == "::")
    except OSError as error:
        raise ListenError(f"cannot listen on {listen}: {error.strerror}") from error
