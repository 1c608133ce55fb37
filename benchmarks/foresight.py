"""What a world model foresees: trained on fixed experience, asked where the effector will be under the true actions.

Policies learn in imagination only what the prior foresees, and returns tell that late and with noise. Here a world
model of fine-tuning learns from 120 episodes of an arena task, without behaviour learning. A ridge regression reads the
effector's position from its states; ``moves_h`` is the correlation of true movements over h steps with those that the
regression reads from imagined states, ``reward_h`` that of changes of the reward, ``sees`` the R² of the position in
states that have observed the frame. All of it on other episodes, those of the regression other than those scored. A
line every 100 updates; finished rows are kept in ``--json``.

``python -m benchmarks foresight env.image_size=32 loss.image_weight=30 --json FILE`` adds a row.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.methods import sample
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.config import RunConfig, load_config
from prelar_ray.envs import make_env
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.provenance import provenance, utc_now
from prelar_ray.types import SequenceBatch

TRAIN, FIT, TEST = 120, 20, 10
"""Episodes: for the world model, the regression and the scores."""
STEPS = 60
HELD = 4
"""Steps that an exploring action is held; actions drawn at every step hardly move the effector."""
EXPLORING = (1.0, 0.5, 0.2)
"""Shares of exploring actions, episode by episode in turn; the others are the expert's."""
HORIZONS = (1, 4, 10)
STARTS = (5, 15, 25, 35)
"""Steps at which imagination starts, after so many observed frames."""
RIDGE = 3.0
UPDATES = 800
EVERY = 100

Array = npt.NDArray[np.float64]


class Experience(NamedTuple):
    """One episode."""

    batch: SequenceBatch
    position: Array  # (T, 2)


def episode(env: Any, exploring: float, rng: np.random.Generator) -> Experience:
    """Play one episode."""
    observation, _ = env.reset()
    rows = [(observation["image"], np.zeros(2, np.float32), 0.0, _position(env))]
    held = np.zeros(2)
    for step in range(STEPS):
        if step % HELD == 0:
            held = rng.uniform(-1, 1, 2)
        chosen = held if rng.random() < exploring else env.unwrapped.expert_action()
        action = np.clip(chosen + 0.2 * rng.normal(size=2), -1, 1).astype(np.float32)
        observation, reward, *_ = env.step(action)
        rows.append((observation["image"], action, reward, _position(env)))
    image, action, reward, position = (np.stack(part) for part in zip(*rows, strict=True))
    flags = np.zeros(len(rows), np.bool_)
    return Experience(SequenceBatch(image, action, reward.astype(np.float32), flags, flags), position)


def _position(env: Any) -> Array:
    state = env.unwrapped.get_state()
    return np.array(state["world"]["effector"] if "world" in state else state["effector"])


def correlation(one: Array, two: Array) -> float:
    """Return the correlation of two arrays, their columns centred."""
    one, two = one - one.mean(axis=0), two - two.mean(axis=0)
    return float((one * two).sum() / max(np.sqrt((one**2).sum() * (two**2).sum()), 1e-12))


@torch.no_grad()
def foresight(learner: FinetuneLearner, held_out: Sequence[Experience]) -> dict[str, float]:
    """Return what the model sees and foresees on held-out episodes."""
    model = learner.model.eval()
    image, action = (
        torch.from_numpy(np.stack([getattr(e.batch, name) for e in held_out])) for name in ("image", "action")
    )
    reward = np.stack([e.batch.reward for e in held_out])
    position = np.stack([e.position for e in held_out])
    latent = model.action_encoder(action)
    is_first = torch.zeros(image.shape[:2])
    is_first[:, 0] = 1
    states = model.rssm.filter(model.observed(preprocess_image(image), None), latent, is_first)
    feature = states.feature.double().numpy()
    known, places = feature[:FIT].reshape(-1, feature.shape[-1]), position[:FIT].reshape(-1, 2)
    mean, middle = known.mean(axis=0), places.mean(axis=0)
    gram = (known - mean).T @ (known - mean) + RIDGE * np.eye(len(mean))
    weight = np.linalg.solve(gram, (known - mean).T @ (places - middle))

    def read(feature: Array) -> Array:
        found: Array = (feature - mean) @ weight + middle
        return found

    true = position[FIT:]
    spread = ((true - true.mean(axis=(0, 1))) ** 2).sum()
    found = {"sees": 1 - float(((read(feature[FIT:]) - true) ** 2).sum() / spread)}
    for horizon in HORIZONS:
        moved, moves, changed, changes = [], [], [], []
        for start in STARTS:
            last = states.at((slice(FIT, None), start))
            imagined = model.rssm.imagine(last, latent[FIT:, start + 1 : start + 1 + horizon]).feature[:, -1]
            moved.append(read(imagined.double().numpy()) - read(feature[FIT:, start]))
            moves.append(position[FIT:, start + horizon] - position[FIT:, start])
            changed.append((model.reward(imagined) - model.reward(last.feature)).double().numpy())
            changes.append(reward[FIT:, start + horizon] - reward[FIT:, start])
        found[f"moves_{horizon}"] = correlation(np.concatenate(moved), np.concatenate(moves))
        found[f"reward_{horizon}"] = correlation(np.concatenate(changed), np.concatenate(changes))
    return found


def measure(config: RunConfig, init: Path | None, updates: int) -> dict[str, Any]:
    """Train one world model; return its lines."""
    torch.set_num_threads(config.threads or 1)
    env, rng = make_env(config.env, seed=7), np.random.default_rng(0)
    played = [episode(env, EXPLORING[i % len(EXPLORING)], rng) for i in range(TRAIN + FIT + TEST)]
    train, held_out = [e.batch for e in played[:TRAIN]], played[TRAIN:]
    learner = FinetuneLearner(config, 2)
    if init is not None:
        learner.load_pretrained(load_checkpoint(init).state["model"])
    learner.behaviour.update = lambda *_, **__: {}  # type: ignore[method-assign]  # the world model alone
    rng, lines, seconds = np.random.default_rng(1), [], 0.0
    for update in range(1, updates + 1):
        start = time.perf_counter()
        learner.update(sample(train, config.finetune.batch_size, config.finetune.segment_length, rng))
        seconds += time.perf_counter() - start
        if update % EVERY == 0:
            metrics = learner.metrics()
            losses = {name: metrics[f"loss/{name}"] for name in ("image", "dynamics_kl", "reward")}
            scores = losses | foresight(learner, held_out)
            lines.append({"update": update, "seconds": round(seconds, 1)} | {k: round(v, 3) for k, v in scores.items()})
    return {"lines": lines, "date": utc_now(), **provenance()}


def show(rows: dict[str, Any], console: Console) -> None:
    """Print the last line of every row."""
    columns = ("update", "seconds", "image", "dynamics_kl", "sees", *(f"moves_{h}" for h in HORIZONS), "reward_10")
    table = Table("settings", *columns)
    for name, row in rows.items():
        table.add_row(name, *(f"{row['lines'][-1][column]:g}" for column in columns))
    console.print(table)


def main(argv: Sequence[str]) -> int:
    """Measure one row unless it is there, then print all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks foresight", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings on top of the preset")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--init", type=Path, metavar="RUN", help="pre-training to start from (default: from scratch)")
    parser.add_argument("--updates", type=int, default=UPDATES, metavar="N")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    rows: dict[str, Any] = json.loads(args.json.read_bytes()) if args.json.is_file() else {}
    init = [f"--init {args.init}"] if args.init else []
    length = [] if args.updates == UPDATES else [f"--updates {args.updates}"]
    name = " ".join([f"--preset {args.preset}", *args.settings, *init, *length])
    if name not in rows:
        method = () if args.init or any(s.startswith("method=") for s in args.settings) else ("method=dreamerv2",)
        config = load_config(args.preset, overrides=["finetune.bonus.weight=0", *method, *args.settings])
        rows[name] = measure(config, args.init, args.updates)
        with atomic_file(args.json) as partial:
            partial.write((json.dumps(rows, indent=1) + "\n").encode())
    show(rows, Console(file=sys.stdout, width=200))
    return 0
