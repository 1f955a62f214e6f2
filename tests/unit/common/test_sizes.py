from __future__ import annotations

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import sizes
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80M", 80 << 20),
        ("300M", 300 << 20),
        ("1G", 1 << 30),
        ("512K", 512 << 10),
        ("2T", 2 << 40),
        ("123", 123),
        (123, 123),
    ],
)
def test_a_size_is_read_as_systemd_reads_it(text, expected):
    assert sizes.to_bytes(text) == expected


@pytest.mark.parametrize("wrong", ["80Mb", "80MB", "-1", "0", "", "1.5G", "M", "80 M", "infinity", None, True, -1, 1.5])
def test_what_is_no_size_is_refused_with_an_example(wrong):
    with pytest.raises(ValueError, match=r"is no size.*such as 80M"):
        sizes.to_bytes(wrong)


@given(st.integers(min_value=1, max_value=1 << 50))
def test_a_number_of_bytes_is_itself(count):
    assert sizes.to_bytes(count) == count


@given(st.integers(min_value=1, max_value=1023), st.sampled_from("KMGT"))
def test_a_whole_size_survives_both_ways(number, unit):
    assert sizes.from_bytes(sizes.to_bytes(f"{number}{unit}")) == f"{number}{unit}"


def test_a_broken_size_is_rounded_to_a_tenth():
    assert sizes.from_bytes(1_572_864) == "1.5M"
    assert sizes.from_bytes(0) == "0"
