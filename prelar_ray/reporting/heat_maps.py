"""Scores over two settings that a method was swept over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelar_ray.reporting.comparison import Group
from prelar_ray.reporting.trials import Trial, shown, varying_labels

__all__ = ["HeatMap", "heat_maps"]


@dataclass(frozen=True)
class HeatMap:
    """Mean score of a method per pair of values of two settings."""

    method: str
    row_key: str
    column_key: str
    rows: list[str]
    columns: list[str]
    means: npt.NDArray[np.float64]
    """``(R, C)``, mean over tasks of means over seeds; NaN where there is no score."""
    counts: npt.NDArray[np.int64]
    """``(R, C)``, runs behind each."""


def heat_maps(series: Mapping[str, Sequence[Trial]], group: Group) -> list[HeatMap]:
    """Return a map for each method of which exactly two settings vary, over the tasks that are compared."""
    trials = [trial for members in series.values() for trial in members]
    maps = []
    for method, keys in varying_labels(trials).items():
        of_method = {name: members for name, members in series.items() if members[0].method == method}
        settings = {name: [members[0].labels.get(key) for key in keys] for name, members in of_method.items()}
        if len(keys) != 2:
            continue
        rows, columns = (_in_order(values[axis] for values in settings.values()) for axis in (0, 1))
        means = np.full((len(rows), len(columns)), np.nan)
        counts = np.zeros(means.shape, np.int64)
        for name, (row, column) in settings.items():
            if name in group.mean and row is not None and column is not None:
                place = rows.index(shown(row)), columns.index(shown(column))
                means[place], counts[place] = group.mean[name].estimate, group.mean[name].count
        if counts.any():
            maps.append(HeatMap(method, keys[0], keys[1], rows, columns, means, counts))
    return maps


def _in_order(values: Iterable[object]) -> list[str]:
    """Return distinct values as text: numbers by size, anything else in the order it came."""
    found = {shown(value): value for value in values if value is not None}
    numbers = {text: value for text, value in found.items() if isinstance(value, int | float)}
    return sorted(found, key=lambda text: numbers[text]) if len(numbers) == len(found) else list(found)
