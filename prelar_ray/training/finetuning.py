"""The fine-tuning loop: Algorithm 1, lines 9-25, on any backend.

Synchronous mode takes turns (collect, learn, publish) and keeps the replay ratio exactly. Asynchronous mode does the
same at once: one request in flight per collector and a few batches in flight to the learner. Episodes and batches pass
by reference; the driver never looks at them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from prelar_ray.acting.collector import Collected, Collector
from prelar_ray.checkpoint.compatibility import resumable_checkpoint
from prelar_ray.checkpoint.store import Checkpoint, CheckpointStore, is_whole
from prelar_ray.config import RunConfig
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.backend import Backend
from prelar_ray.training.collectors import CollectorPool
from prelar_ray.training.drive import Loop, drive, final_numbers
from prelar_ray.training.episode_fit import check_episodes_fit
from prelar_ray.training.evaluations import Evaluations, record_evaluation
from prelar_ray.training.every import Every
from prelar_ray.training.learners import FinetuneLearners
from prelar_ray.training.metric_log import Line, MetricLog, process_memory
from prelar_ray.training.metric_window import MetricWindow
from prelar_ray.training.replays import ReplayGroup
from prelar_ray.training.restarts import RestartPolicy

__all__ = ["Finetuning", "finetune", "iterate_finetuning"]

POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


def finetune(
    config: RunConfig, run: RunFolder, start_backend: Callable[[], Backend], init: Path | None, resume: bool
) -> Path:
    """Fine-tune to the end and return the last checkpoint; see :func:`iterate_finetuning`."""
    for _ in iterate_finetuning(config, run, start_backend, init, resume):
        pass
    return CheckpointStore(run.checkpoints, config.checkpoint.keep_last).paths()[-1]


def iterate_finetuning(
    config: RunConfig, run: RunFolder, start_backend: Callable[[], Backend], init: Path | None, resume: bool
) -> Generator[Line]:
    """Fine-tune to the end; yields every line of metrics when it is written.

    Args:
        config: of the run.
        run: its folder.
        start_backend: returns where the roles run; it is closed in any case.
        init: pre-training checkpoint whose encoder, RSSM and decoder are taken over; None starts from scratch.
        resume: continue from the last checkpoint of ``run``.

    On Ctrl-C, or a KeyboardInterrupt thrown in, a checkpoint is written before the interrupt takes effect.

    Raises:
        NonFiniteError: a reward, action or loss became NaN or infinite.
        EnvironmentFailure: an environment failed again and again.
        RoleDied: roles died again and again without a checkpoint in between. Else a collector or evaluator is replaced,
            and for any other all roles restart at the last checkpoint.
        CheckpointError: nothing to resume from, other networks than the run's, ``init`` does not fit, writing failed.
        UsageError: the run to resume is longer than ``config`` asks for.
        ConfigError: no episode could end in time, or be learnt from; ``checkpoint.mirror`` cannot be used.
    """
    checkpoints = CheckpointStore(run.checkpoints, config.checkpoint.keep_last)
    return drive(
        config,
        run,
        phase="finetune",
        total=config.finetune.env_steps,
        unit="env steps",
        is_whole=is_whole,
        load=lambda: resumable_checkpoint(checkpoints, config) if resume else None,
        done=lambda checkpoint: checkpoint.env_steps if checkpoint else 0,
        start=start_backend,
        open_loop=lambda backend, checkpoint: Finetuning(config, run, backend, init, checkpoint),
        restart=RestartPolicy(checkpoints, config).restart,
    )


class Finetuning(Loop):
    """Collectors, replay, learners and evaluator of a run, and what is due when."""

    def __init__(
        self, config: RunConfig, run: RunFolder, backend: Backend, init: Path | None, checkpoint: Checkpoint | None
    ) -> None:
        self.config, self.run, self.backend = config, run, backend
        self.checkpoints = CheckpointStore(run.checkpoints, config.checkpoint.keep_last)
        counters: dict[str, Any] = checkpoint.counters if checkpoint else {"numbers": {}}
        numbers = {int(index): number for index, number in counters["numbers"].items()}
        self.replay = ReplayGroup(backend, config, run.replay.absolute())
        self.evaluations = Evaluations(backend, config, counters)
        self.collectors = CollectorPool(backend, config, self.replay, numbers)
        check_episodes_fit(config, self.collectors.ask(Collector.episode_steps))
        action = self.collectors.ask(Collector.action_size)
        self.learners = FinetuneLearners(backend, config, action, run.checkpoints.absolute())
        self._restore(checkpoint, init)
        self.learners.publish()
        updates = self.learners.updates
        self.window = MetricWindow()
        self.metrics = MetricLog(run, backend.report, updates if checkpoint else None)
        self.publishing = Every(config.collect.publish_every_updates, updates)
        self.logging = Every(config.telemetry.every_updates, updates)
        self.evaluating = Every(config.evaluation.every_env_steps, self.replay.env_steps)
        self.saving = Every(config.checkpoint.every_updates, updates)
        if not checkpoint:
            self._begin_save()  # so that a run killed at any time can be resumed

    def _restore(self, checkpoint: Checkpoint | None, init: Path | None) -> None:
        if checkpoint:
            self.learners.restore(checkpoint.path.absolute(), checkpoint.update)
            self.replay.restore(checkpoint.counters["replay"], checkpoint.update)
            self.run.start()
            self.run.warn_of_missing_lines(checkpoint.counters.get("lines", {}), checkpoint.update)
            self.run.forget_evaluations_after(checkpoint.update)
            self.evaluations.resume(self.run, self.checkpoints)
        elif init:
            self.learners.initialise(init.absolute())

    # Algorithm 1

    def advance(self) -> None:
        """Collect, learn and publish; then do what is due."""
        if self.config.collect.synchronous:
            self._take_turns()
        else:
            self._overlap()
        self._do_what_is_due()

    def _take_turns(self) -> None:
        """Lines 14-25, one after another."""
        self._note(self.collectors.collect(self.learners.published))  # lines 15-18
        while self.replay.updates_due:
            self.learners.update(self.replay.sample())  # lines 19-24
            self.window.learnt(1)
        self.learners.publish()

    def _overlap(self) -> None:
        """Lines 14-25 at once: keep all roles busy, wait for any, then take care of what is done."""
        learners, published = self.learners, self.learners.published
        self.collectors.request(published, ready=published.version <= learners.updates)  # lines 15-18
        while count := self._updates_allowed:
            learners.submit(self.replay.sample(count), count)  # lines 19-24
        paused, began = self.collectors.paused, time.monotonic()
        done = self.backend.wait([*self.collectors.futures, *learners.futures], POLL_SECONDS)
        if paused:
            self.window.paused(time.monotonic() - began)
        self._note(self.collectors.take(done))
        if updates := learners.take(done):
            self._learnt(updates)
        if self.publishing.take(learners.updates):
            learners.publish()

    @property
    def _updates_allowed(self) -> int:
        """How many updates to ask for now: few calls are in flight, and no collector's weights get too old."""
        oldest, allowed = self.collectors.oldest_version, self.learners.per_call
        waiting = self.config.replay.prefetch if allowed == 1 else 1  # one call of several batches is enough
        if self.learners.calls > waiting:
            return 0
        if oldest is not None:
            allowed = min(allowed, self.config.collect.max_age_updates - (self.learners.submitted - oldest))
        return max(0, min(allowed, self.replay.updates_due))

    def _note(self, answers: Iterable[Collected]) -> None:
        for answer in answers:
            self.window.collected(answer, self.learners.updates - answer.version)

    def _learnt(self, updates: int) -> None:
        self.collectors.learnt(self.learners.updates)
        self.window.learnt(updates)

    def _do_what_is_due(self) -> None:
        """Metrics, evaluations and checkpoints."""
        if self.logging.take(self.learners.updates):
            self._log()
        if self.evaluating.take(self.replay.env_steps) and self.learners.updates:
            if self.config.collect.synchronous:
                self._record_evaluations(wait=True)
            self._begin_evaluation()
        self._record_evaluations(wait=False)
        if self.saving.due(self.learners.updates):
            self._begin_save()

    # Progress

    @property
    def finished(self) -> bool:
        """Whether all steps are taken, all updates made, and nothing is in flight."""
        busy = self.collectors.in_flight or self.learners.in_flight
        return self.replay.env_steps >= self.config.finetune.env_steps and not self.replay.updates_due and not busy

    @property
    def reached(self) -> int:
        """Environment steps whose updates are made: how far the run is, whether collecting or learning lags."""
        pending = self.replay.updates_due + self.learners.in_flight
        return max(0, self.replay.env_steps - pending * self.config.finetune.env_steps_per_update)

    @property
    def shown(self) -> Mapping[str, float]:
        """Updates and the last training return."""
        return {"updates": self.learners.updates, "return": self.window.last_return}

    # Telemetry, evaluation, checkpoints

    def _log(self) -> None:
        config, held, env_steps = self.config, self.replay.status, self.replay.env_steps
        rates = self.window.read()  # first: updates that the learner still does before it answers count in the next
        values = self.learners.metrics() | rates | self.backend.memory()
        values |= {
            "replay/steps": held.steps,
            "replay/episodes": held.episodes,
            "replay/fill": held.steps / config.replay.capacity_steps,
            "queue/updates_due": self.replay.updates_due,
            "queue/updates_in_flight": self.learners.in_flight,
            "queue/requests_in_flight": self.collectors.in_flight,
            "memory/process": process_memory(),
        }
        paid_steps = env_steps - config.finetune.random_steps
        if paid_steps > 0:
            values["replay/updates_per_env_step"] = (
                self.learners.updates - config.finetune.initial_updates
            ) / paid_steps
        self.metrics.write(self.learners.updates, env_steps, values)
        self.logging.done(self.learners.updates)

    def _begin_evaluation(self) -> None:
        """Save, and evaluate exactly what was saved; a resume from there does so unless the result is known."""
        self._begin_save(evaluate=True)
        self.evaluations.start_next()

    def _record_evaluations(self, wait: bool) -> None:
        """Record the evaluations that are done or, with ``wait``, all that are pending."""
        while self.evaluations.are_pending if wait else self.evaluations.is_done:
            if evaluated := self.evaluations.finish():
                values = record_evaluation(self.run, evaluated, self.config.env.task)
                self.metrics.write(evaluated.update, evaluated.env_steps, values)
                self.learners.saved()
                self.checkpoints.set_score(evaluated.update, values["evaluation/return_mean"])

    def _begin_save(self, evaluate: bool = False) -> None:
        """Finish what is in flight to learner and replay, publish, and begin to write a checkpoint."""
        self._learnt(self.learners.finish())
        self.collectors.finish_insertions()
        self.learners.publish()
        updates = self.learners.updates
        if evaluate:
            self.evaluations.enqueue(self.learners.published.weights, updates, self.replay.env_steps)
        if updates == self.saving.last and updates:
            return
        self.learners.saved()  # the one before: the replay deletes now what only those before that need
        counters = {
            "replay": self.replay.state_dict(),
            "numbers": self.collectors.numbers,
            **self.evaluations.counters(),
            "lines": self.run.sync_lines(),
        }
        self.saving.done(self.learners.save(counters))

    def save(self) -> None:
        """Write a checkpoint of all updates and episodes so far."""
        self._begin_save()
        self.learners.saved()

    def interrupt(self) -> None:
        """Save, and record the evaluations that are done."""
        self.save()
        self._record_evaluations(wait=False)

    def finish(self) -> None:
        """Write the last line of metrics, and evaluate the last weights if they were not."""
        if self.learners.updates > self.logging.last:
            self._log()
        self._record_evaluations(wait=True)
        evaluations = self.run.evaluations()
        if not evaluations or evaluations[-1].update < self.learners.updates:
            self._begin_evaluation()
            self._record_evaluations(wait=True)

    def conclude(self) -> None:
        """Write what the report shows: frames and final numbers."""
        self.run.save_frames("prediction", **self.learners.predict(self.replay.peek())._asdict())
        episodes = sum(self.collectors.numbers.values())
        counts = {"updates": self.learners.updates, "env_steps": self.replay.env_steps, "episodes": episodes}
        self.run.update(summary=final_numbers(self.run, **counts))
