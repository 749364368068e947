"""Counts as people write them: ``0.8M`` and ``1e6`` in, ``820k`` out."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from qscale.errors import ConfigError

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_COUNT = re.compile(r"([0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?)([a-zA-Z]?)")
#: Past any study; keeps ``1e999`` from becoming a number of a thousand digits.
_LARGEST = Decimal(10) ** 18

_BYTES = re.compile(r"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?)\s*(?:([kKMGTmgt])(i?)B?|[bB])?")
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([smhd]?)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_count(value: object) -> int:
    """A positive whole number from ``3280000``, ``1e6``, ``"3.28M"`` (k, M, B or G, T: powers of 1000).

    Decimal arithmetic, so that ``0.82M`` is exactly 820000; a fraction of one is rounded off.

    Raises:
        ConfigError: It is not a number, not positive, or past 1e18.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ConfigError(f"{value!r} is not a count; write 3280000, 3.28M or 1e6")
    match = _COUNT.fullmatch(str(value).strip()[:64])
    if match is None or match[2].lower() not in _SUFFIXES:
        raise ConfigError(f"{value!r} is not a positive count; write 3280000, 3.28M or 1e6")
    try:
        number = Decimal(match[1].replace("_", "")) * _SUFFIXES[match[2].lower()]
    except InvalidOperation as error:
        raise ConfigError(f"{value!r} is not a positive count; write 3280000, 3.28M or 1e6") from error
    if not 1 <= number <= _LARGEST:
        raise ConfigError(f"{value!r} is not a count from 1 to 1e18")
    return int(number.to_integral_value())


def parse_bytes(text: str) -> int:
    """Bytes from ``8GB`` (powers of 1000), ``8GiB`` (powers of 1024), ``512MB`` or a plain number.

    Raises:
        ConfigError: It is not a number of bytes, or not positive.

    Example:
        >>> parse_bytes("8GB"), parse_bytes("1.5 GiB")
        (8000000000, 1610612736)
    """
    match = _BYTES.fullmatch(text.strip()[:32])
    number = 0.0
    if match is not None:
        power = "kmgt".find(match[2].lower()) + 1 if match[2] else 0
        number = float(match[1]) * (1024 if match[3] else 1000) ** power
    if not 1 <= number <= float(_LARGEST):
        raise ConfigError(f"{text!r} is not a number of bytes; write 8GB, 8GiB or 512MB")
    return round(number)


def parse_time(text: str) -> float:
    """Seconds from ``90``, ``90s``, ``30m``, ``2h`` or ``1.5d``.

    Raises:
        ConfigError: It is not a duration, or not positive.
    """
    match = _TIME.fullmatch(text.strip()[:32])
    seconds = 0.0 if match is None else float(match[1]) * _SECONDS[match[2] or "s"]
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{text!r} is not a duration; write 90s, 30m, 2h or 1.5d")
    return seconds


def short_count(number: float) -> str:
    """Three significant digits and a suffix: ``20.6k``, ``820k``, ``3.28M``."""
    for suffix, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            scaled = number / size
            text = f"{scaled:.2f}" if scaled < 10 else f"{scaled:.1f}" if scaled < 100 else f"{scaled:.0f}"
            return (text.rstrip("0").rstrip(".") if "." in text else text) + suffix
    return f"{number:.0f}"


def short_time(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rough_time(seconds: float) -> str:
    """A duration that is not known better than to two digits: ``40 s``, ``6 min``, ``2.5 h``, ``3 d``.

    Example:
        >>> rough_time(380), rough_time(9100)
        ('6 min', '2.5 h')
    """
    for unit, size, until in (("s", 1.0, 99.5), ("min", 60.0, 99.5), ("h", 3600.0, 47.5)):
        if seconds < until * size:
            number = max(1.0, seconds / size)
            return f"{number:.2g} {unit}" if number < 10 and unit == "h" else f"{number:.0f} {unit}"
    days = seconds / 86400
    return f"{days:.0f} d" if days < 730 else f"{days / 365.25:,.0f} years"


def time_span(low: float, high: float) -> str:
    """What lies between two durations: ``about 6 min``, ``about 4 to 9 min``, ``about 50 s to 2 min``."""
    least, most = rough_time(low), rough_time(high)
    if least == most:
        return f"about {least}"
    number, unit = least.split()
    return f"about {number if most.endswith(f' {unit}') else least} to {most}"


def short_bytes(number: float) -> str:
    """Three significant digits and a unit: ``491 MB``, ``57.7 GB``."""
    text = short_count(number).replace("B", "G")
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"
