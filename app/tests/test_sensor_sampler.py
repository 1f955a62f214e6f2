"""The sampler: whatever a source does, it harms nothing but its own readings."""

from __future__ import annotations

import json
import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_helpers import GOOD, Clock, Hanging, Scripted, eventually, sampler_of
from sensor_service.cpu import CpuSpikes
from sensor_service.logs import JsonFormatter
from sensor_service.readings import MAX_MEASUREMENTS, Measurement, accept
from sensor_service.sampler import BUFFER_SIZE, Sampler, State
from sensor_service.sources.simulated import WAVEFORMS, SimulatedOptions, SimulatedSource


def test_a_good_sample() -> None:
    source = sampler_of(Scripted())
    assert source.snapshot().state is State.PENDING
    before = time.time()
    source.sample()
    seen = source.snapshot()
    assert (seen.state, seen.iterations, seen.failed, seen.queue_depth) == (State.OK, 1, 0, 1)
    (reading,) = seen.readings
    assert before <= reading.timestamp <= seen.timestamp <= time.time()
    assert reading[1:] == ("probe", "temperature_celsius", "celsius", 21.5)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (OSError("no bus"), "OSError: no bus"),
        (None, "TypeError"),
        (["text"], "measurement 0 is no"),
        ([("a", "b")], "measurement 0 is no"),
        ([("", "volts", 1.0)], "no printable text"),
        ([("a\udc80", "volts", 1.0)], "no printable text"),
        ([("a", None, 1.0)], "no printable text"),
        ([("a", "volts", math.nan)], "no finite number"),
        ([("a", "volts", -math.inf)], "no finite number"),
        ([("a", "volts", "1")], "no finite number"),
        ([("a", "volts", True)], "no finite number"),
        ([("a", "volts", 10**5000)], "no finite number"),
    ],
)
def test_a_failed_sample_is_counted_once_and_keeps_the_last_readings(answer: object, error: str) -> None:
    source = sampler_of(Scripted([GOOD], answer, [GOOD]))
    source.sample()
    before = source.snapshot()
    source.sample()
    seen = source.snapshot()
    assert (seen.state, seen.iterations, seen.failed) == (State.FAILING, 2, 1)
    assert error in str(seen.error)
    assert (seen.readings, seen.timestamp) == (before.readings, before.timestamp)
    source.sample()
    seen = source.snapshot()
    assert (seen.state, seen.failed, seen.error) == (State.OK, 1, None)


def test_a_bad_value_does_not_hide_the_good_ones() -> None:
    source = sampler_of(Scripted([GOOD, Measurement("a", "volts", math.nan), GOOD._replace(sensor="b")]))
    source.sample()
    seen = source.snapshot()
    assert [reading.sensor for reading in seen.readings] == ["temperature_celsius", "b"]
    assert (seen.state, seen.failed) == (State.FAILING, 1)


def test_a_sensor_that_occurs_twice_would_break_the_scrape() -> None:
    readings, problem = accept([GOOD, GOOD._replace(unit="kelvin")], "probe", 0.0)
    assert len(readings) == 1
    assert problem == "sensor temperature_celsius occurs twice in one sample"


def test_an_endless_sample_is_cut() -> None:
    endless = (Measurement(f"s{index}", "volts", 1.0) for index in iter(lambda: next(counter), None))
    counter = iter(range(10**9))
    readings, problem = accept(endless, "probe", 0.0)
    assert len(readings) == MAX_MEASUREMENTS
    assert problem == "more than 500 measurements in one sample"


@given(st.lists(st.tuples(st.text(), st.text(), st.floats() | st.integers() | st.none())))
def test_whatever_is_accepted_can_be_rendered(items: list[tuple[str, str, float]]) -> None:
    readings, problem = accept([Measurement(*item) for item in items], "probe", 0.0)
    assert (len(readings) < len(items)) == (problem is not None)
    for reading in readings:
        assert math.isfinite(reading.value)
        assert (reading.sensor + reading.unit).encode().strip()


def test_a_vanished_sensor_is_gone_with_the_next_sample() -> None:
    source = sampler_of(Scripted([GOOD, GOOD._replace(sensor="b")], [GOOD]))
    source.sample()
    source.sample()
    assert [reading.sensor for reading in source.snapshot().readings] == ["temperature_celsius"]
    assert source.snapshot().queue_depth == 3


def test_the_buffer_is_bounded_and_keeps_the_newest() -> None:
    source = sampler_of(Scripted(*([GOOD._replace(value=value)] for value in range(BUFFER_SIZE + 5))))
    for _ in range(BUFFER_SIZE + 5):
        source.sample()
    assert source.snapshot().queue_depth == BUFFER_SIZE
    assert [reading.value for reading in source.history()] == list(range(5, BUFFER_SIZE + 5))


def test_a_hanging_call_is_counted_once_and_its_late_answer_dropped() -> None:
    clock, hanging = Clock(), Hanging()
    source = sampler_of(hanging, clock=clock)
    thread = threading.Thread(target=source.sample)
    thread.start()
    assert hanging.called.wait(5)
    source.check_timeout()
    assert source.snapshot().failed == 0
    clock.now += 1.01
    source.check_timeout()
    source.check_timeout()
    assert source.snapshot().failed == 1
    assert source.snapshot().error == "no answer within 1 s"
    hanging.release.set()
    thread.join(5)
    seen = source.snapshot()
    assert (seen.failed, seen.readings, seen.state) == (1, (), State.PENDING)


def test_an_answer_over_the_budget_is_dropped_even_if_nobody_watched() -> None:
    clock = Clock()

    class Slow(Scripted):
        def sample(self, timeout_seconds: float) -> list[Measurement]:
            clock.now += 2
            return [GOOD]

    source = sampler_of(Slow(), clock=clock)
    source.sample()
    assert (source.snapshot().failed, source.snapshot().readings) == (1, ())


def test_stale_after_three_intervals_and_the_timeout() -> None:
    clock = Clock()
    source = sampler_of(Scripted(), clock=clock, interval_seconds=2.0, timeout_seconds=0.5)
    source.sample()
    clock.now += 6.5
    assert source.snapshot().state is State.OK
    clock.now += 0.01
    assert source.snapshot().state is State.STALE


def test_ticks_do_not_drift_and_missed_ones_are_left_out() -> None:
    clock = Clock()
    waits: list[float] = []
    took = iter([0.3, 0.0, 2.4, 0.2])

    class Slow(Scripted):
        def sample(self, timeout_seconds: float) -> list[Measurement]:
            clock.now += next(took)
            return [GOOD]

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waits.append(timeout)
            clock.now += timeout
            if len(waits) == 4:
                self.set()
            return self.is_set()

    sampler_of(Slow(), clock=clock, timeout_seconds=60.0).run(Stop())
    # Starts at 0, 1, 2 (until 4.4) and 5: always on whole seconds.
    assert waits == pytest.approx([0.7, 1.0, 0.6, 0.8])


def test_a_hanging_source_delays_neither_the_others_nor_the_end() -> None:
    hanging, good = Hanging(), Scripted()
    sampler = Sampler(
        [
            sampler_of(hanging, "hanging", timeout_seconds=0.05),
            sampler_of(good, "good", interval_seconds=0.01),
            sampler_of(Scripted(RuntimeError("x")), "broken", interval_seconds=0.01),
        ],
        check_seconds=0.01,
    )
    sampler.start()

    def states() -> list[tuple[bool, int]]:
        return [(one.iterations > 5, min(one.failed, 1)) for one in sampler.snapshots()]

    eventually(lambda: states() == [(False, 1), (True, 0), (True, 1)])
    started = time.monotonic()
    assert sampler.stop(0.2) is False
    assert time.monotonic() - started < 1
    assert good.closed.is_set()
    hanging.release.set()
    assert sampler.stop(5) is True


def test_a_sleeping_sampler_wakes_at_once_to_stop() -> None:
    source = Scripted()
    sampler = Sampler([sampler_of(source, interval_seconds=3600.0)], check_seconds=3600)
    sampler.start()
    eventually(lambda: sampler.snapshots()[0].iterations)
    started = time.monotonic()
    assert sampler.stop(5) is True
    assert time.monotonic() - started < 0.5


def test_a_source_that_does_not_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Scripted):
        def close(self) -> None:
            raise OSError("stuck")

    stop = threading.Event()
    stop.set()
    sampler_of(Stuck()).run(stop)
    assert [record.message for record in caplog.records] == ["source does not close"]


def test_only_changes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    source = sampler_of(Scripted([GOOD], OSError("no\nbus"), OSError("other"), [GOOD], [GOOD]))
    for _ in range(5):
        source.sample()
    assert [record.message for record in caplog.records] == ["source fails", "source works again"]
    line = JsonFormatter().format(caplog.records[0])
    assert "\n" not in line
    event = json.loads(line)
    assert (event["level"], event["source"], event["error"]) == ("WARNING", "probe", "OSError: no\nbus")


def test_history_of_several_sources_is_merged_newest_first() -> None:
    sources = [sampler_of(Scripted(), name) for name in ("a", "b")]
    sampler = Sampler(sources)
    for source in (*sources, *sources):
        source.sample()
    assert [reading.source for reading in sampler.history(("a", "b"), 3)] == ["b", "a", "b"]
    assert [reading.source for reading in sampler.history(("a",), 500)] == ["a", "a"]


def test_a_cpu_spike_is_reported_with_its_length_when_it_ends() -> None:
    seen: list[float] = []
    spikes = CpuSpikes(seen.append, now=0.0, cpu_seconds=10.0)
    for now, cpu in [(1.0, 10.1), (2.0, 11.0), (3.0, 11.9), (4.0, 12.0), (5.0, 12.9)]:
        spikes.check(now, cpu)
    assert seen == [2.0]


def test_the_simulation_repeats_itself_with_the_same_seed_only() -> None:
    def play(seed: int) -> list[Measurement]:
        clock = Clock()
        source = SimulatedSource(SimulatedOptions(seed=seed), clock)
        played: list[Measurement] = []
        for _ in range(50):
            played += source.sample(1.0)
            clock.now += 1.7
        return played

    assert play(1) == play(1) != play(2)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1e6))
def test_without_noise_waveforms_stay_within_their_amplitude(seed: int, elapsed: float) -> None:
    clock = Clock()
    source = SimulatedSource(SimulatedOptions(seed=seed, noise=0.0), clock)
    clock.now += elapsed
    sample = source.sample(1.0)
    assert [item.sensor for item in sample] == list(WAVEFORMS)
    for sensor, unit, value in sample:
        wave = WAVEFORMS[sensor]
        assert unit == wave.unit
        assert abs(value - wave.middle) <= wave.amplitude + 1e-9
