"""The HTTP interface. It reads what the sampler has, and starts nothing."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterable
from importlib import resources
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.wrappers import Response as BaseResponse

from . import __version__
from .metrics import Metrics
from .readings import Reading
from .sampler import BUFFER_SIZE, Sampler, Snapshot, State

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})

log = logging.getLogger(__name__)


class BadParameter(Exception):
    """A query parameter that cannot be used, and the HTTP status that says so."""

    def __init__(self, parameter: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.status = status


def create_app(sampler: Sampler, metrics: Metrics, debug: bool = False) -> Flask:
    """Make the WSGI application. Nothing is shared between two of them."""
    app = Flask("sensor_service", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # or //metrics is answered with a redirect in HTML
    _add_routes(app, sampler, metrics, started=time.monotonic())
    if debug:
        _add_debug(app, sampler)
    _add_errors(app)

    @app.after_request
    def count(response: Response) -> Response:
        method = request.method if request.method in METHODS else "other"
        metrics.requests.labels(_route(), method, response.status_code).inc()
        return response

    return app


def _add_routes(app: Flask, sampler: Sampler, metrics: Metrics, started: float) -> None:
    latest = _Latest()

    @app.get("/")
    def index() -> Response:
        return jsonify(
            name="sensor_service",
            version=__version__,
            uptime_seconds=round(time.monotonic() - started, 3),
            sources=[
                {
                    "name": source.name,
                    "type": source.type,
                    "state": source.state,
                    "error": source.error,
                    "last_sample_timestamp": source.timestamp or None,
                }
                for source in sampler.snapshots()
            ],
            links={rule.endpoint: rule.rule for rule in app.url_map.iter_rules()},
        )

    @app.get("/sensor")
    def sensor() -> Response:
        names, limit = _parameters(sampler)
        if limit is not None:
            parts = [_json(sampler.history(names, limit))]
        else:
            parts = [latest.render(snapshot) for snapshot in sampler.snapshots() if snapshot.name in names]
        body = b", ".join(filter(None, parts))
        return Response(b'{"readings": [' + body + b"]}\n", content_type="application/json")

    @app.get("/metrics", endpoint="metrics")
    def scrape() -> Response:
        body, content_type = metrics.render(sampler.snapshots(), _wants_openmetrics(request.accept_mimetypes))
        return Response(body, content_type=content_type, headers={"Vary": "Accept"})

    @app.get("/openapi.json")
    def openapi() -> Response:
        description = json.loads(resources.files(__package__).joinpath("openapi.json").read_text(encoding="utf-8"))
        description["info"]["version"] = __version__
        return jsonify(description)

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @app.get("/readyz")
    def readyz() -> tuple[Response, int]:
        late = [source for source in sampler.snapshots() if source.state in (State.PENDING, State.STALE)]
        if not late:
            return jsonify(status="ok"), 200
        sources = [{"name": source.name, "state": source.state, "error": source.error} for source in late]
        return jsonify(status="not ready", sources=sources), 503


def _add_debug(app: Flask, sampler: Sampler) -> None:
    @app.get("/debug")
    def debug() -> Response:
        frames = sys._current_frames()
        return jsonify(
            threads=[
                {"name": thread.name, "stack": _stack(frames.get(thread.ident or 0))}
                for thread in threading.enumerate()
            ],
            sources=[
                {
                    "name": source.name,
                    "state": source.state,
                    "error": source.error,
                    "iterations": source.iterations,
                    "failed": source.failed,
                    "dropped": source.dropped,
                    "series": len(source.readings),
                    "queue_depth": source.queue_depth,
                    "last_sample_seconds": source.duration_seconds,
                    "running_seconds": source.running_seconds,
                }
                for source in sampler.snapshots()
            ],
        )


def _stack(frame: Any) -> list[str]:
    stack = []
    while frame:
        stack.append(f"{frame.f_globals.get('__name__')}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return stack


class _Latest:
    """The latest readings of each source as JSON, rendered once per sample."""

    def __init__(self) -> None:
        self._rendered: dict[str, tuple[int, bytes]] = {}

    def render(self, snapshot: Snapshot) -> bytes:
        generation, text = self._rendered.get(snapshot.name, (None, b""))
        if generation != snapshot.generation:
            text = _json(snapshot.readings)
            self._rendered[snapshot.name] = (snapshot.generation, text)
        return text


def _json(readings: Iterable[Reading]) -> bytes:
    """The items of a list, without its brackets."""
    return ", ".join(json.dumps(item._asdict() | {"labels": dict(item.labels)}) for item in readings).encode()


def _add_errors(app: Flask) -> None:
    @app.errorhandler(BadParameter)
    def bad_parameter(error: BadParameter) -> tuple[Response, int]:
        return jsonify(error=str(error), parameter=error.parameter), error.status

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> BaseResponse:
        response = error.get_response()  # keeps what belongs to the code, such as Allow
        response.content_type = "application/json"
        response.set_data(app.json.dumps({"error": error.name, "path": request.path}) + "\n")
        return response

    @app.errorhandler(Exception)
    def crash(_error: Exception) -> tuple[Response, int]:
        log.exception("request failed", extra={"fields": {"path": request.path}})
        return jsonify(error="Internal Server Error", path=request.path), 500


def _route() -> str:
    """The path as a label with few values. No route has parameters, so a path that is known is a route."""
    if request.url_rule or isinstance(request.routing_exception, MethodNotAllowed):
        return request.path
    return "other"


def _wants_openmetrics(accepted: MIMEAccept) -> bool:
    def quality(*types: str) -> float:
        return max((q for item, q in accepted if item.partition(";")[0].strip().lower() in types), default=0)

    wanted = quality("application/openmetrics-text")
    return wanted > 0 and wanted >= quality("text/plain", "text/*", "*/*")


def _parameters(sampler: Sampler) -> tuple[tuple[str, ...], int | None]:
    """Return the sources asked for and the limit, if any. Raises BadParameter."""
    for name, values in request.args.lists():
        if name not in ("source", "limit"):
            raise BadParameter(name, f"unknown parameter {name!r:.50}; known: source, limit")
        if len(values) > 1:
            raise BadParameter(name, f"{name} is given {len(values)} times")
    return _source_parameter(request.args.get("source"), sampler), _limit_parameter(request.args.get("limit"))


def _source_parameter(value: str | None, sampler: Sampler) -> tuple[str, ...]:
    if value is None:
        return sampler.names
    if value not in sampler.names:
        raise BadParameter("source", f"source={value:.50} is unknown; known: {', '.join(sampler.names)}", 404)
    return (value,)


def _limit_parameter(value: str | None) -> int | None:
    if value is None:
        return None
    number = int(value) if value.isascii() and value.isdigit() and len(value) <= 9 else 0
    if not 1 <= number <= BUFFER_SIZE:
        raise BadParameter("limit", f"limit={value:.50} must be a whole number from 1 to {BUFFER_SIZE}")
    return number
