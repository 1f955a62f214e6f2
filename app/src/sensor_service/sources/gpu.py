"""NVIDIA's GPUs through NVML, with dcgm-exporter's labels, and its names and units up to release 4.8.

Later ones rename some and change their units. Of the default counters three are left out: NVLink's, which robots
do not have, the vGPU licence, and the driver's version, which is a label there. MIG instances are not told apart.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from ctypes import CDLL, c_void_p, cast
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from ..options import option
from ..readings import Family, Measurement
from . import Source
from .simulated_gpus import SimulatedNvml

LIBRARY = "libnvidia-ml.so.1"
LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "hostname")
# What stands for "not available": all bits of 32 in NVML, and from here on all bits of 64 and DCGM's blanks.
BLANK_32, BLANK_64 = 0xFFFFFFFF, 0x7FFFFFFFFFFFFFF0
MAX_EVENTS = 100  # per sample: a GPU that reports errors without end must not hold up its readings


def _family(name: str, unit: str, text: str, kind: Literal["gauge", "unknown"] = "gauge") -> Family:
    return Family(f"DCGM_FI_DEV_{name}", kind, unit, text, LABELS)


def _utilization(nvml: Any, gpu: Any) -> tuple[int, ...]:
    rates = nvml.nvmlDeviceGetUtilizationRates(gpu)
    return rates.gpu, rates.memory


def _memory(nvml: Any, gpu: Any) -> tuple[int, ...]:
    memory = nvml.nvmlDeviceGetMemoryInfo(gpu, version=nvml.nvmlMemory_v2)
    return memory.free, memory.used, memory.reserved


def _memory_celsius(nvml: Any, gpu: Any) -> tuple[int, ...]:
    (field,) = nvml.nvmlDeviceGetFieldValues(gpu, [nvml.NVML_FI_DEV_MEMORY_TEMP])
    if field.nvmlReturn:
        raise nvml.NVMLError(field.nvmlReturn)
    return (field.value.uiVal,)


def _remapped_rows(nvml: Any, gpu: Any) -> tuple[int, ...]:
    correctable, uncorrectable, _pending, failure = nvml.nvmlDeviceGetRemappedRows(gpu)
    return correctable, uncorrectable, failure


@dataclass(frozen=True)
class Query:
    """One call of NVML. Its answers, divided, are the values of the families."""

    families: tuple[Family, ...]
    ask: Callable[[Any, Any], Sequence[int]]
    divisor: int = 1


QUERIES = (
    Query(
        (
            _family("GPU_UTIL", "percent", "GPU utilization (in %)."),
            _family("MEM_COPY_UTIL", "percent", "Memory utilization (in %)."),
        ),
        _utilization,
    ),
    Query(
        (_family("ENC_UTIL", "percent", "Encoder utilization (in %)."),),
        lambda nvml, gpu: nvml.nvmlDeviceGetEncoderUtilization(gpu)[:1],
    ),
    Query(
        (_family("DEC_UTIL", "percent", "Decoder utilization (in %)."),),
        lambda nvml, gpu: nvml.nvmlDeviceGetDecoderUtilization(gpu)[:1],
    ),
    Query(
        (_family("GPU_TEMP", "celsius", "GPU temperature (in C)."),),
        # Its successor nvmlDeviceGetTemperatureV is not in drivers as old as 535, which this one outlives.
        lambda nvml, gpu: [nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)],
    ),
    Query((_family("MEMORY_TEMP", "celsius", "Memory temperature (in C)."),), _memory_celsius),
    Query(
        (_family("POWER_USAGE", "watts", "Power draw (in W)."),),
        lambda nvml, gpu: [nvml.nvmlDeviceGetPowerUsage(gpu)],
        divisor=1000,
    ),
    Query(
        (
            _family(
                "TOTAL_ENERGY_CONSUMPTION",
                "millijoules",
                "Total energy consumption since the driver was loaded (in mJ).",
                "unknown",
            ),
        ),
        lambda nvml, gpu: [nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)],
    ),
    Query(
        (_family("SM_CLOCK", "megahertz", "SM clock frequency (in MHz)."),),
        lambda nvml, gpu: [nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)],
    ),
    Query(
        (_family("MEM_CLOCK", "megahertz", "Memory clock frequency (in MHz)."),),
        lambda nvml, gpu: [nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM)],
    ),
    Query(
        (
            _family("FB_FREE", "mebibytes", "Framebuffer memory free (in MiB)."),
            _family("FB_USED", "mebibytes", "Framebuffer memory used (in MiB)."),
            _family("FB_RESERVED", "mebibytes", "Framebuffer memory reserved (in MiB)."),
        ),
        _memory,
        divisor=1 << 20,
    ),
    Query(
        (_family("PCIE_REPLAY_COUNTER", "retries", "Total number of PCIe retries.", "unknown"),),
        lambda nvml, gpu: [nvml.nvmlDeviceGetPcieReplayCounter(gpu)],
    ),
    Query(
        (
            _family("CORRECTABLE_REMAPPED_ROWS", "rows", "Number of remapped rows for correctable errors.", "unknown"),
            _family(
                "UNCORRECTABLE_REMAPPED_ROWS", "rows", "Number of remapped rows for uncorrectable errors.", "unknown"
            ),
            _family("ROW_REMAP_FAILURE", "boolean", "Whether remapping of rows has failed."),
        ),
        _remapped_rows,
    ),
)
XID = _family("XID_ERRORS", "xid", "Value of the last XID error since the service started, 0 before the first.")


@dataclass(frozen=True)
class GpuOptions:
    """With ``simulated_gpus`` that many are made up, with loads that come from ``seed``."""

    simulated_gpus: int = option(0, minimum=0, maximum=64)
    seed: int = option(1, minimum=0, maximum=2**32 - 1)


class GpuError(Exception):
    """There is no GPU to read; the text says what to do."""


@dataclass
class Gpu:
    """One GPU. ``xid`` is its last XID error, and None where the driver tells of none."""

    handle: Any
    labels: tuple[str, ...]
    xid: int | None = None


class GpuSource(Source):
    """Reads all GPUs. One that fails does not hide the others: it is counted in ``gpus_failing``."""

    Options = GpuOptions
    families = (*(family for query in QUERIES for family in query.families), XID)
    single = True
    extra = ("pynvml", "gpu")

    def __init__(self, options: GpuOptions, library: SimulatedNvml | None = None) -> None:
        nvml: Any = import_module("pynvml")
        if options.simulated_gpus:
            library = SimulatedNvml(nvml, options.simulated_gpus, options.seed)
        if library:
            nvml.nvmlLib = library  # pynvml loads the real one only while it has none
        self._nvml = nvml
        self._unsupported = (
            nvml.NVMLError_NotSupported,
            nvml.NVMLError_FunctionNotFound,  # the driver is older than the function
            nvml.NVMLError_ArgumentVersionMismatch,  # or than its arguments
        )
        self._running = False
        self._gpus: list[Gpu] = []
        self._absent: list[str] = []  # what is wrong with those that failed from the start
        self._events: Any = None

    def sample(self, timeout_seconds: float) -> Iterator[Measurement]:  # noqa: ARG002  (NVML takes no time limit)
        """Yield what the GPUs tell, then raise about those that fail. When none tells anything, start NVML anew
        the next time."""
        try:
            if not self._running:
                self._start()
            measurements, problems = self._read_all()
        except Exception:
            self.close()
            raise
        yield from measurements
        if problems:
            raise GpuError("; ".join(problems))

    def close(self) -> None:
        """Shut NVML down."""
        if self._running:
            self._running = False
            if self._events is not None:
                with suppress(self._nvml.NVMLError):
                    self._nvml.nvmlEventSetFree(self._events)
            self._nvml.nvmlShutdown()

    def _start(self) -> None:
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise GpuError(self._remedy(error)) from None
        self._running = True
        self._gpus, self._absent, self._events = [], [], None
        with suppress(*self._unsupported):
            self._events = nvml.nvmlEventSetCreate()
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                self._gpus.append(self._find(number))
            except nvml.NVMLError as error:
                self._absent.append(f"GPU {number}: {error}")
        if not self._gpus and not self._absent:
            raise GpuError("NVML finds no GPU; is one passed into the container?")

    def _remedy(self, error: Exception) -> str:
        if isinstance(error, self._nvml.NVMLError_LibraryNotFound):
            try:
                CDLL(LIBRARY)
            except OSError as reason:  # which pynvml keeps to itself
                return f"{reason}; it takes NVIDIA's driver, passed into the container, and an image with glibc"
        if isinstance(error, self._nvml.NVMLError_DriverNotLoaded):
            return "NVIDIA's driver is not loaded on the machine, or no GPU is passed into the container"
        return f"NVML does not start: {error}; see what nvidia-smi says on the machine"

    def _find(self, number: int) -> Gpu:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        labels = (
            str(number),
            nvml.nvmlDeviceGetUUID(handle),
            nvml.nvmlDeviceGetPciInfo(handle).busId,
            f"nvidia{number}",
            nvml.nvmlDeviceGetName(handle),
            socket.gethostname(),
        )
        gpu = Gpu(handle, labels)
        if self._events is not None:
            with suppress(*self._unsupported):
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._events)
                gpu.xid = 0
        return gpu

    def _read_all(self) -> tuple[list[Measurement], list[str]]:
        self._take_events()
        measurements: list[Measurement] = []
        problems = list(self._absent)
        for gpu in self._gpus:
            found, error = self._read(gpu)
            measurements += found
            if error:
                last = f", last XID error {gpu.xid}" if gpu.xid else ""
                problems.append(f"GPU {gpu.labels[0]} ({gpu.labels[1]}): {error}{last}")
        if problems and not measurements:
            raise GpuError(f"no GPU answers; {problems[0]}; see the kernel's log and restart the machine")
        measurements += [XID.measure(gpu.xid, *gpu.labels) for gpu in self._gpus if gpu.xid is not None]
        return [*measurements, Measurement("gpus_failing", "gpus", len(problems))], problems

    def _take_events(self) -> None:
        """Note each GPU's last XID error. It stays to be seen when the GPU itself is lost with it."""
        if self._events is None:
            return
        gpus = {_address(gpu.handle): gpu for gpu in self._gpus}
        with suppress(self._nvml.NVMLError):  # a time-out: there are no more. A lost GPU is told by its readings
            for _ in range(MAX_EVENTS):
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
                gpus[_address(event.device)].xid = event.eventData

    def _read(self, gpu: Gpu) -> tuple[list[Measurement], str | None]:
        """Everything that the GPU tells, and the first error that is no lack of support."""
        found: list[Measurement] = []
        error: str | None = None
        for query in QUERIES:
            try:
                answers = query.ask(self._nvml, gpu.handle)
            except self._unsupported:
                continue
            except self._nvml.NVMLError as failed:
                error = error or str(failed)
                continue
            found += [
                family.measure(answer / query.divisor, *gpu.labels)
                for family, answer in zip(query.families, answers, strict=True)
                if is_told(answer)
            ]
        return found, error


def is_told(answer: int) -> bool:
    """Whether an answer is a value, and not what stands for one that is not available."""
    return answer != BLANK_32 and answer < BLANK_64


def _address(handle: Any) -> int | None:
    return cast(handle, c_void_p).value
