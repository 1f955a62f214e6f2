"""A store that speaks as much of S3 as vmbackup and vmrestore need, on loopback."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape


@dataclass
class Store:
    """Objects by `/bucket/key`, and who asked for them."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    authorizations: set[str] = field(default_factory=set)
    copied: int = 0

    def listing(self, bucket: str, prefix: str) -> str:
        found = [key[len(bucket) + 1 :] for key in sorted(self.objects) if key.startswith(f"{bucket}/{prefix}")]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[f'{bucket}/{key}'])}</Size></Contents>"
            for key in found
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"


@contextmanager
def served() -> Iterator[Store]:
    store = Store()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def asked(self) -> tuple[str, dict[str, str]]:
            store.authorizations.add(self.headers.get("Authorization", ""))
            url = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
            return urllib.parse.unquote(url.path), {name: values[0] for name, values in query.items()}

        def body(self) -> bytes:
            if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            whole = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return whole

        def do_PUT(self) -> None:
            path, query = self.asked()
            body = self.body()
            source = urllib.parse.unquote(self.headers.get("x-amz-copy-source", ""))
            if source:
                store.copied += 1
                store.objects[path] = store.objects["/" + source.lstrip("/")]
                self.answer(200, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
            elif "partNumber" in query:
                store.uploads[path][int(query["partNumber"])] = body
                self.answer(200, ETag='"e"')
            else:
                store.objects[path] = body
                self.answer(200, ETag='"e"')

        def do_POST(self) -> None:
            path, query = self.asked()
            self.body()
            if "uploads" in query:
                store.uploads[path] = {}
                self.answer(
                    200, b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
                )
            else:
                parts = store.uploads.pop(path)
                store.objects[path] = b"".join(parts[number] for number in sorted(parts))
                self.answer(200, b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")

        def do_GET(self) -> None:
            path, query = self.asked()
            if "list-type" in query:
                self.answer(200, store.listing(path.rstrip("/"), query.get("prefix", "")).encode())
            elif path in store.objects:
                self.answer(200, store.objects[path])
            else:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

        def do_HEAD(self) -> None:
            path, _ = self.asked()
            self.answer(200 if path in store.objects else 404, length=len(store.objects.get(path, b"")))

        def do_DELETE(self) -> None:
            path, _ = self.asked()
            store.objects.pop(path, None)
            self.answer(204)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    store.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield store
    server.shutdown()
    server.server_close()
