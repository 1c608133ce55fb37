"""Scores that other authors published, each with its protocol: references beside a comparison, in none of its numbers.

``published/README.md`` says where each table comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

import pandas as pd

from prelar_ray.reporting.formats import spaced
from prelar_ray.reporting.scores import SUCCESS, RunScores, Series, read_scores
from prelar_ray.reporting.tables import ScoreTable
from prelar_ray.wording import counted

__all__ = ["LENGTH", "SOURCES", "Source", "published_caption", "published_means", "published_series", "sources_of"]

LENGTH = 250_000
"""Environment steps to which published curves are drawn at least; beyond, as far as the longest run compared."""
NEAR = (105_000, 245_000)
"""Environment steps near which :func:`published_means` looks; no table has scores at exactly the steps of another."""


@dataclass(frozen=True)
class Source:
    """A table of published scores and how they were measured."""

    name: str
    """Publication, as legends name it: methods of one name in two publications are different runs."""
    tasks: str
    """How its tasks are called here."""
    citation: str
    brief: str
    """What differs between sources, for captions."""
    protocol: Mapping[str, str]
    """Item by item, those of runs under the same name as in :mod:`prelar_ray.reporting.protocols`."""


_APV = (
    "Seo et al., Reinforcement Learning with Action-Free Pre-Training from Videos (ICML 2022), raw scores published "
    "with their code"
)
SOURCES = {
    "apv_2022_metaworld_success.csv": Source(
        "APV 2022",
        "metaworld/{}-v3",
        _APV,
        "Meta-World v2, pixels, camera corner, action repeat 1, success at any step",
        {
            "simulator": "Meta-World v2, MuJoCo 2.0",
            "observation": "pixels, 64×64",
            "env.camera": "corner",
            "env.action_repeat": "1",
            "episode": "500 environment steps",
            "evaluation.episodes": "10",
            "success rule": "any step",
            "seeds": "8",
        },
    ),
    "apv_2022_dmc_return.csv": Source(
        "APV 2022",
        "dmc/{}",
        _APV,
        "action repeat 2, one evaluation episode",
        {
            "simulator": "DeepMind Control, version not stated",
            "env.action_repeat": "2",
            "evaluation.episodes": "1",
            "seeds": "8",
        },
    ),
    "mwm_2022_metaworld_success.csv": Source(
        "MWM 2022",
        "metaworld/{}-v3",
        "Seo et al., Masked World Models for Visual Control (CoRL 2022), raw scores published with their code",
        "Meta-World v2, pixels, camera corner2 (moved), action repeat 2, success at any step",
        {
            "simulator": "Meta-World v2, version of MuJoCo not stated",
            "observation": "pixels, 64×64",
            "env.camera": "corner2-moved",
            "env.action_repeat": "2",
            "episode": "250 decisions, 500 environment steps",
            "evaluation.episodes": "10; the first point averages 11, one of them of a random policy",
            "success rule": "any step",
            "seeds": "5",
            "to be known": (
                "The code of its DreamerV2 is not published; that it was measured like MWM is inferred from its "
                "evaluations, which are at the same steps."
            ),
        },
    ),
    "tdmpc2_2024_metaworld_success.csv": Source(
        "TD-MPC2 2024",
        "metaworld/{}-v3",
        "Hansen et al., TD-MPC2: Scalable, Robust World Models for Continuous Control (ICLR 2024), results published "
        "with their code",
        "Meta-World v2, state instead of pixels, action repeat 2, episodes of 200 steps, success at the last step",
        {
            "simulator": "Meta-World v2, MuJoCo 2.1.0",
            "observation": "state vector with the goal; no pixels",
            "env.action_repeat": "2",
            "episode": "100 decisions, 200 environment steps",
            "evaluation.episodes": "10",
            "success rule": "last step",
            "seeds": "3",
            "to be known": "An upper reference only: the agent sees the state, under a stricter success rule.",
        },
    ),
    "dreamerv3_dmc_vision_return.csv": Source(
        "DreamerV3 2024",
        "dmc/{}",
        "Hafner et al., Mastering Diverse Domains through World Models (DreamerV3), scores added to its repository in "
        "2024",
        "pixels, action repeat 2, training episodes",
        {
            "simulator": "DeepMind Control, version not stated",
            "observation": "pixels, 64×64",
            "env.camera": "2 for quadruped, 0 for hopper",
            "env.action_repeat": "2",
            "policy": "sample: training episodes, the mean of 8 at a time",
            "seeds": "10",
            "to be known": "Training episodes are not to be compared point by point with evaluations.",
        },
    ),
}
"""By file in ``published/``. Its order is that of legends."""


def published_series(tasks: Iterable[str], until: int | None = None) -> dict[str, list[RunScores]]:
    """Return published runs on the given tasks by method and publication; ``source`` of a run is its table.

    Args:
        tasks: by their names here.
        until: environment steps, as published, after which scores are left out; None keeps all.
    """
    wanted = set(tasks)
    series: dict[str, list[RunScores]] = {}
    for file, source in SOURCES.items():
        family = source.tasks.partition("{")[0]
        if any(task.startswith(family) for task in wanted):
            for run in _runs(file):
                if run.task in wanted:
                    name = f"{run.method} (published, {source.name})"
                    series.setdefault(name, []).append(replace(run, scores=run.scores.loc[:until]))
    return series


def sources_of(published: Series, task: str | None = None) -> list[Source]:
    """Return the sources of published runs, of all of them or of those on a task."""
    files = {run.source for runs in published.values() for run in runs if task in (None, run.task)}
    return [source for file, source in SOURCES.items() if file in files]


def published_caption(published: Series, task: str) -> str:
    """Return what a chart of a task says of its published curves; empty where it has none."""
    sources = sources_of(published, task)
    return f"Dashed, published: {'; '.join(f'{of.name}: {of.brief}' for of in sources)}." if sources else ""


def published_means(tasks: Sequence[str]) -> ScoreTable | None:
    """Return published success rates near two steps: a row per method, publication and step, each a mean over seeds.

    Columns are the tasks that all of these series have, and the mean over several; None if there is no such task.
    """
    curves = {}
    for name, runs in published_series(tasks).items():
        if rates := {(run.task, run.seed): run.scores[SUCCESS] for run in runs if SUCCESS in run.scores}:
            curves[name] = pd.DataFrame(rates).dropna()
    shared = [task for task in dict.fromkeys(tasks) if curves and all(task in of.columns for of in curves.values())]
    if not shared:
        return None
    rows = {}
    for near in NEAR:
        for name, scores in curves.items():
            step = min(scores.index, key=lambda at: abs(at - near))
            seeds = counted(scores.columns.get_level_values(1).nunique(), "seed")
            means = [float(scores.loc[step, task].mean()) for task in shared]
            rows[f"{name}: {seeds}, at {spaced(step)}"] = means
    cells = pd.DataFrame.from_dict(rows, orient="index", columns=shared)
    if len(shared) > 1:
        cells[f"mean over {len(shared)} tasks"] = cells.mean(axis=1)
    caption = "Published success rates at the environment step of each table that is nearest to "
    return ScoreTable(caption + " and ".join(map(spaced, NEAR)) + ", mean over seeds.", cells.map("{:.3f}".format))


@cache
def _runs(file: str) -> list[RunScores]:
    """Read a table, with tasks by their names here."""
    with resources.as_file(resources.files("prelar_ray.reporting") / "published" / file) as path:
        runs = read_scores(Path(path))
    return [replace(run, task=SOURCES[file].tasks.format(run.task.replace("_", "-"))) for run in runs]
