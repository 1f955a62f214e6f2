"""A baseline: the HTTP server that prometheus_client brings along, on 127.0.0.1 and the given port."""

from __future__ import annotations

import sys

from prometheus_client import start_http_server

from bench.sensor.series import Series

series = Series()
start_http_server(int(sys.argv[1]), "127.0.0.1", series.registry)
series.update_forever()
