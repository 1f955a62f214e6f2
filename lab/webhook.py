#!/usr/bin/python3
"""Receives what Alertmanager sends and keeps it, one JSON object a line, so that one can watch an alert arrive."""

import http.server
import json
from pathlib import Path

KEPT = Path("/var/log/lab-webhook.jsonl")


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with KEPT.open("a") as file:
            file.write(json.dumps(body) + "\n")
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


http.server.HTTPServer(("127.0.0.1", 9099), Receiver).serve_forever()
