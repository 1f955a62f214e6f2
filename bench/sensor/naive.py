"""A baseline: what the sensor service replaces, on 127.0.0.1 and the given port.

Flask's development server; each request computes, keeps a blob, and renders everything anew.
"""

from __future__ import annotations

import sys
import threading
from collections import deque

from flask import Flask, Response, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bench.sensor.series import Series

ITERATIONS = 2_000_000
BLOB_BYTES = 5_000_000
BLOBS = 40  # the service of old knew no end; the machine that measures it does

app = Flask(__name__)
series = Series()
blobs: deque[bytes] = deque(maxlen=BLOBS)


def work() -> None:
    """What a request costs besides its answer."""
    total = 0
    for number in range(ITERATIONS):
        total += number
    blobs.append(b"x" * BLOB_BYTES)


@app.get("/metrics")
def metrics() -> Response:
    """Everything in Prometheus's format."""
    work()
    return Response(generate_latest(series.registry), content_type=CONTENT_TYPE_LATEST)


@app.get("/sensor")
def sensor() -> Response:
    """Everything as JSON."""
    work()
    return jsonify(readings=series.readings)


@app.get("/")
def ready() -> str:
    """It answers."""
    return "ready"


threading.Thread(target=series.update_forever, daemon=True).start()
app.run("127.0.0.1", int(sys.argv[1]))
