"""An HTTP proxy (CONNECT) on loopback, with the servers that it leads to inside. Any other host is refused."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from unit import loopback


@dataclass
class Proxy:
    """What it was asked for."""

    url: str = ""
    login: str = ""  # user:password, where it wants one
    hosts: list[str] = field(default_factory=list)
    refused_hosts: list[str] = field(default_factory=list)


@contextmanager
def served(inside: Mapping[str, type[BaseHTTPRequestHandler]], context: ssl.SSLContext) -> Iterator[Proxy]:
    """A proxy that speaks TLS for each of these hosts itself, and has such handlers behind that."""
    proxy = Proxy()

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            host = self.path.rpartition(":")[0]
            login = "Basic " + base64.b64encode(proxy.login.encode()).decode()
            if proxy.login and self.headers.get("Proxy-Authorization") != login:
                self.send_error(407)
            elif host not in inside:
                proxy.refused_hosts.append(host)
                self.send_error(403, f"{host} is not behind this proxy")
            else:
                proxy.hosts.append(host)
                self.send_response(200, "Connection established")
                self.end_headers()
                self.close_connection = True
                with context.wrap_socket(self.connection, server_side=True) as secure:
                    inside[host](secure, self.client_address, self.server)

        def log_message(self, *_: object) -> None:
            pass

    with loopback.listening(Handler) as port:
        proxy.url = f"http://127.0.0.1:{port}"
        yield proxy
