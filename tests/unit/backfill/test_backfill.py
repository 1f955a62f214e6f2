"""The backfill between two real VictoriaMetrics with a real gateway: what is counted, compared, copied; the verdict."""

from __future__ import annotations

import datetime
import errno
import io
import ipaddress
import json
import math
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import binaries
import loopback
import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill import (
    copying,
    gaps,
    remote_write,
    sample_counts,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill.gaps import Chunk, Part
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill.sample_counts import Counts
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import retry
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.hub import uplink
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.query import local_database
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.backfill import report as backfill_report
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from databases import END, NOW, START, Database, Sample, database
from specs import typed

TOP = Path(__file__).parents[3]
PASSWORD = "right-horse"
ODD = 'a "quoted" \\ back\nslash, {ünïcode}=~ é'


# --- real ones


@contextmanager
def running(arguments: Sequence[object], ready: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process from when it listens at the port `ready` on; ended at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen([str(argument) for argument in arguments], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", ready), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait()


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that signs itself; its key lies beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    folder.mkdir(parents=True)
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem"


@contextmanager
def gateway(folder: Path, backend: str) -> Iterator[uplink.Hub]:
    """A gateway with TLS in front of a hub, which lets robot-1 write as itself and as nobody else."""
    cert = certificate(folder / "tls")
    routes = [{"src_paths": ["/api/v1/write", "/api/v1/import"], "url_prefix": f"{backend}/?extra_label=robot=robot-1"}]
    users = {"users": [{"username": "robot-1", "password": PASSWORD, "url_map": routes}]}
    (folder / "auth.yml").write_text(json.dumps(users))
    (folder / "password").write_text(PASSWORD + "\n")
    port = binaries.free_port()
    tls = ["-tls", f"-tlsCertFile={cert}", f"-tlsKeyFile={cert.with_name('key.pem')}"]
    arguments = [binaries.find("vmauth"), f"-httpListenAddr=127.0.0.1:{port}", f"-auth.config={folder}/auth.yml", *tls]
    with running([*arguments, "-loggerLevel=WARN"], port, folder / "vmauth.log"):
        yield uplink.Hub(2, "hub-1", f"https://127.0.0.1:{port}", "robot-1", str(folder / "password"), str(cert))


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Database, uplink.Hub]]:
    folders = [tmp_path_factory.mktemp(name) for name in ("robot", "hub", "gateway")]
    with database(folders[0]) as robot, database(folders[1]) as hub, gateway(folders[2], hub.url) as front:
        yield robot, hub, front


class Fleet:
    """One robot, one hub, and what the action plugin does with them."""

    def __init__(self, robot: Database, hub: Database, front: uplink.Hub) -> None:
        self.robot, self.hub, self.front = robot, hub, front
        self.deployed = copying.Robot("robot-1", robot.url, "http://127.0.0.1:1/health", [front])

    def missing(self) -> gaps.Missing:
        """As it gets from the machines to the controller."""
        own, there = (Counts.decode(each.count().encode()) for each in (self.robot, self.hub))
        closer = [
            tuple(Counts.decode(each.count(start=start, end=end, window=1).encode()) for each in (self.robot, self.hub))
            for start, end in gaps.doubtful(own, [there])
        ]
        return gaps.compare(own, there, closer)

    def copy(
        self, chunks: Sequence[Chunk], seconds: float = 600, bytes_per_second: int = 10**9, **changes: Any
    ) -> copying.Progress:
        front = uplink.Hub(**{**vars(self.front), **changes})
        target = copying.Gateway(self.deployed, front, copying.Pace(bytes_per_second))
        progress = copying.Progress()
        copying.copy(self.deployed, target, chunks, seconds, progress)
        return progress


@pytest.fixture
def fleet(
    databases: tuple[Database, Database, uplink.Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    monkeypatch.setattr(copying, "SPOOL", tmp_path)
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)
    robot, hub, front = databases
    yield Fleet(robot, hub, front)
    robot.forget()
    hub.forget()
    assert not list(tmp_path.iterdir())


def series(name: str, robot: str = "robot-1", **labels: str) -> dict[str, str]:
    return {"__name__": name, "robot": robot, "job": "sensor", **labels}


def every(seconds: int, offset: float = 0.0, start: int = START, end: int = END) -> list[Sample]:
    """Samples from `start` to before `end`, with values of seven digits."""
    count = int((end - start - offset) / seconds) + 1
    times = [int((start + offset) * 1000) + number * seconds * 1000 for number in range(count)]
    return [(at, at % 1_000_003 / 100) for at in times if at < end * 1000]


def without(samples: Sequence[Sample], start: int, end: int) -> list[Sample]:
    return [sample for sample in samples if not start * 1000 < sample[0] <= end * 1000]


# --- what is asked for


def plan(variables: Mapping[str, object], now: float = NOW) -> gaps.Plan:
    return gaps.plan(typed(["backfill"], variables), now, 30)


def test_without_variables_the_last_day_is_compared_up_to_a_minute_ago() -> None:
    day = plan({}, 1_000_000_080.0)
    assert (day.end, day.start) == (1_000_000_020, 1_000_000_020 - 86400)
    assert day.bytes_per_second == 256 * 1024


def test_the_end_is_a_whole_minute_that_is_over_for_another() -> None:
    for now in (1_000_000_079.9, 1_000_000_080.0, 1_000_000_139.9):
        end = plan({}, now).end
        assert end % 60 == 0
        assert 60 <= now - end < 120


def test_the_variables_are_texts_or_numbers() -> None:
    asked = {"backfill_period": "90s", "backfill_end": "2026-03-01T14:00:30+01:00", "backfill_rate_limit": 65536}
    two = plan(asked, 1_800_000_000)
    assert two.end == 1_772_370_000 - 0 and two.start == two.end - 120
    assert two.bytes_per_second == 65536
    assert plan({"backfill_end": "2h"}, 1_000_000_080).end == 1_000_000_080 - 7200 - 0 - (1_000_000_080 % 60)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("period", "yesterday", "is no duration"),
        ("period", "30s", "give a time from 1m to 366d"),
        ("period", "400d", "give a time from 1m to 366d"),
        ("end", "now", "give a time that is over for 60 seconds"),
        ("end", "30s", "give a time that is over for 60 seconds"),
        ("end", "2026-03-01T14:00:00", "or with its zone"),
        ("end", "2999-03-01T14:00:00Z", "give a time that is over for 60 seconds"),
        ("rate_limit", "256KB", "is no size"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_the_variable_and_what_to_write(name, value, remedy) -> None:
    with pytest.raises(gaps.BackfillError) as caught:
        plan({f"backfill_{name}": value})
    assert f"backfill_{name} is '{value}'" in str(caught.value)
    assert remedy in str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(gaps.BackfillError) as caught:
        plan({"backfill_period": "1s", "backfill_end": "now"})
    assert "backfill_period is '1s'" in str(caught.value)
    assert "backfill_end is 'now'" in str(caught.value)


# --- counts and their comparison


def test_counts_survive_the_way_to_the_controller() -> None:
    counts = Counts(0, 600, {"a": (4, 10), "b": (0, 2, 4, 1), "c": (4, 10)})
    assert Counts.decode(counts.encode()) == counts
    assert counts.samples == 84


def test_the_hash_of_a_series_does_not_depend_on_the_order_of_its_labels() -> None:
    labels = series("m", odd=ODD)
    assert sample_counts.series_hash(labels) == sample_counts.series_hash(dict(reversed(labels.items())))
    assert sample_counts.series_hash(labels) != sample_counts.series_hash({**labels, "odd": ODD + " "})


def test_only_what_the_robot_has_more_of_is_missing() -> None:
    own = Counts(0, 3600, {"same": (4, 60), "gap": (4, 60), "more": (3, 60), "later": (0, 50, 1, 1)})
    hub = Counts(0, 3600, {"same": (4, 60), "gap": (4, 7, 0, 2, 4, 51), "more": (4, 60), "alien": (9, 60)})
    found = gaps.compare(own, hub)
    assert found.parts == [Part(Chunk(420, 540, ["gap"]), 2, 8), Part(Chunk(3000, 3060, ["later"]), 1, 1)]
    assert (found.samples, found.minutes, found.before(1).samples) == (9, 3, 8)


def test_stretches_are_in_doubt_where_both_have_something_and_not_the_same() -> None:
    own = Counts(600, 1200, {"a": (4, 10), "b": (4, 10), "c": (4, 10)})
    hub = Counts(600, 1200, {"a": (4, 2, 3, 1, 6, 1, 4, 6), "b": (4, 5, 0, 5), "c": (4, 9, 1, 1), "d": (7, 10)})
    assert gaps.doubtful(own, [hub]) == [(720, 840), (1140, 1200)]
    other = Counts(600, 1200, {"a": (4, 3, 5, 2, 4, 5), "b": (4, 10), "c": (4, 10)})
    assert gaps.doubtful(own, [hub, other]) == [(720, 900), (1140, 1200)]
    assert gaps.doubtful(own, [own]) == []
    assert gaps.doubtful(own, [Counts(600, 1200, {})]) == []


def test_a_closer_look_counts_in_place_of_the_minutes() -> None:
    own, hub = Counts(0, 600, {"a": (4, 10), "b": (4, 10)}), Counts(0, 600, {"a": (4, 2, 9, 1, 1, 1), "b": (4, 10)})
    # Of the third minute the hub has more, and lacks two all the same; of the fourth it lacks three, which is one less.
    seconds = {"a": (1, 4, 0, 116)}, {"a": (0, 2, 1, 2, 0, 114, 1, 2)}
    closer = [(Counts(120, 240, seconds[0], 1), Counts(120, 240, seconds[1], 1))]
    found = gaps.compare(own, hub, closer)
    assert [tuple(part.chunk[:2]) for part in found.parts] == [(120, 600)]
    assert (found.minutes, found.samples) == (7, 2 + 6 * 4)


def test_what_each_side_lost_of_the_same_minute_is_found(fleet: Fleet) -> None:
    """The robot was cut off the power and lost its last seconds; the hub has those, and lacks two others."""
    samples = every(1, 0.25, START, START + 600)
    fleet.robot.add(series("m"), without(samples, START + 300, START + 310))
    fleet.hub.add(series("m"), without(samples, START + 320, START + 322))
    assert fleet.missing().samples == 2
    fleet.copy(fleet.missing().chunks)
    assert fleet.missing().samples == 0
    assert len(fleet.hub.everything()[json.dumps(series("m"), sort_keys=True)]) == len(samples)


def test_all_series_are_asked_for_when_many_lack_something() -> None:
    own = Counts(0, 600, {str(number): (4, 10) for number in range(6)})
    hub = Counts(0, 600, {str(number): (4, 10) for number in range(3)})
    assert [part.chunk.series for part in gaps.compare(own, hub).parts] == [["3", "4", "5"]]
    hub = Counts(0, 600, {str(number): (4, 10) for number in range(2)})
    assert [part.chunk.series for part in gaps.compare(own, hub).parts] == [None]


def test_an_outage_is_copied_in_chunks() -> None:
    found = gaps.compare(Counts(0, 3600, {"a": (4, 60)}), Counts(0, 3600, {"a": (4, 15, 0, 30, 4, 15)}))
    assert [tuple(part.chunk[:2]) for part in found.parts] == [(900, 1200), (1200, 1800), (1800, 2400), (2400, 2700)]
    assert found.samples == 120


@pytest.mark.parametrize("seed", range(20))
def test_the_comparison_is_that_of_each_window_by_itself(seed: int) -> None:
    chance = random.Random(seed)
    windows = 100

    def runs(counts: Sequence[int]) -> tuple[int, ...]:
        flat: list[int] = []
        for count in counts:
            if flat and flat[-2] == count:
                flat[-1] += 1
            else:
                flat += [count, 1]
        return tuple(flat)

    own = {str(key): [chance.choice((0, 3, 4, 4, 4, 5)) for _ in range(windows)] for key in range(8)}
    hub = {
        key: [chance.choice((count, count, 0, 4)) for count in counts[: chance.randrange(windows)]]
        for key, counts in own.items()
        if chance.random() < 0.8
    }
    found = gaps.compare(
        Counts(0, windows * 60, {key: runs(counts) for key, counts in own.items()}),
        Counts(0, windows * 60, {key: runs(counts) for key, counts in hub.items()}),
    )
    lacking = {
        (window, key): count - (hub.get(key, []) + [0] * windows)[window]
        for key, counts in own.items()
        for window, count in enumerate(counts)
    }
    lacking = {place: count for place, count in lacking.items() if count > 0}
    assert found.samples == sum(lacking.values())
    assert found.minutes == len({window for window, _ in lacking})
    for window, key in lacking:
        inside = [c for c in found.chunks if c.start <= window * 60 and (window + 1) * 60 <= c.end]
        assert len(inside) == 1 and (inside[0].series is None or key in inside[0].series)


def test_a_window_has_what_came_after_its_start_and_what_came_at_its_end(fleet: Fleet) -> None:
    fleet.robot.add(series("edges"), [((START + 60) * 1000 + delta, 1.0) for delta in (-60_000, -59_999, 0, 1)])
    counts = fleet.robot.count(start=START, end=START + 180)
    # Of four samples: one at the start, which belongs to the window before; two in the first window; one in the next.
    assert list(counts.series.values()) == [(2, 1, 1, 1)]
    assert fleet.robot.count(start=START - 60, end=START).samples == 1


def test_counting_takes_no_more_points_at_once_than_a_robot_has_memory_for(fleet: Fleet, monkeypatch) -> None:
    for number in range(8):
        fleet.robot.add(series("m", number=str(number)), every(20, offset=number * 60))
    whole = fleet.robot.count()
    asked: list[int] = []
    query = sample_counts._query

    def counting(url: str, parameters: Mapping[str, object]) -> Sequence[Mapping[str, Any]]:
        result = query(url, parameters)
        asked.append(sum(len(item.get("values", "1")) for item in result))
        return result

    monkeypatch.setattr(sample_counts, "_query", counting)
    monkeypatch.setattr(sample_counts, "POINTS_PER_QUERY", 100)
    monkeypatch.setattr(sample_counts, "STRETCH_WINDOWS", 50)
    assert fleet.robot.count() == whole
    assert max(asked) <= 100
    assert whole.samples == sum(len(every(20, offset=number * 60)) - (number == 0) for number in range(8))


def test_nothing_is_counted_of_other_robots(fleet: Fleet) -> None:
    fleet.robot.add(series("m", robot="robot-10"), every(15))
    assert fleet.robot.count("robot-1").series == {}
    assert fleet.robot.count("robot-10").samples == len(every(15)) - 1


def test_a_database_that_does_not_answer_is_named(fleet: Fleet) -> None:
    url = f"http://127.0.0.1:{binaries.free_port()}"
    with pytest.raises(local_database.DatabaseError, match=f"{url}/internal/force_flush does not answer: .*refused"):
        sample_counts.count(url, "robot-1", START, END)


def test_a_query_that_is_refused_is_told_with_what_the_database_says(fleet: Fleet) -> None:
    url = f"{fleet.robot.url}/api/v1/query"
    # 422 before 1.150.
    said = f"{url} answers with HTTP (400|422): error when executing query"
    with pytest.raises(local_database.DatabaseError, match=said):
        local_database.ask_json(url, {"query": "{a=", "nocache": 1})


def test_a_database_that_is_busy_is_asked_again(monkeypatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)
    answers = [(429, b"busy"), (503, b"restarting"), (200, b'{"data": 7}')]
    with Posted(answers) as server:
        assert local_database.ask_json(server.url, {}) == 7
    with Posted([(429, b"busy")] * retry.ATTEMPTS) as server, pytest.raises(local_database.DatabaseError, match="busy"):
        local_database.ask_json(server.url, {})


class Posted:
    """A server that gives each POST the next answer."""

    def __init__(self, answers: Sequence[loopback.Answer]) -> None:
        self.answers = iter(answers)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"

    def __enter__(self) -> Posted:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def _serve(self) -> None:
        for status, body in self.answers:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode() + body)

    def __exit__(self, *_: object) -> None:
        self.socket.close()


# --- the copy


def history(fleet: Fleet) -> dict[str, list[Sample]]:
    """Four hours of a robot, and at the hub the same with every kind of hole; and a robot that is none of it."""
    outage = (START + 3600, START + 5520)
    edge = START + 7200
    robot: dict[str, tuple[dict[str, str], list[Sample]]] = {}
    for number in range(12):
        labels = series("ticks_total", number=str(number))
        robot[f"plain {number}"] = (labels, every(15, offset=0.25 * number))
    specials = [math.inf, -math.inf, 0.0, 1e-300, 1e300, -1e-9, 2.0**53, 0.3, 123456789.012]
    for value in specials:
        robot[f"special {value!r}"] = (series("special", value=repr(value)), [(at, value) for at, _ in every(30, 7)])
    robot["odd"] = (series("odd", path=ODD, quantile="0.99"), every(15, 3))
    for le in ("0.005", "1", "+Inf"):
        robot[f"le {le}"] = (series("seconds_bucket", le=le), every(15, 4))
    robot["lost"] = (series("lost", reason=ODD), every(15, 5))
    robot["edge"] = (series("edge"), every(20))
    robot["dense"] = (series("dense"), every(1, 0.5, START, START + 3600))
    robot["ended"] = (series("ended"), every(15, 1, START, START + 4200))
    for name, (labels, samples) in robot.items():
        fleet.robot.add(labels, samples)
        kept = without(samples, *outage)
        if name == "lost":
            continue
        if name == "edge":
            kept = [sample for sample in kept if sample[0] != edge * 1000]
            assert len(kept) < len(without(samples, *outage))
        fleet.hub.add(labels, kept)
    fleet.robot.add_stale(series("ended"), (START + 4206) * 1000)
    # The hub has what the robot has not any more, and another robot's history with a hole of its own.
    fleet.hub.add(series("forgotten"), every(15))
    fleet.hub.add(series("ticks_total", robot="robot-2", number="0"), without(every(15), *outage))
    return {name: samples for name, (_, samples) in robot.items()}


def from_start(own: Sequence[tuple[int, object]], before: Sequence[tuple[int, object]]) -> list[tuple[int, object]]:
    """What the hub has afterwards: what is not after START is in no window, and there only if it was."""
    return [sample for sample in own if sample[0] > START * 1000 or sample in before]


def test_every_sample_is_at_the_hub_afterwards(fleet: Fleet) -> None:
    history(fleet)
    other = fleet.hub.everything("robot-2")
    forgotten = json.dumps(series("forgotten"), sort_keys=True)
    before = fleet.hub.everything()
    missing = fleet.missing()
    own = fleet.robot.everything()
    # What is before or at START is in no window, of any robot.
    lost = sum(
        sum(value is not None and at > START * 1000 for at, value in samples)
        - sum(at > START * 1000 for at, _ in before.get(key, []))
        for key, samples in own.items()
    )
    assert missing.samples == lost > 3000
    assert any(part.chunk.series for part in missing.parts) and any(part.chunk.series is None for part in missing.parts)

    progress = fleet.copy(missing.chunks)

    assert progress.chunks == len(missing.parts)
    after = fleet.hub.everything()
    assert after.pop(forgotten) == before[forgotten]
    assert (START + 4206) * 1000 in [
        at for at, value in own[json.dumps(series("ended"), sort_keys=True)] if value is None
    ]
    assert after == {key: from_start(samples, before.get(key, [])) for key, samples in own.items()}
    assert fleet.hub.everything("robot-2") == other
    assert fleet.missing() == gaps.Missing([])


def test_a_value_of_more_digits_than_are_kept_is_the_same_in_twelve(fleet: Fleet) -> None:
    """VictoriaMetrics keeps about twelve of a fraction's digits, whichever way it gets to the hub."""
    fleet.robot.add(series("m"), [(at, at % 100_003 / 7) for at, _ in every(15, 1)])
    fleet.copy(fleet.missing().chunks)
    ((_, own),), ((_, there),) = fleet.robot.everything().items(), fleet.hub.everything().items()
    assert [at for at, _ in there] == [at for at, _ in own]
    assert [value for _, value in there] == pytest.approx([value for _, value in own], rel=2e-12, abs=0)


def test_a_single_sample_at_the_edge_of_a_window_is_found_and_copied_alone(fleet: Fleet) -> None:
    samples = every(15)
    for number in range(4):
        fleet.robot.add(series("m", number=str(number)), samples)
        fleet.hub.add(
            series("m", number=str(number)), samples if number else without(samples, START + 595, START + 600)
        )
    missing = fleet.missing()
    hashed = sample_counts.series_hash(series("m", number="0"))
    assert missing.parts == [Part(Chunk(START + 540, START + 600, [hashed]), 1, 1)]
    fleet.copy(missing.chunks)
    assert fleet.hub.everything() == fleet.robot.everything()


def test_no_more_is_exported_than_the_chunk_and_its_series(fleet: Fleet, tmp_path: Path) -> None:
    for number in range(4):
        fleet.robot.add(series("m", number=str(number), odd=ODD), every(15))
    chunk = Chunk(START + 600, START + 720, [sample_counts.series_hash(series("m", number="2", odd=ODD))])
    with (tmp_path / "spool").open("w+b") as file:
        selectors = copying.Selectors(fleet.deployed, [chunk]).of(chunk)
        assert copying.export(fleet.deployed, selectors, chunk, file) == []
        fleet.hub.post("/api/v1/import", (tmp_path / "spool").read_bytes(), {"Content-Encoding": "gzip"})
    (tmp_path / "spool").unlink()
    (copied,) = fleet.hub.everything().items()
    assert json.loads(copied[0])["number"] == "2"
    assert [at for at, _ in copied[1]] == [(START + 600 + 15 * n) * 1000 for n in range(1, 9)]


def test_a_series_that_is_gone_from_the_robot_meanwhile_does_not_stop_the_copy(fleet: Fleet) -> None:
    fleet.robot.add(series("m"), every(15))
    fleet.copy([Chunk(START, START + 600, ["0123456789abcdef"])])
    assert sum(map(len, fleet.hub.everything().values())) == 40


def test_an_interrupted_copy_goes_on_where_it_was(fleet: Fleet) -> None:
    history(fleet)
    missing = fleet.missing()
    assert fleet.copy(missing.chunks, seconds=0).chunks == 1
    left = fleet.missing()
    assert left.samples == missing.samples - missing.parts[0].samples
    fleet.copy(left.chunks)
    assert fleet.missing().samples == 0


def test_what_arrives_twice_counts_once(fleet: Fleet) -> None:
    fleet.robot.add(series("m"), every(15))
    for _ in range(2):
        fleet.copy([Chunk(START, START + 600, None)])
    assert fleet.hub.count().samples == 40
    assert sum(map(len, fleet.hub.everything().values())) == 40


def test_the_gateway_says_whose_samples_they_are(fleet: Fleet) -> None:
    """What a robot sends of another one is stored as its own; so the backfill must not send any."""
    fleet.robot.add(series("m", robot="robot-2"), every(15, 5))
    fleet.robot.add(series("m"), every(15))
    fleet.copy(fleet.missing().chunks)
    assert fleet.hub.everything("robot-2") == {}
    assert fleet.hub.everything() == {key: s[1:] for key, s in fleet.robot.everything().items()}


def test_the_copy_needs_memory_for_a_line_and_not_for_a_chunk(fleet: Fleet, tmp_path: Path) -> None:
    """An export of more than 15 MB, by a process that may take 12 MB beyond what Python and the code take."""
    dense = every(1, 0, START, START + 6000)
    for number in range(100):
        fleet.robot.add(series("m", number=str(number)), [(at, at / 7 + number) for at, _ in dense])
    chunk = Chunk(START, START + 6000, None)
    assert len(fleet.robot.post("/api/v1/export", **{"match[]": sample_counts.selector("robot-1")})) > 15_000_000
    program = f"""
from pathlib import Path
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill import copying
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill.gaps import Chunk
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.hub import uplink
copying.SPOOL = Path({str(tmp_path)!r})
hub = uplink.Hub(**{vars(fleet.front)!r})
robot = copying.Robot("robot-1", {fleet.robot.url!r}, "", [hub])
target = copying.Gateway(robot, hub, copying.Pace(10**9))
progress = copying.Progress()
copying.copy(robot, target, [Chunk({START}, {START + 60}, None)], 600, progress)
def peak_kb():
    # Not getrusage: its peak is also that of the process that this one was forked from.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak_kb()
copying.copy(robot, target, [Chunk({chunk.start}, {chunk.end}, None)], 600, progress)
print(peak_kb() - before, progress.chunks)
"""
    environment = {"PYTHONPATH": str(TOP / "collections")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    more, chunks = map(int, done.stdout.split())
    assert chunks == 2
    assert more < 12 * 1024
    assert fleet.hub.count().samples == fleet.robot.count().samples


def test_the_copy_keeps_to_its_speed(fleet: Fleet, monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(copying.time, "sleep", slept.append)
    fleet.robot.add(series("m"), every(1, 0, START, START + 6000))
    progress = fleet.copy([Chunk(START, START + 6000, None)], bytes_per_second=1000)
    # Nothing was slept for in truth, so the pauses do not get shorter by the time that sending took.
    assert sum(slept) >= progress.sent_bytes / 1000 > 10


def test_a_wrong_password_is_told_at_once_and_with_the_remedy(fleet: Fleet, tmp_path_factory) -> None:
    history(fleet)
    wrong = tmp_path_factory.mktemp("secrets") / "password"
    wrong.write_text("wrong-horse")
    with pytest.raises(copying.CopyError) as caught:
        fleet.copy(fleet.missing().chunks, password_file=str(wrong))
    assert str(caught.value) == (
        f"{fleet.front.url} refuses the samples: HTTP 401, it does not know this robot's password: "
        "ansible-playbook playbooks/site.yml --limit robot-1,hub-1"
    )
    assert "horse" not in str(caught.value)


def test_a_gateway_that_does_not_let_the_robot_in_is_told(fleet: Fleet, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("old")
    with gateway(folder, fleet.hub.url) as front:
        pass
    (folder / "auth.yml").write_text((folder / "auth.yml").read_text().replace("/api/v1/import", "/api/v1/other"))
    port = urllib.parse.urlsplit(front.url).port
    tls = ["-tls", f"-tlsCertFile={front.ca_file}", f"-tlsKeyFile={folder}/tls/key.pem"]
    flags = [f"-httpListenAddr=127.0.0.1:{port}", f"-auth.config={folder}/auth.yml", *tls]
    with running([binaries.find("vmauth"), *flags], port, folder / "log"), pytest.raises(copying.CopyError) as caught:
        fleet.copy([Chunk(START, END, None)], **vars(front))
    assert "refuses the samples: HTTP 400: " in str(caught.value)


def test_another_authority_is_refused(fleet: Fleet, tmp_path_factory) -> None:
    other = certificate(tmp_path_factory.mktemp("other") / "tls")
    with pytest.raises(copying.CopyError, match=r"has a certificate that this robot refuses .*: ansible-playbook"):
        fleet.copy([Chunk(START, END, None)], ca_file=str(other))
    with pytest.raises(copying.CopyError, match="has a certificate that this robot refuses"):
        fleet.copy([Chunk(START, END, None)], ca_file=None)


def test_a_name_that_the_certificate_does_not_have_is_refused(fleet: Fleet) -> None:
    with pytest.raises(copying.CopyError, match=r"has a certificate that this robot refuses .*localhost"):
        fleet.copy([Chunk(START, END, None)], url=fleet.front.url.replace("127.0.0.1", "localhost"))


def test_the_password_is_never_sent_without_tls(fleet: Fleet) -> None:
    with pytest.raises(copying.CopyError, match="is no https://host:port"):
        fleet.copy([Chunk(START, END, None)], url=fleet.hub.url)


def test_a_hub_that_is_gone_is_tried_a_few_times(fleet: Fleet) -> None:
    url = f"https://127.0.0.1:{binaries.free_port()}"
    with pytest.raises(copying.CopyError, match=f"{url} did not take the samples, 4 times: connection refused"):
        fleet.copy([Chunk(START, END, None)], url=url)


def test_a_hub_that_restarts_is_waited_for(fleet: Fleet, tmp_path_factory, monkeypatch) -> None:
    """The gateway answers 502 while what is behind it is away; what was copied by then is told."""
    fleet.robot.add(series("m"), every(15))
    folder = tmp_path_factory.mktemp("restarting")
    port = binaries.free_port()
    flags = [f"-storageDataPath={folder}/data", "-retentionPeriod=1y", "-loggerLevel=WARN"]
    arguments = [binaries.find("victoriametrics"), f"-httpListenAddr=127.0.0.1:{port}", *flags]
    progress = copying.Progress()
    chunks = [Chunk(START, START + 600, None), Chunk(START + 600, START + 1200, None)]
    with gateway(folder, f"http://127.0.0.1:{port}") as front:
        target = copying.Gateway(fleet.deployed, front, copying.Pace(10**9))
        with running(arguments, port, folder / "log"):
            copying.copy(fleet.deployed, target, chunks, 0, progress)
        with pytest.raises(copying.CopyError, match=r"did not take the samples, 4 times: HTTP 50[234]"):
            copying.copy(fleet.deployed, target, chunks[1:], 0, progress)
        assert progress.chunks == 1
        attempts: list[int] = []
        with running(arguments, port, folder / "log"):
            post = target._post

            def breaking(*args: Any) -> tuple[int, str]:
                attempts.append(1)
                if len(attempts) == 2:
                    raise ConnectionResetError("Connection reset by peer")
                return post(*args)

            monkeypatch.setattr(target, "_post", breaking)
            copying.copy(fleet.deployed, target, chunks[1:], 0, progress)
            assert (progress.chunks, len(attempts)) == (2, 3)
            assert Database(port).count().samples == 80


class FullDisk(io.BytesIO):
    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told(fleet: Fleet, monkeypatch) -> None:
    fleet.robot.add(series("m"), every(15))
    monkeypatch.setattr(copying.tempfile, "TemporaryFile", lambda dir: FullDisk())
    with pytest.raises(copying.CopyError, match="No space left on device: make room there"):
        fleet.copy([Chunk(START, START + 600, None)])


def test_what_is_deployed_is_read_from_the_robot(tmp_path: Path) -> None:
    with pytest.raises(copying.CopyError, match=r"roverwatch-vmagent is not deployed here: .* --limit robot-1"):
        copying.Robot.read("robot-1", tmp_path)
    common = {"kind": "binary", "version": "1", "memory_max": 1}
    hub = {"name": "hub-1", "url": "https://hub-1:8427", "username": "robot-1", "password_file": "p", "ca_file": None}
    (tmp_path / "roverwatch-victoriametrics.json").write_text(
        json.dumps({**common, "unit": "roverwatch-victoriametrics", "ready_url": "http://127.0.0.1:18428/health"})
    )
    metrics = "".join(
        f'vmagent_remotewrite_pending_data_bytes{{path="/q/{number}_ABC", url="{number}:secret-url"}} {size}\n'
        for number, size in ((1, 7), (2, 300_000))
    )
    with loopback.served(lambda _: (200, metrics.encode())) as url:
        (tmp_path / "roverwatch-vmagent.json").write_text(
            json.dumps({**common, "unit": "roverwatch-vmagent", "ready_url": f"{url}/health", "hubs": [hub]})
        )
        robot = copying.Robot.read("robot-1", tmp_path)
        assert robot.describe_hubs() == [{"name": "hub-1", "url": "https://hub-1:8427", "pending_bytes": 300_000}]
    assert robot.base_url == "http://127.0.0.1:18428"
    assert robot.describe_hubs()[0]["pending_bytes"] is None
    assert robot.hub("https://hub-1:8427").name == "hub-1"
    with pytest.raises(copying.CopyError, match="is a hub of this robot no more"):
        robot.hub("https://hub-2:8427")


def test_markers_of_staleness_are_the_one_nan_that_counts() -> None:
    assert math.isnan(struct.unpack("<d", remote_write.STALE_NAN)[0])
    # Message WriteRequest, snappy's block format: a length, one literal, and what protobuf's rules make of the rest.
    body = remote_write.stale_markers([({"a": "b"}, [300])])
    payload = bytes.fromhex("0a160a060a0161120162120c09020000000000f07f10ac02")
    assert body == bytes([len(payload), 61 << 2]) + struct.pack("<H", len(payload) - 1) + payload


# --- the verdict

PLAN = {
    "start": 0,
    "end": 600,
    "bytes_per_second": 1,
    "hubs": [{"name": "hub-1", "url": "https://hub-1:8427", "pending_bytes": 0}],
    "strangers": [],
}
OWN = Counts(0, 600, {"a": (4, 10)})
LACKING = Counts(0, 600, {"a": (4, 5)})


def counted(counts: Counts) -> dict[str, Any]:
    return {"counts": counts.encode(), "samples": counts.samples}


def loop(**answers: dict[str, Any]) -> dict[str, Any]:
    return {"results": [{"item": {"name": name.replace("_", "-")}, **answer} for name, answer in answers.items()]}


def copied(**changes: Any) -> dict[str, Any]:
    hub = {"name": "hub-1", "missing": 20, "missing_minutes": 5, "copied": 20, "copied_minutes": 5, "sent_bytes": 2048}
    return {"hubs": [{**hub, "seconds": 1.0, "problem": None, **changes}]}


def robot(name: str = "robot-1", check_mode: bool = False, **changes: Any) -> backfill_report.Robot:
    results: dict[str, Any] = {
        "plan": PLAN,
        "own": counted(OWN),
        "before": loop(hub_1=counted(LACKING)),
        "copy": copied(),
        "after": loop(hub_1=counted(OWN)),
    }
    return backfill_report.Robot(name, check_mode, **{**results, **changes})


def report(*robots: backfill_report.Robot, check_mode: bool = False, **unreachable: str) -> backfill_report.Report:
    return backfill_report.Report(robots, {hub.replace("_", "-"): why for hub, why in unreachable.items()}, check_mode)


def texts(verdict: backfill_report.Report) -> str:
    return "\n".join(line.text for line in verdict.lines())


def test_what_was_missing_is_there() -> None:
    verdict = report(robot())
    assert verdict.problems == []
    assert verdict.summary == "1 robot at 1 hub: 20 samples missing, 20 copied, 0 still missing"
    head, row = verdict.lines()[:2]
    assert head.text.split() == ["ROBOT", "HUB", "HISTORY", "MISSING", "IN", "COPIED", "SENT", "STILL", "MISSING"]
    assert row.text.split() == ["robot-1", "hub-1", "40", "20", "5", "min", "20", "2K", "0"]
    assert row.healthy
    data = json.loads(json.dumps(verdict.as_dict("now")))
    assert data["passed"] and data["periods"] == {"robot-1": {"start": 0, "end": 600}}
    assert data["pairs"][0]["still_missing"] == 0


def test_a_second_run_says_that_nothing_is_missing() -> None:
    done = {"missing": 0, "missing_minutes": 0, "copied": 0, "copied_minutes": 0, "sent_bytes": 0}
    verdict = report(robot(copy=copied(**done), after={"results": [], "skipped": True}))
    assert verdict.problems == []
    assert verdict.summary == "1 robot at 1 hub: nothing is missing"


def test_what_is_too_young_is_said_to_be_left_out() -> None:
    verdict = report(robot(plan={**PLAN, "now": 685}))
    left_out = "00:10:00 UTC to 00:11:25 UTC was left out: what is that young may be on its way to the hubs"
    assert left_out in texts(verdict)
    assert verdict.as_dict("now")["periods"] == {"robot-1": {"start": 0, "end": 600, "now": 685}}
    assert "left out" not in texts(report(robot()))


def test_a_hub_that_does_not_show_all_that_it_has_taken_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda _: None)
    counts = {"few": Counts(0, 600, {"a": (4, 8)}), "all": Counts(0, 600, {"a": (4, 10)})}
    answers: list[str] = []

    def count(*_: object) -> Counts:
        return counts[answers.pop(0)]

    monkeypatch.setattr(sample_counts, "count", count)
    answers += ["few", "few", "all", "all"]
    assert sample_counts.count_patiently("http://x", "robot-1", 0, 600, 40).samples == 40
    assert answers == ["all"]
    answers += ["few"] * 8
    answers.pop(0)
    assert sample_counts.count_patiently("http://x", "robot-1", 0, 600, 40).samples == 32
    assert len(answers) == 8 - retry.ATTEMPTS


def test_check_mode_says_what_is_missing_and_that_is_no_failure() -> None:
    done = {"copied": 0, "copied_minutes": 0, "sent_bytes": 0}
    verdict = report(robot(check_mode=True, copy=copied(**done), after={}), check_mode=True)
    assert verdict.problems == []
    assert verdict.summary == "1 robot at 1 hub: 20 samples missing, and nothing copied in check mode"


def test_what_did_not_arrive_is_a_problem() -> None:
    verdict = report(robot(after=loop(hub_1=counted(LACKING))))
    assert verdict.summary == "1 robot at 1 hub: 20 samples missing, 20 copied, 20 still missing, 1 problem"
    assert "hub-1: roverwatch-victoriametrics took 20 samples of robot-1 and has not 20" in texts(verdict)
    assert verdict.lines()[1].healthy is False


def test_a_copy_that_broke_off_tells_why_and_what_is_left() -> None:
    part = Counts(0, 600, {"a": (4, 8)})
    broken = copied(copied=12, copied_minutes=3, problem="https://hub-1:8427 did not take the samples")
    verdict = report(robot(copy=broken, after=loop(hub_1=counted(part))))
    assert verdict.summary == "1 robot at 1 hub: 20 samples missing, 12 copied, 8 still missing, 1 problem"
    assert "robot-1: history was not copied: https://hub-1:8427 did not take the samples" in texts(verdict)


def test_what_is_in_the_queue_is_left_to_it() -> None:
    assert not gaps.waiting(None) and not gaps.waiting(gaps.QUEUE_BYTES)
    plan = {**PLAN, "hubs": [{**PLAN["hubs"][0], "pending_bytes": 3 * 2**20}]}
    done = {"copied": 0, "copied_minutes": 0, "sent_bytes": 0}
    verdict = report(robot(plan=plan, copy=copied(**done), after={}))
    assert "robot-1: roverwatch-vmagent has 3M for hub-1 in its queue" in texts(verdict)
    assert verdict.summary.endswith("0 copied, 20 still missing, 1 problem")


def test_a_hub_that_is_off_is_told_of_once() -> None:
    quiet = {"before": {"results": []}, "copy": {"hubs": []}, "after": {}}
    verdict = report(robot(**quiet), robot("robot-2", **quiet), hub_1="Connection timed out")
    assert verdict.summary == "nothing was compared, 1 problem"
    assert [problem.host for problem in verdict.problems] == ["hub-1"]
    assert "hub-1: host unreachable: Connection timed out" in texts(verdict)


def test_a_hub_that_cannot_be_asked_is_told_with_its_reason() -> None:
    failed = loop(hub_1={"failed": True, "msg": "Module failed: http://127.0.0.1:8428 does not answer"})
    verdict = report(robot(before=failed, copy={"hubs": []}, after={}))
    assert "hub-1: host cannot be asked: http://127.0.0.1:8428 does not answer" in texts(verdict)


def test_a_hub_that_cannot_be_counted_again_leaves_it_open() -> None:
    failed = loop(hub_1={"failed": True, "msg": "gone"})
    verdict = report(robot(after=failed))
    assert verdict.pairs[0].cells()[-1] == "-"
    assert verdict.summary.endswith("20 copied, 20 still missing, 1 problem")
    assert "hub-1: host could not be counted again: gone" in texts(verdict)


def test_robots_that_could_not_be_compared_are_told_beside_the_others() -> None:
    off = {"plan": {"unreachable": True, "msg": "no route"}, "own": {}, "before": {}, "copy": {}, "after": {}}
    bad = {**off, "plan": {"failed": True, "msg": "there is no variable backfill_x"}}
    silent = {
        "own": {"failed": True, "msg": "http://127.0.0.1:8428 does not answer"},
        "before": {},
        "copy": {},
    }
    verdict = report(robot(), robot("robot-2", **off), robot("robot-3", **bad), robot("robot-4", **silent))
    assert verdict.summary == "1 robot at 1 hub: 20 samples missing, 20 copied, 0 still missing, 3 problems"
    assert "robot-2: host unreachable: no route" in texts(verdict)
    assert "robot-3: history was not compared: there is no variable backfill_x" in texts(verdict)
    assert "robot-4: history was not compared: http://127.0.0.1:8428 does not answer" in texts(verdict)


def test_hubs_that_only_one_side_knows_are_told() -> None:
    plan = {
        **PLAN,
        "hubs": [{"name": "hub-9", "url": "https://hub-9:8427", "pending_bytes": 0}],
        "strangers": ["hub-1"],
    }
    verdict = report(robot(plan=plan, before={"results": []}, copy={"hubs": []}, after={}))
    assert "robot-1: roverwatch-vmagent does not write to hub-1" in texts(verdict)
    assert "robot-1: roverwatch-vmagent writes to https://hub-9:8427, which is no hub of the inventory" in texts(
        verdict
    )


def test_a_robot_without_a_history_is_told_and_is_no_failure() -> None:
    nothing = Counts(0, 600, {})
    done = {"missing": 0, "missing_minutes": 0, "copied": 0, "copied_minutes": 0, "sent_bytes": 0}
    verdict = report(robot(own=counted(nothing), copy=copied(**done), after={}))
    assert verdict.problems == []
    assert "robot-1: has no samples of its own in this time" in texts(verdict)


def test_progress_is_a_line() -> None:
    missing = gaps.compare(Counts(0, 3600, {"a": (1000, 60)}), Counts(0, 3600, {}))
    line = gaps.progress("robot-1", "hub-1", missing.before(2), missing)
    assert line == "robot-1 → hub-1: 20 of 60 min copied, 20,000 samples"
