"""A robot's way to its hubs: whether each takes what the robot sends, and what waits for it.

The robot's dead zone is told from everything else here: nobody answers at the hub, and the queue grows.
"""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..common.sizes import from_bytes
from ..query import promql
from ..query.probe import describe, http_get, is_ready
from . import gateway

OK = "ok"
CREDENTIAL = "credential"
STATUS = "status"
CONFIGURATION = "configuration"

UNAUTHORIZED = 401
# vmagent numbers its URLs from 1: the robot's own history, then the hubs.
FIRST_HUB = 2

_METRIC = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_POSITION = re.compile(r'(?:url="|/)(\d+)[:_][^/"]*"')

# What waits is not less than ten minutes ago, was never gone meanwhile, and does not get less: a queue that is being
# sent, after a dead zone, shrinks.
_WAITING = "vmagent_remotewrite_pending_data_bytes"
STUCK_QUERY = (
    f"({_WAITING} - {_WAITING} offset 10m > 0) "
    f"and (min_over_time({_WAITING}[10m]) > 0) and (delta({_WAITING}[2m]) >= 0)"
)
# Blocks that a hub would not have, and what did not fit into the queue.
DROPPED_QUERY = (
    "increase(vmagent_remotewrite_packets_dropped_total[15m]) > 0 "
    "or increase(vm_persistentqueue_blocks_dropped_total[15m]) > 0"
)


@dataclass(frozen=True)
class Hub:
    """A hub that vmagent was deployed to write to; `position` is that of its URL among vmagent's."""

    position: int
    name: str
    url: str
    username: str
    password_file: str
    ca_file: str | None


@dataclass(frozen=True)
class Answer:
    """What a hub's gateway says to the robot's credential.

    `kind` is `ok`, `credential` (refused), `status` (any other HTTP status), `configuration` (the robot's own files),
    or a kind of gateway's faults. `reason` never has the password in it.
    """

    kind: str
    reason: str

    @property
    def reachable(self) -> bool:
        """Whether the gateway answered, over a connection that was verified."""
        return self.kind in (OK, CREDENTIAL, STATUS)


class Queue(NamedTuple):
    """What vmagent has for one hub. `pending_bytes` wait; blocks were dropped since vmagent started."""

    pending_bytes: int
    blocks_refused: int
    blocks_overflowed: int


@dataclass(frozen=True)
class Trend:
    """What the last minutes show, by the position of the hub; empty where the robot's history cannot be asked."""

    stuck: Mapping[int, float]
    dropped: Mapping[int, float]


NO_TREND = Trend({}, {})


def read(entries: list[dict[str, Any]]) -> list[Hub]:
    """The hubs as services.d lists them. Raises TypeError or KeyError if an entry is none."""
    return [
        Hub(
            position=position,
            name=entry.get("name") or entry["url"],
            url=entry["url"],
            username=entry["username"],
            password_file=entry["password_file"],
            ca_file=entry.get("ca_file"),
        )
        for position, entry in enumerate(entries, FIRST_HUB)
    ]


def ask(hub: Hub, timeout_seconds: float) -> Answer:
    """Offer the hub an empty write, with the credential and the authorities that vmagent uses."""
    try:
        password = Path(hub.password_file).read_text().strip()
        context = gateway.trusting(Path(hub.ca_file).read_text() if hub.ca_file else None)
    except ssl.SSLError:
        return Answer(CONFIGURATION, f"{hub.ca_file} holds no certificate authority")
    except OSError as error:
        return Answer(CONFIGURATION, f"{error.filename}: {error.strerror}")
    try:
        status, body = gateway.offer(hub.url, hub.username, password, context, timeout_seconds)
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        fault = gateway.fault(error)
        return Answer(fault.kind, fault.reason)
    if status == UNAUTHORIZED:
        return Answer(CREDENTIAL, f"HTTP {status}")  # the gateway may say which credential it was
    return Answer(OK if is_ready(status) else STATUS, describe(status, body))


def late(timeout_seconds: float) -> Answer:
    """The answer of a hub that gave none by then."""
    return Answer(gateway.TIMEOUT, f"no answer in {timeout_seconds:g} s")


def queues(ready_url: str, timeout_seconds: float) -> dict[int, Queue]:
    """vmagent's queues by position, from its metrics; none if it does not answer, which its readiness says."""
    base_url, _, _ = ready_url.rpartition("/")
    status, text = http_get(f"{base_url}/metrics", timeout_seconds)
    return parse_queues(text) if is_ready(status) else {}


def parse_queues(metrics: str) -> dict[int, Queue]:
    """The same from the text of the metrics."""
    values: dict[str, dict[int, int]] = {}
    for name, labels, value in _METRIC.findall(metrics):
        position = _POSITION.search(labels)
        if position:
            values.setdefault(name, {})[int(position[1])] = int(float(value))
    refused = values.get("vmagent_remotewrite_packets_dropped_total", {})
    overflowed = values.get("vm_persistentqueue_blocks_dropped_total", {})
    return {
        position: Queue(pending, refused.get(position, 0), overflowed.get(position, 0))
        for position, pending in values.get(_WAITING, {}).items()
    }


def trend(base_url: str, timeout_seconds: float) -> Trend:
    """What the robot's own history says of the queues."""
    try:
        return Trend(
            *(
                {_position(sample.labels): sample.value for sample in promql.query(base_url, query, timeout_seconds)}
                for query in (STUCK_QUERY, DROPPED_QUERY)
            )
        )
    except promql.QueryError:
        return NO_TREND  # its readiness says why


def judge(host: str, hub: Hub, answer: Answer, queue: Queue | None, trend: Trend) -> list[tuple[str, str]]:
    """What is wrong, and the remedy of each."""
    waits = f"; {from_bytes(queue.pending_bytes)} wait in the robot's queue" if queue and queue.pending_bytes else ""
    both = f"ansible-playbook playbooks/site.yml --limit {host},{hub.name}"
    journal = f"on {host}: journalctl -u roverwatch-vmagent -n 50"
    found = []
    if answer.kind in gateway.NO_ANSWER:
        found.append(
            (
                f"{hub.url} cannot be reached: {answer.reason}{waits}",
                f"the robot's network, or the hub: ansible-playbook playbooks/health.yml --limit {hub.name}. vmagent "
                "sends what waits when the hub answers again",
            )
        )
    elif answer.kind == CREDENTIAL:
        found.append((f"{hub.url} refuses this robot's credential ({answer.reason}){waits}", both))
    elif answer.kind == STATUS:
        remedy = f"on {hub.name}: systemctl status roverwatch-victoriametrics roverwatch-vmauth; then {both}"
        found.append((f"{hub.url} takes no samples: {answer.reason}{waits}", remedy))
    elif answer.kind == CONFIGURATION:
        remedy = f"ansible-playbook playbooks/site.yml --limit {host}"
        found.append((f"{hub.url} cannot be asked: {answer.reason}", remedy))
    elif answer.kind == gateway.TLS:
        found.append((f"{hub.url} has no TLS connection with this robot: {answer.reason}{waits}", both))
    elif answer.kind != OK:
        found.append((f"{hub.url} has a certificate that this robot refuses: {answer.reason}{waits}", both))
    elif hub.position in trend.stuck:
        grown = from_bytes(trend.stuck[hub.position])
        remedy = f"{journal}; if it sends at vmagent_hub_rate_limit all the time, raise that"
        what = f"{hub.url} can be reached, but the queue for it has grown by {grown} in ten minutes{waits}"
        found.append((what, remedy))
    if hub.position in trend.dropped:
        remedy = f"{journal} says why; for a queue that was full, raise vmagent_queue_max"
        found.append((f"{hub.url} will never have some samples: vmagent dropped them in the last 15 minutes", remedy))
    return found


def as_dict(hub: Hub, answer: Answer, queue: Queue | None) -> dict[str, Any]:
    """Plain data for the module's result; figures of the queue are None if vmagent did not say."""
    return {
        "name": hub.name,
        "url": hub.url,
        "reachable": answer.reachable,
        "accepted": answer.kind == OK,
        "kind": answer.kind,
        "reason": answer.reason,
        "pending_bytes": queue.pending_bytes if queue else None,
        "blocks_refused": queue.blocks_refused if queue else None,
        "blocks_overflowed": queue.blocks_overflowed if queue else None,
    }


def _position(labels: Mapping[str, str]) -> int:
    """Of a queue, from its label `url` (2:secret-url) or `path` (…/2_1C39D330F1670079)."""
    return int(re.split("[:_]", labels.get("url") or Path(labels["path"]).name)[0])
