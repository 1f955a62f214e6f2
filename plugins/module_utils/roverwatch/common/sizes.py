"""Sizes as systemd writes them: a number of bytes, or a number with K, M, G or T in base 1024.

Source: systemd.resource-control(5), MemoryMax=. Stricter than ansible.builtin.human_to_bytes, which takes `80Mb`
for 80 megabits and `-1` for a size.
"""

from __future__ import annotations

import re

_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)([KMGT]?)")


def to_bytes(size: object) -> int:
    """Bytes of a size such as `80M`. Raises ValueError that says what is allowed."""
    match = _SIZE.fullmatch(str(size))
    if isinstance(size, bool) or not match or int(match[1]) == 0:
        raise ValueError(
            "{!r} is no size: write a positive whole number, alone or with K, M, G or T, such as 80M".format(size)
        )
    return int(match[1]) * _FACTOR[match[2]]


def from_bytes(count: float) -> str:
    """A short text for people, in the same units: 83886080 is `80M`, 1572864 is `1.5M`."""
    for unit in ("T", "G", "M", "K"):
        if count >= _FACTOR[unit]:
            return "{:.1f}".format(count / _FACTOR[unit]).removesuffix(".0") + unit
    return str(int(count))
