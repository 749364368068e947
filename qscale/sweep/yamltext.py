"""Strict YAML: one mapping, no key twice, bounded size; every fault a one-line error."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from qscale.errors import ConfigError

#: A study that a person wrote is a few kilobytes.
_LARGEST = 1_000_000


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, except that a key given twice is an error (YAML keeps the last in silence)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.value.__hash__ is not None and (key := key_node.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            if key_node.value.__hash__ is not None:
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def load_mapping(text: str, source: str) -> dict[str, Any]:
    """The mapping at the top of a YAML text; ``source`` names it in errors.

    Raises:
        ConfigError: Not YAML, not a mapping, a key twice, or larger than a megabyte.
    """
    if len(text) > _LARGEST:
        raise ConfigError(f"{source}: {len(text)} characters; a study file has at most {_LARGEST}")
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # a SafeLoader: builds plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source}:{where} {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{source}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: a study is a mapping such as 'corpus: python', not {type(data).__name__}"
        )
    return data
