"""Prometheus' remote write 1.0, as far as markers of staleness need it.

No other way into VictoriaMetrics that is text takes them: in JSON they are `null`, which says nothing when it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
# The one NaN that means that a series has ended here.
STALE_NAN = struct.pack("<Q", 0x7FF0000000000002)

_VARINT, _FIXED64, _BYTES = 0, 1, 2
_LITERAL_BYTES = 65536
_LITERAL_TWO_BYTE_LENGTH = 61 << 2


def stale_markers(series: Sequence[tuple[Mapping[str, str], Sequence[int]]]) -> bytes:
    """The body of a request that marks each series stale at its timestamps (milliseconds)."""
    return _snappy(b"".join(_field(1, _series(labels, timestamps)) for labels, timestamps in series))


def _series(labels: Mapping[str, str], timestamps: Sequence[int]) -> bytes:
    pairs = (_field(1, name.encode()) + _field(2, value.encode()) for name, value in sorted(labels.items()))
    samples = (_key(1, _FIXED64) + STALE_NAN + _key(2, _VARINT) + _varint(timestamp) for timestamp in timestamps)
    return b"".join([*(_field(1, pair) for pair in pairs), *(_field(2, sample) for sample in samples)])


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _snappy(data: bytes) -> bytes:
    """Snappy's block format with nothing compressed: the length, and literals."""
    return _varint(len(data)) + b"".join(_literals(data))


def _literals(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _LITERAL_BYTES):
        part = data[start : start + _LITERAL_BYTES]
        yield struct.pack("<BH", _LITERAL_TWO_BYTE_LENGTH, len(part) - 1) + part
