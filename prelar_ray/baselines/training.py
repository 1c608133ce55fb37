"""Training an RLlib algorithm as a run of this package: its environments, evaluation, metrics and checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from prelar_ray.acting.collector import Collected
from prelar_ray.acting.evaluator import evaluate_policy
from prelar_ray.baselines.algorithm import algorithm_config, check_algorithm_acts
from prelar_ray.baselines.checkpoints import ALGORITHM_FOLDER, AlgorithmCheckpoint, Counters, is_whole, resumable, save
from prelar_ray.baselines.cluster import RLlibCluster
from prelar_ray.baselines.environment import register
from prelar_ray.baselines.episodes import FinishedEpisodes
from prelar_ray.baselines.metrics import learner_metrics, sampled_steps, updates
from prelar_ray.baselines.policy import ModulePolicy
from prelar_ray.checkpoint.compatibility import check_same_experiment
from prelar_ray.checkpoint.store import CheckpointFolders
from prelar_ray.config import RunConfig
from prelar_ray.envs.registry import action_space
from prelar_ray.errors import EnvironmentFailure, NonFiniteError
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.seeding import derive_seed
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.drive import Loop, drive, final_numbers
from prelar_ray.training.evaluations import Evaluated, record_evaluation
from prelar_ray.training.every import Every
from prelar_ray.training.metric_log import Line, MetricLog, process_memory
from prelar_ray.training.metric_window import MetricWindow

__all__ = ["iterate_rllib"]


def iterate_rllib(
    config: RunConfig, run: RunFolder, connect: Callable[[], RLlibCluster], resume: bool
) -> Generator[Line]:
    """Train the algorithm that ``config.method`` names; yields every line of metrics when it is written.

    The algorithm runs in this process, its env runners where Ray places them. It collects, learns and evaluates in
    turns, so that each evaluation is of the policy at that moment.

    Args:
        connect: connects to a Ray; what it returns is closed in any case.
        resume: continue from the last checkpoint of ``run``. That executes pickles; a run that was fetched is
            refused, unless they are trusted.

    On Ctrl-C, or a KeyboardInterrupt thrown in, a checkpoint is written before the interrupt takes effect.

    Raises:
        ConfigError, RenderingError: a setting that RLlib or the environment does not know or accept, no rendering.
        EnvironmentFailure: an environment of this process failed; RLlib makes those of env runners again.
        NonFiniteError: a number of the learner became NaN or infinite.
        CheckpointError: nothing to resume from, another algorithm, task or seed or other networks than the run's,
            writing failed.
        UsageError: the run to resume is longer than ``config`` asks for.
    """
    folders = CheckpointFolders(run.checkpoints, config.checkpoint.keep_last)

    def load() -> AlgorithmCheckpoint | None:
        if not resume:
            return None
        checkpoint = resumable(folders, config)
        check_same_experiment(run, checkpoint, config)
        return checkpoint

    return drive(
        config,
        run,
        phase="finetune",
        total=config.finetune.env_steps,
        unit="env steps",
        is_whole=is_whole,
        load=load,
        done=lambda checkpoint: checkpoint.env_steps if checkpoint else 0,
        start=connect,
        open_loop=lambda cluster, checkpoint: _Baseline(config, run, folders, cluster, checkpoint),
    )


class _Baseline(Loop):
    """An algorithm of RLlib, and what is due when."""

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
            run.start()
            run.warn_of_missing_lines(checkpoint.lines, self.done.update)
            run.forget_evaluations_after(self.done.update)
        self.window = MetricWindow()
        self._saved = self.done if checkpoint else None
        self._learner_metrics: dict[str, float] = {}
        self.metrics = MetricLog(run, cluster.report, self.done.update if checkpoint else None)
        self.logging = Every(config.telemetry.every_updates, self.done.update)
        self.evaluating = Every(config.evaluation.every_env_steps, self.done.evaluated_at)
        self.saving = Every(config.checkpoint.every_updates, self.done.update)
        if not checkpoint:
            self.save()  # so that a run killed at any time can be resumed

    def _build(self, checkpoint: AlgorithmCheckpoint | None) -> Algorithm:
        actions = action_space(self.config.env)  # refuses what only the environment knows to be wrong
        check_algorithm_acts(self.config, actions)
        settings = algorithm_config(self.config, self.cluster, self.done.episodes, actions)
        register()
        algorithm = settings.build_algo()
        with suppress(OSError):
            os.rmdir(algorithm.logdir)  # RLlib makes one in the home folder, for results that are in the run's
        if checkpoint:
            algorithm.restore_from_path(str((checkpoint.path / ALGORITHM_FOLDER).absolute()))
        return algorithm

    @property
    def env_steps(self) -> int:
        """Environment steps so far, action repeat counted as collectors count it."""
        return self.done.agent_steps * self.config.env.action_repeat

    @property
    def reached(self) -> int:
        """Environment steps so far."""
        return self.env_steps

    @property
    def finished(self) -> bool:
        """Whether all environment steps are taken."""
        return self.env_steps >= self.config.finetune.env_steps

    @property
    def shown(self) -> Mapping[str, float]:
        """Updates and the last training return."""
        return {"updates": self.done.update, "return": self.window.last_return}

    def advance(self) -> None:
        """Collect and learn once, then do what is due."""
        self._iterate()
        if self.logging.take(self.done.update):
            self._log()
        if self.evaluating.due(self.env_steps) and self.done.update:
            self._evaluate()
        if self.saving.take(self.done.update):
            self.save()

    def finish(self) -> None:
        """Write the last line of metrics, and evaluate what was learnt since the last evaluation."""
        if self.done.update > self.logging.last:
            self._log()
        if self.done.evaluated_at < self.env_steps:
            self._evaluate()

    def interrupt(self) -> None:
        """Save, after a last line of metrics: those of a resumed run begin after the checkpoint."""
        if self.done.update > self.logging.last:
            self._log()
        self.save()

    def close(self) -> None:
        """End the env runners and the log."""
        super().close()
        self.algorithm.stop()

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
        self.window.learnt(self.done.update - before.update)

    def _check_finite(self) -> None:
        for name, value in self._learner_metrics.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{name} is {value:g} at update {self.done.update}; lower the learning rate in rllib.training, or "
                    "look at the rewards"
                )

    # Telemetry, evaluation, checkpoints

    def _log(self) -> None:
        values = self._learner_metrics | self.window.read()
        values.pop("time/collectors_paused")  # collecting and learning take turns
        values["memory/process"] = process_memory()
        self.metrics.write(self.done.update, self.env_steps, values)
        self.logging.done(self.done.update)

    def _evaluate(self) -> None:
        """Evaluate what has been learnt, and save just that."""
        round_ = self.done.evaluations + 1
        module, update = self.algorithm.get_module(), self.done.update
        assert isinstance(module, TorchRLModule)
        seed = derive_seed(self.config.seed, "evaluating", round_)
        result = evaluate_policy(
            self.config,
            lambda actions: ModulePolicy(module, actions, update, seed),
            self.config.evaluation.episodes,
            round_,
        )
        with interrupts_deferred():
            values = record_evaluation(self.run, Evaluated(update, self.env_steps, result), self.config.env.task)
            self.done = replace(self.done, evaluations=round_, evaluated_at=self.env_steps)
            self.evaluating.done(self.env_steps)
            self.save()
            self.folders.set_score(update, values["evaluation/return_mean"])
        self.metrics.write(update, self.env_steps, values)

    def save(self) -> None:
        """Write a checkpoint, unless nothing was done since the last."""
        if self._saved != self.done:
            save(self.folders, self.config, self.done, self.algorithm.save_to_path, self.run.sync_lines())
            self._saved = self.done
            self.saving.done(self.done.update)

    def conclude(self) -> None:
        """Write the final numbers."""
        counts = {"updates": self.done.update, "env_steps": self.env_steps, "episodes": self.done.episodes}
        self.run.update(summary=final_numbers(self.run, **counts))


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
