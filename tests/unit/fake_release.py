"""Upstream's release pages on loopback, over TLS with an authority of their own; and they can misbehave.

As at GitHub, a file of the page is a redirect to a signed URL at an object store, which is another host.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import ssl
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from unit import connect_proxy, loopback, tls

VERSION = "1.150.0"
PAGE, OBJECTS = "github.com", "release-assets.githubusercontent.com"
DOWNLOADS = "/VictoriaMetrics/VictoriaMetrics/releases/download"
SIGNATURE = "sig=5igned"
PROGRAMS = {
    "victoria-metrics": ["victoria-metrics-prod"],
    "vmutils": [
        *("vmagent-prod", "vmauth-prod", "vmalert-prod", "vmbackup-prod", "vmrestore-prod", "vmalert-tool-prod"),
        "vmctl-prod",
    ],
}
PIECES = 20  # in which a slow answer comes


def program(name: str) -> bytes:
    return f"#!/bin/sh\necho {name}\n".encode() * 100


def archive(members: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o644  # what an archive says of modes does not count
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def sha256sum(files: Mapping[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()).encode()


@dataclass
class Release:
    """What is served, by path on the page; how it misbehaves, by the same; and what was asked for."""

    directory: Path
    files: dict[str, bytes] = field(default_factory=dict)
    login: str = ""  # user:password, where the page wants one
    status: dict[str, int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)  # of what has a status of its own
    cuts: dict[str, int] = field(default_factory=dict)  # how often it breaks off half-way
    until_cut: dict[str, bytes] = field(default_factory=dict)  # another content until then
    seconds: dict[str, float] = field(default_factory=dict)  # how long it takes
    meeting: threading.Barrier | None = None  # at which each archive waits for the others to be asked for
    resumable: bool = True
    versioned: bool = True
    hanging: bool = False
    hang: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)  # of the page, by path
    objects: list[tuple[str, dict[str, str]]] = field(
        default_factory=list
    )  # what the store was asked for: path, headers
    address: str = ""  # of the page, where no proxy leads to it
    objects_address: str = ""
    context: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    servers: tuple[type[BaseHTTPRequestHandler], ...] = ()

    @property
    def authority(self) -> Path:
        return self.directory / "release-ca.pem"

    def add_victoriametrics(self, version: str, programs: Mapping[str, bytes] | None = None) -> None:
        """As its Makefile's release-victoria-metrics-goos-goarch and release-vmutils-goos-goarch."""
        for kind, names in PROGRAMS.items():
            stem = f"{kind}-linux-amd64-v{version}"
            members = {name: (programs or {}).get(name, program(name)) for name in names}
            files = {f"{stem}.tar.gz": archive(members)}
            folder = f"{DOWNLOADS}/v{version}"
            self.files[f"{folder}/{stem}.tar.gz"] = files[f"{stem}.tar.gz"]
            self.files[f"{folder}/{stem}_checksums.txt"] = sha256sum({**files, **members})

    def add_prometheus(self, name: str, version: str, programs: Mapping[str, bytes]) -> None:
        """As promu's `tarball` and `checksum`."""
        stem = f"{name}-{version}.linux-amd64"
        content = archive({f"{stem}/{member}": content for member, content in programs.items()})
        folder = f"/prometheus/{name}/releases/download/v{version}"
        self.files[f"{folder}/{stem}.tar.gz"] = content
        others = {f"{name}-{version}.darwin-arm64.tar.gz": b"another"}
        self.files[f"{folder}/sha256sums.txt"] = sha256sum({**others, f"{stem}.tar.gz": content})

    def path(self, kind: str) -> str:
        """The one served path that ends so."""
        (found,) = [path for path in self.files if path.endswith(kind)]
        return found

    def url(self, kind: str) -> str:
        return self.address + self.path(kind)

    def bundle(self, login: str = "") -> dict[str, object]:
        """The bundle that describes this server, in the form of group_vars."""
        base = self.address.replace("://", f"://{login}@") if login else self.address
        stem = base + DOWNLOADS + "/v{version}/%s-linux-{goarch}-v{version}"
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

    def proxy(self) -> AbstractContextManager[connect_proxy.Proxy]:
        """A proxy that has this page and its object store at their names in the world."""
        return connect_proxy.served(dict(zip((PAGE, OBJECTS), self.servers, strict=True)), self.context)


@contextmanager
def served(directory: Path) -> Iterator[Release]:
    release = Release(directory)
    release.add_victoriametrics(VERSION)
    authority = tls.authority("release")
    release.authority.write_bytes(authority.pem)
    shown = tls.server(authority, ["127.0.0.1", "localhost", PAGE, OBJECTS])
    release.context = tls.context(directory / "release-shown.pem", shown)

    class Page(_Page):
        pass

    class Objects(_Objects):
        pass

    Page.release = Objects.release = release
    release.servers = (Page, Objects)
    with ExitStack() as stack:
        page, objects = (stack.enter_context(loopback.listening(each, release.context)) for each in release.servers)
        stack.callback(release.hang.set)
        release.address = f"https://127.0.0.1:{page}"
        release.objects_address = f"https://localhost:{objects}"
        yield release


class _Quiet(BaseHTTPRequestHandler):
    release: Release

    def head(self, status: int, headers: Mapping[str, str] | None = None, length: int = 0) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Page(_Quiet):
    def do_GET(self) -> None:
        release = self.release
        release.requests.append(self.path)
        login = "Basic " + base64.b64encode(release.login.encode()).decode()
        if release.hanging:
            release.hang.wait(30)
        elif release.login and self.headers.get("Authorization") != login:
            self.head(401, {"WWW-Authenticate": 'Basic realm="mirror"'})
        elif self.path in release.status:
            self.head(release.status[self.path], release.headers)
        elif self.path in release.files:
            objects = f"https://{OBJECTS}" if self.headers["Host"] == PAGE else release.objects_address
            self.head(302, {"Location": f"{objects}{self.path}?{SIGNATURE}"})
        else:
            self.head(404)


class _Objects(_Quiet):
    def do_GET(self) -> None:
        release = self.release
        path, _, signature = self.path.partition("?")
        release.objects.append((path, dict(self.headers)))
        if signature != SIGNATURE or "Authorization" in self.headers:
            self.head(400)  # as object stores say: one way to log in, not two
            return
        if release.meeting and path.endswith(".gz"):
            release.meeting.wait(30)
        cut = release.cuts.get(path, 0) > 0
        body = release.until_cut.get(path, release.files[path]) if cut else release.files[path]
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        whole = not start or not release.resumable or self.headers.get("If-Range", etag) != etag
        begin = 0 if whole else int(start[1])  # type: ignore[index]
        headers = {"ETag": etag} if release.versioned else {}
        if not whole:
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        self.head(200 if whole else 206, headers, len(body) - begin)
        end = len(body)
        if cut:
            release.cuts[path] -= 1
            end = (begin + end) // 2
        size = max(1, (end - begin) // PIECES)
        for piece in range(begin, end, size):
            self.wfile.write(body[piece : min(piece + size, end)])
            time.sleep(release.seconds.get(path, 0.0) / PIECES)
