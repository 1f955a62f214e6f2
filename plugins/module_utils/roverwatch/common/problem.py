"""What an operator must act on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """`service` is a unit, a slice, or what else of the host is concerned; `remedy` a command where one helps."""

    host: str
    service: str
    what: str
    remedy: str
