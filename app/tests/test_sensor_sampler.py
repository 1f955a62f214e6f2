"""The sampler: whatever a source does, it harms nothing but its own readings."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_helpers import GOOD, Clock, Hanging, Scripted, eventually, sampler_of
from sensor_service.logs import JsonFormatter
from sensor_service.readings import FORGET_SECONDS, MAX_MEASUREMENTS, Accepted, Family, Intake, Measurement
from sensor_service.sampler import BUFFER_SIZE, Sampler, State
from sensor_service.sources.process import ProcessOptions, ProcessSource
from sensor_service.sources.simulated import WAVEFORMS, SimulatedFailure, SimulatedOptions, SimulatedSource
from stopwatch import Stopwatch


def test_a_good_sample() -> None:
    source = sampler_of(Scripted())
    assert source.snapshot().state is State.PENDING
    before = time.time()
    source.sample()
    seen = source.snapshot()
    assert (seen.state, seen.iterations, seen.failed, seen.queue_depth) == (State.OK, 1, 0, 1)
    (reading,) = seen.readings
    assert before <= reading.timestamp <= seen.timestamp <= time.time()
    assert reading[1:] == ("probe", "temperature_celsius", "celsius", 21.5, ())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (OSError("no bus"), "OSError: no bus"),
        (None, "TypeError"),
        (["text"], "measurement 0 is no Measurement"),
        ([("a", "volts", 1.0, ())], "measurement 0 is no Measurement"),
        ([Measurement("", "volts", 1.0)], "no printable text"),
        ([Measurement("a\udc80", "volts", 1.0)], "no printable text"),
        ([Measurement("a", None, 1.0)], "no printable text"),
        ([Measurement("a", "volts", math.nan)], "no finite number"),
        ([Measurement("a", "volts", -math.inf)], "no finite number"),
        ([Measurement("a", "volts", "1")], "no finite number"),
        ([Measurement("a", "volts", True)], "no finite number"),
        ([Measurement("a", "volts", 10**5000)], "no finite number"),
        ([Measurement("a", "volts", 1.0, (("b", "c"),))], "labels that are not those"),
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


def test_what_was_yielded_before_an_error_is_kept() -> None:
    class Half(Scripted):
        def sample(self, timeout_seconds: float) -> Iterator[Measurement]:
            yield GOOD
            raise OSError("no bus")

    source = sampler_of(Half())
    source.sample()
    seen = source.snapshot()
    assert (len(seen.readings), seen.state, seen.error) == (1, State.FAILING, "OSError: no bus")


def take(*measurements: Measurement, families: tuple[Family, ...] = (), max_series: int = 500) -> Accepted:
    return Intake("probe", families, max_series).accept(measurements, 0.0)


def test_a_sensor_that_occurs_twice_would_break_the_scrape() -> None:
    seen = take(GOOD, GOOD._replace(unit="kelvin"))
    assert len(seen.readings) == 1
    assert seen.problem == "sensor temperature_celsius occurs twice in one sample"


MEMORY = Family("container_memory_rss", "gauge", "bytes", "Anonymous memory.", ("name",))


def test_a_family_has_a_series_for_each_set_of_labels() -> None:
    seen = take(MEMORY.measure(1, "a"), MEMORY.measure(2, "b"), MEMORY.measure(3, "a"), families=(MEMORY,))
    assert [(item.labels, item.value) for item in seen.readings] == [((("name", "a"),), 1.0), ((("name", "b"),), 2.0)]
    assert seen.problem == "sensor container_memory_rss occurs twice in one sample"


@pytest.mark.parametrize(
    ("labels", "problem"),
    [((), "labels that are not"), ((("nom", "a"),), "labels that are not"), ((("name", "a\n"),), "no printable text")],
)
def test_a_family_has_just_its_labels(labels: tuple[tuple[str, str], ...], problem: str) -> None:
    seen = take(MEMORY.measure(1, "b")._replace(labels=labels), MEMORY.measure(2, "a"), families=(MEMORY,))
    assert len(seen.readings) == 1
    assert problem in str(seen.problem)


def test_an_endless_sample_is_cut_and_its_excess_dropped() -> None:
    endless = (Measurement(f"s{index}", "volts", 1.0) for index in iter(lambda: next(counter), None))
    counter = iter(range(10**9))
    seen = Intake("probe", (), 3).accept(endless, 0.0)
    assert [reading.sensor for reading in seen.readings] == ["s0", "s1", "s2"]
    assert seen.dropped == MAX_MEASUREMENTS - 3
    assert seen.problem == f"more than {MAX_MEASUREMENTS} measurements in one sample"


def test_series_over_the_limit_are_dropped_whichever_sample_they_come_in() -> None:
    intake = Intake("probe", (), 2)
    assert intake.accept([GOOD], 0.0).dropped == 0
    seen = intake.accept([GOOD._replace(sensor="b"), GOOD._replace(sensor="c")], 1.0)
    assert [reading.sensor for reading in seen.readings] == ["b"]
    assert (seen.dropped, seen.problem) == (1, None)
    assert len(intake.accept([GOOD], 2.0).readings) == 1


def test_a_series_that_stays_away_gives_its_place_up() -> None:
    intake = Intake("probe", (), 2)
    intake.accept([GOOD, GOOD._replace(sensor="b")], 0.0)
    intake.accept([GOOD], 10.0)
    new = GOOD._replace(sensor="c")
    assert intake.accept([new], FORGET_SECONDS).dropped == 1
    assert intake.accept([new], FORGET_SECONDS + 1).dropped == 0
    assert intake.accept([GOOD, GOOD._replace(sensor="b")], FORGET_SECONDS + 2).dropped == 1


def test_dropped_readings_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    source = sampler_of(Scripted([GOOD._replace(sensor=str(number)) for number in range(5)]), max_series=2)
    source.sample()
    source.sample()
    seen = source.snapshot()
    assert (seen.state, len(seen.readings), seen.dropped, seen.failed) == (State.OK, 2, 6, 0)
    assert len(caplog.records) == 1
    assert json.loads(JsonFormatter().format(caplog.records[0]))["max_series"] == 2


@given(
    st.lists(st.tuples(st.text(), st.text(), st.floats() | st.integers() | st.none())),
    st.integers(1, 10),
)
def test_whatever_is_accepted_can_be_rendered(items: list[tuple[str, str, float]], max_series: int) -> None:
    readings, dropped, problem = take(*(Measurement(*item) for item in items), max_series=max_series)
    assert len(readings) <= max_series
    assert (len(readings) + dropped < len(items)) == (problem is not None)
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
    watch = Stopwatch()
    assert sampler.stop(0.2) is False
    assert watch.seconds < 1
    assert good.closed.is_set()
    hanging.release.set()
    assert sampler.stop(5) is True


def test_a_sleeping_sampler_wakes_at_once_to_stop() -> None:
    source = Scripted()
    sampler = Sampler([sampler_of(source, interval_seconds=3600.0)], check_seconds=3600)
    sampler.start()
    eventually(lambda: sampler.snapshots()[0].iterations)
    watch = Stopwatch()
    assert sampler.stop(5) is True
    assert watch.seconds < 0.5


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


def test_a_cpu_spike_is_observed_with_its_length_when_it_ends() -> None:
    clock, cpu_clock = Clock(), Clock()
    source = ProcessSource(ProcessOptions(spike_threshold_cores=0.5), clock, cpu_clock)
    (histogram,) = source.collectors
    seen = []
    for used in [0.1, 0.9, 0.9, 0.1, 0.9]:
        clock.now += 1
        cpu_clock.now += used
        seen += source.sample(1.0)
        (family,) = histogram.collect()
        total = {sample.name: sample.value for sample in family.samples}
    assert [(item.sensor, item.unit) for item in seen] == [("cpu_usage_cores", "cores")] * 5
    assert [item.value for item in seen] == pytest.approx([0.1, 0.9, 0.9, 0.1, 0.9])
    assert total["sensor_cpu_spike_seconds_count"] == 1
    assert total["sensor_cpu_spike_seconds_sum"] == pytest.approx(2.0)


def test_the_process_sees_its_own_work() -> None:
    source = ProcessSource(ProcessOptions())
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    (item,) = source.sample(1.0)
    assert 0 < item.value < 2


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
    for sensor, unit, value, _ in sample:
        wave = WAVEFORMS[sensor]
        assert unit == wave.unit
        assert abs(value - wave.middle) <= wave.amplitude + 1e-9


def test_channels_multiply_the_sensors() -> None:
    source = SimulatedSource(SimulatedOptions(channels=3, sensors=("battery_volts",)), Clock())
    assert [item.sensor for item in source.sample(1.0)] == ["battery_volts_1", "battery_volts_2", "battery_volts_3"]


def test_it_fails_stalls_and_bursts_when_it_is_told_to() -> None:
    naps: list[float] = []
    options = SimulatedOptions(
        fail_every=3, stall_every=2, stall_seconds=7.0, burst_every=4, burst_series=10, sensors=("battery_volts",)
    )
    source = SimulatedSource(options, Clock(), naps.append)
    sizes: list[int] = []
    for _ in range(4):
        try:
            sizes.append(len(list(source.sample(1.0))))
        except SimulatedFailure:
            sizes.append(-1)
    assert sizes == [1, 1, -1, 11]
    assert naps == [7.0, 7.0]


OUTCOMES = {
    "good": [GOOD],
    "many": [GOOD._replace(sensor=f"s{number}") for number in range(200)],
    "nothing": [],
    "raises": OSError("no bus"),
    "nonsense": [GOOD, "text", GOOD._replace(sensor="b", value=math.nan)],
    "no list": None,
}


@given(st.lists(st.sampled_from(sorted(OUTCOMES)), min_size=1, max_size=30))
def test_whatever_a_source_does_the_counters_add_up_and_the_buffer_holds_the_newest(script: list[str]) -> None:
    source = sampler_of(Scripted(*(OUTCOMES[name] for name in script)), timeout_seconds=60.0)
    accepted: list[str] = []
    latest: list[str] = []
    for name in script:
        source.sample()
        if name in ("good", "many", "nothing", "nonsense"):
            latest = [item.sensor for item in OUTCOMES[name] if isinstance(item, Measurement) and item.sensor != "b"]
            accepted += latest
    seen = source.snapshot()
    assert seen.iterations == len(script)
    assert seen.failed == sum(name in ("raises", "nonsense", "no list") for name in script)
    assert [reading.sensor for reading in source.history()] == accepted[-BUFFER_SIZE:]
    assert seen.queue_depth == min(len(accepted), BUFFER_SIZE)
    assert [reading.sensor for reading in seen.readings] == latest
