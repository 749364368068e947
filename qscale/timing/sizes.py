"""Numbers of elements as powers of two: ``64Ki``, ``16Mi``."""

from __future__ import annotations

import re

from qscale.errors import ConfigError

_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_SIZE = re.compile(r"([1-9][0-9]{0,12})(|Ki|Mi|Gi)")

#: In float32, 64 KiB and 256 KiB stay in a core's L2 cache; 64 MiB come from memory, or a large L3 cache.
SIZES = (2**14, 2**16, 2**20, 2**24)


def parse_size(text: str) -> int:
    """The number that a text stands for.

    Raises:
        ConfigError: It is none.

    >>> parse_size("64Ki")
    65536
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a number of elements; write 65536, 64Ki or 16Mi")
    return int(match[1]) * _UNITS[match[2]]


def size_text(elements: int) -> str:
    """The shortest text.

    >>> size_text(2**24), size_text(1000)
    ('16Mi', '1000')
    """
    for unit in ("Gi", "Mi", "Ki"):
        if elements % _UNITS[unit] == 0:
            return f"{elements // _UNITS[unit]}{unit}"
    return str(elements)
