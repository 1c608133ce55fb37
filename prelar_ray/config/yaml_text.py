"""YAML as configurations use it: read strictly, and written so that reading it gives the same values back."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

__all__ = ["dump", "inline", "parse"]

MOST_BYTES = 2**20
"""Size of text above which it is refused: PyYAML takes seconds for it."""
MOST_NODES = 100_000
"""Most values in a text, those behind an alias counted each time; a few lines of aliases can stand for billions."""
DEPTH = 64
"""Most sections and lists within each other."""
DIGITS = 40
"""Most digits of a whole number."""

_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "timestamp")}
"""What values may be; others, such as !!set, are no settings."""


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

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        # Before the scanner looks ahead, which takes time that grows with the square of the depth.
        self._check_depth(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._check_depth(len(self.indents))
        return bool(super().add_indent(column))

    def _check_depth(self, levels: int) -> None:
        if levels >= DEPTH:
            raise yaml.YAMLError("nested too deeply")

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count(node, {}, 1)
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
        ValueError: syntax error, duplicate key, a tag that is no plain value, or more text, values, levels or digits
            than settings have; the message starts with the line where one is known.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES // 2**20} MiB of text")
    try:
        # A byte order mark would have PyYAML read UTF-16.
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return yaml.load(text, _Loader)  # a subclass of the safe loader: builds plain values only
    except UnicodeDecodeError as error:
        raise ValueError(f"unacceptable character at byte {error.start}, expected UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
    ) as error:  # of a value that is not what its tag says
        raise ValueError(f"a value that is not what its tag says ({error})") from error


def _count(node: yaml.Node, counts: dict[int, int], level: int) -> int:
    """Return how many values a node stands for, aliases included.

    Raises:
        yaml.YAMLError: more than :data:`MOST_NODES` or :data:`DEPTH`, a node within itself, or no plain value.
    """
    if counts.get(id(node), 0):
        return counts[id(node)]
    if id(node) in counts:
        raise _problem(node, "found unconstructable recursive node")
    if level > DEPTH:
        raise yaml.YAMLError("nested too deeply")
    counts[id(node)] = 0
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node)
        inner: list[yaml.Node] = []
    elif isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    else:
        inner = node.value
    if node.tag not in _PLAIN and node.tag != "tag:yaml.org,2002:merge":
        raise _problem(node, f"could not determine a constructor for the tag {node.tag!r}: no setting has it")
    total = 1 + sum(_count(part, counts, level + 1) for part in inner)
    if total > MOST_NODES:
        raise _problem(node, f"stands for more than {MOST_NODES:,} values")
    counts[id(node)] = total
    return total


def _check_scalar(node: yaml.ScalarNode) -> None:
    text = node.value
    if node.tag == "tag:yaml.org,2002:int" and len(text) > DIGITS:
        raise _problem(node, f"a number of {len(text)} digits")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _problem(node, "half of a surrogate pair, which is no text") from error


def _problem(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def dump(value: Any) -> str:
    """Return ``value`` as YAML text that :func:`parse` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)


def inline(value: Any) -> str:
    """Return ``value`` as YAML on one line."""
    return yaml.dump([value], Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=math.inf).strip()[1:-1]
