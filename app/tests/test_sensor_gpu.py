"""GPUs through the real pynvml: over a simulated driver, and over none at all."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from sensor_helpers import Clock, sampler_of
from sensor_service.metrics import Metrics
from sensor_service.readings import Intake, Measurement, Reading
from sensor_service.sampler import State
from sensor_service.sources.gpu import LIBRARY, GpuError, GpuOptions, GpuSource, is_told
from sensor_service.sources.simulated_gpus import MAX_WATTS, MEMORY_MEBIBYTES, SimulatedNvml, at

# Those of dcgm-exporter 4.8 with its default counters that NVML has for a GPU without NVLink and vGPU.
DCGM = {
    "DCGM_FI_DEV_SM_CLOCK",
    "DCGM_FI_DEV_MEM_CLOCK",
    "DCGM_FI_DEV_MEMORY_TEMP",
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_MEM_COPY_UTIL",
    "DCGM_FI_DEV_ENC_UTIL",
    "DCGM_FI_DEV_DEC_UTIL",
    "DCGM_FI_DEV_XID_ERRORS",
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_FB_RESERVED",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE",
}
POWER = "DCGM_FI_DEV_POWER_USAGE"


def fresh_nvml() -> Any:
    """A pynvml that has no library yet: it keeps one, and each function that it took from that, for ever."""
    sys.modules.pop("pynvml", None)
    return import_module("pynvml")


@pytest.fixture(name="nvml", autouse=True)
def _nvml() -> Any:
    return fresh_nvml()


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="library")
def _library(nvml: Any, clock: Clock) -> SimulatedNvml:
    return SimulatedNvml(nvml, 8, clock=clock)


@pytest.fixture(name="source")
def _source(library: SimulatedNvml) -> GpuSource:
    return GpuSource(GpuOptions(), library)


def take(source: GpuSource) -> list[Measurement]:
    """What it tells, whatever it says of the rest."""
    found: list[Measurement] = []
    with suppress(GpuError):
        found.extend(source.sample(1))
    return found


def by_gpu(measurements: Iterable[Measurement | Reading]) -> dict[tuple[str, str], float]:
    """The values by name and number of the GPU, that of the count by its name alone."""
    return {(item.sensor, dict(item.labels).get("gpu", "")): item.value for item in measurements}


def failing(measurements: Iterable[Measurement]) -> float:
    return by_gpu(measurements)["gpus_failing", ""]


def test_eight_gpus_have_every_metric(source: GpuSource) -> None:
    measurements = take(source)
    assert {family.name for family in source.families} == DCGM
    assert set(by_gpu(measurements)) == {(name, str(gpu)) for name in DCGM for gpu in range(8)} | {("gpus_failing", "")}
    accepted = Intake("gpu", source.families, 500).accept(measurements, 0.0)
    assert (len(accepted.readings), accepted.dropped, accepted.problem) == (8 * len(DCGM) + 1, 0, None)


def test_the_labels_are_those_of_dcgm_exporter(source: GpuSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "robot-7")
    labels = [dict(item.labels) for item in take(source) if item.sensor == POWER]
    assert len({label.pop("UUID") for label in labels}) == 8
    assert labels[1] == {
        "gpu": "1",
        "pci_bus_id": "00000000:1B:00.0",
        "device": "nvidia1",
        "modelName": "Simulated GPU",
        "hostname": "robot-7",
    }


@pytest.mark.parametrize("as_openmetrics", [False, True])
def test_the_output_is_what_a_parser_takes(source: GpuSource, as_openmetrics: bool) -> None:
    sampler = sampler_of(source, "gpu")
    sampler.sample()
    text = Metrics().render([sampler.snapshot()], as_openmetrics)[0].decode()
    parse = openmetrics_parser if as_openmetrics else parser
    families = {family.name: family for family in parse.text_string_to_metric_families(text)}
    assert set(families) > DCGM
    energy = families["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"]
    assert (energy.type, len(energy.samples)) == ("unknown", 8)
    assert families["DCGM_FI_DEV_GPU_TEMP"].documentation == "GPU temperature (in C)."


def test_power_energy_and_memory_fit_together(source: GpuSource, clock: Clock) -> None:
    energy, memory = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_FB_"
    before = by_gpu(take(source))
    seen = set()
    for _ in range(300):
        clock.now += 1
        now = by_gpu(take(source))
        for gpu in map(str, range(8)):
            joules = (now[energy, gpu] - before[energy, gpu]) / 1000
            assert joules == pytest.approx((now[POWER, gpu] + before[POWER, gpu]) / 2, rel=0.01)
            assert sum(now[memory + part, gpu] for part in ("FREE", "USED", "RESERVED")) == MEMORY_MEBIBYTES
            assert 0 < now["DCGM_FI_DEV_GPU_UTIL", gpu] < 100
            assert 30 < now["DCGM_FI_DEV_GPU_TEMP", gpu] < now["DCGM_FI_DEV_MEMORY_TEMP", gpu] < 90
        seen.add(now[POWER, "0"])
        before = now
    assert max(seen) - min(seen) > MAX_WATTS / 3


def test_a_seed_gives_the_same_gpus_again() -> None:
    def sample(seed: int) -> list[Measurement]:
        clock = Clock()
        source = GpuSource(GpuOptions(), SimulatedNvml(fresh_nvml(), 2, seed, clock))
        clock.now += 100
        return take(source)

    assert sample(7) == sample(7) != sample(8)


def test_the_option_makes_gpus() -> None:
    measurements = take(GpuSource(GpuOptions(simulated_gpus=64)))
    assert len(measurements) == 64 * len(DCGM) + 1


def test_each_answer_goes_to_its_own_metric(nvml: Any) -> None:
    class Known(SimulatedNvml):
        def nvmlDeviceGetEncoderUtilization(self, handle: Any, percent: Any, period: Any) -> int:
            at(percent, ctypes.c_uint).value, at(period, ctypes.c_uint).value = 11, 99
            return 0

        def nvmlDeviceGetDecoderUtilization(self, handle: Any, percent: Any, period: Any) -> int:
            at(percent, ctypes.c_uint).value, at(period, ctypes.c_uint).value = 12, 99
            return 0

        def nvmlDeviceGetClockInfo(self, handle: Any, kind: Any, megahertz: Any) -> int:
            at(megahertz, ctypes.c_uint).value = {nvml.NVML_CLOCK_SM: 13, nvml.NVML_CLOCK_MEM: 14}[kind.value]
            return 0

        def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:
            found = at(rates, nvml.c_nvmlUtilization_t)
            found.gpu, found.memory = 15, 16
            return 0

        def nvmlDeviceGetRemappedRows(self, handle: Any, *counts: Any) -> int:  # correctable first
            for count, value in zip(counts, (17, 18, 1, 0), strict=True):
                at(count, ctypes.c_uint).value = value
            return 0

    found = by_gpu(take(GpuSource(GpuOptions(), Known(nvml, 1))))
    wanted = {
        "ENC_UTIL": 11,
        "DEC_UTIL": 12,
        "SM_CLOCK": 13,
        "MEM_CLOCK": 14,
        "GPU_UTIL": 15,
        "MEM_COPY_UTIL": 16,
        "CORRECTABLE_REMAPPED_ROWS": 17,
        "UNCORRECTABLE_REMAPPED_ROWS": 18,
        "ROW_REMAP_FAILURE": 0,
    }
    assert {name: found[f"DCGM_FI_DEV_{name}", "0"] for name in wanted} == wanted


# --- what a GPU cannot tell


@pytest.mark.parametrize(
    ("function", "names"),
    [
        ("nvmlDeviceGetMemoryInfo_v2", {"FB_FREE", "FB_USED", "FB_RESERVED"}),
        ("nvmlDeviceGetUtilizationRates", {"GPU_UTIL", "MEM_COPY_UTIL"}),
        ("nvmlDeviceGetFieldValues", {"MEMORY_TEMP"}),
        ("nvmlDeviceRegisterEvents", {"XID_ERRORS"}),
    ],
)
def test_what_is_not_supported_is_left_out(
    source: GpuSource, library: SimulatedNvml, function: str, names: set[str]
) -> None:
    library.unsupported.add(function)
    measurements = take(source)
    assert {item.sensor for item in measurements} == DCGM - {f"DCGM_FI_DEV_{name}" for name in names} | {"gpus_failing"}
    assert failing(measurements) == 0


def test_a_driver_older_than_a_function_goes_without(nvml: Any) -> None:
    class Old(SimulatedNvml):
        @property
        def nvmlDeviceGetRemappedRows(self) -> Any:
            raise AttributeError  # as ctypes does for a symbol that a library does not have

        def nvmlDeviceGetMemoryInfo_v2(self, *_: Any) -> int:
            return int(nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)

        nvmlEventSetCreate = nvmlDeviceGetRemappedRows

    measurements = take(GpuSource(GpuOptions(), Old(nvml, 1)))
    assert len(measurements) == len(DCGM) - 3 - 3 - 1 + 1
    assert failing(measurements) == 0


def test_one_field_that_has_no_value_is_left_out(nvml: Any) -> None:
    class NoMemoryTemperature(SimulatedNvml):
        def nvmlDeviceGetFieldValues(self, handle: Any, count: Any, values: Any) -> int:
            at(values, nvml.c_nvmlFieldValue_t).nvmlReturn = nvml.NVML_ERROR_NOT_SUPPORTED
            return 0

    names = {item.sensor for item in take(GpuSource(GpuOptions(), NoMemoryTemperature(nvml, 1)))}
    assert names == DCGM - {"DCGM_FI_DEV_MEMORY_TEMP"} | {"gpus_failing"}


class Raw(SimulatedNvml):
    """Gives what the test says for power and memory."""

    milliwatts = 0
    memory = (0, 0, 0)

    def nvmlDeviceGetPowerUsage(self, handle: Any, milliwatts: Any) -> int:
        at(milliwatts, ctypes.c_uint).value = self.milliwatts
        return 0

    def nvmlDeviceGetMemoryInfo_v2(self, handle: Any, memory: Any) -> int:
        found = at(memory, self.nvml.c_nvmlMemory_v2_t)
        found.free, found.used, found.reserved = self.memory
        return 0


RAW = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0xFFFFFFFF, 9223372036854775794, 2**64 - 1, 2**64 - 16]))


def test_units_are_converted_and_blanks_are_left_out(nvml: Any) -> None:
    library = Raw(nvml, 1)
    source = GpuSource(GpuOptions(), library)

    @given(milliwatts=st.one_of(st.integers(0, 2**32 - 1), st.just(2**32 - 1)), memory=st.tuples(RAW, RAW, RAW))
    def check(milliwatts: int, memory: tuple[int, int, int]) -> None:
        library.milliwatts, library.memory = milliwatts, memory
        found = by_gpu(take(source))
        assert found.get((POWER, "0")) == (None if milliwatts == 2**32 - 1 else milliwatts / 1000)
        for part, value in zip(("FREE", "USED", "RESERVED"), memory, strict=True):
            told = value != 2**32 - 1 and value < 2**63 - 16
            assert found.get((f"DCGM_FI_DEV_FB_{part}", "0")) == (value / 1024 / 1024 if told else None)

    check()


@pytest.mark.parametrize("blank", [0xFFFFFFFF, 2**64 - 1, *range(9223372036854775792, 9223372036854775796)])
def test_a_blank_is_no_value(blank: int) -> None:
    assert not is_told(blank)
    assert is_told(0xFFFFFFFE)
    assert is_told(0)


# --- a GPU that fails


def test_a_gpu_that_is_lost_is_told_and_does_not_hide_the_others(source: GpuSource, library: SimulatedNvml) -> None:
    sampler = sampler_of(source, "gpu")
    sampler.sample()
    library.xids += [(3, 62), (3, 79)]
    library.lost.add(3)
    for _ in range(2):
        sampler.sample()
        seen = sampler.snapshot()
        assert seen.state is State.FAILING
        assert str(seen.error).startswith("GpuError: GPU 3 (GPU-")
        assert str(seen.error).endswith("): GPU is lost, last XID error 79")
        found = by_gpu(seen.readings)
        assert found["gpus_failing", ""] == 1
        assert {name for name, gpu in found if gpu == "3"} == {"DCGM_FI_DEV_XID_ERRORS"}
        assert [found["DCGM_FI_DEV_XID_ERRORS", gpu] for gpu in "234"] == [0, 79, 0]
        assert len(found) == 7 * len(DCGM) + 2
    library.lost.clear()
    sampler.sample()
    assert sampler.snapshot().state is State.OK
    assert failing(take(source)) == 0


def test_a_gpu_that_was_lost_before_the_start_is_counted(source: GpuSource, library: SimulatedNvml) -> None:
    library.lost.add(0)
    measurements = take(source)
    assert failing(measurements) == 1
    assert {gpu for _, gpu in by_gpu(measurements)} == {"", *"1234567"}


def test_an_error_of_one_metric_counts_and_hides_no_other(nvml: Any) -> None:
    class Broken(SimulatedNvml):
        def nvmlDeviceGetPowerUsage(self, handle: Any, milliwatts: Any) -> int:
            return int(nvml.NVML_ERROR_UNKNOWN)

    measurements = take(GpuSource(GpuOptions(), Broken(nvml, 2)))
    assert failing(measurements) == 2
    assert {name for name, _ in by_gpu(measurements)} == DCGM - {POWER} | {"gpus_failing"}


def test_when_no_gpu_answers_the_source_fails_until_one_does(library: SimulatedNvml) -> None:
    sampler = sampler_of(GpuSource(GpuOptions(), library), "gpu")
    sampler.sample()
    assert sampler.snapshot().state is State.OK
    library.xids.append((0, 79))
    library.lost.update(range(8))
    for _ in range(2):  # the second one starts NVML anew
        sampler.sample()
        snapshot = sampler.snapshot()
        assert snapshot.state is State.FAILING
        assert "no GPU answers; GPU 0" in (snapshot.error or "")
        assert not library.initialized
    library.lost.clear()
    sampler.sample()
    assert sampler.snapshot().state is State.OK


def test_errors_without_end_do_not_hold_up_the_readings(source: GpuSource, library: SimulatedNvml) -> None:
    library.xids += [(1, 13)] * 1000
    assert by_gpu(take(source))["DCGM_FI_DEV_XID_ERRORS", "1"] == 13
    assert 0 < len(library.xids) < 1000


# --- the driver


def test_a_driver_that_comes_later_is_found(source: GpuSource, library: SimulatedNvml) -> None:
    library.driver_loaded = False
    for _ in range(2):
        with pytest.raises(GpuError, match=r"^NVIDIA's driver is not loaded .*passed into the container$"):
            list(source.sample(1))
    library.driver_loaded = True
    assert failing(take(source)) == 0


def test_a_machine_without_gpus_is_an_error(nvml: Any) -> None:
    library = SimulatedNvml(nvml, 0)
    with pytest.raises(GpuError, match="NVML finds no GPU"):
        list(GpuSource(GpuOptions(), library).sample(1))
    assert not library.initialized


def test_another_error_of_the_driver_is_told(nvml: Any) -> None:
    class Updated(SimulatedNvml):
        def nvmlInitWithFlags(self, flags: int) -> int:
            return int(nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    with pytest.raises(GpuError, match=r"NVML does not start: .*version mismatch.*; see what nvidia-smi says"):
        list(GpuSource(GpuOptions(), Updated(nvml, 1)).sample(1))


def test_closing_shuts_nvml_down_once_and_only_if_it_runs(source: GpuSource, library: SimulatedNvml) -> None:
    source.close()
    take(source)
    assert library.initialized
    source.close()
    assert not library.initialized
    source.close()


def has_driver() -> bool:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="NVIDIA's driver is here")
def test_a_machine_without_a_driver_is_told_what_it_lacks_and_may_get_one(nvml: Any) -> None:
    source = GpuSource(GpuOptions())
    with pytest.raises(GpuError) as caught:
        list(source.sample(1))
    assert str(caught.value).startswith(f"{LIBRARY}: cannot open shared object file")
    assert "it takes NVIDIA's driver" in str(caught.value)
    assert len(f"GpuError: {caught.value}") <= 200, "the service shows no more of an error"
    nvml.nvmlLib = SimulatedNvml(nvml, 1)
    assert failing(take(source)) == 0
