"""The name, unit and meaning of every metric; ``docs/metrics.md`` is generated from this table."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

__all__ = ["GAUGES", "METRICS", "Metric", "metrics_page"]


@dataclass(frozen=True)
class Metric:
    """Unit and meaning of a metric."""

    unit: str
    """Unit; empty for a pure number."""
    meaning: str
    """One sentence."""
    reading: str = ""
    """How to tell good from bad values, where that is not obvious."""


METRICS: dict[str, Metric] = {
    "loss/total": Metric("nats", "Weighted sum of the world-model losses, the quantity that is minimised."),
    "loss/image": Metric("nats", "Half the squared error of the decoded image, summed over pixels, mean over steps."),
    "loss/dynamics_kl": Metric("nats", "Balanced KL divergence from the posterior to the prior of the latent state."),
    "loss/action_kl": Metric(
        "nats",
        "Loss of the latent action's KL: model/latent_action_kl, or its distance from a bound.",
    ),
    "loss/consistency": Metric(
        "", "Action-state consistency, 0 (distances rank alike) to 4 (they rank oppositely) (pre-training, rehearsal)."
    ),
    "loss_scale/image": Metric("", "Learnt factor of the image loss, on top of its weight (loss.balance=learnt)."),
    "loss_scale/reward": Metric("", "Learnt factor of both reward losses (loss.balance=learnt, fine-tuning)."),
    "loss_scale/dynamics_kl": Metric("", "Learnt factor of the dynamics KL (loss.balance=learnt)."),
    "loss/reward": Metric(
        "nats", "Half the squared error, or two-hot cross-entropy, of the reward plus intrinsic bonus (fine-tuning)."
    ),
    "loss/aux_reward": Metric("nats", "The same of the plain reward (fine-tuning)."),
    "loss/discount": Metric(
        "nats", "Cross-entropy of whether the episode continues (fine-tuning, behaviour.discount_head)."
    ),
    "loss/vector": Metric(
        "nats", "Half the squared error of the predicted vector, in symlog space (fine-tuning, env.vector_key)."
    ),
    "loss/tie": Metric(
        "nats",
        "Half the squared distance of the encoded to the inferred latent action, in units of its prior (fine-tuning).",
        "Near 0: real actions reach the dynamics as the latent actions of pre-training did.",
    ),
    "loss/action_decoder": Metric(
        "nats", "Half the squared error of the real action decoded from the inferred latent action (fine-tuning)."
    ),
    "model/prior_entropy": Metric("nats", "Entropy of the latent state before the image is seen, over all groups."),
    "model/posterior_entropy": Metric("nats", "Entropy of the latent state once the image is seen, over all groups."),
    "model/latent_action_std": Metric("", "Mean standard deviation of the latent action; the prior's: uninformative."),
    "model/action_r2": Metric(
        "",
        "Share of the variance of real actions that is decoded from inferred latent actions, R² (fine-tuning).",
        "1: all of it. 0 or less: latent actions are not about the action.",
    ),
    "rehearsal/image": Metric("nats", "Part of loss/image on the clips of pre-training videos in the batch."),
    "rehearsal/dynamics_kl": Metric("nats", "KL divergence of loss/dynamics_kl on these clips."),
    "model/latent_action_kl": Metric("nats", "KL divergence from the latent action to its prior, all dimensions."),
    "validation/total": Metric(
        "nats",
        "Value of loss/total on held-out clips.",
        "Rises while loss/total falls: the model learns its videos by heart.",
    ),
    "validation/image": Metric("nats", "Value of loss/image on held-out clips."),
    "validation/dynamics_kl": Metric("nats", "Value of loss/dynamics_kl on held-out clips."),
    "latent/spearman": Metric(
        "",
        "Rank correlation of the two distances of the consistency loss, of states and of latent actions.",
        "Near 1: latent actions far apart drive states far apart. 0: unrelated, or all distances tie.",
    ),
    "latent/active_units": Metric(
        "dimensions",
        "Dimensions of the latent action whose point varies by a variance above 0.01 over pairs of frames.",
        "0: collapsed, all pairs look the same. Below the true action's size: something is missing.",
    ),
    "latent/participation_ratio": Metric(
        "dimensions",
        "Effective number of directions in which latent actions vary, tr(C)²/tr(C²) of their covariance C.",
        "Says how variation is spread, not how much there is: read it where active_units is above 0.",
    ),
    "latent/kl": Metric(
        "nats",
        "KL from the latent action to its prior, summed over dimensions.",
        "What a latent action can tell about a pair of frames, at most. Below 0.1: nothing.",
    ),
    "latent/kl_largest": Metric(
        "nats", "The largest mean KL of a single dimension.", "Below 0.01: collapsed, no dimension tells anything."
    ),
    "open_loop/own": Metric(
        "nats",
        "Error of frames predicted after a few seen ones from the clip's own latent actions, unit of loss/image.",
        "Below repeated: the model knows how the scene moves.",
    ),
    "open_loop/shuffled": Metric(
        "nats",
        "The same, given the latent actions of another clip.",
        "Well above own: the decoder listens. Equal to own: it does not.",
    ),
    "open_loop/zero": Metric(
        "nats", "The same, given zeros for latent actions.", "Above own: latent actions tell the model something."
    ),
    "open_loop/repeated": Metric("nats", "Error of the last seen frame, repeated: the error of a still picture."),
    "open_loop/shuffled_over_own": Metric(
        "", "The error shuffled divided by the error own.", "From 1.5 on: the latent action is used. 1: it is not."
    ),
    "probe/ceiling": Metric(
        "",
        "R² of a small network that is trained with the true actions on the same frames.",
        "What the frames show of the true action, to a network of a minute; no probe can be asked for more.",
    ),
    "probe/r2_over_ceiling": Metric(
        "",
        "Share of the ceiling that the linear map reaches, over the dimensions that the frames show.",
        "Near 1: the latent action holds what the frames show of the true action.",
    ),
    "probe/r2_held_out_task": Metric(
        "",
        "R² on a task of a linear map that is fitted to all other tasks, mean over tasks.",
        "Near probe/r2: a latent action means the same in a task that the map does not know.",
    ),
    "probe/explained_by_action": Metric(
        "",
        "Share of the latent action's variance that the true action explains linearly, on unseen episodes.",
        "Near 1: it says nothing but the action. Near 0: mostly something else, or in another form.",
    ),
    "probe/explained_by_nuisance": Metric(
        "",
        "Share of the latent action's variance that the motion of a distractor explains linearly.",
        "Near 0: the distractor is left out. Above probe/explained_by_action: it is what the latent action is about.",
    ),
    "grad_norm/world_model": Metric("", "Global gradient norm of all pre-training parameters, before clipping."),
    "grad_norm/dynamics": Metric(
        "", "Global gradient norm of encoder, RSSM and loss scales, before clipping (fine-tuning)."
    ),
    "grad_norm/heads": Metric("", "Global gradient norm of action encoder, heads and decoder, before clipping."),
    "grad_norm/actor": Metric("", "Global gradient norm of the actor, before clipping."),
    "grad_norm/critic": Metric("", "Global gradient norm of the critic, before clipping."),
    "precision/loss_scale": Metric("", "Factor of the losses before backpropagation, so that float16 holds gradients."),
    "bonus/mean": Metric("", "Mean intrinsic bonus of the batch, after normalisation and weighting."),
    "bonus/scale": Metric("", "Running magnitude by which the bonus is divided."),
    "behaviour/actor_loss": Metric("", "Loss of the actor: minus weighted lambda-returns and entropy bonus."),
    "behaviour/critic_loss": Metric(
        "", "Weighted half squared error, or two-hot cross-entropy, of the critic against its target."
    ),
    "behaviour/entropy": Metric("nats", "Mean entropy of the policy on imagined states."),
    "behaviour/reward": Metric("", "Mean predicted reward, bonus included, on imagined states."),
    "behaviour/value": Metric("", "Mean value of imagined states by the critic."),
    "behaviour/target": Metric("", "Mean lambda-return of imagined states."),
    "behaviour/continue": Metric(
        "fraction",
        "Mean predicted probability that the episode continues, on imagined states (behaviour.discount_head).",
    ),
    "behaviour/return_range": Metric(
        "",
        "Running range from the 5th to the 95th percentile of lambda-returns (behaviour.return_normalisation).",
        "Above 1, the actor's returns are divided by it.",
    ),
    "rllib/total_loss": Metric("", "Loss of an RLlib algorithm's learner, all terms together (methods rllib/NAME)."),
    "rllib/policy_loss": Metric("", "Clipped surrogate loss of PPO's policy."),
    "rllib/value_loss": Metric("", "Squared error of PPO's value function, in the scale of rllib.reward_scale."),
    "rllib/value_explained": Metric(
        "", "Share of the variance of returns that PPO's value function explains.", "1: all of it. 0 or less: nothing."
    ),
    "rllib/kl": Metric("nats", "Mean KL divergence from PPO's policy to the one that collected, if it is a loss."),
    "rllib/entropy": Metric("nats", "Mean entropy of the policy: on collected (PPO) or imagined states (DreamerV3)."),
    "rllib/grad_norm": Metric("", "Global gradient norm of PPO's networks, before clipping."),
    "rllib/world_model_loss": Metric("nats", "Loss of DreamerV3's world model, all terms together."),
    "rllib/image_loss": Metric("", "Squared error of DreamerV3's decoded image in [-1, 1], summed over pixels."),
    "rllib/reward_loss": Metric("nats", "Cross-entropy of DreamerV3's reward, in buckets of its symlog."),
    "rllib/continue_loss": Metric("nats", "Cross-entropy of DreamerV3's prediction whether the episode continues."),
    "rllib/dynamics_kl": Metric("nats", "KL divergence from DreamerV3's posterior to its prior, at least 1."),
    "rllib/actor_loss": Metric("", "Loss of DreamerV3's actor."),
    "rllib/critic_loss": Metric("", "Loss of DreamerV3's critic."),
    "rllib/grad_norm_world_model": Metric("", "Global gradient norm of DreamerV3's world model, before clipping."),
    "rllib/grad_norm_actor": Metric("", "Global gradient norm of DreamerV3's actor, before clipping."),
    "rllib/grad_norm_critic": Metric("", "Global gradient norm of DreamerV3's critic, before clipping."),
    "train/episode_return": Metric("", "Sum of rewards of a training episode; mean over those that ended since."),
    "train/episode_success": Metric(
        "fraction", "Share of training episodes with success at any step.", "Absent: the task has no success."
    ),
    "train/episode_steps": Metric("agent steps", "Length of a training episode."),
    "train/env_failures": Metric("episodes", "Left out since the last line because their environment failed."),
    "evaluation/return_mean": Metric("", "Mean return of the evaluation episodes."),
    "evaluation/success_rate": Metric(
        "fraction", "Share of evaluation episodes with success at any step.", "Absent: the task has no success."
    ),
    "evaluation/skipped": Metric(
        "evaluations", "Left out so far because evaluating takes longer than evaluation.every_env_steps; none is best."
    ),
    "replay/steps": Metric("agent steps", "Steps held by the replay buffer."),
    "replay/episodes": Metric("episodes", "Episodes held by the replay buffer."),
    "replay/fill": Metric(
        "fraction", "Steps held over replay.capacity_steps.", "1: full, every new step displaces the oldest."
    ),
    "replay/updates_per_env_step": Metric(
        "updates/env step",
        "Replay ratio so far, the random phase left out.",
        "1 / finetune.env_steps_per_update: on pace. Below: learning lags behind collecting.",
    ),
    "rate/updates_per_second": Metric("updates/s", "Updates of the learner per second since the last line."),
    "rate/env_steps_per_second": Metric("env steps/s", "Environment steps of all collectors per second."),
    "rate/frames_per_second": Metric("frames/s", "Frames per second: trained on, or recorded."),
    "time/update": Metric("s", "Mean time of one update without waiting for data; on a GPU that of the device."),
    "time/wait_for_data": Metric(
        "s",
        "Mean time per update that the learner waited for a batch.",
        "Near 0: it always has one. As long as time/update: it starves for half of its time.",
    ),
    "time/collectors_paused": Metric(
        "fraction",
        "Share of the time in which collecting paused because learning was too far behind.",
        "Above 0: learning is the bottleneck. 0 while the learner waits for data: collecting is.",
    ),
    "queue/updates_due": Metric(
        "updates",
        "Due by the collected steps and not yet sampled.",
        "0: the learner waits for steps. About replay.tolerance_updates: collecting pauses.",
    ),
    "queue/updates_in_flight": Metric("updates", "Sampled, on their way to the learner or being computed."),
    "queue/requests_in_flight": Metric(
        "requests",
        "Requests to collectors whose episodes are not yet in the replay.",
        "One for each collector: all are at work. 0: all pause.",
    ),
    "weights/age_updates": Metric(
        "updates",
        "Updates by which the policy that acted lagged behind the learner, mean.",
        "Near collect.publish_every_updates: fresh. Near collect.max_age_updates: the learner waits for collectors.",
    ),
    "weights/age_largest": Metric("updates", "The same, largest; collect.max_age_updates and one request bound it."),
    "gpu/busy": Metric(
        "fraction",
        "Share of the time from the first update of a log line to its last in updates.",
        "Near 1: the GPU is never idle. Below: it waits for data or for the host.",
    ),
    "gpu/replayed": Metric("fraction", "Share of updates that replayed a CUDA graph: one launch instead of thousands."),
    "gpu/memory": Metric("GiB", "Largest memory of the learner's tensors on the GPU so far."),
    "memory/process": Metric("GiB", "Resident memory of the process that writes the metrics."),
    "memory/learner": Metric("GiB", "Resident memory of the learner, of all ranks together."),
    "memory/replay": Metric("GiB", "Resident memory of the replay."),
    "memory/collectors": Metric("GiB", "Resident memory of all collectors together, with their workers."),
    "memory/evaluator": Metric("GiB", "Resident memory of the evaluator, with its workers."),
}
"""Every name a :class:`~prelar_ray.telemetry.writers.MetricWriter` accepts."""

GAUGES: dict[str, Metric] = {
    "update": Metric("updates", "Updates of the run so far."),
    "env_steps": Metric("env steps", "Environment steps of the run so far."),
    "progress": Metric("fraction", "Share of the run that is done."),
    "last_line": Metric(
        "s",
        "When the run wrote its last line of metrics, since 1970.",
        "Much longer ago than telemetry.every_updates updates take, and 20 s more: the run stands still.",
    ),
    "study_runs": Metric("runs", "Runs of the study in one state: waiting, running, finished, ..."),
    "study_progress": Metric("fraction", "Share of the study that is done; each of its runs counts alike."),
}
"""What Prometheus is shown besides :data:`METRICS`; no file has it."""


def metrics_page() -> str:
    """Return the content of ``docs/metrics.md``."""
    lines = [
        "# Metrics",
        "",
        "Every line of `metrics.jsonl` holds `time` (seconds since 1970), `update`, `env_steps` (environment steps,",
        "action repeat counted) and some of the metrics below; TensorBoard shows the same over `update`. A value that",
        "was NaN or infinite is `null`. The groups `validation`, `latent` and `open_loop` are measured on held-out",
        "clips every `pretrain.validation_every_updates`; [diagnostics.md](diagnostics.md) says how to read them.",
        "",
        "`telemetry.loggers=[wandb]`, `[mlflow]` or both send every line to Weights & Biases or MLflow too, over",
        "`update`, with the run's settings: `pip install 'prelar-ray[wandb]'` (or `mlflow`), then `wandb login` or",
        "`MLFLOW_TRACKING_URI`. Addresses and the command line, which may hold keys, stay here. `telemetry.project`",
        "names project or experiment. A resumed run continues there; services keep what they were sent, so lines after",
        "the checkpoint that it resumes from are there twice, here once. A service that fails in the middle of a run",
        "is left out of the rest of it. Studies have `loggers` of [their own](studies.md).",
        "",
        "This page is generated by `prelar_ray.telemetry.metrics.metrics_page()`; change it there.",
    ]
    for group, names in groupby(METRICS, key=lambda name: name.split("/")[0]):
        lines += ["", f"## {group}", "", "| metric | unit | meaning |", "| --- | --- | --- |"]
        for name in names:
            metric = METRICS[name]
            lines.append(_row(name, metric))
    lines += ["", "## For Prometheus alone", ""]
    lines += [
        "[Prometheus](monitoring.md) has every metric as `ray_prelar_GROUP_NAME`, with the tag `run`, and these, with"
    ]
    lines += ["the tags `run`, or `study` and `state`:", "", "| gauge | unit | meaning |", "| --- | --- | --- |"]
    lines += [_row(f"ray_prelar_{name}", metric) for name, metric in GAUGES.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, metric: Metric) -> str:
    return f"| `{name}` | {metric.unit or '1'} | {f'{metric.meaning} {metric.reading}'.strip()} |"
