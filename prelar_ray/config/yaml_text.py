"""YAML as configurations use it: read strictly, and written so that reading it gives the same values back."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

__all__ = ["dump", "inline", "parse"]


class _Loader(yaml.SafeLoader):
    """Safe loader that reads ``3e-4`` as a number and sequences as tuples, and refuses a key given twice."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}  # key to line
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} is given twice, first in line {seen[key.value]}",
                    problem_mark=key.start_mark,
                )
            seen[key.value] = key.start_mark.line + 1
        return node

    def construct_tuple(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        return tuple(self.construct_sequence(node))

    def construct_dict(self, node: yaml.MappingNode) -> dict[Any, Any]:
        # PyYAML's own fills mappings later, so that a node may contain itself; building at once makes that an error.
        return self.construct_mapping(node)


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes whatever text :class:`_Loader` would read as a number."""


_Loader.add_constructor("tag:yaml.org,2002:seq", _Loader.construct_tuple)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_dict)
for _class in (_Loader, _Dumper):
    # PyYAML follows YAML 1.1, where an exponent needs both a dot and a sign: 3e-4 would be text.
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def parse(text: str | bytes) -> Any:
    """Return the value that YAML ``text`` describes.

    Raises:
        ValueError: syntax error, duplicate key or unknown tag; the message starts with the line where one is known.
    """
    try:
        return yaml.load(text, _Loader)  # a subclass of the safe loader: builds plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dump(value: Any) -> str:
    """Return ``value`` as YAML text that :func:`parse` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)


def inline(value: Any) -> str:
    """Return ``value`` as YAML on one line."""
    return yaml.dump([value], Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=math.inf).strip()[1:-1]
