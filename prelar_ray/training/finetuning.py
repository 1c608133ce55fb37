"""The fine-tuning loop: collectors, replay, learner and evaluator kept in step, on any backend.

Synchronous mode takes turns (collect, learn, publish) and keeps the replay ratio exactly. Asynchronous mode keeps one
request in flight per collector and a few batches in flight to the learner; the rate limiter inside the replay says when
either side has to wait for the other. The driver passes episodes and batches on by reference and never looks at them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from prelar_ray.acting.collector import Collected
from prelar_ray.checkpoint.compatibility import resumable_checkpoint
from prelar_ray.checkpoint.store import Checkpoint, CheckpointStore, is_whole
from prelar_ray.config import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.replay.replay import ReplayStatus
from prelar_ray.storage.mirror import mirrored
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.progress import Phase, Progress
from prelar_ray.telemetry.status import status_table
from prelar_ray.telemetry.writers import MetricWriter
from prelar_ray.training.backend import Backend
from prelar_ray.training.collectors import CollectorPool
from prelar_ray.training.episode_fit import check_pace
from prelar_ray.training.evaluations import Evaluations, record_evaluation
from prelar_ray.training.learner_role import FinetuneLearnerRole
from prelar_ray.training.learners import LearnerGroup
from prelar_ray.training.replays import ReplayGroup
from prelar_ray.training.restarts import Lives
from prelar_ray.training.window import Window

__all__ = ["Finetuning", "finetune", "finetune_by_lines"]

PHASE = "finetune"
POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


def finetune(
    config: RunConfig, run: RunFolder, start_backend: Callable[[], Backend], init: Path | None, resume: bool
) -> Path:
    """Fine-tune to the end and return the last checkpoint; see :func:`finetune_by_lines`."""
    for _ in finetune_by_lines(config, run, start_backend, init, resume):
        pass
    return CheckpointStore(run.checkpoints, config.checkpoint.keep_last).paths()[-1]


def finetune_by_lines(
    config: RunConfig, run: RunFolder, start_backend: Callable[[], Backend], init: Path | None, resume: bool
) -> Generator[Mapping[str, float]]:
    """Fine-tune to the end; yields every line of metrics when it is written.

    Args:
        start_backend: returns where the roles will live; it is closed in any case.
        init: pre-training checkpoint whose encoder, RSSM and decoder are taken over; None starts from scratch.
        resume: go on from the last checkpoint of ``run``.

    On Ctrl-C, or a KeyboardInterrupt thrown in, a checkpoint is written before the interrupt goes on.

    Raises:
        NonFiniteError: a reward, action or loss became NaN or infinite.
        EnvironmentFailure: an environment failed again and again.
        RoleDied: roles died again and again without a checkpoint in between. Else a collector or evaluator is replaced,
            and for any other all roles begin again at the last checkpoint.
        CheckpointError: nothing to resume from, other networks than the run's, ``init`` does not fit, writing failed.
        UsageError: the run to resume is longer than ``config`` asks for.
        ConfigError: no episode could end in time, or be learnt from; ``checkpoint.mirror`` cannot be used.
    """
    with mirrored(run, config.checkpoint.mirror, is_whole), run.track():
        checkpoints = CheckpointStore(run.checkpoints, config.checkpoint.keep_last)
        checkpoint = resumable_checkpoint(checkpoints, config) if resume else None  # before Ray takes its seconds
        with closing(start_backend()) as backend, Progress() as progress, run.timed(PHASE):
            lives = Lives(backend, checkpoints, config, checkpoint)
            total = config.finetune.env_steps
            done = min(checkpoint.counters["replay"][0]["env_steps"], total) if checkpoint else 0
            with progress.phase(PHASE, total, "env steps", done) as phase:
                while True:
                    try:
                        loop = Finetuning(config, run, backend, init, lives.checkpoint)
                        with loop.writer:
                            yield from loop.run_to_end(phase)
                        return
                    except RoleDied as death:
                        lives.lose(death)


class Finetuning:
    """State of the loop: who is busy with what, and what is due next."""

    def __init__(
        self, config: RunConfig, run: RunFolder, backend: Backend, init: Path | None, checkpoint: Checkpoint | None
    ) -> None:
        self.config, self.run, self.backend = config, run, backend
        self.checkpoints = CheckpointStore(run.checkpoints, config.checkpoint.keep_last)
        counters: dict[str, Any] = checkpoint.counters if checkpoint else {"numbers": {}}
        numbers = {int(index): number for index, number in counters["numbers"].items()}
        self.updates = checkpoint.update if checkpoint else 0  # done by the learner
        self.replay = ReplayGroup(backend, config, run.replay.absolute())
        self.evaluations = Evaluations(backend, config, counters)
        self.collectors = CollectorPool(backend, config, numbers)
        check_pace(config, self.collectors.ask("episode_steps"))
        action = self.collectors.ask("action_size")
        checkpoints = run.checkpoints.absolute()
        self.learner = LearnerGroup(backend, config.learner.ranks, FinetuneLearnerRole, config, action, checkpoints)
        self._learning: list[list[Any]] = []  # updates under way: a future for every rank
        self._lines: list[Mapping[str, float]] = []  # of metrics, written since they were last asked for
        self._logged = self._saved = self.updates
        self.status = self._restore(checkpoint, init)
        self._publish()
        self.window = Window()
        self.writer = MetricWriter(run.metrics_path, run.tensorboard, self.updates if checkpoint else None)
        if not checkpoint:
            self._save()  # so that a run killed at any time can be resumed

    def _restore(self, checkpoint: Checkpoint | None, init: Path | None) -> ReplayStatus:
        if checkpoint:
            self.learner.restore(checkpoint.path.absolute())
            status = self.replay.restore(checkpoint.counters["replay"], self.updates)
            self.run.go_on()
            self.run.forget_evaluations_after(self.updates)
            self.evaluations.resume(self.run, self.checkpoints)
            return status
        if init:
            self.learner.initialise(init.absolute())
        return self.replay.status()

    # The loop

    def run_to_end(self, phase: Phase) -> Iterator[Mapping[str, float]]:
        """Collect and learn until all environment steps and their updates are done; then evaluate and save."""
        advance = self._take_turns if self.config.collect.synchronous else self._overlap
        latest: dict[str, float] = {}
        try:
            while not self._finished():
                before = self.status.env_steps
                advance()
                self._do_what_is_due(before)
                shown = {"updates": self.updates, "return": self.window.last_return}
                phase.reach(min(self.settled_steps, self.config.finetune.env_steps), **shown)
                for line in self._new_lines():
                    latest |= line
                    phase.look_at(status_table(latest))
                    yield line
            if self.updates > self._logged:
                self._log()
            self._settle_evaluations(wait=True)
            evaluations = self.run.evaluations()
            if not evaluations or evaluations[-1].update < self.updates:
                self._begin_evaluation()
                self._settle_evaluations(wait=True)
        except KeyboardInterrupt:
            log.warning("interrupted: finishing the update and writing a checkpoint; a second Ctrl-C leaves without it")
            try:
                self._save()
                self.learner.saved()
                self._settle_evaluations(wait=False)
            except RoleDied as death:  # the interrupt goes on: no other life begins
                log.warning("%s; the last checkpoint stands", death)
            raise
        self._save()
        self.learner.saved()
        self._conclude()
        yield from self._new_lines()

    def _write(self, update: int, env_steps: int, values: Mapping[str, float]) -> None:
        self.writer.write(update, env_steps, values)
        self._lines.append({"update": update, "env_steps": env_steps, **values})
        self.backend.report(self._lines[-1])

    def _new_lines(self) -> list[Mapping[str, float]]:
        lines, self._lines = self._lines, []
        return lines

    @property
    def settled_steps(self) -> int:
        """Environment steps whose updates are done: how far the run is, be it collecting or learning that lags."""
        owed = (self.status.updates_due + len(self._learning)) * self.config.finetune.env_steps_per_update
        return max(0, self.status.env_steps - owed)

    def _finished(self) -> bool:
        busy = self.collectors.waiting_for or self._learning
        return self.status.env_steps >= self.config.finetune.env_steps and not self.status.updates_due and not busy

    def _take_turns(self) -> None:
        """Synchronous: every collector once, inserted together; then all updates that are due."""
        for index in range(len(self.collectors)):
            self._request(index)
        asked = [index for index in range(len(self.collectors)) if self.collectors.wait(index)]
        answers = {index: answer for index in asked if (answer := self._receive(index))}
        if answers:
            env_steps = sum(summary.env_steps for summary, _ in answers.values())
            insert = self.replay.insert(env_steps, *(episodes for _, episodes in answers.values()))
            for index in answers:
                self.collectors.inserting(index, insert)
                self._inserted(index)
        while self.status.updates_due:
            self._submit_update()
            self._learnt(self._learning[0])
        self._publish()

    def _overlap(self) -> None:
        """Asynchronous: keep everyone busy, wait for anyone, then take care of all that is done."""
        for index in self.collectors.idle:
            if self.status.may_insert:
                self._request(index)
        while (
            self.status.updates_due and len(self._learning) <= self.config.replay.prefetch and self._weights_are_young
        ):
            self._submit_update()
        collecting = self.collectors.waiting_for
        learning = [future for update in self._learning for future in update]
        began, paused = time.monotonic(), bool(self.collectors.idle) and not self.status.may_insert
        done = self.backend.wait([*collecting.values(), *learning], POLL_SECONDS)
        if paused:
            self.window.paused(time.monotonic() - began)
        for index in [index for index, future in collecting.items() if future in done]:
            if self.collectors.has_answered(index):
                self._inserted(index)
            elif answer := self._receive(index):
                summary, episodes = answer
                self.collectors.inserting(index, self.replay.insert(summary.env_steps, episodes))
        for index in [index for index, future in collecting.items() if future not in done]:
            self.collectors.replace_if_overdue(index)
        for update in [update for update in self._learning if any(future in done for future in update)]:
            self._learnt(update)
            if self.updates % self.config.collect.publish_every_updates == 0:
                self._publish()

    def _do_what_is_due(self, env_steps_before: int) -> None:
        """Metrics, evaluations and checkpoints."""
        config = self.config
        if self.updates - self._logged >= config.telemetry.every_updates:
            self._log()
        every = config.evaluation.every_env_steps
        if self.status.env_steps // every > env_steps_before // every and self.updates:
            if config.collect.synchronous:
                self._settle_evaluations(wait=True)
            self._begin_evaluation()
        self._settle_evaluations(wait=False)
        if self.updates - self._saved >= config.checkpoint.every_updates:
            self._save()

    # Collecting

    def _request(self, index: int) -> None:
        collect = self.config.collect
        tune = self.config.finetune
        random = self.status.env_steps < tune.random_steps
        per_step = collect.envs_per_collector * self.config.env.action_repeat  # env steps of one step of a collector
        steps = collect.request_steps
        if collect.synchronous and not random:
            steps = max(1, tune.env_steps_per_update // (collect.collectors * per_step))
        if not collect.synchronous:
            left = tune.env_steps - self.status.env_steps - self.collectors.env_steps_under_way
            steps = min(steps, math.ceil(left / per_step))
        if steps > 0:
            ready = self.version <= self.updates
            self.collectors.request(index, steps, random, self.version, self.weights, ready)

    def _receive(self, index: int) -> tuple[Collected, Any] | None:
        """Return a collector's answer and the future of its episodes; None if it died and another took its place."""
        answer = self.collectors.receive(index)
        if answer:
            self.window.collected(answer[0], self.updates - answer[0].version)
        return answer

    def _inserted(self, index: int) -> None:
        status: ReplayStatus = self.backend.get(self.collectors.inserted(index))
        if status.env_steps < self.status.env_steps:  # of an insert before one that was looked at already
            return
        # Samples asked for since the replay answered are already on their way.
        self.status = status.after(max(self.status.updates, status.updates))

    # Learning

    @property
    def _weights_are_young(self) -> bool:
        """Whether one more update leaves no collector's weights older than allowed."""
        oldest = self.collectors.oldest_version
        submitted = self.updates + len(self._learning)
        return oldest is None or submitted - oldest < self.config.collect.max_age_updates

    def _submit_update(self) -> None:
        self._learning.append(self.learner.call_with_rows("update", self.replay.sample()))
        self.status = self.status.after(self.status.updates + 1)

    def _learnt(self, update: list[Any]) -> None:
        self.updates = self.learner.get(update)[0]
        self._learning.remove(update)  # not before: an interrupt meanwhile finds it, and counts it
        self.collectors.learnt(self.updates)
        self.window.learnt()

    def _publish(self) -> None:
        """Ask for new weights; collectors get them by reference, under the number of updates behind them."""
        self.version = self.updates + len(self._learning)
        self.weights = self.learner.call_first("policy_weights")

    # Telemetry, evaluation, checkpoints

    def _log(self) -> None:
        config = self.config.finetune
        rates = self.window.read()  # first: updates that the learner still does before it answers count in the next
        values = self.learner.metrics() | rates | self.backend.memory()
        values |= {
            "replay/steps": self.status.steps,
            "replay/episodes": self.status.episodes,
            "replay/fill": self.status.steps / self.config.replay.capacity_steps,
            "queue/updates_due": self.status.updates_due,
            "queue/updates_in_flight": len(self._learning),
            "queue/requests_in_flight": len(self.collectors.waiting_for),
            "memory/process": psutil.Process().memory_info().rss / 2**30,
        }
        paid_steps = self.status.env_steps - config.random_steps
        if paid_steps > 0:
            values["replay/updates_per_env_step"] = (self.updates - config.initial_updates) / paid_steps
        self._write(self.updates, self.status.env_steps, values)
        self._logged = self.updates

    def _begin_evaluation(self) -> None:
        """Save, and evaluate exactly what was saved; a resume from there does so unless the result is known."""
        self._save(evaluate=True)
        self.evaluations.serve()

    def _settle_evaluations(self, wait: bool) -> None:
        """Record the evaluations that are done or, with ``wait``, all that are owed."""
        while self.evaluations.are_owed if wait else self.evaluations.is_settled:
            if evaluated := self.evaluations.settle():
                values = record_evaluation(self.run, evaluated, self.config.env.task)
                self._write(evaluated.update, evaluated.env_steps, values)
                self.learner.saved()
                self.checkpoints.set_score(evaluated.update, values["evaluation/return_mean"])

    def _save(self, evaluate: bool = False) -> None:
        """Finish the updates under way and publish their weights, then begin to write a checkpoint of them."""
        for update in list(self._learning):
            self._learnt(update)
        self._publish()
        if evaluate:
            self.evaluations.owe(self.weights, self.updates, self.status.env_steps)
        if self.updates == self._saved and self.updates:
            return
        self.learner.saved()  # the one before: the replay deletes now what only those before that need
        counters = {
            "replay": self.replay.state_dict(),
            "numbers": self.collectors.numbers,
            **self.evaluations.counters(),
        }
        self._saved = self.learner.save(counters)

    def _conclude(self) -> None:
        """Write what the report shows: frames and final numbers."""
        prediction = self.backend.get(self.learner.call_first("predict", self.replay.peek()))
        self.run.save_frames("prediction", **prediction._asdict())
        summary: dict[str, float] = {
            "updates": self.updates,
            "env_steps": self.status.env_steps,
            "episodes": sum(self.collectors.numbers.values()),
        }
        if evaluations := self.run.evaluations():  # none if the evaluator died each time
            last = evaluations[-1]
            summary |= {"return": last.mean_return, "success": last.success_rate}
        self.run.update(summary=summary)
