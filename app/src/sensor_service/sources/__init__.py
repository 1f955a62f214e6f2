"""Sources of readings. A new source is one file in this folder and one entry in SOURCES.

A source knows nothing of threads, metrics or HTTP: it is asked for its measurements, and returns them or
raises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from ..readings import Measurement

# Type name in the configuration -> where its class is. Only what is configured gets imported: a robot
# without a GPU does not pay for the GPU source.
SOURCES = {
    "simulated": "simulated:SimulatedSource",
}


@dataclass(frozen=True)
class NoOptions:
    """The options of a source that has none."""


class Source(ABC):
    """One way to get measurements. Made once, from a validated instance of its ``Options``."""

    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, options: Any) -> None:  # noqa: B027  (a source without options needs none)
        """Take the options. Connect to nothing yet: that may hang, and belongs into ``sample``."""

    @abstractmethod
    def sample(self, timeout_seconds: float) -> Iterable[Measurement]:
        """Measure everything now and return it; raise if that fails.

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
