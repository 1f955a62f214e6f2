"""A host full of GPUs for machines without one: NVML's C library, played by Python below the real client.

pynvml takes each function from its library by name and hands it what C would get: handles, and pointers to
write the answers to. So the source and its client library run unchanged, and only the driver is made up.
"""

# ruff: noqa: ARG002  (the arguments are NVML's)

from __future__ import annotations

import math
import random
import time
import uuid
from collections import deque
from collections.abc import Callable
from ctypes import POINTER, c_char, c_uint, c_ulonglong, c_void_p, cast
from functools import wraps
from typing import Any

MODEL = "Simulated GPU"

# The figures of an 80 GB H100.
IDLE_WATTS, MAX_WATTS = 70, 700
IDLE_MEGAHERTZ, MAX_MEGAHERTZ, MEMORY_MEGAHERTZ = 345, 1980, 2619
IDLE_CELSIUS, MAX_CELSIUS, MEMORY_CELSIUS_MORE = 30, 75, 6
HEATING_SECONDS = 20
MEMORY_MEBIBYTES, RESERVED_MEBIBYTES = 81559, 551
MEBIBYTE = 1 << 20

# A load swings around one half; its two waves never reach 0 or 1 together.
WAVES = ((0.30, 240.0), (0.15, 37.0))


class Load:
    """How busy one GPU is: two waves, whose phases come from a seed. Times are in seconds."""

    def __init__(self, source: random.Random) -> None:
        self._waves = [(height, 2 * math.pi / period, source.uniform(0, 2 * math.pi)) for height, period in WAVES]

    def at(self, seconds: float) -> float:
        """From 0 (idle) to 1."""
        return 0.5 + sum(height * math.sin(speed * seconds + phase) for height, speed, phase in self._waves)

    def until(self, seconds: float) -> float:
        """The integral from 0, which makes a counter that never falls and fits the gauge exactly."""
        return 0.5 * seconds + sum(
            height / speed * (math.cos(phase) - math.cos(speed * seconds + phase))
            for height, speed, phase in self._waves
        )


def at(pointer: Any, kind: Any) -> Any:
    """What a pointer argument points to."""
    return cast(pointer, POINTER(kind)).contents


def _of_a_gpu(function: Callable[..., None]) -> Callable[..., int]:
    """A function whose first argument is a handle; it gets the number of the GPU instead."""

    @wraps(function)
    def call(self: SimulatedNvml, handle: Any, *arguments: Any) -> int:
        number = (cast(handle, c_void_p).value or 0) - 1
        if not self.initialized:
            return int(self.nvml.NVML_ERROR_UNINITIALIZED)
        if number in self.lost:
            return int(self.nvml.NVML_ERROR_GPU_IS_LOST)
        if function.__name__ in self.unsupported:
            return int(self.nvml.NVML_ERROR_NOT_SUPPORTED)
        function(self, number, *arguments)
        return 0

    return call


class SimulatedNvml:
    """Takes the place of ``pynvml.nvmlLib``. Its methods are NVML's functions; one that is missing is missing.

    The attributes are for tests: GPUs that fell off the bus, functions that no GPU supports, whether the
    driver is loaded, and the XID errors to come as pairs of GPU and code.
    """

    def __init__(self, nvml: Any, gpus: int, seed: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.nvml = nvml
        self.lost: set[int] = set()
        self.unsupported: set[str] = set()
        self.driver_loaded = True
        self.initialized = False
        self.xids: deque[tuple[int, int]] = deque()
        source = random.Random(seed)  # noqa: S311  (a simulation, not a secret)
        self._loads = [Load(source) for _ in range(gpus)]
        self._uuids = [uuid.UUID(int=source.getrandbits(128), version=4) for _ in range(gpus)]
        self._clock = clock
        self._start = clock()

    def _now(self) -> float:
        return self._clock() - self._start

    def _load(self, number: int, seconds_ago: float = 0.0) -> float:
        return self._loads[number].at(self._now() - seconds_ago)

    def nvmlInitWithFlags(self, flags: int) -> int:
        if not self.driver_loaded:
            return int(self.nvml.NVML_ERROR_DRIVER_NOT_LOADED)
        self.initialized = True
        return 0

    def nvmlShutdown(self) -> int:
        self.initialized = False
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        at(count, c_uint).value = len(self._loads)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: c_uint, device: Any) -> int:
        if index.value in self.lost:
            return int(self.nvml.NVML_ERROR_GPU_IS_LOST)
        at(device, c_void_p).value = index.value + 1
        return 0

    @_of_a_gpu
    def nvmlDeviceGetUUID(self, number: int, text: Any, length: c_uint) -> None:
        at(text, c_char * length.value).value = f"GPU-{self._uuids[number]}".encode()

    @_of_a_gpu
    def nvmlDeviceGetName(self, number: int, text: Any, length: c_uint) -> None:
        at(text, c_char * length.value).value = MODEL.encode()

    @_of_a_gpu
    def nvmlDeviceGetPciInfo_v3(self, number: int, info: Any) -> None:
        at(info, self.nvml.nvmlPciInfo_t).busId = f"00000000:{number + 0x1A:02X}:00.0".encode()

    @_of_a_gpu
    def nvmlDeviceGetUtilizationRates(self, number: int, rates: Any) -> None:
        found = at(rates, self.nvml.c_nvmlUtilization_t)
        found.gpu, found.memory = int(100 * self._load(number)), int(60 * self._load(number))

    @_of_a_gpu
    def nvmlDeviceGetEncoderUtilization(self, number: int, percent: Any, period: Any) -> None:
        at(percent, c_uint).value = int(10 * self._load(number))
        at(period, c_uint).value = 167_000

    @_of_a_gpu
    def nvmlDeviceGetDecoderUtilization(self, number: int, percent: Any, period: Any) -> None:
        at(percent, c_uint).value = int(25 * self._load(number))
        at(period, c_uint).value = 167_000

    def _celsius(self, number: int) -> int:
        return int(IDLE_CELSIUS + (MAX_CELSIUS - IDLE_CELSIUS) * self._load(number, HEATING_SECONDS))

    @_of_a_gpu
    def nvmlDeviceGetTemperature(self, number: int, sensor: c_uint, celsius: Any) -> None:
        at(celsius, c_uint).value = self._celsius(number)

    @_of_a_gpu
    def nvmlDeviceGetFieldValues(self, number: int, count: Any, values: Any) -> None:
        for value in at(values, self.nvml.c_nvmlFieldValue_t * count.value):
            if value.fieldId == self.nvml.NVML_FI_DEV_MEMORY_TEMP:
                value.value.uiVal = self._celsius(number) + MEMORY_CELSIUS_MORE
            else:
                value.nvmlReturn = self.nvml.NVML_ERROR_NOT_SUPPORTED

    @_of_a_gpu
    def nvmlDeviceGetPowerUsage(self, number: int, milliwatts: Any) -> None:
        at(milliwatts, c_uint).value = int(1000 * (IDLE_WATTS + (MAX_WATTS - IDLE_WATTS) * self._load(number)))

    @_of_a_gpu
    def nvmlDeviceGetTotalEnergyConsumption(self, number: int, millijoules: Any) -> None:
        now = self._now()
        joules = IDLE_WATTS * now + (MAX_WATTS - IDLE_WATTS) * self._loads[number].until(now)
        at(millijoules, c_ulonglong).value = int(1000 * joules)

    @_of_a_gpu
    def nvmlDeviceGetClockInfo(self, number: int, kind: c_uint, megahertz: Any) -> None:
        sm = IDLE_MEGAHERTZ + (MAX_MEGAHERTZ - IDLE_MEGAHERTZ) * self._load(number)
        at(megahertz, c_uint).value = MEMORY_MEGAHERTZ if kind.value == self.nvml.NVML_CLOCK_MEM else int(sm)

    @_of_a_gpu
    def nvmlDeviceGetMemoryInfo_v2(self, number: int, memory: Any) -> None:
        found = at(memory, self.nvml.c_nvmlMemory_v2_t)
        used = int((MEMORY_MEBIBYTES - RESERVED_MEBIBYTES) * self._load(number))
        found.total, found.reserved = MEMORY_MEBIBYTES * MEBIBYTE, RESERVED_MEBIBYTES * MEBIBYTE
        found.used, found.free = used * MEBIBYTE, (MEMORY_MEBIBYTES - RESERVED_MEBIBYTES - used) * MEBIBYTE

    @_of_a_gpu
    def nvmlDeviceGetPcieReplayCounter(self, number: int, replays: Any) -> None:
        at(replays, c_uint).value = int(self._now() / 3600)

    @_of_a_gpu
    def nvmlDeviceGetRemappedRows(self, number: int, *counts: Any) -> None:
        for count in counts:
            at(count, c_uint).value = 0

    def nvmlEventSetCreate(self, events: Any) -> int:
        at(events, c_void_p).value = 1
        return 0

    @_of_a_gpu
    def nvmlDeviceRegisterEvents(self, number: int, types: Any, events: Any) -> None:
        """All XID errors are told, so that there is nothing to note."""

    def nvmlEventSetWait_v2(self, events: Any, event: Any, milliseconds: Any) -> int:
        if not self.xids:
            return int(self.nvml.NVML_ERROR_TIMEOUT)
        number, xid = self.xids.popleft()
        found = at(event, self.nvml.c_nvmlEventData_t)
        found.device = cast(number + 1, type(found.device))
        found.eventType, found.eventData = self.nvml.nvmlEventTypeXidCriticalError, xid
        return 0

    def nvmlEventSetFree(self, events: Any) -> int:
        return 0
