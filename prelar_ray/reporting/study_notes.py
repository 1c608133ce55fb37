"""What a reader must know before believing a comparison, derived from the runs that it is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from prelar_ray.config import RLLIB
from prelar_ray.reporting.comparison import Group
from prelar_ray.reporting.notes import FEW_EPISODES, FEW_SEEDS, Note, shorter_training, smaller_networks, spaced
from prelar_ray.reporting.protocols import UNSTATED
from prelar_ray.reporting.trials import METRICS, Trial
from prelar_ray.wording import counted

__all__ = ["study_notes"]


def study_notes(
    series: Mapping[str, Sequence[Trial]],
    groups: Sequence[Group],
    differences: Sequence[str],
    at: int | None,
    published: bool,
) -> list[Note]:
    """Return the reservations, the weightiest first.

    Args:
        series: fine-tuning runs.
        groups: what was found out on them.
        differences: those of protocols that were put together all the same.
        at: step of comparison, where the reader chose one.
        published: whether published curves are drawn.
    """
    found: list[Note] = []
    if differences:
        found.append(Note(f"Runs of different protocols are put together, as asked for: {'; '.join(differences)}."))
    found += _lost(series, at)
    for group in groups:
        found += [*_seeds(group), *_tasks(group), *(_horizon(series, group) if at is None else [])]
    found += _training(series)
    found += _episodes(series)
    if published:
        found.append(
            Note(
                "Dashed curves are published ones of another code and simulator version: a reference, no comparison "
                "under equal conditions. They enter no number on this page."
            )
        )
    return found


def _lost(series: Mapping[str, Sequence[Trial]], at: int | None) -> list[Note]:
    """Say how many runs are left out: if they failed because they did badly, the rest look too good."""
    found = []
    for name, trials in series.items():
        states = Counter(trial.status for trial in trials if not trial.is_complete)
        if states:
            how = ", ".join(f"{count} {status}" for status, count in states.items())
            lost = f"{sum(states.values())} of {counted(len(trials), 'run')}"
            text = f"Scores leave out {lost}, which did not finish ({how})."
            if at is not None:
                text = f"{lost} did not finish ({how}); each is scored if it was evaluated at {spaced(at)} steps."
            found.append(Note(text, [name]))
    return found


def _seeds(group: Group) -> list[Note]:
    """Say where there is no interval and why, and where there are few seeds."""
    single = [name for name, by_task in group.scores.items() if any(len(of) == 1 for of in by_task.values())]
    few = [name for name, by_task in group.scores.items() if 1 < min(len(of) for of in by_task.values()) < FEW_SEEDS]
    found = []
    if single:
        found.append(
            Note(
                "One seed on a task: no interval is given for it, nor for what it enters, because one run does not say "
                "how far another seed would land from it.",
                single,
            )
        )
    if few:
        text = f"Fewer than {FEW_SEEDS} seeds on a task: intervals are too narrow to compare methods by."
        found.append(Note(text, few))
    return found


def _tasks(group: Group) -> list[Note]:
    """Say which tasks are not in the aggregates, and which series have no score at all."""
    label = METRICS[group.metric]
    if group.why_no_scores:
        return [Note(f"No {label} is compared: {group.why_no_scores}.")]
    found = []
    if not group.compared:
        found.append(Note(f"No task has a {label} of every series: nothing is put together over tasks."))
    elif left_out := [task for task in group.tasks if task not in group.compared]:
        missing = {task: [name for name, by_task in group.scores.items() if task not in by_task] for task in left_out}
        why = "; ".join(f"{task} (no score of {', '.join(names)})" for task, names in missing.items())
        found.append(Note(f"What is put together over tasks leaves out {why}."))
    counts = {len(of) for by_task in group.scores.values() for of in by_task.values()}
    if len(counts) > 1:
        text = (
            f"Numbers of seeds differ, from {min(counts)} to {max(counts)}: in an IQM tasks with more seeds weigh more."
        )
        found.append(Note(text))
    return found


def _horizon(series: Mapping[str, Sequence[Trial]], group: Group) -> list[Note]:
    """Say that runs were compared before their end, because others were shorter."""
    finished = [t for trials in series.values() for t in trials if t.is_complete and group.metric in t.scores]
    last = max((trial.last_step for trial in finished), default=0)
    if group.at is None or last <= group.at:
        return []
    return [
        Note(
            f"The {METRICS[group.metric]} is compared at {spaced(group.at)} environment steps, the last at which every "
            f"finished run was evaluated; some went on to {spaced(last)}."
        )
    ]


def _training(series: Mapping[str, Sequence[Trial]]) -> list[Note]:
    """Say that runs are shorter or smaller than the published ones."""
    found: dict[str, Note] = {}
    for name, trials in series.items():
        recorded = [trial for trial in trials if trial.info and trial.scores]
        texts = {shorter_training(max((trial.last_step for trial in recorded), default=0))}
        if not trials[0].method.startswith(RLLIB):  # whose networks are others
            texts |= {smaller_networks(trial.config) for trial in recorded}
        for text in sorted(filter(None, texts)):
            found.setdefault(text, Note(text)).runs.append(name)
    return [Note(note.text) if len(note.runs) == len(series) else note for note in found.values()]


def _episodes(series: Mapping[str, Sequence[Trial]]) -> list[Note]:
    """Say how coarse the success rates of single runs are, and where nobody says how they were measured."""
    trials = [trial for members in series.values() for trial in members if trial.scores]
    found = []
    episodes = sorted({int(n) for t in trials if (n := t.protocol.get("evaluation.episodes", "")).isdecimal()})
    if episodes and episodes[0] < FEW_EPISODES:
        few = counted(episodes[0], "episode")
        text = f"Evaluations of {few}: a run's success rate moves in steps of {1 / episodes[0]:.2g}."
        found.append(Note(text))
    if any(not trial.protocol for trial in trials):
        sources = ", ".join(dict.fromkeys(trial.source for trial in trials if not trial.protocol))
        found.append(Note(f"How these scores were measured is {UNSTATED} in {sources}."))
    return found
