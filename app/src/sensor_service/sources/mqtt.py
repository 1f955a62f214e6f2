"""JSON readings from the topics of an MQTT broker.

Options::

    host = "localhost"
    port = 1883                           # with tls usually 8883
    topics = ["sensors/#"]                # filters, + and # as MQTT has them
    username = ""
    password_file = ""                    # its first line, read for each connection
    tls = false
    ca_file = ""                          # the system's authorities, if left out
    client_id = ""                        # sensor_service-<host name>; two clients must not share one
    keepalive_seconds = 30
    max_age_seconds = 60.0                # an older value is left out

The broker must speak MQTT 5 (Mosquitto has done so since 1.6), with which it can be told the largest message
that we take. The source connects again by itself, after 1 to 30 seconds; until then a sample fails with the
reason. A retained message counts as new when the broker sends it, which is at each connection.

What a payload becomes; every sensor's name starts with its topic:

    sensors/arm/temperature_celsius   21.5                               sensors/arm/temperature_celsius  celsius
    sensors/arm                       {"battery": {"charge_ratio": 0.8}} sensors/arm/battery/charge_ratio ratio
    sensors/arm                       {"joint_radians": [0.1, 0.2]}      sensors/arm/joint_radians/0      radians
    sensors/arm/grip                  {"value": 21.5, "unit": "newtons"} sensors/arm/grip                 newtons
    sensors/arm/estop                 true                               sensors/arm/estop, 1             none

The unit of what is in ``value`` is the text ``unit`` beside it. Else it is the end of the name, if that is in
UNITS, and "none" if it is not. Booleans are 1 and 0. Texts, null and empty messages are ignored.

What is refused is counted in ``sensor_mqtt_refused_total`` and logged once for each topic; it harms nothing else:

    size     a payload over 64 KB (the broker itself keeps back messages over 256 KB)
    json     a payload that is not JSON
    number   NaN, Infinity and what is beyond the range of a float
    name     a sensor or unit longer than 128 characters, or not printable
    sensors  a new sensor while there are 2000 with a value that is not too old

Of more than 2000 messages a second the rest waits in the broker, which drops what it cannot keep.
"""

from __future__ import annotations

import json
import logging
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter
from prometheus_client.registry import Collector

from ..options import option
from ..readings import MAX_NAME_LENGTH, Measurement
from . import Source
from .remote import HOST, PasswordFileError, is_host, read_password

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

MAX_PAYLOAD_BYTES = 64 * 1024
MAX_PACKET_BYTES = 4 * MAX_PAYLOAD_BYTES  # more than the largest payload with the longest topic
MAX_SENSORS = 2000
# Reading them all would take the processor from the rest of the service: each cost 54 us on an x86 core.
MAX_MESSAGES_PER_SECOND = 2000
MAX_LOGGED_TOPICS = 100
RECONNECT_SECONDS = (1.0, 30.0)
LOOP_SECONDS = 1.0  # between two looks at whether it is time for a keepalive

UNITS = frozenset(
    {
        *("amperes", "bytes", "celsius", "coulombs", "grams", "henries", "hertz", "joules", "kelvin", "kilograms"),
        *("lux", "meters", "meters_per_second", "meters_per_second_squared", "newton_meters", "newtons", "ohms"),
        *("pascals", "radians", "radians_per_second", "radians_per_second_squared", "ratio", "seconds", "teslas"),
        *("vars", "voltamperes", "volts", "watts"),
    }
)
_UNIT_WORDS = max(unit.count("_") for unit in UNITS) + 1

REFUSALS = ("size", "json", "number", "name", "sensors")

log = logging.getLogger(__name__)


def is_topic_filter(text: str) -> bool:
    """Whether a broker takes this as the topic of a subscription (MQTT 5, chapter 4.7)."""
    levels = text.split("/")
    return (
        0 < len(text.encode()) <= 65535
        and "\0" not in text
        and "#" not in levels[:-1]
        and all(level in ("+", "#") or not {"+", "#"} & set(level) for level in levels)
    )


class MqttError(Exception):
    """There are no values, since there is no connection."""


@dataclass(frozen=True)
class MqttOptions:
    """See the module's description."""

    host: str = option("localhost", check=is_host, allowed=HOST)
    port: int = option(1883, minimum=1, maximum=65535)
    topics: tuple[str, ...] = option(
        ("sensors/#",),
        check=is_topic_filter,
        allowed="a list of topic filters, in which + stands for one level and # for all at the end",
    )
    username: str = option("")
    password_file: str = option("")
    tls: bool = option(False)
    ca_file: str = option("")
    client_id: str = option("")
    keepalive_seconds: int = option(30, minimum=5, maximum=3600)
    max_age_seconds: float = option(60.0, minimum=0.1, maximum=30 * 86400)

    def __post_init__(self) -> None:
        if not self.topics:
            raise ValueError("topics is empty; it must have at least one topic filter")
        if self.password_file and not self.username:
            raise ValueError("password_file needs a username")
        if self.ca_file and not self.tls:
            raise ValueError("ca_file needs tls = true")


class MqttSource(Source):
    """Keeps the newest value of each sensor. A thread of its own holds the connection."""

    Options = MqttOptions
    single = True
    extra = ("paho", "mqtt")

    def __init__(self, options: MqttOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._refused = Counter(
            "sensor_mqtt_refused_total", "MQTT messages of which something was refused.", ("reason",), registry=None
        )
        for reason in REFUSALS:
            self._refused.labels(reason)
        self._logged_topics: set[str] = set()
        self._lock = threading.Lock()
        self._values: dict[str, tuple[float, Measurement]] = {}  # guarded by the lock
        self._problem: str | None = "not connected yet"  # None while subscribed
        self._refusal = ""  # why the broker ends the connection at hand, if it said so
        self._received = 0  # messages in the second at hand
        self._thread: threading.Thread | None = None
        self._client: Client | None = None
        self._stop = threading.Event()
        self._tried = threading.Event()  # set once the first attempt to connect has come to something

    @property
    def collectors(self) -> Iterable[Collector]:
        """The counter of refused messages."""
        return (self._refused,)

    def sample(self, timeout_seconds: float) -> Sequence[Measurement]:
        """Return the newest value of each sensor; MqttError while there is no connection.

        Waits for the first attempt to connect, and never after that.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._stay_connected, name="mqtt", daemon=True)
            self._thread.start()
        self._tried.wait(timeout_seconds / 2)
        oldest = self._clock() - self._options.max_age_seconds
        with self._lock:
            self._values = {name: item for name, item in self._values.items() if item[0] >= oldest}
            values = [measurement for _, measurement in self._values.values()]
        if self._problem is not None:
            raise MqttError(f"{self._options.host} port {self._options.port}: {self._problem}")
        return values

    def close(self) -> None:
        """Disconnect and end the thread."""
        self._stop.set()
        if self._client is not None:
            self._client.disconnect()  # wakes the thread
        if self._thread is not None:
            self._thread.join()

    def _stay_connected(self) -> None:
        # paho's own loop would end for ever at an answer that is no MQTT, and hides why a connection failed.
        delay, longest = RECONNECT_SECONDS
        while not self._stop.is_set():
            self._refusal = ""
            try:
                self._connect_once()
                problem = self._refusal or "the connection was lost"
            except Exception as error:  # noqa: BLE001  (whatever it is, the next attempt may do better)
                problem = _describe(error)
            if self._problem is None:
                delay = RECONNECT_SECONDS[0]
            self._problem = problem
            self._tried.set()
            self._stop.wait(delay)
            delay = min(2 * delay, longest)

    def _connect_once(self) -> None:
        """Connect and receive until the connection ends. A new client each time remembers nothing of the last."""
        from paho.mqtt.client import MQTT_ERR_SUCCESS  # noqa: PLC0415  (an extra)
        from paho.mqtt.packettypes import PacketTypes  # noqa: PLC0415  (an extra)
        from paho.mqtt.properties import Properties  # noqa: PLC0415  (an extra)

        limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        limits.MaximumPacketSize = MAX_PACKET_BYTES
        options = self._options
        self._client = client = self._new_client()
        try:
            client.connect(options.host, options.port, options.keepalive_seconds, clean_start=True, properties=limits)
            second, self._received = time.monotonic(), 0
            while not self._stop.is_set() and client.loop(LOOP_SECONDS) == MQTT_ERR_SUCCESS:
                elapsed = time.monotonic() - second
                if elapsed < 1 and self._received >= MAX_MESSAGES_PER_SECOND:
                    self._stop.wait(1 - elapsed)
                    elapsed = 1
                if elapsed >= 1:
                    second, self._received = time.monotonic(), 0
        finally:
            client.disconnect()

    def _new_client(self) -> Client:
        from paho.mqtt.client import Client  # noqa: PLC0415  (an extra)
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion  # noqa: PLC0415  (an extra)

        options = self._options
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id or f"sensor_service-{socket.gethostname()}",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        if options.username:
            password = read_password(options.password_file) if options.password_file else None
            client.username_pw_set(options.username, password)
        if options.tls:
            client.tls_set_context(_tls(options.ca_file))
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _on_connect(
        self, client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._refusal = f"the broker refuses the connection: {reason}"
        else:
            client.subscribe([(topic, 0) for topic in self._options.topics])

    def _on_subscribe(
        self, client: Client, _data: object, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        for topic, reason in zip(self._options.topics, reasons, strict=True):
            if reason.is_failure:
                self._refusal = f"the broker refuses the topic {topic}: {reason}"
                client.disconnect()
                return
        self._problem = None
        self._tried.set()

    def _on_disconnect(
        self,
        _client: Client,
        _data: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._refusal = f"the broker ended the connection: {reason}"

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self._received += 1
        topic = message.topic
        measurements, refusals = parse(topic, bytes(message.payload))
        now = self._clock()
        with self._lock:
            for measurement in measurements:
                # Those that are there keep their place: a flood of new names must not push them out.
                if measurement.sensor in self._values or len(self._values) < MAX_SENSORS:
                    self._values[measurement.sensor] = (now, measurement)
                else:
                    refusals.add("sensors")
        for reason in refusals:
            self._refused.labels(reason).inc()
        topic = topic[:MAX_NAME_LENGTH]
        if refusals and topic not in self._logged_topics and len(self._logged_topics) < MAX_LOGGED_TOPICS:
            self._logged_topics.add(topic)
            log.warning("MQTT message refused", extra={"fields": {"topic": topic, "reason": sorted(refusals)}})


def parse(topic: str, payload: bytes) -> tuple[list[Measurement], set[str]]:
    """Return what is sound in a message, and the reasons for refusing the rest."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        return [], {"size"}
    if not payload:
        return [], set()  # how MQTT removes a retained message
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return [], {"json"}
    sound, refusals = [], set()
    found = _walk(topic, document)
    for measurement in islice(found, MAX_SENSORS):
        refusal = _refusal(measurement)
        if refusal:
            refusals.add(refusal)
        else:
            sound.append(measurement)
    if next(found, None):
        refusals.add("sensors")
    return sound, refusals


def _walk(name: str, value: Any, unit: str = "") -> Iterator[Measurement]:
    """Find all numbers. What is below a name that is too long is one item: depth and work have an end."""
    if isinstance(value, bool | int | float):
        yield Measurement(name, unit or _unit_of(name), _as_float(value))
    elif isinstance(value, dict | list) and len(name) > MAX_NAME_LENGTH:
        yield Measurement(name, "none", 0.0)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(f"{name}/{index}", item, unit)
    elif isinstance(value, dict):
        given = value.get("unit")
        for key, item in value.items():
            if key == "value" and isinstance(given, str):
                yield from _walk(name, item, given)
            else:
                yield from _walk(f"{name}/{key}", item, unit)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond the range of a float
        return math.inf


def _unit_of(name: str) -> str:
    """Return the unit at the end of a name, in front of an index: of ``…/joint_radians/0`` the radians."""
    last = next((level for level in reversed(name.split("/")) if not level.isdecimal()), "")
    words = last.removesuffix("_total").split("_")
    for number in range(_UNIT_WORDS, 0, -1):
        unit = "_".join(words[-number:])
        if unit in UNITS:
            return unit
    return "none"


def _refusal(measurement: Measurement) -> str | None:
    for text in (measurement.sensor, measurement.unit):
        if len(text) > MAX_NAME_LENGTH or not text.isprintable():
            return "name"
    return None if math.isfinite(measurement.value) else "number"


def _tls(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise MqttError(f"ca_file {ca_file}: {_describe(error)}") from error


def _describe(error: Exception) -> str:
    if isinstance(error, MqttError | PasswordFileError):
        return str(error)
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"
