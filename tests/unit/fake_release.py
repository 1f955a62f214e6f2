"""A release server on loopback that speaks the layout of VictoriaMetrics' releases, and can misbehave."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "1.150.0"
PROGRAMS = {"victoria-metrics": ["victoria-metrics-prod"], "vmutils": ["vmagent-prod", "vmauth-prod"]}


def program(name: str) -> bytes:
    return f"#!/bin/sh\necho {name}\n".encode() * 100


def archive(names: list[str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(program(name))
            member.mode = 0o644  # what an archive says of modes does not count
            tar.addfile(member, io.BytesIO(program(name)))
    return packed.getvalue()


class Release:
    """What the server serves, by path, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.status: dict[str, int] = {}
        self.breaks_off: set[str] = set()
        self.hang = threading.Event()
        self.hanging = False
        self.base = ""
        for kind, names in PROGRAMS.items():
            stem = f"{kind}-linux-amd64-v{VERSION}"
            packed = archive(names)
            self.files[f"/v{VERSION}/{stem}.tar.gz"] = packed
            lines = [f"{hashlib.sha256(packed).hexdigest()}  {stem}.tar.gz"]
            lines += [f"{hashlib.sha256(program(name)).hexdigest()}  {name}" for name in names]
            self.files[f"/v{VERSION}/{stem}_checksums.txt"] = "\n".join([*lines, ""]).encode()

    def path(self, kind: str) -> str:
        """The one served path that ends so."""
        (found,) = [path for path in self.files if path.endswith(kind)]
        return found

    def bundle(self) -> dict[str, object]:
        """The bundle that describes this server, in the form of group_vars."""
        stem = self.base + "/v{version}/%s-linux-{goarch}-v{version}"
        return {
            "bundle": "victoriametrics",
            "version": VERSION,
            "upstream": [
                {
                    "url": stem % kind + ".tar.gz",
                    "checksums": stem % kind + "_checksums.txt",
                    "files": {name: path},
                }
                for kind, name, path in (
                    ("victoria-metrics", "victoriametrics", "victoria-metrics-prod"),
                    ("vmutils", "vmagent", "vmagent-prod"),
                )
            ],
            "debian": {
                "suite": "sid",
                "package": "victoria-metrics",
                "minimum_version": "1.145.0",
                "files": {
                    "victoriametrics": "usr/bin/victoria-metrics",
                    "vmagent": "usr/bin/vmagent",
                },
            },
        }


@contextmanager
def served() -> Iterator[Release]:
    release = Release()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            release.requests.append(self.path)
            if release.hanging:
                release.hang.wait(30)
                return
            body = release.files.get(self.path, b"no such file")
            status = release.status.get(self.path, 200 if self.path in release.files else 404)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path in release.breaks_off else body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    release.base = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield release
    finally:
        release.hang.set()
        server.shutdown()
        server.server_close()
        thread.join()
