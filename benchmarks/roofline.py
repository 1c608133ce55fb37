"""Draw the results of `learner --parts` as a roofline: FLOP/s over FLOP per byte, a point per part.

Parts left of the ridge are bound by memory, those right of it by arithmetic; parts far below both roofs are bound by
operators that are too small to fill the machine, or by their launches.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.measuring import result_file
from prelar_ray.errors import UsageError
from prelar_ray.storage.files import atomic_file

SUFFIX = "_tflop_per_s"


class Point(NamedTuple):
    """One part of an update."""

    part: str
    intensity: float  # FLOP per byte
    rate: float  # TFLOP/s


def points(result: Mapping[str, Any]) -> dict[str, list[Point]]:
    """Return the parts with computation, by their update (``paper pretrain float32``)."""
    found: dict[str, list[Point]] = {}
    for row in result["rows"]:
        update, _, part = row["name"].strip().rpartition(": ")
        if update and row["tflop"]:
            point = Point(part, row["tflop"] * 1e3 / row["gigabytes"], row["tflop"] / row["seconds"])
            found.setdefault(update, []).append(point)
    return found


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the figure.

    Raises:
        UsageError: the result holds no parts.
    """
    found = points(result)
    if not found:
        raise UsageError("no parts in this result; measure with: python -m benchmarks learner --parts --json FILE")
    machine = result["machine"]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    everything = [point.intensity for parts in found.values() for point in parts]
    x = np.geomspace(min(everything) / 2, max(everything) * 4, 200)
    for key in (key for key in machine if key.endswith(SUFFIX)):
        roof = np.minimum(machine[key], x * machine["copy_gb_per_s"] / 1e3)
        axes.plot(x, roof, color="grey", linewidth=1)
        axes.annotate(key.removesuffix(SUFFIX), (x[-1], machine[key]), ha="right", va="bottom", color="grey")
    for (update, parts), marker in zip(found.items(), "os^Dvp*h" * len(found), strict=False):
        intensities, rates = [point.intensity for point in parts], [point.rate for point in parts]
        axes.scatter(intensities, rates, marker=marker, s=25, label=update)
        for point in parts:
            where = point.intensity, point.rate
            axes.annotate(point.part, where, xytext=(4, 3), textcoords="offset points", fontsize="x-small")
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte moved", ylabel="TFLOP/s")
    axes.set_title(f"{machine['device']}, copy {machine['copy_gb_per_s']} GB/s", fontsize="medium")
    axes.legend(fontsize="small", loc="lower right")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
    plt.close(figure)


def main(argv: Sequence[str]) -> int:
    """Draw one result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks roofline", description=__doc__)
    parser.add_argument("result", type=result_file, help="JSON of `python -m benchmarks learner --parts`")
    parser.add_argument("figure", type=Path, help="PNG to write")
    args = parser.parse_args(argv)
    try:
        draw(args.result, args.figure)
    except UsageError as error:
        parser.error(str(error))
    return 0
