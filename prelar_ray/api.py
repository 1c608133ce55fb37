"""Use from Python: load a run, act with its policy, see what its world model makes of a clip, train.

What is here, and named in ``docs/reference/python.md``, is kept stable. Loading needs neither Ray nor a simulator::

    run = prelar_ray.load_run("runs/reach")
    env, agent = run.make_env(seed=0), run.agent(seed=0)
    observation, _ = env.reset()
    agent.reset()
    observation, reward, terminated, truncated, info = env.step(agent.act(observation))
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from prelar_ray.acting.policy import ActingNoise, Policy, PolicyWeights
from prelar_ray.acting.rollout import gumbel_noise
from prelar_ray.checkpoint.store import Checkpoint, load_checkpoint
from prelar_ray.checkpoint.transfer import policy_weights
from prelar_ray.config import RunConfig, to_yaml
from prelar_ray.envs.pixel_env import PixelEnv
from prelar_ray.envs.registry import make_env
from prelar_ray.errors import CheckpointError, UsageError
from prelar_ray.kinds import Phase, kind_of
from prelar_ray.learning.device import resolve_device
from prelar_ray.models.acting_weights import acting_space
from prelar_ray.models.layers import load_module
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel
from prelar_ray.storage.addresses import absolute_videos
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.study.identity import checkpoint_content
from prelar_ray.types import Frames

__all__ = ["Agent", "Latents", "LoadedRun", "finetune", "latents", "load_run", "pretrain"]

Array = npt.NDArray[np.float32]
AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class LoadedRun:
    """A checkpoint of a run."""

    path: Path
    """Of the checkpoint."""
    config: RunConfig = field(repr=False)
    phase: Phase
    update: int
    """Updates that were done."""
    model: PretrainWorldModel | FinetuneWorldModel = field(repr=False)
    """In evaluation mode, on a GPU where there is one."""
    weights: PolicyWeights | None = field(repr=False)
    """Of the policy, by name; None for a pre-training."""

    def agent(self, seed: int = 0) -> Agent:
        """Return the policy, for one environment; ``seed`` determines what it draws.

        Raises:
            CheckpointError: a pre-training has no policy.
        """
        if self.weights is None:
            raise CheckpointError(
                f"{self.path}: a pre-training has no policy; fine-tune it first (prelar_ray.finetune, or "
                f"prelar-ray finetune --init {self.path})"
            )
        return Agent(self.config, self.weights, seed)

    def make_env(self, seed: int = 0) -> PixelEnv:
        """Return an environment of the run's task, as the run sees it: a :class:`gymnasium.Env`.

        Raises:
            ConfigError: the task is not known here.
            RenderingError: headless rendering does not work.
        """
        return make_env(self.config.env, seed)


def load_run(path: AnyPath) -> LoadedRun:
    """Load the newest checkpoint of a run, or the one that is named.

    Args:
        path: folder of a run, or of one of its checkpoints. Nothing in it is executed (``weights_only=True``).

    Raises:
        CheckpointError: there is none, or it is damaged, or of an RLlib algorithm.
    """
    checkpoint = load_checkpoint(Path(path))
    model, state = _model(checkpoint), checkpoint.state["model"]
    load_module(model, state, "model")
    model.to(resolve_device("auto")).eval()
    weights = policy_weights(checkpoint) if checkpoint.phase == "finetune" else None
    phase = cast(Phase, checkpoint.phase)
    return LoadedRun(checkpoint.path, checkpoint.config, phase, checkpoint.update, model, weights)


def _model(checkpoint: Checkpoint) -> PretrainWorldModel | FinetuneWorldModel:
    """Build the world model of a checkpoint, untrained."""
    if checkpoint.phase == "pretrain":
        return PretrainWorldModel.of_run(checkpoint.config)
    actions = acting_space(checkpoint.state["actor_critic"])
    if actions is None:
        raise CheckpointError(f"{checkpoint.path}: its actor is incomplete; use another checkpoint")
    terminates = any(name.startswith("discount.") for name in checkpoint.state["model"])
    return FinetuneWorldModel.of_run(checkpoint.config, actions.size, terminates)


class Agent:
    """A run's policy in one environment, on the CPU; it keeps the state between steps."""

    def __init__(self, config: RunConfig, weights: PolicyWeights, seed: int = 0) -> None:
        actions = acting_space(weights)
        assert actions is not None, "an actor that is incomplete is not loaded"
        self.policy, self._env = Policy(config, actions), config.env
        self.policy.load_weights(weights, 0)
        self._rng = np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        """Forget the episode; call it whenever the environment is reset."""
        self._state, self._is_first = self.policy.initial(1), True

    def act(self, observation: Mapping[str, npt.NDArray[np.generic]], explore: bool = False) -> Array:
        """Choose an action.

        Args:
            observation: of :meth:`LoadedRun.make_env`: ``image`` uint8 ``(Hpx, Wpx, 3)`` and, in runs that observe
                one, ``vector`` ``(V,)``.
            explore: sample the action, as in training; else its mode, as in evaluations.

        Returns:
            ``(A,)`` in [-1, 1], as :meth:`LoadedRun.make_env` takes it; discrete actions are one-hot, a factor after
            the other.

        Raises:
            UsageError: an observation of another form.
        """
        image, vector = self._seen(observation)
        uniform = self._rng.random((1, self.policy.actions.size), dtype=np.float32)
        exponential = self._rng.standard_exponential((1, *self.policy.noise_shape), dtype=np.float32)
        noise = ActingNoise(gumbel_noise(exponential), uniform if explore else None)
        action, self._state = self.policy.act(image, np.array([self._is_first]), self._state, noise, vector)
        self._is_first = False
        chosen: Array = action[0]
        return chosen

    def _seen(self, observation: Mapping[str, npt.NDArray[np.generic]]) -> tuple[Frames, Array]:
        """Return image ``(1, Hpx, Wpx, 3)`` and vector ``(1, V)`` of an observation; see :meth:`act`."""
        size, length = self._env.image_size, self._env.vector_size
        if not isinstance(observation, Mapping):
            raise UsageError(f"observation: a {type(observation).__name__}, expected a dictionary of image and vector")
        shape, empty = (size, size, 3), np.zeros((0, 0, 3), np.uint8)
        image = np.array(observation.get("image", empty)) if size else empty  # a copy: some are read-only views
        if size and (image.dtype != np.uint8 or image.shape != shape):
            raise UsageError(f"observation['image']: {image.dtype} {image.shape}, expected uint8 {shape}")
        vector = np.array(observation.get("vector", ()) if length else (), np.float32)
        if vector.shape != (length,):
            raise UsageError(f"observation['vector']: {vector.shape}, expected ({length},)")
        return image[None], vector[None]


class Latents(NamedTuple):
    """What a world model makes of clips."""

    embedding: Array
    """Of every frame, ``(B, T, E)``."""
    latent_action: Array
    """From each frame to the next, ``(B, T-1, L)``: the mean that is inferred from the frames or, in a fine-tuning,
    what the actions are encoded as."""
    deter: Array
    """Deterministic state, ``(B, T, D)``."""
    stoch: Array
    """Probabilities of the classes of the posterior, ``(B, T, S, K)``."""


@torch.no_grad()
def latents(run: LoadedRun, frames: Frames, actions: npt.ArrayLike | None = None) -> Latents:
    """Run a world model over clips; states take the most likely classes.

    Args:
        run: a pre-training with latent actions, or a fine-tuning.
        frames: uint8 ``(B, T, Hpx, Wpx, 3)`` of the size of ``run.config.env.image_size``, or one clip without B.
        actions: ``(B, T-1, A)``, which a fine-tuning needs and a pre-training does without.

    Raises:
        UsageError: frames of another size, a pre-training that infers no latent actions, or actions that are missing or
            not wanted.
    """
    clips = np.asarray(frames)
    clips = clips[None] if clips.ndim == 4 else clips
    size = run.config.env.image_size
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[2:] != (size, size, 3) or clips.shape[1] < 2:
        raise UsageError(f"frames: {clips.dtype} {clips.shape}, expected uint8 (B, T, {size}, {size}, 3), T at least 2")
    model = run.model
    device = next(model.parameters()).device
    image = preprocess_image(torch.tensor(clips, device=device))  # a copy: stores give read-only views
    is_first = torch.zeros(clips.shape[:2], device=device)
    is_first[:, 0] = 1
    inputs = _inputs(run, image, actions)
    embedding = model.observed(image)
    state = model.rssm.filter(embedding, torch.cat([torch.zeros_like(inputs[:, :1]), inputs], dim=1), is_first)
    found = embedding, inputs, state.deter, state.logits.softmax(-1)
    return Latents(*(part.float().cpu().numpy() for part in found))


def _inputs(run: LoadedRun, image: torch.Tensor, actions: npt.ArrayLike | None) -> torch.Tensor:
    """Return the action inputs ``(B, T-1, L)`` of the dynamics."""
    model = run.model
    if isinstance(model, FinetuneWorldModel):
        if actions is None:
            raise UsageError(f"{run.path}: a fine-tuning's dynamics take actions; give them, or load the pre-training")
        given = torch.as_tensor(np.asarray(actions, np.float32), device=image.device)
        given = given[None] if given.ndim == 2 else given
        if given.shape[:2] != (len(image), image.shape[1] - 1):
            raise UsageError(f"actions: {tuple(given.shape)}, expected ({len(image)}, {image.shape[1] - 1}, A)")
        encoded: torch.Tensor = model.action_encoder(given)
        return encoded
    if actions is not None:
        raise UsageError(f"{run.path}: a pre-training infers latent actions from frames; leave actions out")
    inferred = model.infer_latent_actions(image)
    if inferred is None:
        raise UsageError(f"{run.path}: method {run.config.method} has no latent actions")
    return inferred.point


def pretrain(config: RunConfig, out: AnyPath, resume: bool = False) -> Generator[Mapping[str, float]]:
    """Pre-train on the videos of ``config.video.path``; yields every line of metrics when it is written.

    Ctrl-C, and leaving the loop over the lines, write a checkpoint first, from which ``resume`` continues.

    Args:
        config: from :func:`prelar_ray.config.load_config`.
        out: folder of the run, new unless ``resume``.
        resume: continue from the run's last checkpoint.

    Raises:
        PrelarError: as ``prelar-ray pretrain``; the message says what to do.
    """
    return _train(absolute_videos(config), "pretrain", out, None, resume)


def finetune(
    config: RunConfig, out: AnyPath, init: AnyPath | None = None, resume: bool = False
) -> Generator[Mapping[str, float]]:
    """Fine-tune and learn behaviour in ``config.env.task``; yields every line of metrics when it is written.

    Interrupts are those of :func:`pretrain`. With ``cluster=none`` all of it happens in this process, else in actors of
    Ray.

    Args:
        config: from :func:`prelar_ray.config.load_config`.
        out: folder of the run, new unless ``resume``.
        init: run or checkpoint of a pre-training; methods that learn from scratch take none.
        resume: continue from the run's last checkpoint.

    Raises:
        PrelarError: as ``prelar-ray finetune``; the message says what to do.
    """
    return _train(config, "finetune", out, init, resume)


def _train(
    config: RunConfig, phase: Phase, out: AnyPath, init: AnyPath | None, resume: bool
) -> Generator[Mapping[str, float]]:
    kind = kind_of(config, phase)
    kind.check(config)
    found = kind.find_init(Path(init), config) if init and not resume else None
    run = RunFolder.create(Path(out), to_yaml(config), phase, resume=resume)
    if found:
        run.update(init={"checkpoint": str(found.absolute()), "content": checkpoint_content(str(found))})
    return kind.iterate(config, run, found, resume)
