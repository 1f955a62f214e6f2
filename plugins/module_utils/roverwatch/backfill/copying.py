"""The robot's half of a backfill: which hubs it writes to, what waits for them, and the copy of a part of its history.

A chunk is exported from the robot's VictoriaMetrics into a file on the disk, compressed, and sent to the hub's gateway
from there: an export that waits for a slow network would hold a query of a small database for that long.

It is JSON, a series on each line. VictoriaMetrics' native format is no option: it has whole blocks, of a day and more,
for as little as a minute of them.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import re
import ssl
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..common.retry import ATTEMPTS, Again, patiently
from ..hub import gateway, uplink
from ..query import local_database
from ..query.probe import describe, is_ready
from ..service import records
from . import remote_write, sample_counts
from .gaps import Chunk

VMAGENT = "roverwatch-vmagent"
SPOOL = Path("/var/lib/roverwatch")
IMPORT_PATH = "/api/v1/import"
WRITE_PATH = "/api/v1/write"

QUEUE_TIMEOUT_SECONDS = 5.0
GATEWAY_TIMEOUT_SECONDS = 30.0
ANSWER_BYTES = 10_000
# What is sent without a pause. A tenth of a second of the default speed is lost in it.
SENT_BYTES = 16 * 1024

# VictoriaMetrics takes lines of 10 MB.
SAMPLES_PER_LINE = 10_000
GZIP = 16 + zlib.MAX_WBITS
GZIPPED = {"Content-Encoding": "gzip"}

TOO_MANY_REQUESTS = 429
REDEPLOY = "ansible-playbook playbooks/site.yml --limit {robot}"
REDEPLOY_BOTH = "ansible-playbook playbooks/site.yml --limit {robot},{hub}"

_PLAIN_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class CopyError(Exception):
    """The copy cannot go on; the text says which URL, why, and what to do."""


@dataclass(frozen=True)
class Robot:
    """What is deployed on this robot."""

    name: str
    base_url: str
    vmagent_ready_url: str
    hubs: Sequence[uplink.Hub]

    @classmethod
    def read(cls, name: str, directory: Path = records.DIRECTORY) -> Robot:
        """From services.d; `name` is that in the inventory. Raises CopyError or records.RecordError."""
        redeploy = REDEPLOY.format(robot=name)
        vmagent = records.find(VMAGENT, records.read(directory))
        if not vmagent:
            raise CopyError(f"{VMAGENT} is not deployed here: {redeploy}")
        try:
            hubs = uplink.read(vmagent.hubs)
        except (KeyError, TypeError) as error:
            raise CopyError(f"{directory / VMAGENT}.json does not say what a hub is: {redeploy}") from error
        return cls(name, records.database_url(directory), vmagent.ready_url, hubs)

    def hub(self, url: str) -> uplink.Hub:
        """The hub with this URL. Raises CopyError if there is none any more."""
        found = next((hub for hub in self.hubs if hub.url == url), None)
        if not found:
            raise CopyError(f"{url} is a hub of this robot no more: run the backfill again")
        return found

    def describe_hubs(self) -> list[dict[str, Any]]:
        """Name and URL of each hub, and how much waits for it: None if vmagent does not say."""
        queues = uplink.queues(self.vmagent_ready_url, QUEUE_TIMEOUT_SECONDS)
        pending = {position: queue.pending_bytes for position, queue in queues.items()}
        return [{"name": hub.name, "url": hub.url, "pending_bytes": pending.get(hub.position)} for hub in self.hubs]


@dataclass
class Progress:
    """How many chunks were copied, in the order in which they were given, and how many bytes that took to send."""

    chunks: int = 0
    sent_bytes: int = 0


class Pace:
    """No more than so many bytes a second."""

    def __init__(self, bytes_per_second: int) -> None:
        self.bytes_per_second = bytes_per_second
        self.due = 0.0

    def wait(self, size: int) -> None:
        """Wait for as long as this may take to send. Time in which nothing was sent is not made up for."""
        now = time.monotonic()
        self.due = max(self.due, now) + size / self.bytes_per_second
        time.sleep(self.due - now)


class PacedFile:
    """What http.client reads a body from."""

    def __init__(self, file: IO[bytes], pace: Pace) -> None:
        self.file = file
        self.pace = pace

    def read(self, size: int = SENT_BYTES) -> bytes:
        block = self.file.read(min(size, SENT_BYTES))
        self.pace.wait(len(block))
        return block


class Gateway:
    """A hub's gateway. One connection is kept, and made anew when it broke. Raises CopyError."""

    def __init__(self, robot: Robot, hub: uplink.Hub, pace: Pace) -> None:
        self.url = hub.url
        self.pace = pace
        self.redeploy = REDEPLOY_BOTH.format(robot=robot.name, hub=hub.name)
        try:
            self.host, self.port = gateway.endpoint(hub.url)
            self.context = gateway.trusting(Path(hub.ca_file).read_text() if hub.ca_file else None)
            password = Path(hub.password_file).read_text().strip()
        except ssl.SSLError as error:
            raise CopyError(f"{hub.ca_file} holds no certificate authority: {self.redeploy}") from error
        except (OSError, ValueError) as error:
            raise CopyError(f"{hub.url} cannot be asked, {error}: {self.redeploy}") from error
        token = base64.b64encode(f"{hub.username}:{password}".encode()).decode()
        self.headers = {"Authorization": f"Basic {token}"}
        self.connection: http.client.HTTPSConnection | None = None

    def close(self) -> None:
        if self.connection:
            self.connection.close()
            self.connection = None

    def knock(self) -> None:
        """Be refused, if at all, with a body so small that the answer gets through."""
        self.send(IMPORT_PATH, io.BytesIO(), {})

    def send(self, path: str, body: IO[bytes], headers: Mapping[str, str]) -> int:
        """POST a file from its beginning, again if that may help. Returns its size."""
        size = body.seek(0, io.SEEK_END)

        def attempt() -> None:
            body.seek(0)
            try:
                status, text = self._post(path, PacedFile(body, self.pace), {**headers, "Content-Length": str(size)})
            except ssl.SSLCertVerificationError as error:
                raise CopyError(
                    f"{self.url} has a certificate that this robot refuses ({error.verify_message}): {self.redeploy}"
                ) from error
            except (OSError, UnicodeError, http.client.HTTPException) as error:
                self.close()
                raise Again(gateway.fault(error).reason) from error
            if not is_ready(status):
                self.close()
                self._refuse(status, text)

        try:
            patiently(attempt)
        except Again as error:
            raise CopyError(
                f"{self.url} did not take the samples, {ATTEMPTS} times: {error}. See the robot's network and the hub "
                "(playbooks/health.yml), then run this again: it goes on where it stopped"
            ) from error
        return size

    def _post(self, path: str, body: PacedFile, headers: Mapping[str, str]) -> tuple[int, str]:
        if not self.connection:
            fresh = http.client.HTTPSConnection(
                self.host, self.port, timeout=GATEWAY_TIMEOUT_SECONDS, context=self.context
            )
            fresh.connect()
            self.connection = fresh
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # Who refuses may not read all of it; what has arrived then is the answer that says why.
            self.connection.request("POST", path, body, {**self.headers, **headers})
        answer = self.connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES).decode(errors="replace")

    def _refuse(self, status: int, text: str) -> None:
        reason = describe(status, text)
        if status == TOO_MANY_REQUESTS or status >= 500:
            raise Again(reason)
        # The gateway may say which credential it was.
        known = {401: "HTTP 401, it does not know this robot's password", 403: "HTTP 403, this robot may not write"}
        raise CopyError(f"{self.url} refuses the samples: {known.get(status, reason)}: {self.redeploy}")


class Selectors:
    """What of a robot's history an export asks for."""

    def __init__(self, robot: Robot, chunks: Sequence[Chunk]) -> None:
        self.everything = sample_counts.selector(robot.name)
        self.exact: dict[str, str] = {}
        partial = [chunk for chunk in chunks if chunk.series is not None]
        if partial:
            times = {"start": min(chunk.start for chunk in partial), "end": max(chunk.end for chunk in partial)}
            url = f"{robot.base_url}/api/v1/series"
            for labels in local_database.ask_json(url, {"match[]": self.everything, **times}):
                self.exact[sample_counts.series_hash(labels)] = exact_selector(labels)

    def of(self, chunk: Chunk) -> list[str]:
        """Selectors of the chunk's series."""
        if chunk.series is None or not self.exact.keys() >= set(chunk.series):
            return [self.everything]
        return [self.exact[key] for key in chunk.series]


def exact_selector(labels: Mapping[str, str]) -> str:
    """A selector of the series with these labels. It leaves out a label whose name PromQL cannot write."""
    pairs = (
        f"{name}={sample_counts.quote(value)}" for name, value in sorted(labels.items()) if _PLAIN_LABEL.fullmatch(name)
    )
    return f"{{{','.join(pairs)}}}"


def copy(robot: Robot, target: Gateway, chunks: Sequence[Chunk], seconds: float, progress: Progress) -> None:
    """Copy chunks for about so many seconds, one at least. `progress` is kept, also when this raises.

    Raises CopyError or records.RecordError.
    """
    deadline = time.monotonic() + seconds
    target.knock()
    selectors = Selectors(robot, chunks)
    for chunk in chunks:
        with tempfile.TemporaryFile(dir=SPOOL) as file:
            stale = export(robot, selectors.of(chunk), chunk, file)
            progress.sent_bytes += target.send(IMPORT_PATH, file, GZIPPED)
        if stale:
            body = io.BytesIO(remote_write.stale_markers(stale))
            progress.sent_bytes += target.send(WRITE_PATH, body, remote_write.HEADERS)
        progress.chunks += 1
        if time.monotonic() >= deadline:
            break


Stale = list[tuple[Mapping[str, str], Sequence[int]]]


def export(robot: Robot, selectors: Sequence[str], chunk: Chunk, file: IO[bytes]) -> Stale:
    """Write these series to a file, gzipped. Returns the markers of staleness among them, which JSON cannot say."""

    def spool(stream: local_database.Stream) -> Stale:
        compressor = zlib.compressobj(wbits=GZIP)
        stale: Stale = []
        file.seek(0)
        file.truncate()
        for line in stream:
            if b"null" in line:
                series = json.loads(line)
                pairs = zip(series["timestamps"], series["values"])
                stale.append((series["metric"], [timestamp for timestamp, value in pairs if value is None]))
            _write(file, compressor.compress(line))
        _write(file, compressor.flush())
        return [(labels, timestamps) for labels, timestamps in stale if timestamps]

    # The start of an export is a part of it.
    times = {"start": f"{chunk.start}.001", "end": chunk.end, "max_rows_per_line": SAMPLES_PER_LINE}
    return local_database.ask(f"{robot.base_url}/api/v1/export", {"match[]": selectors, **times}, spool)


def _write(file: IO[bytes], data: bytes) -> None:
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise CopyError(f"{SPOOL} does not take the copy on its way: {error.strerror}: make room there") from error
