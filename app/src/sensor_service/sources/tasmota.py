"""The energy of a smart plug with Tasmota, over HTTP: every field of ``ENERGY`` in its ``Status 8``.

Options::

    host = "192.168.1.50"                 # required
    port = 80
    user = "admin"                        # Tasmota's own; sent only with a password
    password_file = "/run/secrets/plug"   # its first line, read for each sample

Tasmota has no TLS: the password crosses the network in clear text, in the query, since that is what every
version of it takes. Set ``interval_seconds`` to a few seconds: a plug serves one client at a time.

Each sensor's name ends with its unit. What a plug does not send, or sends as null, is left out:

    Total              total_energy_joules            since TotalStartTime
    Today, Yesterday   today_energy_joules, yesterday_energy_joules
    ImportActive       import_energy_joules
    ExportActive       export_energy_joules
    TodaySumImport     today_import_energy_joules     balanced over all phases, as is the next
    TodaySumExport     today_export_energy_joules
    Period             period_energy_joules           since the last telemetry message
    ImportReactive     import_reactive_energy_varseconds
    ExportReactive     export_reactive_energy_varseconds
    TotalReactive      total_reactive_energy_varseconds
    Power              power_watts
    ApparentPower      apparent_power_voltamperes
    ReactivePower      reactive_power_vars
    Factor             power_factor_ratio
    PhaseAngle         phase_angle_radians
    Frequency          frequency_hertz
    Voltage            voltage_volts
    Current            current_amperes
    CurrentNeutral     neutral_current_amperes

A device with several relays or phases sends lists, and gets one sensor for each: ``channel_1_power_watts``,
``channel_2_power_watts`` and so on. ``TotalTariff`` and ``ExportTariff`` are lists by tariff:
``tariff_1_total_energy_joules``, ``tariff_2_export_energy_joules``.
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, urlencode

from ..options import option
from ..readings import Measurement
from . import Source
from .remote import HOST, is_host, read_password

MAX_BODY_BYTES = 64 * 1024

_WATT_HOUR = 3600.0
_KILOWATT_HOUR = 1000 * _WATT_HOUR


class _Field(NamedTuple):
    sensor: str
    unit: str
    factor: float = 1.0
    part: str = "channel"  # what an item of a list is of


# Names and units from Tasmota's drivers xdrv_03_energy, xdrv_03_esp32_energy and xnrg_*.
FIELDS = {
    "Total": _Field("total_energy", "joules", _KILOWATT_HOUR),
    "TotalTariff": _Field("total_energy", "joules", _KILOWATT_HOUR, "tariff"),
    "Today": _Field("today_energy", "joules", _KILOWATT_HOUR),
    "Yesterday": _Field("yesterday_energy", "joules", _KILOWATT_HOUR),
    "ImportActive": _Field("import_energy", "joules", _KILOWATT_HOUR),
    "ExportActive": _Field("export_energy", "joules", _KILOWATT_HOUR),
    "ExportTariff": _Field("export_energy", "joules", _KILOWATT_HOUR, "tariff"),
    "TodaySumImport": _Field("today_import_energy", "joules", _KILOWATT_HOUR),
    "TodaySumExport": _Field("today_export_energy", "joules", _KILOWATT_HOUR),
    "Period": _Field("period_energy", "joules", _WATT_HOUR),
    "ImportReactive": _Field("import_reactive_energy", "varseconds", _KILOWATT_HOUR),
    "ExportReactive": _Field("export_reactive_energy", "varseconds", _KILOWATT_HOUR),
    "TotalReactive": _Field("total_reactive_energy", "varseconds", _KILOWATT_HOUR),
    "Power": _Field("power", "watts"),
    "ApparentPower": _Field("apparent_power", "voltamperes"),
    "ReactivePower": _Field("reactive_power", "vars"),
    "Factor": _Field("power_factor", "ratio"),
    "PhaseAngle": _Field("phase_angle", "radians", math.pi / 180),
    "Frequency": _Field("frequency", "hertz"),
    "Voltage": _Field("voltage", "volts"),
    "Current": _Field("current", "amperes"),
    "CurrentNeutral": _Field("neutral_current", "amperes"),
}


class TasmotaError(Exception):
    """The plug did not give its energy. The message never quotes the answer: that may repeat the password."""


@dataclass(frozen=True)
class TasmotaOptions:
    """See the module's description."""

    host: str = option(check=is_host, allowed=HOST)
    port: int = option(80, minimum=1, maximum=65535)
    user: str = option("admin")
    password_file: str = option("")


class TasmotaSource(Source):
    """Asks a plug anew for each sample; follows no redirect."""

    Options = TasmotaOptions

    def __init__(self, options: TasmotaOptions) -> None:
        self._options = options

    def sample(self, timeout_seconds: float) -> Sequence[Measurement]:
        """Return all that is in ``ENERGY``, within the timeout for everything but the name's resolution."""
        host, port = self._options.host, self._options.port
        connection = _Connection(host, port, timeout_seconds)
        try:
            return parse(_fetch(connection, self._path()))
        except TimeoutError:
            problem = f"no answer within {timeout_seconds:g} s"
        except OSError as error:
            problem = error.strerror or str(error)
        except HTTPException as error:
            problem = f"that is no HTTP ({type(error).__name__})"
        except TasmotaError as error:
            problem = str(error)
        finally:
            connection.close()
        raise TasmotaError(f"{host} port {port}: {problem}")

    def _path(self) -> str:
        query = {"cmnd": "Status 8"}
        if self._options.password_file:
            query |= {"user": self._options.user, "password": read_password(self._options.password_file)}
        return "/cm?" + urlencode(query, quote_via=quote)


def parse(body: bytes) -> list[Measurement]:
    """Read an answer to ``Status 8``; TasmotaError if it is anything else."""
    try:
        answer = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise TasmotaError("answers with no JSON; is it a Tasmota with its HTTP API on (SetOption128 1)?") from None
    if isinstance(answer, dict) and "WARNING" in answer:
        raise _no_leave()
    status = answer.get("StatusSNS") if isinstance(answer, dict) else None
    if not isinstance(status, dict):
        raise TasmotaError("answers with no StatusSNS; is it a Tasmota?")
    energy = status.get("ENERGY")
    if not isinstance(energy, dict):
        sml = ", only a smart meter's SML" if "SML" in status else ""
        raise TasmotaError(f"sends no ENERGY{sml}; it has no energy sensor that this source knows")
    found = [measurement for name, field in FIELDS.items() for measurement in _measure(name, field, energy.get(name))]
    if not found:
        raise TasmotaError("sends an ENERGY without any value")
    return found


def _measure(name: str, field: _Field, value: Any) -> Iterator[Measurement]:
    sensor = f"{field.sensor}_{field.unit}"
    if field.part == "tariff" and not isinstance(value, list):
        value = [value]
    if isinstance(value, list):
        items = [(f"{field.part}_{number}_{sensor}", item) for number, item in enumerate(value, start=1)]
    else:
        items = [(sensor, value)]
    for full_name, item in items:
        if item is not None:  # what Tasmota writes for a value that it cannot measure
            yield Measurement(full_name, field.unit, _convert(name, field, item))


def _convert(name: str, field: _Field, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TasmotaError(f"sends an ENERGY.{name} that is no number ({type(value).__name__})")
    try:
        converted = value * field.factor
    except OverflowError:  # a whole number beyond the range of a float
        converted = math.inf
    if not math.isfinite(converted):
        raise TasmotaError(f"sends an ENERGY.{name} that is too large")
    return converted


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity, which Python reads and JSON does not have


def _no_leave() -> TasmotaError:
    return TasmotaError("wants a user and a password, or others than those given; see user and password_file")


class _Connection(HTTPConnection):
    """Ends at a deadline: a timeout of a socket is for each read, so that a byte now and then lasts for ever."""

    def __init__(self, host: str, port: int, timeout_seconds: float) -> None:
        super().__init__(host, port, timeout=timeout_seconds)
        self._deadline = time.monotonic() + timeout_seconds

    def connect(self) -> None:
        super().connect()
        self.sock = _Socket(self.sock, self._deadline)


class _Socket(socket.socket):
    def __init__(self, connected: socket.socket, deadline: float) -> None:
        super().__init__(connected.family, connected.type, connected.proto, fileno=connected.detach())
        self._deadline = deadline

    def sendall(self, *arguments: Any) -> None:
        self._limit()
        super().sendall(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self._limit()
        return super().recv_into(*arguments)

    def _limit(self) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self.settimeout(remaining)


def _fetch(connection: _Connection, path: str) -> bytes:
    connection.request("GET", path, headers={"Connection": "close"})
    response = connection.getresponse()
    if response.status == 401:
        raise _no_leave()
    if response.status != 200:
        raise TasmotaError(f"answers with HTTP {response.status}")
    body = response.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        raise TasmotaError(f"answers with more than {MAX_BODY_BYTES} bytes")
    return body
