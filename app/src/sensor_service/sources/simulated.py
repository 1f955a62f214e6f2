"""Waveforms with noise, the same for the same seed: for the lab, tests, and a robot without sensors."""

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
        Waveform("distance_meters", "meters", 5.0, 4.5, None),
    )
}


@dataclass(frozen=True)
class SimulatedOptions:
    """``noise`` is the standard deviation as a part of a waveform's amplitude."""

    seed: int = option(1, minimum=0, maximum=2**32 - 1)
    noise: float = option(0.02, minimum=0, maximum=1)
    period_seconds: float = option(60.0, minimum=0.1, maximum=86400)
    sensors: tuple[str, ...] = option(tuple(WAVEFORMS), choices=tuple(WAVEFORMS))


class SimulatedSource(Source):
    """Plays the chosen waveforms."""

    Options = SimulatedOptions

    def __init__(self, options: SimulatedOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._start = clock()
        self._random = random.Random(options.seed)  # noqa: S311  (a simulation, not a secret)
        self._walk = dict.fromkeys(options.sensors, 0.0)

    def sample(self, timeout_seconds: float) -> Sequence[Measurement]:  # noqa: ARG002  (never waits)
        """Return one value of each chosen waveform."""
        phase = (self._clock() - self._start) / self._options.period_seconds % 1.0
        return [self._measure(WAVEFORMS[name], phase) for name in self._walk]

    def _measure(self, wave: Waveform, phase: float) -> Measurement:
        level = wave.shape(phase) if wave.shape else self._step(wave.sensor)
        level += self._random.gauss(0.0, self._options.noise)
        return Measurement(wave.sensor, wave.unit, wave.middle + wave.amplitude * level)

    def _step(self, sensor: str) -> float:
        moved = self._walk[sensor] + self._random.uniform(-0.1, 0.1)
        self._walk[sensor] = max(-1.0, min(1.0, moved))
        return self._walk[sensor]
