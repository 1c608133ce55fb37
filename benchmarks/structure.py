"""The structure of the package as numbers: modules and lines of every part, and who imports whom.

A part is a package below ``prelar_ray``, or a module at its root. Imports inside functions count too. ``--source``
names another checkout, to compare: ``git worktree add ../before COMMIT``.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from benchmarks.measuring import Result, Row, report_options, show

COLUMNS = {"modules": ".0f", "lines": ".0f", "imports": ".0f", "imported_by": ".0f"}


def part_of(module: str) -> str:
    """Name of the part that a dotted module below ``prelar_ray`` belongs to."""
    return module.partition(".")[0] or "prelar_ray"


def imported(path: Path, root: Path) -> Iterator[str]:
    """Dotted modules below ``prelar_ray`` that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "prelar_ray":
            names = [f"prelar_ray.{x.name}" for x in node.names if (root / x.name).is_dir() or _is_module(root, x.name)]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from (name.partition(".")[2] for name in names if name.partition(".")[0] == "prelar_ray")


def _is_module(root: Path, name: str) -> bool:
    return (root / f"{name}.py").is_file()


def structure(source: Path) -> tuple[list[Row], str]:
    """A row for each part of the package in the checkout ``source``, and a sentence about cycles."""
    root = source / "prelar_ray"
    modules: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    graph: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root).with_suffix("")
        part = part_of(".".join(relative.parts)) if relative.parts != ("__init__",) else "prelar_ray"
        modules[part] += 1
        lines[part] += len(path.read_text(encoding="utf-8").splitlines())
        graph.setdefault(part, set()).update({part_of(name) for name in imported(path, root)} - {part})
    users = Counter(name for names in graph.values() for name in names)
    rows: list[Row] = [
        {"name": part, "modules": n, "lines": lines[part], "imports": len(graph[part]), "imported_by": users[part]}
        for part, n in sorted(modules.items(), key=lambda item: -lines[item[0]])
    ]
    edges = sum(map(len, graph.values()))
    rows.append({"name": f"{len(modules)} parts", "modules": modules.total(), "lines": lines.total(), "imports": edges})
    try:
        tuple(TopologicalSorter(graph).static_order())
        return rows, "no cycle"
    except CycleError as error:
        return rows, f"cycle: {' -> '.join(error.args[1])}"


def main(argv: Sequence[str]) -> int:
    """Count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks structure", description=__doc__)
    parser.add_argument("--source", type=Path, default=Path(), metavar="DIR", help="checkout (default: this one)")
    report_options(parser)
    args = parser.parse_args(argv)
    rows, cycles = structure(args.source)
    show(Result("structure", {"source": args.source.resolve().name, "cycles": cycles}, {}, rows), COLUMNS, args)
    return 0
