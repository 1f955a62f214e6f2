"""Names and labels: what of an inventory becomes files, users at the gateway and labels, and what YAML made of it."""

from __future__ import annotations

import datetime
import re
from typing import Any, Iterable, List, Mapping

# A file's name on the controller (keys, certificates, journals), a user's name in basic auth, a part of a URL.
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
NAME_CHARACTERS = 64
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
LABEL_CHARACTERS = 128


def inventory_name(name: object) -> List[str]:
    """Whether a machine can be called so."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return [
            "the inventory calls a machine {!r}: use A-Z, a-z, 0-9, ., _ and -, a letter or digit first, and no . or - "
            "at the end. It becomes the names of files, a user at the gateway and a label; the address goes into "
            "ansible_host".format(name)
        ]
    if len(name) > NAME_CHARACTERS:
        return [
            "the inventory calls a machine {}, which has {} characters: {} are the most. The address goes into "
            "ansible_host".format(name, len(name), NAME_CHARACTERS)
        ]
    return []


def inventory_names(names: Iterable[object]) -> List[str]:
    """The same of several."""
    return [problem for name in names for problem in inventory_name(name)]


def user(variable: str, name: object) -> List[str]:
    """Whether somebody can log in at the gateway under this name."""
    if isinstance(name, str) and NAME.fullmatch(name) and len(name) <= NAME_CHARACTERS:
        return []
    return [
        "{}: {!r} cannot be a user: use 1 to {} of A-Z, a-z, 0-9, ., _ and -, a letter or digit first".format(
            variable, name, NAME_CHARACTERS
        )
    ]


def labels(variable: str, values: Mapping[Any, Any]) -> List[str]:
    """Whether labels are what somebody wrote. What else than a text a label is given on purpose, the program that reads
    it refuses; fleet and site come from variables that are easily something else.
    """
    problems = []
    for name, value in values.items():
        if not isinstance(name, str) or not LABEL.fullmatch(name):
            problems.append("{}: {!r} is no name of a label: use a-z, 0-9 and _".format(variable, name))
        problems += ["{}: {}".format(variable, problem) for problem in _value(str(name), value)]
    return problems


def _value(name: str, value: Any) -> List[str]:
    made = _made_by_yaml(value)
    if name in ("fleet", "site") and isinstance(value, (list, dict)):
        made = "a list or a mapping"
    if made:
        quotes = "write it in quotes, {0}: '...' (in an INI inventory {0}='\"...\"')".format(name)
        return ["{} is {}: {}".format(name, made, quotes)]
    if isinstance(value, str) and (not value.isprintable() or value != value.strip()):
        return ["{} is {!r}: no line ends or other control characters, and no blanks around it".format(name, value)]
    if isinstance(value, str) and len(value) > LABEL_CHARACTERS:
        return ["{} has {} characters: {} are the most".format(name, len(value), LABEL_CHARACTERS)]
    return []


def _made_by_yaml(value: Any) -> str:
    """What became of a text that was written without quotes."""
    if isinstance(value, bool):
        return "{} (YAML reads yes, no, on and off so)".format(str(value).lower())
    if isinstance(value, (int, float)):
        return "{}, a number (YAML reads 007 as 7, and 1.10 as 1.1)".format(value)
    if isinstance(value, datetime.date):
        return "{}, a date".format(value)
    return "nothing" if value is None else ""
