"""The Tasmota source, against an HTTP server that plays recorded answers and worse."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_service.options import parse_table
from sensor_service.readings import Intake, Measurement
from sensor_service.sources.remote import PasswordFileError
from sensor_service.sources.tasmota import FIELDS, MAX_BODY_BYTES, TasmotaError, TasmotaOptions, TasmotaSource, parse
from stopwatch import Stopwatch

PASSWORD = "s3cret & späce/?"

SINGLE = """{"StatusSNS":{"Time":"2021-12-08T20:22:23","ENERGY":{"TotalStartTime":"2021-01-01T00:00:00","Total":91.117,
"Yesterday":0.386,"Today":1.274,"Period":5,"Power":87,"ApparentPower":151,"ReactivePower":124,"Factor":0.58,
"Frequency":50.1,"Voltage":229,"Current":0.662}}}"""

# A Shelly 3EM: frequency and voltage by phase, balanced sums, the current of the neutral, two tariffs.
THREE_PHASES = """{"StatusSNS":{"Time":"2024-03-01T12:00:00","ENERGY":{"TotalStartTime":"2024-01-01T00:00:00",
"Total":[12.5,0.25,1],"TotalTariff":[10,3.75],"Yesterday":[0.5,0,0.125],"Today":[0.25,0.001,0],
"TodaySumImport":0.5,"TodaySumExport":0.125,"ExportActive":[1,2,3],"ExportTariff":[4,2],
"Power":[-815,0,12],"ApparentPower":[820,0,15],"ReactivePower":[90,0,9],"Factor":[-0.99,0.00,0.80],
"Frequency":[50,50,null],"Voltage":[231,230,229],"Current":[3.55,0.000,0.065],"CurrentNeutral":3.1}}}"""

SML = '{"StatusSNS":{"Time":"2024-03-01T12:00:00","SML":{"Total_in":1234.5,"Power_curr":-300}}}'
WARNING = '{"WARNING":"Need user=<username>&password=<password>"}'


class Plug(ThreadingHTTPServer):
    """Answers each request with what ``play`` writes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.play: Callable[[BaseHTTPRequestHandler], None] = answer(SINGLE)
        self.paths: list[str] = []
        self.over = threading.Event()

    def source(self, **options: Any) -> TasmotaSource:
        return TasmotaSource(TasmotaOptions(**{"host": "127.0.0.1", "port": self.server_port} | options))

    def error(self, timeout_seconds: float = 5.0, **options: Any) -> str:
        """Sample once and return why that failed."""
        with pytest.raises(TasmotaError) as caught:
            list(self.source(**options).sample(timeout_seconds))
        message = str(caught.value)
        assert "\n" not in message
        return message.removeprefix(f"127.0.0.1 port {self.server_port}: ")


class _Handler(BaseHTTPRequestHandler):
    server: Plug
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.close_connection = True
        self.server.play(self)

    def log_message(self, *_: Any) -> None:
        pass


def answer(body: str, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def play(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body.encode()))} | headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body.encode())

    return play


def raw(content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: handler.wfile.write(content) and None


@pytest.fixture(name="plug")
def _plug() -> Iterator[Plug]:
    with Plug() as plug:
        thread = threading.Thread(target=plug.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield plug
        plug.over.set()
        plug.shutdown()
        thread.join()


@pytest.fixture(name="password_file")
def _password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\nanything else\n", encoding="utf-8")
    return file


def values(measurements: Any) -> dict[str, float]:
    accepted = Intake("plug", (), 500).accept(measurements, 0.0)
    assert accepted.problem is None
    assert accepted.dropped == 0
    assert all(item.sensor.endswith(f"_{item.unit}") for item in accepted.readings)
    return {item.sensor: item.value for item in accepted.readings}


def test_a_plug_gives_all_fields_in_base_units(plug: Plug) -> None:
    assert values(plug.source().sample(5)) == pytest.approx(
        {
            "total_energy_joules": 91.117 * 3.6e6,
            "today_energy_joules": 1.274 * 3.6e6,
            "yesterday_energy_joules": 0.386 * 3.6e6,
            "period_energy_joules": 5 * 3600,
            "power_watts": 87,
            "apparent_power_voltamperes": 151,
            "reactive_power_vars": 124,
            "power_factor_ratio": 0.58,
            "frequency_hertz": 50.1,
            "voltage_volts": 229,
            "current_amperes": 0.662,
        }
    )
    assert plug.paths == ["/cm?cmnd=Status%208"]


def test_lists_become_channels_and_tariffs(plug: Plug) -> None:
    def chunked(handler: BaseHTTPRequestHandler) -> None:  # as Tasmota sends it
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for part in (THREE_PHASES[:100], THREE_PHASES[100:]):
            handler.wfile.write(f"{len(part):x}\r\n{part}\r\n".encode())
        handler.wfile.write(b"0\r\n\r\n")

    plug.play = chunked
    assert values(plug.source().sample(5)) == pytest.approx(
        {
            "channel_1_total_energy_joules": 12.5 * 3.6e6,
            "channel_2_total_energy_joules": 0.25 * 3.6e6,
            "channel_3_total_energy_joules": 1 * 3.6e6,
            "tariff_1_total_energy_joules": 10 * 3.6e6,
            "tariff_2_total_energy_joules": 3.75 * 3.6e6,
            "channel_1_today_energy_joules": 0.25 * 3.6e6,
            "channel_2_today_energy_joules": 0.001 * 3.6e6,
            "channel_3_today_energy_joules": 0,
            "channel_1_yesterday_energy_joules": 0.5 * 3.6e6,
            "channel_2_yesterday_energy_joules": 0,
            "channel_3_yesterday_energy_joules": 0.125 * 3.6e6,
            "today_import_energy_joules": 0.5 * 3.6e6,
            "today_export_energy_joules": 0.125 * 3.6e6,
            "channel_1_export_energy_joules": 1 * 3.6e6,
            "channel_2_export_energy_joules": 2 * 3.6e6,
            "channel_3_export_energy_joules": 3 * 3.6e6,
            "tariff_1_export_energy_joules": 4 * 3.6e6,
            "tariff_2_export_energy_joules": 2 * 3.6e6,
            "channel_1_power_watts": -815,
            "channel_2_power_watts": 0,
            "channel_3_power_watts": 12,
            "channel_1_apparent_power_voltamperes": 820,
            "channel_2_apparent_power_voltamperes": 0,
            "channel_3_apparent_power_voltamperes": 15,
            "channel_1_reactive_power_vars": 90,
            "channel_2_reactive_power_vars": 0,
            "channel_3_reactive_power_vars": 9,
            "channel_1_power_factor_ratio": -0.99,
            "channel_2_power_factor_ratio": 0,
            "channel_3_power_factor_ratio": 0.8,
            "channel_1_frequency_hertz": 50,
            "channel_2_frequency_hertz": 50,
            "channel_1_voltage_volts": 231,
            "channel_2_voltage_volts": 230,
            "channel_3_voltage_volts": 229,
            "channel_1_current_amperes": 3.55,
            "channel_2_current_amperes": 0,
            "channel_3_current_amperes": 0.065,
            "neutral_current_amperes": 3.1,
        }
    )


def test_the_fields_of_modbus_meters(plug: Plug) -> None:
    energy = {"ImportActive": 2, "ImportReactive": 1, "ExportReactive": 0.5, "TotalReactive": 1.5, "PhaseAngle": 180}
    plug.play = answer(json.dumps({"StatusSNS": {"ENERGY": energy | {"SomethingNew": "x"}}}))
    assert values(plug.source().sample(5)) == pytest.approx(
        {
            "import_energy_joules": 7.2e6,
            "import_reactive_energy_varseconds": 3.6e6,
            "export_reactive_energy_varseconds": 1.8e6,
            "total_reactive_energy_varseconds": 5.4e6,
            "phase_angle_radians": math.pi,
        }
    )


def test_the_password_is_sent_and_a_new_one_is_used_at_once(plug: Plug, password_file: Path) -> None:
    source = plug.source(password_file=str(password_file))
    source.sample(5)
    password_file.write_text("new")
    source.sample(5)
    queries = [parse_qs(urlsplit(path).query) for path in plug.paths]
    assert queries == [
        {"cmnd": ["Status 8"], "user": ["admin"], "password": [PASSWORD]},
        {"cmnd": ["Status 8"], "user": ["admin"], "password": ["new"]},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "has no password in its first line"),
        (b"\nsecond", "has no password in its first line"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_password_file_that_cannot_be_used(
    plug: Plug, password_file: Path, content: bytes | None, message: str
) -> None:
    password_file.unlink()
    if content is not None:
        password_file.write_bytes(content)
    with pytest.raises(PasswordFileError) as caught:
        plug.source(password_file=str(password_file)).sample(5)
    assert str(caught.value) == f"password_file {password_file}: {message}"
    assert plug.paths == []


ENERGY = '{{"StatusSNS":{{"ENERGY":{}}}}}'


@pytest.mark.parametrize(
    ("play", "message"),
    [
        (answer(WARNING, 401), "wants a user and a password"),
        (answer(WARNING, 200), "wants a user and a password"),  # before Tasmota 8.2.3
        (answer(SML), "sends no ENERGY, only a smart meter's SML"),
        (answer('{"StatusSNS":{"Time":"x","Switch1":"ON"}}'), "sends no ENERGY; it has no energy sensor"),
        (answer('{"Command":"Unknown"}'), "answers with no StatusSNS"),
        (answer("[1]"), "answers with no StatusSNS"),
        (answer("<html>Tasmota</html>"), "answers with no JSON; is it a Tasmota with its HTTP API on"),
        (answer(""), "answers with no JSON"),
        (answer("[" * 60000), "answers with no JSON"),
        (answer(ENERGY.format('{"Power":NaN}')), "answers with no JSON"),
        (answer(ENERGY.format("{}")), "sends an ENERGY without any value"),
        (answer(ENERGY.format('{"Power":null,"Total":[null]}')), "sends an ENERGY without any value"),
        (answer(ENERGY.format('{"Power":"87"}')), "sends an ENERGY.Power that is no number (str)"),
        (answer(ENERGY.format('{"Power":[1,true]}')), "sends an ENERGY.Power that is no number (bool)"),
        (answer(ENERGY.format('{"Power":[[1]]}')), "sends an ENERGY.Power that is no number (list)"),
        (answer(ENERGY.format('{"Total":1e305}')), "sends an ENERGY.Total that is too large"),
        (answer(ENERGY.format('{"Total":1' + "0" * 400 + "}")), "sends an ENERGY.Total that is too large"),
        (answer("not found", 404), "answers with HTTP 404"),
        (answer(SINGLE, 302, Location="/elsewhere"), "answers with HTTP 302"),
        (answer(SINGLE + " " * MAX_BODY_BYTES), f"answers with more than {MAX_BODY_BYTES} bytes"),
        (raw(b"\x00\x01garbage\r\n\r\n"), "that is no HTTP (BadStatusLine)"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"), "that is no HTTP (HTTPException)"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "that is no HTTP (IncompleteRead)"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"), "answers with no JSON"),
        (lambda _: None, "Remote end closed connection without response"),
    ],
)
def test_every_other_answer_is_one_clear_error(
    plug: Plug, play: Callable[[BaseHTTPRequestHandler], None], message: str
) -> None:
    plug.play = play
    assert plug.error().startswith(message)
    assert len(plug.paths) == 1  # a redirect is not followed


def test_the_password_is_in_no_error(plug: Plug, password_file: Path) -> None:
    """Tasmota's own page for what it does not find repeats the whole query, and so may anything else."""
    password_file.write_text("s3cret")

    def echo_as_status(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(handler.requestline.encode() + b"\r\n\r\n")

    def echo_as_page(handler: BaseHTTPRequestHandler) -> None:
        answer(f"URI: {handler.path}", 404)(handler)

    def echo_as_value(handler: BaseHTTPRequestHandler) -> None:
        answer(json.dumps({"StatusSNS": {"ENERGY": {"Power": handler.path}}}))(handler)

    for play in (echo_as_status, echo_as_page, echo_as_value, answer(WARNING)):
        plug.play = play
        assert "s3cret" not in plug.error(password_file=str(password_file))
        assert "s3cret" in plug.paths[-1]


@pytest.mark.parametrize(
    ("start", "item", "pause"),
    [
        (b"", b"x", 0.02),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.02),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b"x", 0.02),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0),  # never waits for anything
    ],
)
def test_no_end_of_the_answer_does_not_last_longer_than_the_timeout(
    plug: Plug, start: bytes, item: bytes, pause: float
) -> None:
    def dribble(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        while not plug.over.wait(pause):
            try:
                handler.wfile.write(item)
            except OSError:
                return

    plug.play = dribble
    watch = Stopwatch()
    assert plug.error(timeout_seconds=0.3) == "no answer within 0.3 s"
    assert watch.seconds < 3


def test_a_silent_plug(plug: Plug) -> None:
    plug.play = lambda _: plug.over.wait() and None
    assert plug.error(timeout_seconds=0.1) == "no answer within 0.1 s"


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TasmotaError) as caught:
        TasmotaSource(TasmotaOptions(host="127.0.0.1", port=port)).sample(5)
    assert str(caught.value) == f"127.0.0.1 port {port}: Connection refused"


@pytest.mark.parametrize("host", ["plug", "plug.local.", "a_b-c.example", "192.168.1.50", "::1", "fe80::1%eth0"])
def test_hosts(host: str) -> None:
    errors: list[str] = []
    options = parse_table(TasmotaOptions, {"host": host}, "options", errors)
    assert errors == []
    assert options == TasmotaOptions(host=host, port=80, user="admin", password_file="")


@pytest.mark.parametrize("host", ["", "http://plug", "plug:80", "a b", "a..b", "plug/cm", "x" * 64, ".", "-a", "ü"])
def test_what_is_no_host(host: str) -> None:
    errors: list[str] = []
    assert parse_table(TasmotaOptions, {"host": host}, "options", errors) is None
    (error,) = errors
    assert error.startswith("options.host = ")
    assert error.endswith(": must be a host name or an IP address, without a port")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*FIELDS, "SML"]), inner, max_size=4),
)
FINITE = st.floats(-1e300, 1e300) | st.integers(-(10**15), 10**15)


@given(JSON)
def test_any_energy_gives_finite_numbers_or_the_one_error(energy: Any) -> None:
    for document in (energy, {"StatusSNS": energy}, {"StatusSNS": {"ENERGY": energy}}):
        try:
            found = parse(json.dumps(document).encode())
        except TasmotaError as error:
            assert "\n" not in str(error)
        else:
            values(found)


@given(st.binary())
def test_any_bytes_give_the_one_error(body: bytes) -> None:
    with pytest.raises(TasmotaError):
        parse(body)


@given(st.dictionaries(st.sampled_from(list(FIELDS)), FINITE | st.lists(FINITE, min_size=1, max_size=8), min_size=1))
def test_all_finite_numbers_pass(energy: dict[str, Any]) -> None:
    found = parse(json.dumps({"StatusSNS": {"ENERGY": energy}}).encode())
    wanted = [
        value * FIELDS[name].factor
        for name in FIELDS
        if name in energy
        for value in (energy[name] if isinstance(energy[name], list) else [energy[name]])
    ]
    assert [item.value for item in found] == wanted
    assert len(values(found)) == len(wanted)
    assert all(isinstance(item, Measurement) for item in found)
