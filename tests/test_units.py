"""Counts and times as people write them."""

import pytest

from qscale.errors import ConfigError
from qscale.units import parse_count, short_count, short_time


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("0.82M", 820_000),
        (1e6, 10**6),
        ("1e6", 10**6),
        ("3.28m", 3_280_000),
        (7, 7),
        ("2T", 2 * 10**12),
        ("1k", 1000),
    ],
)
def test_counts_are_read_exactly(value, count):
    assert parse_count(value) == count


@pytest.mark.parametrize(
    "value", ["", "M", "-1", "1e999", "1x", "0.1", "nan", float("inf"), True, None, "1" * 80]
)
def test_counts_that_are_none_are_refused(value):
    with pytest.raises(ConfigError, match="count"):
        parse_count(value)


def test_short_texts():
    assert [short_count(n) for n in (7, 20640, 819_200, 3_276_800, 9.83e6, 7e9)] == [
        "7",
        "20.6k",
        "819k",
        "3.28M",
        "9.83M",
        "7B",
    ]
    assert [short_time(s) for s in (0.2, 65, 7620)] == ["0 s", "1 min 05 s", "2 h 07 min"]
