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
from typing import Any, NamedTuple

from prelar_ray.acting.collector import Collected, Collector
from prelar_ray.checkpoint.compatibility import check_same_experiment, resumable_checkpoint
from prelar_ray.checkpoint.store import Checkpoint, CheckpointStore, is_whole, load_checkpoint
from prelar_ray.config import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.backend import Backend
from prelar_ray.training.collectors import CollectorPool
from prelar_ray.training.drive import Loop, drive, final_numbers
from prelar_ray.training.episode_fit import check_actions_fit, check_episodes_fit
from prelar_ray.training.evaluations import Evaluations, record_evaluation
from prelar_ray.training.every import Every
from prelar_ray.training.learners import FinetuneLearners
from prelar_ray.training.metric_log import Line, MetricLog, process_memory
from prelar_ray.training.metric_window import MetricWindow
from prelar_ray.training.replays import ReplayGroup
from prelar_ray.training.restarts import RestartPolicy
from prelar_ray.training.videos import ClipReader, Videos

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
        DataError: the videos to rehearse cannot be used.
        RoleDied: roles died again and again without a checkpoint in between. Else a collector or evaluator is replaced,
            and for any other all roles restart at the last checkpoint.
        CheckpointError: nothing to resume from, other networks, task or seed than the run's, ``init`` does not fit,
            writing failed.
        UsageError: the run to resume is longer than ``config`` asks for.
        ConfigError: no episode could end in time, or be learnt from; ``checkpoint.mirror`` cannot be used.
    """
    checkpoints = CheckpointStore(run.checkpoints, config.checkpoint.keep_last)
    policy = RestartPolicy(checkpoints, config)

    def load() -> _Origin:
        checkpoint = resumable_checkpoint(checkpoints, config) if resume else None
        if checkpoint:
            check_same_experiment(run, checkpoint, config)
        return _Origin(_rehearsed(config, init, checkpoint), checkpoint)

    def restart(death: RoleDied, backend: Backend, origin: _Origin) -> _Origin:
        return origin._replace(checkpoint=policy.restart(death, backend, origin.checkpoint))

    return drive(
        config,
        run,
        phase="finetune",
        total=config.finetune.env_steps,
        unit="env steps",
        is_whole=is_whole,
        load=load,
        done=lambda origin: origin.checkpoint.env_steps if origin.checkpoint else 0,
        start=start_backend,
        open_loop=lambda backend, origin: Finetuning(config, run, backend, init, origin),
        restart=restart,
    )


class _Origin(NamedTuple):
    """What a loop starts from."""

    videos: Videos | None
    """To rehearse, where the run does."""
    checkpoint: Checkpoint | None


def _rehearsed(config: RunConfig, init: Path | None, checkpoint: Checkpoint | None) -> Videos | None:
    """Open the videos to rehearse, if any, without those that pre-training held out, as far as it is known."""
    if not config.finetune.clip_rows:
        return None
    if checkpoint is not None:
        return Videos(config, "finetune", checkpoint.counters["rehearsal"])
    return Videos(config, "finetune", load_checkpoint(init).counters if init else None)


class Finetuning(Loop):
    """Collectors, replay, learners and evaluator of a run, and what is due when."""

    def __init__(self, config: RunConfig, run: RunFolder, backend: Backend, init: Path | None, origin: _Origin) -> None:
        self.config, self.run, self.backend = config, run, backend
        videos, checkpoint = origin
        self.checkpoints = CheckpointStore(run.checkpoints, config.checkpoint.keep_last)
        counters: dict[str, Any] = checkpoint.counters if checkpoint else {"numbers": {}}
        numbers = {int(index): number for index, number in counters["numbers"].items()}
        self.replay = ReplayGroup(backend, config, run.replay.absolute())
        self.evaluations = Evaluations(backend, config, counters)
        self._known_pending: set[int] = set()  # updates of the evaluations that the last checkpoint knows to be pending
        self.collectors = CollectorPool(backend, config, self.replay, numbers)
        check_episodes_fit(config, self.collectors.ask(Collector.episode_steps))
        actions = self.collectors.ask(Collector.actions)
        check_actions_fit(config, actions)
        terminates = self.collectors.ask(Collector.terminates)
        self.learners = FinetuneLearners(backend, config, actions, run.checkpoints.absolute(), terminates)
        self.clips: ClipReader | None = None
        if videos:
            self.clips = ClipReader(videos, config.learner.ranks, counters.get("rehearsal"))
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
            self._known_pending = self.evaluations.updates
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
            self._submit(1)  # lines 19-24
            self.window.learnt(self.learners.finish())
        self.learners.publish()

    def _overlap(self) -> None:
        """Lines 14-25 at once: keep all roles busy, wait for any, then take care of what is done."""
        learners, published = self.learners, self.learners.published
        self.collectors.request(published, ready=published.version <= learners.updates)  # lines 15-18
        while count := self._updates_allowed:
            self._submit(count)  # lines 19-24
        paused, began = self.collectors.paused, time.monotonic()
        done = self.backend.wait([*self.collectors.futures, *learners.futures], POLL_SECONDS)
        if paused:
            self.window.paused(time.monotonic() - began)
        self._note(self.collectors.take(done))
        if updates := learners.take(done):
            self._learnt(updates)
        if self.publishing.take(learners.updates):
            learners.publish()

    def _submit(self, updates: int) -> None:
        """Sample batches, with clips where the run rehearses videos, and ask for an update on each."""
        clips = self.clips.read(updates) if self.clips else None
        shares: list[list[Any]] = [list(parts) for parts in self.replay.sample(updates)]
        if clips is not None:
            shares = [[*parts, of_rank] for parts, of_rank in zip(shares, clips, strict=True)]
        with interrupts_deferred():
            self.learners.submit(shares, updates)
            if self.clips:
                self.clips.learnt()  # by the next checkpoint, which waits for what is in flight

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
        if not self._catches_up and self.evaluating.take(self.replay.env_steps) and self.learners.updates:
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
    def _catches_up(self) -> bool:
        """Whether all steps are taken and updates are not: what is due at the last step comes after them, once."""
        return self.replay.env_steps >= self.config.finetune.env_steps and not self.finished

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
            "evaluation/skipped": self.evaluations.skipped,
            "memory/process": process_memory(),
        }
        paid_steps = env_steps - config.finetune.random_steps
        if paid_steps > 0:
            paid = max(0, self.learners.updates - config.finetune.initial_updates)  # these come first
            values["replay/updates_per_env_step"] = paid / paid_steps
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
                self.checkpoints.needed = self.evaluations.updates
                self.checkpoints.set_score(evaluated.update, values["evaluation/return_mean"])

    def _begin_save(self, evaluate: bool = False) -> None:
        """Finish what is in flight to learner and replay, publish, and begin to write a checkpoint."""
        self._learnt(self.learners.finish())
        self.collectors.finish_insertions()
        self.learners.publish()
        updates = self.learners.updates
        if evaluate:
            self.evaluations.enqueue(self.learners.published.weights, updates, self.replay.env_steps)
        if updates == self.saving.last and updates and self.evaluations.updates <= self._known_pending:
            return
        self.learners.saved()  # the one before: the replay deletes now what only those before that need
        self._known_pending = self.evaluations.updates
        counters = {
            "replay": self.replay.state_dict(),
            "numbers": self.collectors.numbers,
            **self.evaluations.counters(),
            **({"rehearsal": self.clips.counters} if self.clips else {}),
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
        """Write what the report shows: frames, where any are observed, and final numbers."""
        if self.config.env.image_size:
            self.run.save_frames("prediction", **self.learners.predict(self.replay.peek())._asdict())
        episodes = sum(self.collectors.numbers.values())
        counts = {"updates": self.learners.updates, "env_steps": self.replay.env_steps, "episodes": episodes}
        self.run.update(summary=final_numbers(self.run, **counts))

    def close(self) -> None:
        """End the thread that reads clips, and the log."""
        if self.clips:
            self.clips.close()
        super().close()
