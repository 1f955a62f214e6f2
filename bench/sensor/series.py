"""The series that both baselines serve: as many as the sensor service's simulated source, under the same names."""

from __future__ import annotations

import random
import time

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

CHANNELS = 175
SENSORS = {
    "temperature_celsius": "celsius",
    "battery_volts": "volts",
    "current_amperes": "amperes",
    "distance_meters": "meters",
}
SERIES = CHANNELS * len(SENSORS)
UPDATE_SECONDS = 1.0


class Series:
    """A registry with the gauges and the metrics of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._gauge = Gauge(
            "sensor_reading",
            "Last value of each sensor, in the unit of the label.",
            ("source", "sensor", "unit"),
            registry=self.registry,
        )
        self.readings: list[dict[str, str | float]] = []
        self.update()

    def update(self) -> None:
        """Measure: every value changes."""
        now = time.time()
        self.readings = [
            {
                "timestamp": now,
                "source": "simulated",
                "sensor": f"{sensor}_{channel}",
                "unit": unit,
                "value": random.gauss(24.0, 1.5),
            }
            for channel in range(1, CHANNELS + 1)
            for sensor, unit in SENSORS.items()
        ]
        for reading in self.readings:
            self._gauge.labels(reading["source"], reading["sensor"], reading["unit"]).set(float(reading["value"]))

    def update_forever(self) -> None:
        """Measure as often as the sensor service does."""
        while True:
            time.sleep(UPDATE_SECONDS)
            self.update()
