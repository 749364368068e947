"""Strict YAML: one mapping, no key twice, bounded size; every fault a one-line error."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from qscale import bounded
from qscale.errors import ConfigError

#: Values, with those of every alias (``*name``) counted where it stands: a few lines of aliases of aliases
#: would otherwise be billions.
_MOST_VALUES = 200_000
#: No count is longer; past some thousand digits Python does not even print one.
_MOST_BITS = 128
#: A study has five levels; the time that a text takes grows with them.
_DEEPEST = 32


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

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "not readable: nested too deeply", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if abs(value).bit_length() > _MOST_BITS:
            raise yaml.constructor.ConstructorError(
                None, None, "a number of more digits than any count has", node.start_mark
            )
        return value


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def _count(node: yaml.Node, counted: dict[int, int | None]) -> int:
    """The values below a node, those behind aliases as often as they are named."""
    if id(node) in counted:
        known = counted[id(node)]
        if known is None:
            raise yaml.constructor.ConstructorError(None, None, "an alias of itself", node.start_mark)
        return known
    counted[id(node)] = None
    total = 1
    if isinstance(node, (yaml.SequenceNode, yaml.MappingNode)):
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(child,) for child in node.value]
        total += sum(_count(child, counted) for pair in pairs for child in pair)
    if total > _MOST_VALUES:
        raise yaml.constructor.ConstructorError(
            None, None, f"more than {_MOST_VALUES} values, counting those of aliases", node.start_mark
        )
    counted[id(node)] = total
    return total


def load_mapping(text: str, source: str) -> dict[str, Any]:
    """The mapping at the top of a YAML text; ``source`` names it in errors.

    Raises:
        ConfigError: Not YAML, not a mapping, a key twice, larger than a megabyte, or of too many values.
    """
    if len(text) > bounded.STUDY_BYTES:
        raise ConfigError(f"{source}: {len(text)} characters; a study file has at most {bounded.STUDY_BYTES}")
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # a SafeLoader: builds plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}" if mark is not None else ""
        problem = bounded.one_line(error.problem or error.context)
        raise ConfigError(f"{source}:{where} {problem}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: not readable as YAML: nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:
        # TypeError and its like: the constructors of dates and sets on what is neither
        raise ConfigError(f"{source}: not readable as YAML: {bounded.one_line(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: a study is a mapping such as 'corpus: python', not {type(data).__name__}"
        )
    return data
