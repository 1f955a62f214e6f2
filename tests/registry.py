"""A real registry on loopback, with something in front of it that can misbehave, and an engine that mirrors it.

The registry is Debian's docker-registry. Images are pushed over its HTTP API, so that a test decides what is in their
configuration. What the front lets through, and what it was asked for, is a test's to say.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from unit.binaries import eventually, free_port

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

# What a front does with a request instead of passing it on: a status with headers and body.
Refusal = tuple[int, dict[str, str], bytes]


def refusal(status: int, code: str, message: str, **headers: str) -> Refusal:
    """An error in the form of the registry's API."""
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()
    return status, {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}, body


class Registry:
    """The registry; `address` is that of the front, which is what clients are given."""

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self.address = ""
        self.requests: list[str] = []
        self.refuse: Callable[[str], Refusal | None] = lambda path: None
        self.pause: Callable[[str], float] = lambda path: 0.0  # seconds before an answer, and between its blocks
        self.cut: Callable[[str], bool] = lambda path: False  # break off half-way

    def push(
        self, name: str, tag: str, layer: bytes = b"", arch: str = "amd64", config: Mapping[str, Any] | None = None
    ) -> str:
        """Put an image of one layer (a tar) under a tag; the digest of its manifest. It has no labels by itself."""
        layer = layer or small_layer(f"{name}:{tag} {arch}")
        packed = gzip.compress(layer, 1, mtime=0)
        described: dict[str, Any] = {
            "architecture": arch,
            "os": "linux",
            "config": {"Cmd": ["sh"]} if config is None else config,
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
        blob = json.dumps(described).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **self._blob(name, blob)},
            "layers": [{"mediaType": LAYER, **self._blob(name, packed)}],
        }
        return self._put(name, tag, MANIFEST, manifest)

    def push_index(self, name: str, tag: str, digests: Mapping[str, str]) -> str:
        """Put a manifest list under a tag, of manifests by architecture; its digest."""
        listed = [
            {
                "mediaType": MANIFEST,
                "digest": digest,
                "size": len(self._ask("GET", f"/v2/{name}/manifests/{digest}", headers={"Accept": MANIFEST})[2]),
                "platform": {"architecture": arch, "os": "linux"},
            }
            for arch, digest in digests.items()
        ]
        return self._put(name, tag, INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed})

    def _put(self, name: str, tag: str, kind: str, manifest: Mapping[str, Any]) -> str:
        body = json.dumps(manifest).encode()
        status, _, answer = self._ask("PUT", f"/v2/{name}/manifests/{tag}", body, {"Content-Type": kind})
        assert status == 201, answer
        return _digest(body)

    def _blob(self, name: str, content: bytes) -> dict[str, Any]:
        status, headers, answer = self._ask("POST", f"/v2/{name}/blobs/uploads/")
        assert status == 202, answer
        where = re.sub(r"^http://[^/]+", "", headers["Location"])
        where += f"{'&' if '?' in where else '?'}digest={_digest(content)}"
        status, _, answer = self._ask("PUT", where, content, {"Content-Type": "application/octet-stream"})
        assert status == 201, answer
        return {"digest": _digest(content), "size": len(content)}

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=30)
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        answer = response.status, dict(response.getheaders()), response.read()
        connection.close()
        return answer


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def small_layer(text: str) -> bytes:
    """A tar with one file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("content")
        member.size = len(text.encode())
        tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


class _Front(BaseHTTPRequestHandler):
    registry: Registry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        registry = self.registry
        registry.requests.append(f"{self.command} {self.path}")
        time.sleep(registry.pause(self.path))
        refused = registry.refuse(self.path)
        if refused:
            self._answer(*refused)
            return
        # skopeo has a line for each type that it accepts.
        lines = {name.title(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        kept = {name: value for name, value in lines.items() if name not in {"Host", "Connection"}}
        status, headers, body = registry._ask(self.command, self.path, headers={**kept, "Host": registry.address})
        dropped = {"connection", "transfer-encoding", "date"}
        self._answer(status, {k: v for k, v in headers.items() if k.lower() not in dropped}, body)

    do_HEAD = do_GET

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        block = max(1, len(body) // 20)
        for start in range(0, len(body), block):
            if self.registry.cut(self.path) and start >= len(body) // 2:
                self.close_connection = True
                return
            self.wfile.write(body[start : start + block])
            time.sleep(self.registry.pause(self.path))

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # a client that went away


@contextmanager
def served() -> Iterator[Registry]:
    """A registry for as long as the block lasts. Needs docker-registry on PATH."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        config = Path(folder, "config.yml")
        settings = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": f"{folder}/data"}},
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        config.write_text(json.dumps(settings))
        process = subprocess.Popen(
            ["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        registry = Registry(port)
        handler = type("Front", (_Front,), {"registry": registry})
        server = _Server(("127.0.0.1", 0), handler)
        registry.address = f"127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

        def answers() -> bool:
            try:
                return registry._ask("GET", "/v2/")[0] == 200
            except OSError:
                return False

        try:
            eventually(answers, "docker-registry does not answer")
            yield registry
        finally:
            server.shutdown()
            server.server_close()
            process.terminate()
            process.wait(30)


@contextmanager
def engine(registry: Registry) -> Iterator[str]:
    """A second engine that pulls from the registry as a user's does from its own; what DOCKER_HOST names it by.

    Root only. Its containers reach nothing, it gives a layer up at the first failure, and leaves nothing behind.
    """
    folder = Path(tempfile.mkdtemp(prefix="rv-"))  # a socket's path is short
    host = f"unix://{folder}/d.sock"
    command = ["dockerd", f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--host={host}"]
    # With --bridge=none it would remove the bridge of the machine's own engine.
    bridge = f"rv{free_port()}"
    command += [f"--pidfile={folder}/pid", f"--bridge={bridge}", "--iptables=false", "--max-download-attempts=1"]
    command += [f"--registry-mirror=http://{registry.address}"]
    _ip("link", "add", bridge, "type", "bridge")
    _ip("address", "add", "198.51.100.1/30", "dev", bridge)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    info = ["docker", "--host", host, "info"]
    try:
        eventually(
            lambda: process.poll() is None and subprocess.run(info, capture_output=True, check=False).returncode == 0,
            f"the second engine does not answer: {(folder / 'log').read_text()[-2000:]}",
        )
        yield host
    finally:
        process.terminate()
        process.wait(60)
        _ip("link", "delete", bridge)
        shutil.rmtree(folder)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
