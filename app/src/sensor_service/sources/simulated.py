"""Waveforms with noise, the same for the same seed: for the lab, tests, and a robot without sensors.

It can also misbehave like a bad sensor: fail, stall and burst.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..options import option
from ..readings import Measurement
from . import Source


@dataclass(frozen=True)
class Waveform:
    """``shape`` maps a phase of 0..1 to -1..1; None is a random walk between these bounds."""

    sensor: str
    unit: str
    middle: float
    amplitude: float
    shape: Callable[[float], float] | None


def _sine(phase: float) -> float:
    return math.sin(2 * math.pi * phase)


def _triangle(phase: float) -> float:
    return 4.0 * abs(phase - 0.5) - 1.0


def _square(phase: float) -> float:
    return 1.0 if phase < 0.5 else -1.0


def _falling_sawtooth(phase: float) -> float:
    return 1.0 - 2.0 * phase


WAVEFORMS = {
    wave.sensor: wave
    for wave in (
        Waveform("temperature_celsius", "celsius", 45.0, 10.0, _sine),
        Waveform("battery_volts", "volts", 24.0, 1.5, _falling_sawtooth),
        Waveform("current_amperes", "amperes", 3.0, 2.0, _square),
        Waveform("speed_meters_per_second", "meters_per_second", 0.6, 0.6, _triangle),
        Waveform("distance_meters", "meters", 5.0, 4.5, None),
    )
}


@dataclass(frozen=True)
class SimulatedOptions:
    """``noise`` is the standard deviation as a part of a waveform's amplitude.

    With more than one channel a sensor's name ends with its channel, such as ``battery_volts_2``. Of every
    ``…_every`` samples the last one misbehaves; 0 is never. A burst yields ``burst_series`` more series, new
    ones each time.
    """

    seed: int = option(1, minimum=0, maximum=2**32 - 1)
    noise: float = option(0.02, minimum=0, maximum=1)
    period_seconds: float = option(60.0, minimum=0.1, maximum=86400)
    sensors: tuple[str, ...] = option(tuple(WAVEFORMS), choices=tuple(WAVEFORMS))
    channels: int = option(1, minimum=1, maximum=2000)
    fail_every: int = option(0, minimum=0, maximum=1_000_000)
    stall_every: int = option(0, minimum=0, maximum=1_000_000)
    stall_seconds: float = option(60.0, minimum=0, maximum=86400)
    burst_every: int = option(0, minimum=0, maximum=1_000_000)
    burst_series: int = option(1000, minimum=1, maximum=100_000)


class SimulatedFailure(Exception):
    """The sample was to fail."""


class SimulatedSource(Source):
    """Plays the chosen waveforms, each channel a little later than the one before."""

    Options = SimulatedOptions

    def __init__(
        self,
        options: SimulatedOptions,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._options = options
        self._clock = clock
        self._sleep = sleep
        self._start = clock()
        self._random = random.Random(options.seed)  # noqa: S311  (a simulation, not a secret)
        self._samples = 0
        self._names = {
            (name, channel): name if options.channels == 1 else f"{name}_{channel + 1}"
            for channel in range(options.channels)
            for name in options.sensors
        }
        self._walk = dict.fromkeys(self._names, 0.0)

    def sample(self, timeout_seconds: float) -> Sequence[Measurement]:  # noqa: ARG002  (stalls on purpose)
        """Return one value of each chosen waveform and channel, unless it is time to misbehave."""
        options = self._options
        self._samples += 1
        if self._is_turn(options.stall_every):
            self._sleep(options.stall_seconds)
        if self._is_turn(options.fail_every):
            raise SimulatedFailure("simulated failure")
        phase = (self._clock() - self._start) / options.period_seconds
        played = [self._measure(WAVEFORMS[name], channel, phase) for name, channel in self._names]
        if self._is_turn(options.burst_every):
            played += [
                Measurement(f"burst_{self._samples}_{number}", "none", 1.0) for number in range(options.burst_series)
            ]
        return played

    def _is_turn(self, every: int) -> bool:
        return every > 0 and self._samples % every == 0

    def _measure(self, wave: Waveform, channel: int, phase: float) -> Measurement:
        key = (wave.sensor, channel)
        level = wave.shape((phase + channel / 16) % 1.0) if wave.shape else self._step(key)
        level += self._random.gauss(0.0, self._options.noise)
        return Measurement(self._names[key], wave.unit, wave.middle + wave.amplitude * level)

    def _step(self, key: tuple[str, int]) -> float:
        moved = self._walk[key] + self._random.uniform(-0.1, 0.1)
        self._walk[key] = max(-1.0, min(1.0, moved))
        return self._walk[key]
