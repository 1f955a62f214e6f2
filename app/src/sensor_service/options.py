"""Options as dataclasses: each field says what it allows, and one parser turns a TOML table into it.

A source declares its options like this, and gets validation and error messages for nothing::

    @dataclass(frozen=True)
    class Options:
        broker: str = option("localhost", check=is_host, allowed="a host name")
        port: int = option(1883, minimum=1, maximum=65535)
        topics: tuple[str, ...] = option(("tele/#",))
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")

_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    tuple[str, ...]: "a list of strings",
}


class ConfigError(Exception):
    """The configuration cannot be used. ``errors`` holds every reason, one line each."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


@dataclass(frozen=True)
class _Rule:
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    check: Callable[[Any], bool] | None
    allowed: str


def option(  # noqa: PLR0913  (a vocabulary, always called by keyword)
    default: object = MISSING,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    check: Callable[[Any], bool] | None = None,
    allowed: str = "",
) -> Any:
    """Declare a field of an options dataclass; without a default it is required.

    ``minimum`` and ``maximum`` are inclusive. ``choices`` holds for each item of a list. ``check`` comes
    with ``allowed``, the words that tell the user what passes it.
    """
    rule = _Rule(minimum, maximum, tuple(choices), check, allowed)
    return field(default=default, metadata={"rule": rule})


def parse_table(
    cls: type[T], table: Mapping[str, Any], where: str, errors: list[str], also_known: Sequence[str] = ()
) -> T | None:
    """Make a ``cls`` from a TOML table. On errors append them all to ``errors`` and return None.

    ``where`` is the table's path for messages, such as ``sources[0]``. Keys in ``also_known`` are left to
    the caller.
    """
    found = len(errors)
    specs: dict[str, Field[Any]] = {spec.name: spec for spec in fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    prefix = f"{where}." if where else ""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in also_known:
            continue
        if key not in specs:
            known = ", ".join(sorted([*specs, *also_known])) or "none"
            errors.append(f"{prefix}{key} = {show(value)}: unknown key; known here: {known}")
            continue
        rule: _Rule = specs[key].metadata["rule"]
        if _passes(value, hints[key], rule):
            values[key] = _convert(value, hints[key])
        else:
            errors.append(f"{prefix}{key} = {show(value)}: must be {_describe(hints[key], rule)}")
    for key, spec in specs.items():
        if spec.default is MISSING and key not in table:
            errors.append(f"{prefix}{key}: missing; must be {_describe(hints[key], spec.metadata['rule'])}")
    if len(errors) > found:
        return None
    try:
        return cls(**values)
    except ValueError as error:  # a __post_init__ that checks one option against another
        errors.append(f"{where or 'configuration'}: {error}")
        return None


def show(value: object) -> str:
    """Render a value for an error message, shortened to 60 characters."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _passes(value: Any, kind: Any, rule: _Rule) -> bool:
    if kind == tuple[str, ...]:
        return isinstance(value, list) and all(_passes(item, str, rule) for item in value)
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        return False
    if kind is float and not abs(value) <= sys.float_info.max:  # written so that nan fails it
        return False
    return (
        (rule.minimum is None or value >= rule.minimum)
        and (rule.maximum is None or value <= rule.maximum)
        and (not rule.choices or value in rule.choices)
        and (rule.check is None or rule.check(value))
    )


def _convert(value: Any, kind: Any) -> Any:
    if kind == tuple[str, ...]:
        return tuple(value)
    return float(value) if kind is float else value


def _describe(kind: Any, rule: _Rule) -> str:
    if rule.allowed:
        return rule.allowed
    text = _KINDS[kind]
    if rule.choices:
        text += f" out of {', '.join(rule.choices)}"
    if rule.minimum is not None and rule.maximum is not None:
        text += f" from {rule.minimum:g} to {rule.maximum:g}"
    elif rule.minimum is not None:
        text += f" of at least {rule.minimum:g}"
    elif rule.maximum is not None:
        text += f" of at most {rule.maximum:g}"
    return text
