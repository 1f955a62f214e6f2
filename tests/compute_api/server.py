"""The fake Compute API on the wire: TLS for the API's own names, behind an HTTP proxy (CONNECT) on loopback.

A client needs no change: `api.environment` holds a proxy and a certificate authority that lead it here, and nothing
that leads it to the operator's own account. Any other host is refused, so a test never talks to the Internet.
"""

from __future__ import annotations

import base64
import binascii
import http.server
import json
import os
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from unit import connect_proxy, tls

from compute_api import firewalls, instances
from compute_api.resources import Api, ApiError, Json, Request

LOGIN = "oauth2.googleapis.com"
HOSTS = ("compute.googleapis.com", "www.googleapis.com", LOGIN)
BASE = "/compute/v1/"

UNAUTHENTICATED = {
    "error": {
        "code": 401,
        "message": "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or "
        "other valid authentication credential.",
        "errors": [{"message": "Invalid Credentials", "domain": "global", "reason": "authError"}],
        "status": "UNAUTHENTICATED",
    }
}


@contextmanager
def served(directory: Path) -> Iterator[Api]:
    """The API, for as long as the block lasts. `directory` gets its certificate authority and what clients write."""
    api = Api(directory=directory)
    for collection in [*firewalls.collections(api), *instances.collections(api)]:
        api.register(collection)
    api.put("projects/demo/global/networks/default", {})

    authority = tls.authority("compute-api")
    trusted = directory / "compute-api-ca.pem"
    trusted.write_bytes(authority.pem)
    context = tls.context(directory / "compute-api-shown.pem", tls.server(authority, HOSTS))

    class Handler(_Handler):
        pass

    Handler.api = api
    with connect_proxy.served(dict.fromkeys(HOSTS, Handler), context) as proxy:
        api.refused_hosts = proxy.refused_hosts
        api.environment = _environment(directory, proxy.url, trusted)
        yield api


def service_account(api: Api, name: str = "fleet", project: str = "demo") -> Path:
    """The key file of a service account that the API knows; made here and now."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    email = f"{name}@{project}.iam.gserviceaccount.com"
    api.accounts[email] = key.public_key()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = api.directory / f"{name}.json"
    account = {
        "type": "service_account",
        "project_id": project,
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": email,
        "client_id": "1",
        "token_uri": f"https://{LOGIN}/token",
    }
    file.write_text(json.dumps(account))
    file.chmod(0o600)
    return file


def _environment(directory: Path, proxy: str, trusted: Path) -> dict[str, str]:
    """A whole environment for a subprocess."""
    own = ("GCP_", "GCE_", "GOOGLE_", "CLOUDSDK_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(own) and not name.lower().endswith("_proxy")
    }
    (directory / "gcloud").mkdir(exist_ok=True)
    return kept | {
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "REQUESTS_CA_BUNDLE": str(trusted),
        # No login of the operator's own, and no search for one on a machine that may be at GCP itself.
        "CLOUDSDK_CONFIG": str(directory / "gcloud"),
        "NO_GCE_CHECK": "true",
    }


class _Handler(http.server.BaseHTTPRequestHandler):
    """The API itself."""

    api: Api
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _any(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        host = self.headers.get("Host", "").partition(":")[0]
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        path = url.path.removeprefix(BASE).lstrip("/")
        form = host == LOGIN
        body: Any = dict(urllib.parse.parse_qsl(raw.decode())) if form else json.loads(raw or b"{}")
        with self.api.lock:
            status, answer = self._login(body) if form else self._compute(path, query, body)
            # An assertion is a credential for an hour: not even a failing test shows it.
            self.api.requests.append(Request(self.command, host, path, query, None if form else body, status))
        if not status:
            self.close_connection = True
            return
        encoded = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _any

    def _compute(self, path: str, query: dict[str, str], body: Json) -> tuple[int, Json | str]:
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.api.tokens:
            return 401, UNAUTHENTICATED
        fault = self.api.fault(self.command, path)
        failing = fault.error if fault and fault.in_operation else None
        if fault and not fault.in_operation:
            return fault.status, fault.error.body() if fault.error else fault.text
        if not self.path.startswith(BASE):
            error = ApiError(404, "Not Found")
            return error.status, error.body()
        try:
            return 200, self.api.answer(self.command, path, query, body, failing)
        except ApiError as error:
            return error.status, error.body()

    def _login(self, form: dict[str, str]) -> tuple[int, Json]:
        """RFC 7523: an assertion that the account's key signed is answered with a token."""
        try:
            signed, _, signature = form["assertion"].rpartition(".")
            claims = json.loads(_decoded(signed.partition(".")[2]))
            key = self.api.accounts[claims["iss"]]
            key.verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (KeyError, ValueError, binascii.Error, InvalidSignature):
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        return 200, {"access_token": self.api.token, "expires_in": 3600, "token_type": "Bearer"}

    def log_message(self, *_: object) -> None:
        pass


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
