"""Scores of runs as one tidy table, a row per evaluation: ``scores.csv`` is that table.

Columns ``method, task, seed, env_step`` and ``success_rate`` or ``episode_return`` or both. A column with a dot in its
name (``loss.action_kl_weight``) is a setting that tells runs of one method apart, ``label.NAME`` one that is no key of
the configuration; ``status`` says how the run ended (without: finished), ``protocol`` how it was evaluated (a JSON
object). Other columns are left alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from prelar_ray.errors import DataError, UsageError
from prelar_ray.reporting.texts import csv_text, read_csv_text
from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.json_text import parse_json
from prelar_ray.wording import counted, printable, shortened

__all__ = [
    "DAMAGED",
    "FINISHED",
    "METRIC_NAMES",
    "NOT_BEGUN",
    "RETURN",
    "SUCCESS",
    "SYMBOLS",
    "RunScores",
    "Series",
    "name_series",
    "read_scores",
    "score_table",
    "shown",
    "varying_labels",
    "write_scores",
]

SUCCESS, RETURN = "success_rate", "episode_return"
METRIC_NAMES = {SUCCESS: "success rate", RETURN: "episode return"}
"""What a run is scored by, as columns of tables name it and as readers do."""

FINISHED, NOT_BEGUN, DAMAGED = "finished", "not begun", "damaged"
"""States of a run beside those that ``run.json`` knows: running, interrupted, failed."""

SYMBOLS = {
    "loss.action_kl_weight": "β_a",
    "loss.consistency_weight": "β_r",
    "loss.dynamics_kl_weight": "β",
    "finetune.bonus.weight": "β_int",
    "pretrain.seed": "pre-training seed",
}
"""How names of series call settings: as the paper does, or where the last part of the key would mislead."""

REQUIRED = {"method": pa.string(), "task": pa.string(), "seed": pa.int64(), "env_step": pa.int64()}
OPTIONAL = {**dict.fromkeys(METRIC_NAMES, pa.float64()), "status": pa.string(), "protocol": pa.string()}

LABEL = "label."
"""Begins the columns of settings whose own name has no dot, so that they are known as settings."""


@dataclass(frozen=True, eq=False)
class RunScores:
    """One run: a method with its settings, on a task, from a seed; how it ended, and its scores."""

    name: str
    """Names it among those of its source."""
    source: str
    """Study, folder or file that it comes from."""
    phase: str
    method: str
    task: str
    """Empty where pre-training is of no one task."""
    seed: int
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Settings by dotted key that tell runs of one method apart."""
    status: str = FINISHED
    reason: str = ""
    """Why it did not finish, or why what it left cannot be used."""
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per evaluation, indexed by environment step, ascending; a column per metric that the run has."""
    protocol: Mapping[str, str] = field(default_factory=dict)
    """How its scores were measured, item by item; empty where nobody says."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Content of ``run.json``."""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether it ran to its end and has scores."""
        return self.status == FINISHED and not self.scores.empty

    @property
    def last_step(self) -> int:
        """The last environment step at which it was evaluated; 0 if it never was."""
        return 0 if self.scores.empty else int(self.scores.index[-1])


Series = Mapping[str, Sequence[RunScores]]
"""Runs by the name of their series."""


def name_series(runs: Iterable[RunScores]) -> dict[str, list[RunScores]]:
    """Group runs into series: a method, with those of its settings that vary among its runs.

    Raises:
        UsageError: two runs with scores are the same seed of one series on one task.
    """
    runs = list(runs)
    varying = varying_labels(runs)
    series: dict[str, list[RunScores]] = {}
    first: dict[tuple[str, str, int], RunScores] = {}
    for run in runs:
        name = _series_name(run, varying[run.method])
        series.setdefault(name, []).append(run)
        other = run if run.scores.empty else first.setdefault((name, run.task, run.seed), run)
        if other is not run:
            raise UsageError(
                f"{name} on {run.task}, seed {run.seed}, is there twice: {other.name} of {other.source} and "
                f"{run.name} of {run.source}; a seed counts once, leave one of them out"
            )
    return series


def varying_labels(runs: Iterable[RunScores]) -> dict[str, list[str]]:
    """Return per method the dotted keys of the settings that differ among its runs."""
    values: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        values.setdefault(run.method, []).append({key: shown(value) for key, value in run.labels.items()})
    return {
        method: [
            key for key in dict.fromkeys(key for labels in of for key in labels) if len({x.get(key) for x in of}) > 1
        ]
        for method, of in values.items()
    }


def shown(value: object) -> str:
    """Return a setting's value as text; values that are the same number read the same."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"{value:.12g}"
    return shortened(value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))


def _series_name(run: RunScores, keys: Sequence[str]) -> str:
    """Call each setting by its symbol or last part, or by its whole key where two would be the same."""
    last = [SYMBOLS.get(key, key.rpartition(".")[2]) for key in keys]
    settings = [
        f"{name if last.count(name) == 1 else key}={shown(run.labels[key])}"
        for key, name in zip(keys, last, strict=True)
        if key in run.labels
    ]
    return shortened(f"{run.method} ({', '.join(settings)})" if settings else run.method)


def score_table(runs: Sequence[RunScores]) -> pd.DataFrame:
    """Return the scores of runs, a row per evaluation; ``run`` is the position of its run."""
    keys = dict.fromkeys(key for run in runs for key in run.labels)
    settings = {key: key if "." in key and not key.startswith(LABEL) else f"{LABEL}{key}" for key in keys}
    rows: list[dict[str, Any]] = []
    for position, run in enumerate(runs):
        common = {
            **{"run": position, "method": run.method, "task": run.task, "seed": run.seed, "status": run.status},
            **{settings[key]: shown(value) for key, value in run.labels.items()},
            "protocol": json.dumps(dict(run.protocol)) if run.protocol else None,
        }
        rows += [{**common, "env_step": step, **scores} for step, scores in run.scores.to_dict("index").items()]
    columns = ["run", *REQUIRED, *METRIC_NAMES, "status", *settings.values(), "protocol"]
    return pd.DataFrame(rows, columns=columns)


def write_scores(path: Path, runs: Sequence[RunScores]) -> None:
    """Write the table so that :func:`read_scores` finds the same; runs without scores leave no row.

    Raises:
        DataError: the file cannot be written.
    """
    table = score_table(runs).drop(columns="run")
    for name in table.columns.difference([*METRIC_NAMES, "seed", "env_step"]):
        table[name] = [csv_text(text) if isinstance(text, str) else text for text in table[name]]
    table = table.rename(columns=csv_text)
    schema = pa.schema([(name, REQUIRED.get(name) or OPTIONAL.get(name, pa.string())) for name in table.columns])
    buffer = io.BytesIO()
    csv.write_csv(pa.Table.from_pandas(table, schema, preserve_index=False), buffer)
    with atomic_file(path) as file:
        file.write(buffer.getvalue())


def read_scores(path: Path) -> list[RunScores]:
    """Read a table of scores; every method, with its settings, task and seed becomes a run.

    Raises:
        DataError: the file cannot be read, lacks a column or all rows, or a value is missing, of the wrong type, out of
            range or there twice.
    """
    table = _table(path)
    settings = [name for name in table.column_names if "." in name]
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for number, row in enumerate(map(_texts, table.to_pylist()), start=2):  # the header is line 1
        _check(row, f"{path}: line {number}")
        key = (row["method"], row["task"], row["seed"], *(shown(row[name]) for name in settings))
        runs.setdefault(key, []).append(row)
    return [_run_scores(rows, settings, path) for rows in runs.values()]


def _table(path: Path) -> Any:
    try:
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types={**REQUIRED, **OPTIONAL}))
        table = table.rename_columns(list(map(read_csv_text, table.column_names)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); name a CSV file of scores") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = printable(" ".join(str(error).split()))
        raise DataError(
            f"{path}: not a table of scores ({reason}); expected CSV with a header, seed and env_step whole numbers, "
            f"{' and '.join(METRIC_NAMES)} numbers"
        ) from error
    names = table.column_names
    shown_names = printable(", ".join(names))
    missing = [name for name in REQUIRED if name not in names]
    if not set(METRIC_NAMES) & set(names):
        missing.append(" or ".join(METRIC_NAMES))
    if missing:
        raise DataError(f"{path}: lacks the column {', '.join(missing)}; it has {shown_names}")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a column is there twice: {shown_names}; keep one of each name")
    if not table.num_rows:
        raise DataError(f"{path}: holds no scores, only a header; expected one row per evaluation")
    return table


def _check(row: Mapping[str, Any], where: str) -> None:
    """Make sure that a row says whose score it is, and that the score can be one."""
    for name in REQUIRED:
        if row[name] is None or row[name] == "":
            raise DataError(f"{where}: {name} is empty; fill it in or delete the line")
    if row["env_step"] < 0:
        raise DataError(f"{where}: env_step is {row['env_step']}, expected environment steps since the start")
    values = {name: row[name] for name in METRIC_NAMES if row.get(name) is not None}
    if not values:
        raise DataError(f"{where}: no score; fill one in or delete the line")
    for name, value in values.items():
        if not np.isfinite(value):
            raise DataError(f"{where}: {name} is {value}, expected a finite number")
        if name == SUCCESS and not 0 <= value <= 1:
            raise DataError(f"{where}: {name} is {value:g}, expected a fraction from 0 to 1 (not per cent)")


def _texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as it was before :func:`write_scores`, with texts of a length that pages have room for."""
    texts = {name: read_csv_text(value) for name, value in row.items() if isinstance(value, str)}
    return {**row, **{name: text if name == "protocol" else shortened(text) for name, text in texts.items()}}


def _run_scores(rows: list[dict[str, Any]], settings: Sequence[str], path: Path) -> RunScores:
    first = rows[0]
    name = f"{first['method']}/{first['task']}/seed-{first['seed']}"
    columns = {metric: [row.get(metric) for row in rows] for metric in METRIC_NAMES}
    scores = pd.DataFrame(columns, [row["env_step"] for row in rows], dtype=np.float64).sort_index()
    if scores.index.has_duplicates:
        step = scores.index[scores.index.duplicated()][0]
        raise DataError(
            f"{path}: {name} has {counted(int((scores.index == step).sum()), 'row')} for env_step {step}; keep one, or "
            "add a column with the setting (section.key) that tells them apart"
        )
    status = first.get("status") or FINISHED
    return RunScores(
        name=name,
        source=path.name,
        phase="finetune",
        method=first["method"],
        task=first["task"],
        seed=first["seed"],
        labels={key.removeprefix(LABEL): first[key] for key in settings if first[key] not in (None, "")},
        status=status,
        reason="" if status == FINISHED else "as its table of scores says",
        scores=scores.dropna(axis="columns", how="all"),
        protocol=_protocol(first.get("protocol"), path),
    )


def _protocol(text: str | None, path: Path) -> dict[str, str]:
    try:
        protocol = parse_json(text or "{}")
    except ValueError:
        protocol = None
    if not isinstance(protocol, dict):
        raise DataError(f"{path}: protocol is {text!r}, expected a JSON object or nothing")
    return {shortened(str(item)): shortened(str(value)) for item, value in protocol.items()}
