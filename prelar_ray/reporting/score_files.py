"""Tables of scores as CSV: one row per evaluation, read and written.

Columns ``method, task, seed, env_step`` and ``success_rate`` or ``episode_return`` or both. A column with a dot in its
name (``loss.action_kl_weight``) is a setting that tells runs of one method apart, ``label.NAME`` one that is no key of
the configuration; ``status`` says how the run ended
(without: finished), ``protocol`` how it was evaluated (a JSON object). Other columns are left alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from prelar_ray.errors import DataError
from prelar_ray.reporting.trials import FINISHED, METRICS, SUCCESS, Points, Trial, shown
from prelar_ray.storage.files import atomic_file
from prelar_ray.wording import counted

__all__ = ["read_scores", "write_scores"]

REQUIRED = {"method": pa.string(), "task": pa.string(), "seed": pa.int64(), "env_step": pa.int64()}
OPTIONAL = {**dict.fromkeys(METRICS, pa.float64()), "status": pa.string(), "protocol": pa.string()}

LABEL = "label."
"""Begins the columns of settings whose own name has no dot, so that they are known as settings."""

Row = dict[str, Any]


def read_scores(path: Path) -> list[Trial]:
    """Read a table of scores; every method, with its settings, task and seed becomes a trial.

    Raises:
        DataError: the file cannot be read, lacks a column or all rows, or a value is missing, of the wrong type, out of
            range or there twice.
    """
    table = _table(path)
    settings = [name for name in table.column_names if "." in name]
    runs: dict[tuple[Any, ...], list[Row]] = {}
    for number, row in enumerate(table.to_pylist(), start=2):  # the header is line 1
        _check(row, f"{path}: line {number}")
        key = (row["method"], row["task"], row["seed"], *(shown(row[name]) for name in settings))
        runs.setdefault(key, []).append(row)
    return [_trial(rows, settings, path) for rows in runs.values()]


def write_scores(path: Path, trials: Sequence[Trial]) -> None:
    """Write the scores of trials so that :func:`read_scores` finds the same; those without scores leave no row.

    Raises:
        DataError: the file cannot be written.
    """
    settings = {key: key if "." in key else f"{LABEL}{key}" for trial in trials for key in trial.labels}
    rows = [row for trial in trials for row in _rows(trial, settings)]
    fields = [
        *((name, kind) for name, kind in REQUIRED.items()),
        *((name, pa.float64()) for name in METRICS),
        ("status", pa.string()),
        *((column, pa.string()) for column in settings.values()),
        ("protocol", pa.string()),
    ]
    buffer = io.BytesIO()
    csv.write_csv(pa.Table.from_pylist(rows, schema=pa.schema(fields)), buffer)
    with atomic_file(path) as file:
        file.write(buffer.getvalue())


def _table(path: Path) -> pa.Table:
    try:
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types={**REQUIRED, **OPTIONAL}))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); name a CSV file of scores") from error
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: not a table of scores ({reason}); expected CSV with a header, seed and env_step whole numbers, "
            f"{' and '.join(METRICS)} numbers"
        ) from error
    names = table.column_names
    missing = [name for name in REQUIRED if name not in names]
    if not set(METRICS) & set(names):
        missing.append(" or ".join(METRICS))
    if missing:
        raise DataError(f"{path}: lacks the column {', '.join(missing)}; it has {', '.join(names)}")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a column is there twice: {', '.join(names)}; keep one of each name")
    if not table.num_rows:
        raise DataError(f"{path}: holds no scores, only a header; expected one row per evaluation")
    return table


def _check(row: Row, where: str) -> None:
    """Make sure that a row says whose score it is, and that the score can be one."""
    for name in REQUIRED:
        if row[name] is None or row[name] == "":
            raise DataError(f"{where}: {name} is empty; fill it in or delete the line")
    if row["env_step"] < 0:
        raise DataError(f"{where}: env_step is {row['env_step']}, expected environment steps since the start")
    values = {name: row[name] for name in METRICS if row.get(name) is not None}
    if not values:
        raise DataError(f"{where}: no score; fill one in or delete the line")
    for name, value in values.items():
        if not np.isfinite(value):
            raise DataError(f"{where}: {name} is {value}, expected a finite number")
        if name == SUCCESS and not 0 <= value <= 1:
            raise DataError(f"{where}: {name} is {value:g}, expected a fraction from 0 to 1 (not per cent)")


def _trial(rows: list[Row], settings: Sequence[str], path: Path) -> Trial:
    first = rows[0]
    name = f"{first['method']}/{first['task']}/seed-{first['seed']}"
    steps = [row["env_step"] for row in rows]
    if twice := sorted({step for step in steps if steps.count(step) > 1}):
        raise DataError(
            f"{path}: {name} has {counted(steps.count(twice[0]), 'row')} for env_step {twice[0]}; keep one, or add a "
            "column with the setting (section.key) that tells them apart"
        )
    status = first.get("status") or FINISHED
    return Trial(
        name=name,
        source=path.name,
        phase="finetune",
        method=first["method"],
        task=first["task"],
        seed=first["seed"],
        labels={name.removeprefix(LABEL): first[name] for name in settings if first[name] not in (None, "")},
        status=status,
        reason="" if status == FINISHED else "as its table of scores says",
        scores={name: points for name in METRICS if (points := _points(rows, name))},
        protocol=_protocol(first.get("protocol"), path),
    )


def _points(rows: list[Row], metric: str) -> Points | None:
    pairs = sorted((row["env_step"], row[metric]) for row in rows if row.get(metric) is not None)
    if not pairs:
        return None
    return np.array([step for step, _ in pairs], np.int64), np.array([value for _, value in pairs], np.float64)


def _protocol(text: str | None, path: Path) -> dict[str, str]:
    try:
        protocol = json.loads(text or "{}")
    except ValueError:
        protocol = None
    if not isinstance(protocol, dict):
        raise DataError(f"{path}: protocol is {text!r}, expected a JSON object or nothing")
    return {str(item): str(value) for item, value in protocol.items()}


def _rows(trial: Trial, settings: Mapping[str, str]) -> list[Row]:
    values: dict[int, Row] = {}
    for metric, (steps, scores) in trial.scores.items():
        for step, score in zip(steps.tolist(), scores.tolist(), strict=True):
            values.setdefault(step, {})[metric] = score
    common = {
        "method": trial.method,
        "task": trial.task,
        "seed": trial.seed,
        "status": trial.status,
        "protocol": json.dumps(dict(trial.protocol)) if trial.protocol else None,
        **{column: shown(trial.labels[key]) for key, column in settings.items() if key in trial.labels},
    }
    return [{**common, "env_step": step, **values[step]} for step in sorted(values)]
