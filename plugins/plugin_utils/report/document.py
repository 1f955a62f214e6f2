"""What the pages have in common: their templates, and how times and counts are written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.durations import DAY, HOUR, MINUTE
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.sizes import from_bytes
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import plain

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """A page. Whatever a machine says of itself is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bytes": from_bytes, "duration": duration, "clock": clock, "moment": moment, "count": count}
    return environment.get_template(template).render(**values)


def duration(seconds: float) -> str:
    """A time span in its two largest units: 9 h 12 min."""
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    units = ((DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (1, "s"))
    large = next(index for index, (size, _) in enumerate(units) if whole >= size)
    (size, name), (small, small_name) = units[large : large + 2]
    rest = whole % size // small
    return f"{whole // size} {name} {rest} {small_name}" if rest else f"{whole // size} {name}"


def moment(seconds: float) -> str:
    """A time of the Unix epoch as people write it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%-d %b %Y %H:%M:%S} UTC"


def clock(seconds: float) -> str:
    """The time of day of it, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S}"


def date(seconds: float) -> str:
    """The day of it, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%-d %b}"


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return plain.count(number, noun)
