"""The MQTT source, against a real Mosquitto with its own port and files."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import publish
from sensor_helpers import Clock, eventually
from sensor_service.options import parse_table
from sensor_service.readings import Intake
from sensor_service.sources import mqtt
from sensor_service.sources.mqtt import (
    MAX_PACKET_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_SENSORS,
    REFUSALS,
    MqttError,
    MqttOptions,
    MqttSource,
    is_topic_filter,
    parse,
)

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
needs_broker = pytest.mark.skipif(
    MOSQUITTO is None, reason="no mosquitto here: lab/packages.sh mosquitto, or apt-get install mosquitto"
)
SECONDS = 20.0  # for what takes a broker or a reconnection; the first comes after 1 s, the next after 2


class Broker:
    """A Mosquitto on a free port of 127.0.0.1."""

    def __init__(self, folder: Path, *settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.folder = folder
        self.configure("allow_anonymous true", *settings)

    def configure(self, *settings: str) -> None:
        # Without max_queued_messages 0 the broker may drop what a busy machine does not take fast enough.
        lines = (f"listener {self.port} 127.0.0.1", "user root", "max_queued_messages 0", *settings)
        (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")])
        eventually(self._listens, SECONDS)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def publish(self, topic: str, payload: Any, **options: Any) -> None:
        content = payload if isinstance(payload, bytes | str) else json.dumps(payload)
        publish.single(topic, content, port=self.port, hostname="127.0.0.1", **options)

    def _listens(self) -> bool:
        assert self._process.poll() is None
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


@pytest.fixture(name="broker")
def _broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(name="connect")
def _connect() -> Iterator[Callable[..., MqttSource]]:
    """Make sources that are closed in the end, whatever the test did."""
    with contextlib.ExitStack() as stack:

        def connect(port: int, *, clock: Clock | None = None, **options: Any) -> MqttSource:
            settings = MqttOptions(**{"host": "127.0.0.1", "port": port} | options)
            source = MqttSource(settings, clock) if clock else MqttSource(settings)
            stack.callback(source.close)
            return source

        yield connect


def values(source: MqttSource) -> dict[str, tuple[float, str]] | None:
    """Return what a sample gives, or None if it fails."""
    with contextlib.suppress(MqttError):
        accepted = Intake("mqtt", (), 10_000).accept(source.sample(1.0), 0.0)
        assert accepted.problem is None
        return {item.sensor: (item.value, item.unit) for item in accepted.readings}
    return None


def connected(source: MqttSource) -> None:
    eventually(lambda: values(source) is not None, SECONDS)


def error_of(source: MqttSource, words: str) -> str:
    """Sample until that fails with these words, and return the whole error."""

    def failed() -> str:
        try:
            source.sample(1.0)
        except MqttError as error:
            return str(error) if words in str(error) else ""
        return ""

    return str(eventually(failed, SECONDS))


def refused(source: MqttSource) -> dict[str, float]:
    (counter,) = source.collectors
    samples = [sample for family in counter.collect() for sample in family.samples if sample.name.endswith("_total")]
    assert {sample.labels["reason"] for sample in samples} == set(REFUSALS)
    return {sample.labels["reason"]: sample.value for sample in samples if sample.value}


@needs_broker
def test_values_arrive_from_the_topics_of_the_filters_only(broker: Broker, connect: Callable[..., MqttSource]) -> None:
    source = connect(broker.port, topics=("robot/+/state", "arm/#"))
    connected(source)
    broker.publish("robot/left/state", {"battery_volts": 24.5, "mode": "auto"})
    broker.publish("robot/left/other", 1)
    broker.publish("elsewhere", 1)
    broker.publish("arm/joint/elbow_radians", b"0.25")
    wanted = {"robot/left/state/battery_volts": (24.5, "volts"), "arm/joint/elbow_radians": (0.25, "radians")}
    assert eventually(lambda: (found := values(source)) and len(found) == 2 and found, SECONDS) == wanted
    broker.publish("arm/joint/elbow_radians", b"0.5")
    eventually(lambda: (values(source) or {}).get("arm/joint/elbow_radians") == (0.5, "radians"), SECONDS)


def test_a_sample_does_not_wait_for_the_broker(connect: Callable[..., MqttSource]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        source = connect(port)
        for _ in range(2):
            with pytest.raises(MqttError) as caught:
                source.sample(1.0)
            assert str(caught.value) == f"127.0.0.1 port {port}: not connected yet"


@needs_broker
def test_retained_messages_come_and_old_values_go(broker: Broker, connect: Callable[..., MqttSource]) -> None:
    broker.publish("sensors/a", 1, retain=True)
    clock = Clock()
    source = connect(broker.port, clock=clock, max_age_seconds=60.0)
    eventually(lambda: values(source) == {"sensors/a": (1.0, "none")}, SECONDS)
    clock.now += 59
    broker.publish("sensors/b", 2)
    eventually(lambda: values(source) == {"sensors/a": (1.0, "none"), "sensors/b": (2.0, "none")}, SECONDS)
    clock.now += 2
    assert values(source) == {"sensors/b": (2.0, "none")}
    clock.now += 60
    assert values(source) == {}
    broker.publish("sensors/b", b"", retain=True)  # clears a retained message: no value and no fault
    broker.publish("sensors/c", 3)
    eventually(lambda: values(source) == {"sensors/c": (3.0, "none")}, SECONDS)
    assert refused(source) == {}


@needs_broker
@pytest.mark.parametrize("gentle", [True, False])
def test_it_connects_again_after_a_broker_restart(
    broker: Broker, connect: Callable[..., MqttSource], gentle: bool
) -> None:
    source = connect(broker.port)
    connected(source)
    broker.publish("sensors/a", 1)
    eventually(lambda: values(source) == {"sensors/a": (1.0, "none")}, SECONDS)
    broker.stop() if gentle else broker.kill()
    error = error_of(source, "Connection refused")
    assert error == f"127.0.0.1 port {broker.port}: Connection refused"
    broker.start()
    connected(source)
    broker.publish("sensors/a", 2)
    eventually(lambda: values(source) == {"sensors/a": (2.0, "none")}, SECONDS)


@pytest.fixture(name="password_file")
def _password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("wr0ng\n")
    return file


@needs_broker
def test_a_wrong_password_is_said_and_a_new_one_is_used(
    tmp_path: Path, password_file: Path, connect: Callable[..., MqttSource], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    broker = Broker(tmp_path)
    users = tmp_path / "users"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "robot", "r1ght"], check=True)
    broker.configure("allow_anonymous false", f"password_file {users}")
    broker.start()
    try:
        source = connect(broker.port, username="robot", password_file=str(password_file))
        error = error_of(source, "refuses")
        assert error == f"127.0.0.1 port {broker.port}: the broker refuses the connection: Not authorized"
        password_file.write_text("r1ght\n")
        connected(source)
        password_file.unlink()
        broker.stop()
        broker.start()
        assert error_of(source, "password_file").endswith(f": password_file {password_file}: No such file or directory")
    finally:
        broker.stop()
    assert "r1ght" not in caplog.text
    assert "wr0ng" not in caplog.text


@needs_broker
def test_a_topic_that_the_broker_refuses(tmp_path: Path, connect: Callable[..., MqttSource]) -> None:
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)
    if plugin is None:
        pytest.skip("Mosquitto's dynamic security plugin, which refuses subscriptions, is not here")
    state = tmp_path / "dynamic-security.json"
    state.write_text(json.dumps({"defaultACLAccess": {"subscribe": False, "publishClientReceive": True}}))
    broker = Broker(tmp_path)
    broker.configure("allow_anonymous true", f"plugin {plugin}", f"plugin_opt_config_file {state}")
    broker.start()
    try:
        source = connect(broker.port, topics=("sensors/#",))
        error_of(source, ": the broker refuses the topic sensors/#: Not authorized")
    finally:
        broker.stop()


class Authority:
    """A certificate authority that signs one certificate, for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.ca_file, self.certificate, self.key = folder / "ca.pem", folder / "broker.pem", folder / "broker.key"
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
        issued_by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        ca = self._builder(ca_name, ca_key, ca_name).add_extension(x509.BasicConstraints(True, None), critical=True)
        ca = ca.add_extension(identifier, critical=False)
        broker = self._builder(name, key, ca_name).add_extension(alternative, critical=False)
        broker = broker.add_extension(issued_by, critical=False)
        self.ca_file.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        self.certificate.write_bytes(broker.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    @staticmethod
    def _builder(name: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name) -> x509.CertificateBuilder:
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)


@needs_broker
def test_tls(tmp_path: Path, connect: Callable[..., MqttSource]) -> None:
    authority = Authority(tmp_path)
    broker = Broker(tmp_path, f"certfile {authority.certificate}", f"keyfile {authority.key}")
    broker.start()
    try:
        trusting = connect(broker.port, client_id="a", tls=True, ca_file=str(authority.ca_file))
        connected(trusting)
        broker.publish("sensors/a", 1, tls={"ca_certs": str(authority.ca_file)})
        eventually(lambda: values(trusting) == {"sensors/a": (1.0, "none")}, SECONDS)

        unknown = connect(broker.port, client_id="b", tls=True)
        error_of(unknown, ": TLS: unable to get local issuer certificate")
        plain = connect(broker.port, client_id="c")
        error_of(plain, ": the connection was lost")
        other_name = connect(broker.port, client_id="d", host="localhost", tls=True, ca_file=str(authority.ca_file))
        error_of(other_name, ": TLS: Hostname mismatch")
        missing = connect(broker.port, client_id="e", tls=True, ca_file=str(tmp_path / "none.pem"))
        error_of(missing, f": ca_file {tmp_path / 'none.pem'}: No such file or directory")
        no_authority = connect(broker.port, client_id="f", tls=True, ca_file=str(authority.key))
        error_of(no_authority, f": ca_file {authority.key}: TLS: ")
    finally:
        broker.stop()


def test_a_name_that_does_not_resolve(connect: Callable[..., MqttSource], monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    source = connect(1883, host="broker.invalid")
    assert error_of(source, "Name or") == "broker.invalid port 1883: Name or service not known"


def test_what_is_no_broker_is_asked_again(connect: Callable[..., MqttSource], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these ends paho's own loop, or its connection."""
    monkeypatch.setattr(mqtt, "RECONNECT_SECONDS", (0.01, 0.01))
    answers = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x03\x00\xff\x00",  # a CONNACK with a reason that MQTT does not know
        b"\x20\x02\x00\x01",  # one of MQTT 3, which refuses the version
        b"\x20\x03\x00\x00\x00\xe0\x02\x8e\x00",  # a broker that ends the connection and says why
        b"\x20\x03\x00\x00\x00\x30\x05\x00\xff",  # a PUBLISH that is shorter than its topic
        b"\xff" * 1000,
        b"",
    ]
    reasons = {
        answers[2]: "refuses the connection: Unsupported protocol version",
        answers[3]: "ended the connection: Session taken over",
    }
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = connect(listener.getsockname()[1], keepalive_seconds=5)
        values(source)
        for answer in answers:
            listener.settimeout(SECONDS)
            client, _ = listener.accept()
            with client:
                seen.append(client.recv(1000))
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
                client.settimeout(SECONDS)
                with contextlib.suppress(ConnectionError):
                    while client.recv(1000):
                        pass
            if answer in reasons:
                error_of(source, f": the broker {reasons[answer]}")
    assert len(seen) == len(answers)
    assert all(b"MQTT\x05" in packet for packet in seen)


def test_a_connection_that_fails_is_closed_at_once(
    connect: Callable[..., MqttSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "RECONNECT_SECONDS", (60.0, 60.0))  # the next attempt would close it, too
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = connect(listener.getsockname()[1])
        values(source)
        client, _ = listener.accept()
        with client:
            client.settimeout(SECONDS)
            client.sendall(b"\x20\x03\x00\xff\x00")
            while client.recv(1000):
                pass


@needs_broker
def test_one_bad_message_harms_nothing_else_and_is_counted(
    broker: Broker, connect: Callable[..., MqttSource], caplog: pytest.LogCaptureFixture
) -> None:
    source = connect(broker.port)
    connected(source)
    for _ in range(2):
        broker.publish("sensors/text", b"ONLINE")
    broker.publish("sensors/large", b" " * MAX_PAYLOAD_BYTES + b"1")
    broker.publish("sensors/huge", b"1" * (MAX_PACKET_BYTES + 1))  # the broker does not pass it on
    broker.publish("sensors/mixed", b'{"bad": NaN, "good_volts": 1, "' + b"x" * 200 + b'": 2}')
    broker.publish("sensors/last", 1)
    eventually(lambda: "sensors/last" in (values(source) or {}), SECONDS)
    assert values(source) == {"sensors/mixed/good_volts": (1.0, "volts"), "sensors/last": (1.0, "none")}
    assert refused(source) == {"json": 2, "size": 1, "number": 1, "name": 1}
    logged = [record.fields for record in caplog.records if record.name == mqtt.__name__]  # type: ignore[attr-defined]
    assert logged == [
        {"topic": "sensors/text", "reason": ["json"]},
        {"topic": "sensors/large", "reason": ["size"]},
        {"topic": "sensors/mixed", "reason": ["name", "number"]},
    ]


@needs_broker
def test_a_flood_of_topics_is_bounded_and_pushes_nothing_out(
    broker: Broker, connect: Callable[..., MqttSource], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    source = connect(broker.port, clock=clock)
    connected(source)
    broker.publish("sensors/mine", 1)
    eventually(lambda: values(source) == {"sensors/mine": (1.0, "none")}, SECONDS)
    flood = [(f"sensors/flood/{number}", json.dumps([number, number])) for number in range(MAX_SENSORS)]
    publish.multiple([(*message, 0, False) for message in flood], hostname="127.0.0.1", port=broker.port)
    broker.publish("sensors/mine", 2)
    eventually(lambda: (values(source) or {}).get("sensors/mine") == (2.0, "none"), SECONDS)
    # The broker may take a message of one client before what another one has sent earlier.
    eventually(lambda: refused(source)["sensors"] == MAX_SENSORS - (MAX_SENSORS - 1) // 2, SECONDS)
    assert len(values(source) or {}) == MAX_SENSORS
    assert len([record for record in caplog.records if record.name == mqtt.__name__]) == mqtt.MAX_LOGGED_TOPICS
    clock.now += 61
    assert values(source) == {}
    broker.publish("sensors/new", 1)
    eventually(lambda: values(source) == {"sensors/new": (1.0, "none")}, SECONDS)


class Waits(threading.Event):
    """Counts the waits, and waits not at all."""

    count = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.count += 1
        return self.is_set()


@needs_broker
def test_the_first_sample_waits_for_the_first_attempt_to_connect(
    broker: Broker, connect: Callable[..., MqttSource]
) -> None:
    """Or each start of the service would count a failure."""
    assert connect(broker.port).sample(2 * SECONDS) == []
    broker.stop()
    try:
        with pytest.raises(MqttError, match="Connection refused"):
            connect(broker.port).sample(2 * SECONDS)
    finally:
        broker.start()


@needs_broker
def test_more_messages_than_it_may_read_in_a_second_have_to_wait(
    broker: Broker, connect: Callable[..., MqttSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "MAX_MESSAGES_PER_SECOND", 20)
    source = connect(broker.port)
    source._stop = waits = Waits()
    connected(source)
    before = waits.count  # of attempts to connect
    messages = [(f"sensors/{number}", "1", 0, False) for number in range(200)]
    publish.multiple(messages, hostname="127.0.0.1", port=broker.port)
    eventually(lambda: len(values(source) or {}) == 200, SECONDS)
    assert 0 < waits.count - before <= 10


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "mqtt"]


@needs_broker
def test_close_disconnects_and_ends_the_thread(
    broker: Broker, connect: Callable[..., MqttSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "LOOP_SECONDS", 60.0)  # so that it does not end by itself
    source = connect(broker.port)
    assert threads() == []  # the first sample starts it
    connected(source)
    assert threads() == ["mqtt"]
    assert source._client is not None
    connection = source._client.socket()
    started = time.monotonic()
    source.close()
    assert time.monotonic() - started < 30
    assert threads() == []
    assert connection is not None
    assert connection.fileno() == -1


def test_close_while_it_waits_for_the_next_attempt(connect: Callable[..., MqttSource]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    source = connect(port)
    error_of(source, "Connection refused")
    source.close()
    assert threads() == []


def test_close_before_the_first_sample() -> None:
    MqttSource(MqttOptions()).close()


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        ("21.5", {"t": (21.5, "none")}),
        ("-3", {"t": (-3.0, "none")}),
        ("true", {"t": (1.0, "none")}),
        ("false", {"t": (0.0, "none")}),
        ("null", {}),
        ('"21.5"', {}),
        ("", {}),
        ("{}", {}),
        ("[[]]", {}),
        ('{"value": 21.5, "unit": "celsius"}', {"t": (21.5, "celsius")}),
        ('{"value": 21.5, "unit": ""}', {"t": (21.5, "none")}),
        ('{"value": 21.5}', {"t/value": (21.5, "none")}),
        ('{"value": 21.5, "unit": 3}', {"t/value": (21.5, "none"), "t/unit": (3.0, "none")}),
        ('{"value": [1, {"x": 2}], "unit": "newtons"}', {"t/0": (1.0, "newtons"), "t/1/x": (2.0, "newtons")}),
        ('{"value": 1, "unit": "volts", "at_seconds": 5}', {"t": (1.0, "volts"), "t/at_seconds": (5.0, "seconds")}),
        ('{"imu": {"value": 1, "unit": "teslas"}}', {"t/imu": (1.0, "teslas")}),
        ('{"a": {"b_volts": 1, "c": "x", "d": null}, "e": 2}', {"t/a/b_volts": (1.0, "volts"), "t/e": (2.0, "none")}),
        ('{"q_radians": [0.5, 1]}', {"t/q_radians/0": (0.5, "radians"), "t/q_radians/1": (1.0, "radians")}),
        ('{"speed_meters_per_second": 1}', {"t/speed_meters_per_second": (1.0, "meters_per_second")}),
        ('{"kilometers": 1}', {"t/kilometers": (1.0, "none")}),
        ('{"volts": 1}', {"t/volts": (1.0, "volts")}),
        ('{"sent_bytes_total": 1}', {"t/sent_bytes_total": (1.0, "bytes")}),
        ('{"volts": {"a": 1}}', {"t/volts/a": (1.0, "none")}),
        ('{"a": 1, "a": 2}', {"t/a": (2.0, "none")}),
    ],
)
def test_payloads(payload: str, wanted: dict[str, tuple[float, str]]) -> None:
    found, refusals = parse("t", payload.encode())
    assert refusals == set()
    assert {item.sensor: (item.value, item.unit) for item in found} == wanted


@pytest.mark.parametrize(
    ("payload", "refusals"),
    [
        (b"ONLINE", {"json"}),
        (b"\xff", {"json"}),
        (b'{"a": 1', {"json"}),
        (b"[" * 60000, {"json"}),
        (b"1" * 5000, {"json"}),
        (b"NaN", {"number"}),
        (b"-Infinity", {"number"}),
        (b"1e999", {"number"}),
        (b"1" + b"0" * 400, {"number"}),
        (b'{"a\\u0000": 1}', {"name"}),
        (b'{"\\ud800": 1}', {"name"}),
        (b'{"' + b"x" * 127 + b'": 1}', {"name"}),
        (b'{"value": 1, "unit": "' + b"x" * 129 + b'"}', {"name"}),
        (b'{"value": 1, "unit": "\\n"}', {"name"}),
        (b'{"a":' * 500 + b"1" + b"}" * 500, {"name"}),
        (b" " * MAX_PAYLOAD_BYTES + b"1", {"size"}),
    ],
)
def test_what_is_refused(payload: bytes, refusals: set[str]) -> None:
    assert parse("t", payload) == ([], refusals)


def test_no_depth_is_too_deep() -> None:
    for depth in range(900, 1100):  # around the depth at which Python's own parser gives up
        for start, end in ((b'{"a":', b"}"), (b"[", b"]")):
            assert parse("t", start * depth + b"1" + end * depth)[1] in ({"name"}, {"json"})


def test_a_long_list_in_one_message_is_cut() -> None:
    found, refusals = parse("t", b"[" + b"0," * 30000 + b"0]")
    assert len(found) == MAX_SENSORS
    assert refusals == {"sensors"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["value", "unit", "a"]), inner),
)


@given(st.text(min_size=1, max_size=150), JSON)
def test_any_json_gives_only_what_the_service_takes(topic: str, document: Any) -> None:
    found, refusals = parse(topic, json.dumps(document).encode())
    assert refusals <= set(REFUSALS)
    accepted = Intake("mqtt", (), 10_000).accept({item.sensor: item for item in found}.values(), 0.0)
    assert accepted.problem is None


@given(st.binary())
def test_any_bytes_make_it_raise_nothing(payload: bytes) -> None:
    assert parse("t", payload)[1] <= set(REFUSALS)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True).filter(lambda key: key != "unit"), st.floats()))
def test_every_finite_number_arrives_and_no_other(document: dict[str, float]) -> None:
    found, refusals = parse("t", json.dumps(document).encode())
    finite = {f"t/{key}": value for key, value in document.items() if abs(value) <= 1.7976931348623157e308}
    assert {item.sensor: item.value for item in found} == finite
    assert refusals == ({"number"} if len(finite) < len(document) else set())


@pytest.mark.parametrize("text", ["a", "#", "+", "/", "a/#", "+/b/+", "a//b", "/a/", "$SYS/#", "ü", "a b"])
def test_topic_filters(text: str) -> None:
    assert is_topic_filter(text)


@pytest.mark.parametrize("text", ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a/b#", "\0", "ü" * 32768])
def test_what_is_no_topic_filter(text: str) -> None:
    assert not is_topic_filter(text)


def test_options() -> None:
    errors: list[str] = []
    options = parse_table(MqttOptions, {"host": "::1", "topics": ["a/+", "b/#"], "tls": True}, "options", errors)
    assert errors == []
    assert options == MqttOptions(host="::1", topics=("a/+", "b/#"), tls=True)
    assert MqttOptions().topics == ("sensors/#",)


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ({"topics": []}, "options: topics is empty; it must have at least one topic filter"),
        ({"topics": ["a", "b#"]}, "options.topics = ['a', 'b#']: must be a list of topic filters, in which"),
        ({"password_file": "/x"}, "options: password_file needs a username"),
        ({"ca_file": "/x"}, "options: ca_file needs tls = true"),
        ({"host": "mqtt://x"}, "options.host = 'mqtt://x': must be a host name or an IP address"),
        ({"keepalive_seconds": 0}, "options.keepalive_seconds = 0: must be a whole number from 5 to 3600"),
    ],
)
def test_unusable_options(table: dict[str, Any], error: str) -> None:
    errors: list[str] = []
    assert parse_table(MqttOptions, table, "options", errors) is None
    (found,) = errors
    assert found.startswith(error)
