"""Sources of readings. A new source is one file in this folder and one entry in SOURCES.

A source knows nothing of threads, metrics or HTTP: it is asked for its measurements, and returns them or
raises. docs/sources.md shows how to write one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from ..readings import Family, Measurement

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

# Type name in the configuration -> where its class is. Only what is configured gets imported: a robot
# without a GPU does not pay for the GPU source.
SOURCES = {
    "cgroup": "cgroup:CgroupSource",
    "gpu": "gpu:GpuSource",
    "mqtt": "mqtt:MqttSource",
    "process": "process:ProcessSource",
    "simulated": "simulated:SimulatedSource",
    "tasmota": "tasmota:TasmotaSource",
}


@dataclass(frozen=True)
class NoOptions:
    """The options of a source that has none."""


class Source(ABC):
    """One way to get measurements. Made once, from a validated instance of its ``Options``."""

    Options: ClassVar[type[Any]] = NoOptions
    #: Metrics under names of their own, instead of ``sensor_reading``.
    families: ClassVar[tuple[Family, ...]] = ()
    #: Whether it may be configured only once: two with ``families`` or ``collectors`` would make the same series.
    single: ClassVar[bool] = False
    #: An optional dependency: the package to import (no sooner than in ``__init__``), and the extra that has it.
    extra: ClassVar[tuple[str, str] | None] = None

    def __init__(self, options: Any) -> None:  # noqa: B027  (a source without options needs none)
        """Take the options. Connect to nothing yet: that may hang, and belongs into ``sample``."""

    @property
    def collectors(self) -> Iterable[Collector]:
        """Metrics that the source keeps by itself, such as a histogram; collecting them must not wait."""
        return ()

    @abstractmethod
    def sample(self, timeout_seconds: float) -> Iterable[Measurement]:
        """Measure everything now and return it; raise if that fails. A generator that raises after some
        measurements has these kept.

        Called from one thread, never twice at a time. Give up by yourself after ``timeout_seconds``: what
        comes later is thrown away. A source that receives by itself (a subscription) keeps the newest value
        of each sensor and returns those.
        """

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """Let go of connections. Called once after the last sample, from the same thread."""


def source_class(type_name: str) -> type[Source]:
    """Import the class of a source type; KeyError if there is no such type."""
    module, _, attribute = SOURCES[type_name].partition(":")
    found: type[Source] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found
