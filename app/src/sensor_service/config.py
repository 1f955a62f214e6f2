"""The configuration: one TOML file and a few environment variables, checked whole before anything starts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .options import ConfigError, option, parse_table, show
from .sources import SOURCES, source_class

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
ENVIRONMENT = {"SENSOR_LISTEN": "listen", "SENSOR_LOG_LEVEL": "log_level", "SENSOR_DEBUG": "debug"}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LISTEN = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):([0-9]{1,5})", re.ASCII)


def split_listen(listen: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[ipv6]:port``; ValueError if it is neither."""
    match = _LISTEN.fullmatch(listen)
    if not match or int(match[2]) > 65535:
        raise ValueError(listen)
    return match[1].strip("[]"), int(match[2])


def _from_environment(key: str, text: str) -> Any:
    return {"true": True, "false": False}.get(text, text) if key == "debug" else text


def _is_listen(value: str) -> bool:
    try:
        split_listen(value)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Service:
    listen: str = option(
        "127.0.0.1:8000",
        check=_is_listen,
        allowed='"host:port" or "[ipv6]:port" with a port from 0 to 65535 (0 takes any free one)',
    )
    log_level: str = option("WARNING", choices=LOG_LEVELS)
    debug: bool = option(False)


@dataclass(frozen=True)
class _Source:
    type: str = option(choices=sorted(SOURCES))
    name: str = option(
        "",
        check=lambda name: _NAME.fullmatch(name) is not None,
        allowed="1 to 63 of a-z, 0-9, _ and -, a letter first",
    )
    interval_seconds: float = option(1.0, minimum=0.1, maximum=3600)
    timeout_seconds: float = option(1.0, minimum=0.05, maximum=600)
    max_series: int = option(500, minimum=1, maximum=10_000)


@dataclass(frozen=True)
class SourceConfig:
    """One source. ``options`` is an instance of the ``Options`` of its class."""

    type: str
    name: str
    interval_seconds: float
    timeout_seconds: float
    max_series: int
    options: Any


@dataclass(frozen=True)
class Config:
    """Everything the service can be told."""

    listen: str
    log_level: str
    debug: bool
    sources: tuple[SourceConfig, ...]


def load(path: Path | None, environment: Mapping[str, str]) -> Config:
    """Read the file, if there is one, and lay the environment's overrides over it.

    Raises ConfigError with all errors of both at once.
    """
    errors: list[str] = []
    table = _read(path, errors) if path else {}
    config = _parse(table, errors)
    errors = [f"{path}: {error}" if path else error for error in errors]
    overrides: dict[str, Any] = {}
    for variable, key in ENVIRONMENT.items():
        if variable not in environment:
            continue
        found: list[str] = []
        overrides[key] = _from_environment(key, environment[variable])
        parse_table(_Service, {key: overrides[key]}, "", found)
        errors += [f"environment: {variable}{error.removeprefix(key)}" for error in found]
    if errors or config is None:
        raise ConfigError(errors)
    return replace(config, **overrides)


def _read(path: Path, errors: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        errors.append(f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        errors.append(f"is not UTF-8: {error.reason} at byte {error.start}")
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, or very deep nesting, included
        errors.append(f"is not valid TOML: {error}")
    return {}


def _parse(table: Mapping[str, Any], errors: list[str]) -> Config | None:
    service = parse_table(_Service, table, "", errors, also_known=("sources",))
    tables = table.get("sources", [{"type": "simulated"}])
    if not isinstance(tables, list) or not tables or not all(isinstance(item, dict) for item in tables):
        errors.append(f"sources = {show(tables)}: must be at least one [[sources]] table")
        return None
    sources = [_parse_source(item, f"sources[{index}]", errors) for index, item in enumerate(tables)]
    _check_together(sources, errors)
    if service is None or errors:
        return None
    return Config(service.listen, service.log_level, service.debug, tuple(filter(None, sources)))


def _check_together(sources: Sequence[SourceConfig | None], errors: list[str]) -> None:
    names: set[str] = set()
    types: set[str] = set()
    for index, source in enumerate(sources):
        if source is None:
            continue
        if source.name in names:
            errors.append(f"sources[{index}].name = {show(source.name)}: taken by another source")
        if source.type in types and source_class(source.type).single:
            errors.append(f"sources[{index}].type = {show(source.type)}: may occur once, its metrics have fixed names")
        names.add(source.name)
        types.add(source.type)


def _parse_source(table: Mapping[str, Any], where: str, errors: list[str]) -> SourceConfig | None:
    source = parse_table(_Source, table, where, errors, also_known=("options",))
    type_name, options_table = table.get("type"), table.get("options", {})
    if not isinstance(options_table, dict):
        errors.append(f"{where}.options = {show(options_table)}: must be a table")
        return None
    if not isinstance(type_name, str) or type_name not in SOURCES:
        return None  # said above, and nobody knows which options it would have
    found = source_class(type_name)
    if found.extra and find_spec(found.extra[0]) is None:
        package, extra = found.extra
        errors.append(
            f"{where}.type = {show(type_name)}: needs {package}, which is not here; install the extra {extra}"
        )
    options = parse_table(found.Options, options_table, f"{where}.options", errors)
    if source is None or options is None:
        return None
    name = source.name or source.type
    return SourceConfig(source.type, name, source.interval_seconds, source.timeout_seconds, source.max_series, options)
