"""A robot's way to its hubs, with a real gateway, a real vmagent and a real history."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import binaries
import pytest
import tls
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.hub import gateway, uplink

PASSWORD = "0f3c" * 16
LONG, SHORT = 30.0, 0.5


def post(url: str, body: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, body.encode(), method="POST"), timeout=LONG) as answer:
        assert answer.status < 300


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with binaries.victoriametrics(tmp_path_factory.mktemp("history")) as url:
        yield url


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, history: str) -> Iterator[dict[str, Any]]:
    """The entry of a hub in services.d, with a real vmauth there."""
    directory = tmp_path_factory.mktemp("gateway")
    authority = tls.authority()
    pair = tls.server(authority, ["localhost"])
    users = [
        {
            "username": "robot-1",
            "password": PASSWORD,
            "url_map": [{"src_paths": ["/api/v1/write"], "url_prefix": f"{history}/?extra_label=robot=robot-1"}],
        }
    ]
    texts = {
        "auth.yml": json.dumps({"users": users}),
        "cert.pem": pair.pem.decode(),
        "key.pem": pair.key_pem().decode(),
        "ca.pem": authority.pem.decode(),
        "password": PASSWORD,
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
    port, plain = binaries.free_port(), binaries.free_port()
    arguments = [
        # Of two addresses the first is without TLS, to see when it is up.
        f"-httpListenAddr=127.0.0.1:{plain}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-tls=false,true",
        f'-tlsCertFile="",{directory / "cert.pem"}',
        f'-tlsKeyFile="",{directory / "key.pem"}',
        f"-auth.config={directory / 'auth.yml'}",
    ]
    with binaries.running("vmauth", arguments, f"http://127.0.0.1:{plain}/health"):
        yield {
            "name": "hub-1",
            "url": f"https://localhost:{port}",
            "username": "robot-1",
            "password_file": str(directory / "password"),
            "ca_file": str(directory / "ca.pem"),
        }


def hub(entry: dict[str, Any], **different: Any) -> uplink.Hub:
    (found,) = uplink.read([entry | different])
    return found


def test_a_good_credential(deployed: dict[str, Any]) -> None:
    answer = uplink.ask(hub(deployed), LONG)
    assert (answer.kind, answer.reachable, answer.reason) == (uplink.OK, True, "HTTP 204")


def test_a_password_file_may_end_in_a_newline(deployed: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    assert uplink.ask(hub(deployed, password_file=str(tmp_path / "password")), LONG).kind == uplink.OK


def test_a_credential_that_is_refused(deployed: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong")
    for different in ({"password_file": str(tmp_path / "password")}, {"username": "robot-2"}):
        answer = uplink.ask(hub(deployed, **different), LONG)
        assert (answer.kind, answer.reachable, answer.reason) == (uplink.CREDENTIAL, True, "HTTP 401")


def test_an_authority_that_did_not_sign_it(deployed: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(tls.authority().pem)
    answer = uplink.ask(hub(deployed, ca_file=str(tmp_path / "ca.pem")), LONG)
    assert (answer.kind, answer.reachable) == (gateway.AUTHORITY, False)
    assert uplink.ask(hub(deployed, ca_file=None), LONG).kind == gateway.AUTHORITY


def test_files_that_are_missing_or_damaged(deployed: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for different in (
        {"password_file": str(tmp_path / "gone")},
        {"ca_file": str(tmp_path / "gone")},
        {"ca_file": str(tmp_path / "ca.pem")},
    ):
        answer = uplink.ask(hub(deployed, **different), LONG)
        assert (answer.kind, answer.reachable) == (uplink.CONFIGURATION, False)
        assert str(tmp_path) in answer.reason


def test_a_gateway_that_says_the_password_in_its_answer(tmp_path: Path) -> None:
    # vmauth does, if it is told to log credentials that it refuses.
    authority = tls.authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "password").write_text(PASSWORD)
    with tls.serving(
        tmp_path,
        tls.server(authority, ["localhost"]),
        answer=lambda _, credential: (401, f"{credential} {PASSWORD}".encode()),
    ) as port:
        entry = {"url": f"https://localhost:{port}", "username": "robot-1"}
        files = {"password_file": str(tmp_path / "password"), "ca_file": str(tmp_path / "ca.pem")}
        answer = uplink.ask(hub(entry | files), LONG)
    assert answer == uplink.Answer(uplink.CREDENTIAL, "HTTP 401")


def test_a_hub_whose_database_is_gone(tmp_path: Path, deployed: dict[str, Any]) -> None:
    authority = tls.authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with tls.serving(
        tmp_path, tls.server(authority, ["localhost"]), answer=lambda *_: (502, b"all backends are down")
    ) as port:
        answer = uplink.ask(hub(deployed, url=f"https://localhost:{port}", ca_file=str(tmp_path / "ca.pem")), LONG)
    assert answer == uplink.Answer(uplink.STATUS, "HTTP 502: all backends are down")


def test_a_dead_zone(deployed: dict[str, Any], silent_url: str) -> None:
    hanging = silent_url.replace("http:", "https:").removesuffix("/health")
    refusing = f"https://127.0.0.1:{binaries.free_port()}"
    for url, kind, wait in (
        (hanging, gateway.TIMEOUT, SHORT),
        (refusing, gateway.REFUSED, LONG),
        ("https://nosuch.invalid:8427", gateway.NAME, LONG),
    ):
        answer = uplink.ask(hub(deployed, url=url), wait)
        assert (answer.kind, answer.reachable) == (kind, False)
        assert kind in gateway.NO_ANSWER


def test_what_waits_is_read_from_vmagent(tmp_path: Path, history: str) -> None:
    url = f"http://127.0.0.1:{binaries.free_port()}"
    arguments = [
        f"-httpListenAddr={url.removeprefix('http://')}",
        f"-remoteWrite.tmpDataPath={tmp_path}",
        f"-remoteWrite.url={history}/api/v1/write",
        f"-remoteWrite.url=http://127.0.0.1:{binaries.free_port()}/api/v1/write",
        "-remoteWrite.queues=1",
    ]

    def write_and_look() -> int:
        post(f"{url}/api/v1/import/prometheus", "some_metric 1\n")  # the first one is on its way, and waits nowhere
        return uplink.queues(f"{url}/health", LONG)[2].pending_bytes

    with binaries.running("vmagent", arguments, f"{url}/health"):
        assert uplink.queues(f"{url}/health", LONG) == {1: uplink.Queue(0, 0, 0), 2: uplink.Queue(0, 0, 0)}
        binaries.eventually(write_and_look, "the hub's queue is empty")
        binaries.eventually(
            lambda: uplink.queues(f"{url}/health", LONG)[1].pending_bytes == 0, "its own history's queue is not empty"
        )
    assert uplink.queues(f"{url}/health", LONG) == {}


def test_what_was_dropped_is_counted_by_hub() -> None:
    # Since 1.149 a queue has the label `name` as well.
    metrics = """
vmagent_remotewrite_pending_data_bytes{path="/q/persistent-queue/3_AB12", url="3:secret-url"} 1.2345e+07
vmagent_remotewrite_packets_dropped_total{url="3:secret-url"} 4
vm_persistentqueue_blocks_dropped_total{path="/q/persistent-queue/3_AB12"} 5
vmagent_remotewrite_pending_data_bytes{path="/q/persistent-queue/12_CD34", url="12:https://hub-2/api/v1/write"} 7
vm_persistentqueue_blocks_dropped_total{path="/q/persistent-queue/12_CD34", name="12:https://hub-2/api/v1/write"} 6
process_cpu_cores_available 2
"""
    assert uplink.parse_queues(metrics) == {3: uplink.Queue(12345000, 4, 5), 12: uplink.Queue(7, 0, 6)}


def test_a_queue_that_grows_although_it_could_be_sent(history: str) -> None:
    now = time.time()
    shapes = {
        2: lambda minute: 1000 * (40 + minute),  # grows
        3: lambda minute: 1000 * (40 + minute if minute < -2 else 32 - 3 * minute),  # is being sent
        4: lambda minute: 0 if minute == -5 else 1000 * (40 + minute),  # was empty meanwhile
        5: lambda minute: 20000,  # waits, and does not get more
        6: lambda minute: 1000 * (40 + minute) if minute > -3 else None,  # has only just begun
    }
    lines = []
    for position, shape in shapes.items():
        labels = f'path="/q/{position}_AB",url="{position}:secret-url"'
        for step in range(-120, 1):
            value = shape(step / 4)
            if value is not None:
                moment = int(1000 * (now + 15 * step))
                lines.append(f"vmagent_remotewrite_pending_data_bytes{{{labels}}} {value} {moment}")
    for step in range(-120, 1):
        moment = int(1000 * (now + 15 * step))
        lines.append(f'vmagent_remotewrite_packets_dropped_total{{url="2:secret-url"}} 3 {moment}')
        lines.append(f'vmagent_remotewrite_packets_dropped_total{{url="3:secret-url"}} {3 + (step > -9)} {moment}')
        lines.append(f'vm_persistentqueue_blocks_dropped_total{{path="/q/4_AB"}} {200 + step} {moment}')
        named = 'path="/q/5_CD",name="5:secret-url"'
        lines.append(f"vm_persistentqueue_blocks_dropped_total{{{named}}} {200 + step} {moment}")
    post(f"{history}/api/v1/import/prometheus", "\n".join(lines) + "\n")
    post(f"{history}/internal/force_flush", "")
    trend = uplink.trend(history, LONG)
    assert list(trend.stuck) == [2]
    assert trend.stuck[2] == pytest.approx(10_000, rel=0.2)
    assert sorted(trend.dropped) == [3, 4, 5]


def test_a_history_that_does_not_answer() -> None:
    assert uplink.trend(f"http://127.0.0.1:{binaries.free_port()}", LONG) == uplink.NO_TREND


HUB = uplink.Hub(2, "hub-1", "https://hub-1:8427", "robot-1", "/p", None)


def judged(kind: str, queue: int = 0, trend: uplink.Trend = uplink.NO_TREND) -> list[tuple[str, str]]:
    return uplink.judge("robot-1", HUB, uplink.Answer(kind, "why"), uplink.Queue(queue, 0, 0), trend)


@pytest.mark.parametrize(
    ("kind", "what", "remedy"),
    [
        (gateway.REFUSED, "https://hub-1:8427 cannot be reached: why", "playbooks/health.yml --limit hub-1"),
        (gateway.NAME, "https://hub-1:8427 cannot be reached: why", "playbooks/health.yml --limit hub-1"),
        (uplink.CREDENTIAL, "https://hub-1:8427 refuses this robot's credential (why)", "--limit robot-1,hub-1"),
        (uplink.STATUS, "https://hub-1:8427 takes no samples: why", "roverwatch-victoriametrics"),
        (uplink.CONFIGURATION, "https://hub-1:8427 cannot be asked: why", "site.yml --limit robot-1"),
        (gateway.EXPIRED, "https://hub-1:8427 has a certificate that this robot refuses: why", "--limit robot-1,hub-1"),
        (gateway.TLS, "https://hub-1:8427 has no TLS connection with this robot: why", "--limit robot-1,hub-1"),
    ],
)
def test_each_answer_has_its_problem_and_its_remedy(kind: str, what: str, remedy: str) -> None:
    ((found, do),) = judged(kind)
    assert found == what
    assert remedy in do


def test_what_waits_is_said() -> None:
    ((what, _),) = judged(gateway.TIMEOUT, queue=3 << 20)
    assert what.endswith("; 3M wait in the robot's queue")


def test_a_queue_is_a_problem_of_its_own_only_where_the_hub_takes_samples() -> None:
    grows = uplink.Trend(stuck={2: 5000.0}, dropped={})
    assert judged(uplink.OK, queue=9 << 20) == []
    ((what, remedy),) = judged(uplink.OK, 9 << 20, grows)
    assert "grown by 4.9K in ten minutes; 9M wait" in what
    assert "vmagent_hub_rate_limit" in remedy
    assert len(judged(gateway.TIMEOUT, 9 << 20, grows)) == 1
    assert judged(uplink.OK, 9 << 20, uplink.Trend(stuck={3: 5000.0}, dropped={})) == []


def test_samples_that_are_lost_are_a_problem() -> None:
    ((what, remedy),) = judged(uplink.OK, 0, uplink.Trend(stuck={}, dropped={2: 1.0}))
    assert "dropped" in what
    assert "vmagent_queue_max" in remedy
