"""Training an RLlib algorithm as a run of this package: its environments, evaluation, metrics and checkpoints."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

import psutil
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from prelar_ray.acting.collector import Collected
from prelar_ray.acting.evaluator import evaluate_policy
from prelar_ray.baselines.algorithm import algorithm_config
from prelar_ray.baselines.checkpoints import ALGORITHM, AlgorithmCheckpoint, Counters, is_whole, resumable, save
from prelar_ray.baselines.cluster import RLlibCluster
from prelar_ray.baselines.environment import register
from prelar_ray.baselines.episodes import FinishedEpisodes
from prelar_ray.baselines.metrics import learner_metrics, sampled_steps, updates
from prelar_ray.baselines.policy import ModulePolicy
from prelar_ray.checkpoint.store import CheckpointFolders
from prelar_ray.config import RunConfig
from prelar_ray.envs.registry import action_size
from prelar_ray.errors import EnvironmentFailure, NonFiniteError
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.seeding import derive_seed
from prelar_ray.storage.mirror import mirrored
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.progress import Phase, Progress
from prelar_ray.telemetry.status import status_table
from prelar_ray.telemetry.writers import MetricWriter
from prelar_ray.training.evaluations import Evaluated, record_evaluation
from prelar_ray.training.window import Window

__all__ = ["rllib_by_lines", "train_rllib"]

PHASE = "finetune"

log = logging.getLogger(__name__)


def train_rllib(config: RunConfig, run: RunFolder, connect: Callable[[], RLlibCluster], resume: bool) -> None:
    """Train to the end; see :func:`rllib_by_lines`."""
    for _ in rllib_by_lines(config, run, connect, resume):
        pass


def rllib_by_lines(
    config: RunConfig, run: RunFolder, connect: Callable[[], RLlibCluster], resume: bool
) -> Generator[Mapping[str, float]]:
    """Train the algorithm that ``config.method`` names; yields every line of metrics when it is written.

    The algorithm lives in this process, its env runners where Ray puts them. It collects, learns and evaluates in
    turns, so that each evaluation is of the policy at that moment.

    Args:
        connect: connects to a Ray; what it returns is closed in any case.
        resume: go on from the last checkpoint of ``run``. That reads pickles: resume only what you trained yourself.

    On Ctrl-C, or a KeyboardInterrupt thrown in, a checkpoint is written before the interrupt goes on.

    Raises:
        ConfigError, RenderingError: a setting that RLlib or the environment does not know or accept, no rendering.
        EnvironmentFailure: an environment of this process failed; those of env runners are made anew by RLlib.
        NonFiniteError: a number of the learner became NaN or infinite.
        CheckpointError: nothing to resume from, another algorithm or other networks than the run's, writing failed.
        UsageError: the run to resume is longer than ``config`` asks for.
    """
    with mirrored(run, config.checkpoint.mirror, is_whole), run.track():
        folders = CheckpointFolders(run.checkpoints, config.checkpoint.keep_last)
        checkpoint = resumable(folders, config) if resume else None  # before Ray takes its seconds
        with closing(connect()) as cluster, Progress() as progress, run.timed(PHASE):
            baseline = _Baseline(config, run, folders, cluster, checkpoint)
            total = config.finetune.env_steps
            with closing(baseline), progress.phase(PHASE, total, "env steps", min(baseline.env_steps, total)) as phase:
                yield from baseline.run_to_end(phase)


class _Baseline:
    """State of the loop: the algorithm, and what is due next."""

    def __init__(
        self,
        config: RunConfig,
        run: RunFolder,
        folders: CheckpointFolders,
        cluster: RLlibCluster,
        checkpoint: AlgorithmCheckpoint | None,
    ) -> None:
        self.config, self.run, self.folders, self.cluster = config, run, folders, cluster
        self.done = checkpoint.counters if checkpoint else Counters()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.algorithm = self._build(checkpoint)
        if checkpoint:
            run.go_on()
            run.forget_evaluations_after(self.done.update)
        self.window = Window()
        self.latest: dict[str, float] = {}
        self._logged = self.done.update
        self._saved = self.done if checkpoint else None
        self._learner_metrics: dict[str, float] = {}
        self.writer = MetricWriter(run.metrics_path, run.tensorboard, self.done.update if checkpoint else None)
        if not checkpoint:
            self._save()  # so that a run killed at any time can be resumed

    def _build(self, checkpoint: AlgorithmCheckpoint | None) -> Algorithm:
        action_size(self.config.env)  # refuses what only the environment knows to be wrong
        settings = algorithm_config(self.config, self.cluster, first_number=self.done.episodes)
        register()
        algorithm = settings.build_algo()
        with suppress(OSError):
            os.rmdir(algorithm.logdir)  # RLlib makes one in the home folder, for results that are in the run's
        if checkpoint:
            algorithm.restore_from_path(str((checkpoint.path / ALGORITHM).absolute()))
        return algorithm

    @property
    def env_steps(self) -> int:
        """Environment steps so far, action repeat counted as collectors count it."""
        return self.done.agent_steps * self.config.env.action_repeat

    def close(self) -> None:
        """End the env runners."""
        self.writer.close()
        self.algorithm.stop()

    # The loop

    def run_to_end(self, phase: Phase) -> Iterator[Mapping[str, float]]:
        """Train until all environment steps are done, evaluate and save."""
        config = self.config
        try:
            while self.env_steps < config.finetune.env_steps:
                self._iterate()
                shown = {"updates": self.done.update, "return": self.window.last_return}
                phase.reach(min(self.env_steps, config.finetune.env_steps), **shown)
                if self.done.update - self._logged >= config.telemetry.every_updates:
                    yield self._log(phase)
                every = config.evaluation.every_env_steps
                if self.env_steps // every > self.done.evaluated_at // every and self.done.update:
                    yield self._evaluate(phase)
                if self._saved and self.done.update - self._saved.update >= config.checkpoint.every_updates:
                    self._save()
            if self.done.update > self._logged:
                yield self._log(phase)
            if self.done.evaluated_at < self.env_steps:
                yield self._evaluate(phase)
        except KeyboardInterrupt:
            log.warning("interrupted: writing a checkpoint; a second Ctrl-C leaves without it")
            if self.done.update > self._logged:  # the resumed run's lines begin after the checkpoint
                self._log(phase)
            self._save()
            raise
        self._save()
        self._conclude()

    def _iterate(self) -> None:
        """Collect, learn and publish once, and count that; an interrupt waits for all of it."""
        with interrupts_deferred(), _named_failures():
            result = self.algorithm.train()
            finished = FinishedEpisodes.of(result)
            before = self.done
            self.done = replace(
                before,
                update=updates(result, before.update),
                agent_steps=sampled_steps(result, before.agent_steps),
                episodes=before.episodes + len(finished.returns),
            )
            self._note(finished, before)
            self._learner_metrics = learner_metrics(result)
        self._check_finite()

    def _note(self, finished: FinishedEpisodes, before: Counters) -> None:
        """Add an iteration to what the next line of metrics tells."""
        collected = Collected(
            env_steps=(self.done.agent_steps - before.agent_steps) * self.config.env.action_repeat,
            version=-1,  # RLlib publishes every update, so none acts with older weights
            returns=finished.returns,
            successes=finished.successes,
            lengths=finished.lengths,
            numbers={},
            failures=(),
        )
        self.window.collected(collected, age=0)
        for _ in range(self.done.update - before.update):
            self.window.learnt()

    def _check_finite(self) -> None:
        for name, value in self._learner_metrics.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{name} is {value:g} at update {self.done.update}; lower the learning rate in rllib.training, or "
                    "look at the rewards"
                )

    # Telemetry, evaluation, checkpoints

    def _log(self, phase: Phase) -> Mapping[str, float]:
        values = self._learner_metrics | self.window.read()
        values.pop("time/collectors_paused")  # collecting and learning take turns
        values["memory/process"] = psutil.Process().memory_info().rss / 2**30
        self._logged = self.done.update
        return self._write(values, phase)

    def _write(self, values: Mapping[str, float], phase: Phase) -> Mapping[str, float]:
        self.writer.write(self.done.update, self.env_steps, values)
        line = {"update": self.done.update, "env_steps": self.env_steps, **values}
        self.cluster.report(line)
        self.latest |= line
        phase.look_at(status_table(self.latest))
        return line

    def _evaluate(self, phase: Phase) -> Mapping[str, float]:
        """Evaluate what has been learnt, and save just that."""
        round_ = self.done.evaluations + 1
        module, update = self.algorithm.get_module(), self.done.update
        assert isinstance(module, TorchRLModule)
        seed = derive_seed(self.config.seed, "evaluating", round_)
        result = evaluate_policy(
            self.config,
            lambda action: ModulePolicy(module, action, update, seed),
            self.config.evaluation.episodes,
            round_,
        )
        with interrupts_deferred():
            values = record_evaluation(self.run, Evaluated(update, self.env_steps, result), self.config.env.task)
            self.done = replace(self.done, evaluations=round_, evaluated_at=self.env_steps)
            self._save()
            self.folders.set_score(update, values["evaluation/return_mean"])
        return self._write(values, phase)

    def _save(self) -> None:
        if self._saved != self.done:
            save(self.folders, self.config, self.done, self.algorithm.save_to_path)
            self._saved = self.done

    def _conclude(self) -> None:
        """Write the final numbers."""
        summary: dict[str, Any] = {
            "updates": self.done.update,
            "env_steps": self.env_steps,
            "episodes": self.done.episodes,
        }
        if evaluations := self.run.evaluations():
            last = evaluations[-1]
            summary |= {"return": last.mean_return, "success": last.success_rate}
        self.run.update(summary=summary)


@contextmanager
def _named_failures() -> Iterator[None]:
    """Raise an environment's failure itself, which RLlib wraps without a word.

    Raises:
        EnvironmentFailure: names environment, episode and step.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__cause__, EnvironmentFailure):
            raise error.__cause__ from None
        raise
