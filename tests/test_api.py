from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prelar_ray
from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import CheckpointError, ConfigError, UsageError
from prelar_ray.learning.latent_sequences import inferred_sequences
from tests.conftest import MINUTE


@pytest.fixture(scope="module")
def finetuned(minute_config: RunConfig, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished fine-tuning run; read only."""
    out = tmp_path_factory.mktemp("api") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prelar_ray.envs.point_reach.EPISODE_STEPS", 20)
        lines = list(prelar_ray.finetune(minute_config, out, init=pretrained))
    assert lines[-1]["env_steps"] >= 60
    return out


def clips(rows: int = 2, steps: int = 4) -> Any:
    return np.random.default_rng(0).integers(0, 256, (rows, steps, 64, 64, 3), dtype=np.uint8)


def episode(run: prelar_ray.LoadedRun, seed: int, explore: bool = False) -> list[Any]:
    env, agent = run.make_env(seed=3), run.agent(seed=seed)
    observation, _ = env.reset()
    actions = []
    for _ in range(4):
        actions.append(agent.act(observation, explore))
        observation, *_ = env.step(actions[-1])
    env.close()
    return actions


def test_importing_the_package_takes_neither_torch_nor_ray_nor_a_simulator() -> None:
    code = "import sys, prelar_ray; print(sorted({'torch', 'ray', 'mujoco', 'gymnasium'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    code = (
        "import sys, prelar_ray; prelar_ray.load_run; print(sorted({'ray', 'mujoco', 'metaworld'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_every_public_name_is_there_and_others_are_not() -> None:
    assert {name for name in prelar_ray.__all__ if getattr(prelar_ray, name, None) is None} == set()
    assert set(prelar_ray.__all__) <= set(dir(prelar_ray))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        prelar_ray.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_latents_of_a_pretraining_are_inferred_from_frames(pretrained: Path, minute_config: RunConfig) -> None:
    run = prelar_ray.load_run(pretrained)
    assert (run.phase, run.update, run.model.training) == ("pretrain", 5, False)
    found = prelar_ray.latents(run, clips())
    rssm = minute_config.world_model.rssm
    assert found.latent_action.shape == (2, 3, minute_config.world_model.latent_action)
    assert (found.deter.shape, found.stoch.shape) == ((2, 4, rssm.deter), (2, 4, rssm.stoch, rssm.classes))
    assert found.embedding.shape[:2] == (2, 4)
    np.testing.assert_allclose(found.stoch.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.latent_action, inferred_sequences(run.model, clips()).numpy())  # type: ignore[arg-type]
    alone = prelar_ray.latents(run, clips()[0])
    np.testing.assert_allclose(alone.deter, found.deter[:1], atol=1e-5)


def test_a_finetuning_encodes_the_actions_that_it_is_given(finetuned: Path) -> None:
    run = prelar_ray.load_run(finetuned)
    actions = np.random.default_rng(1).uniform(-1, 1, (2, 3, 2))
    found = prelar_ray.latents(run, clips(), actions)
    assert found.latent_action.shape[:2] == (2, 3)
    other = prelar_ray.latents(run, clips(), -actions)
    np.testing.assert_array_equal(found.deter[:, 0], other.deter[:, 0])
    assert not np.array_equal(found.deter[:, 1:], other.deter[:, 1:])


def test_the_policy_acts_and_equal_seeds_act_alike(finetuned: Path) -> None:
    run = prelar_ray.load_run(finetuned)
    first = episode(run, seed=0)
    assert all(action.shape == (2,) and action.dtype == np.float32 and (abs(action) <= 1).all() for action in first)
    np.testing.assert_array_equal(first, episode(run, seed=0))
    assert not np.array_equal(episode(run, seed=0, explore=True), episode(run, seed=1, explore=True))


def test_a_reset_forgets_the_episode(finetuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prelar_ray.load_run(finetuned)
    agent, (one, two) = run.agent(), ({"image": frame} for frame in clips(1, 2)[0])
    seen = []
    step = agent.policy.step
    monkeypatch.setattr(
        agent.policy, "step", lambda image, first, *more: (seen.append(bool(first)), step(image, first, *more))[1]
    )
    agent.act(one), agent.act(two)
    agent.reset()
    agent.act(one)
    assert seen == [True, False, True]


def test_an_interrupt_keeps_a_checkpoint_that_a_resume_continues(
    minute_config: RunConfig, videos: Path, tmp_path: Path
) -> None:
    config = load_config(None, None, [f"video.path={videos}"], base=minute_config)
    lines = prelar_ray.pretrain(config, tmp_path / "run")
    assert next(lines)["update"] == 1
    with pytest.raises(KeyboardInterrupt):
        lines.throw(KeyboardInterrupt)
    done = prelar_ray.load_run(tmp_path / "run").update
    assert 1 <= done < 5
    assert [line["update"] for line in prelar_ray.pretrain(config, tmp_path / "run", resume=True)][-1] == 5
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_what_does_not_fit_is_named(pretrained: Path, finetuned: Path, tmp_path: Path) -> None:
    before, after = prelar_ray.load_run(pretrained), prelar_ray.load_run(finetuned)
    with pytest.raises(CheckpointError, match=r"a pre-training has no policy; fine-tune it first"):
        before.agent()
    with pytest.raises(UsageError, match=r"frames: uint8 \(2, 4, 32, 32, 3\), expected uint8 \(B, T, 64, 64, 3\)"):
        prelar_ray.latents(before, clips()[:, :, :32, :32])
    with pytest.raises(UsageError, match="leave actions out"):
        prelar_ray.latents(before, clips(), np.zeros((2, 3, 2)))
    with pytest.raises(UsageError, match="take actions; give them"):
        prelar_ray.latents(after, clips())
    with pytest.raises(UsageError, match=r"actions: \(2, 4, 2\), expected \(2, 3, A\)"):
        prelar_ray.latents(after, clips(), np.zeros((2, 4, 2)))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        prelar_ray.load_run(tmp_path)


def test_the_code_of_the_documentation_runs(
    videos: Path, finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "reference" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for folder, given in (("videos/mine", videos), ("runs/reach", finetuned)):
        (tmp_path / folder).parent.mkdir()
        (tmp_path / folder).symlink_to(given)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prelar_ray.envs.point_reach.EPISODE_STEPS", 20)
    code = blocks[0].replace('load_config("tiny", overrides=[', "load_config(None, overrides=[*MINUTE.split(), ")
    assert code != blocks[0], "the page loads another preset now"
    known: dict[str, Any] = {"MINUTE": MINUTE}
    exec(code.replace("updates=500", "updates=2"), known)
    assert known["found"].latent_action.shape[:2] == (1, 7)
    exec(blocks[1], known)
    assert known["terminated"] or known["truncated"]


def test_leaving_the_loop_keeps_what_was_learnt(minute_config: RunConfig, videos: Path, tmp_path: Path) -> None:
    config = load_config(None, None, [f"video.path={videos}", "checkpoint.every_updates=1000"], base=minute_config)
    for line in prelar_ray.pretrain(config, tmp_path / "run"):
        if line["update"] == 3:
            break
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert prelar_ray.load_run(tmp_path / "run").update == 3
    assert next(line["update"] for line in prelar_ray.pretrain(config, tmp_path / "run", resume=True)) == 4


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (np.zeros((64, 64, 3), np.uint8), "observation: a ndarray, expected a dictionary"),
        (
            {"image": np.zeros((64, 64, 3), np.float32)},
            r"\['image'\]: float32 \(64, 64, 3\), expected uint8",
        ),
        ({"image": np.zeros((48, 64, 3), np.uint8)}, r"uint8 \(48, 64, 3\), expected uint8 \(64, 64, 3\)"),
        ({}, r"expected uint8 \(64, 64, 3\)"),
    ],
)
def test_an_observation_of_another_form_is_refused(finetuned: Path, observation: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        prelar_ray.load_run(finetuned).agent().act(observation)


def test_a_loaded_run_is_one_line(finetuned: Path) -> None:
    shown = repr(prelar_ray.load_run(finetuned))
    assert str(finetuned) in shown
    assert len(shown) < 300


def test_paths_may_be_text(videos: Path, tmp_path: Path) -> None:
    assert len(prelar_ray.VideoStore(str(videos))) == 3
    (tmp_path / "mine.yaml").write_text("seed: 7")
    assert prelar_ray.load_config("tiny", str(tmp_path / "mine.yaml")).seed == 7
    with prelar_ray.VideoWriter(str(tmp_path / "store"), {}) as writer:
        writer.append(clips()[0], "noise")
    assert len(prelar_ray.VideoStore(str(tmp_path / "store"))) == 1
    with pytest.raises(ConfigError, match=r"^overrides: the text 'seed=1', expected a list"):
        prelar_ray.load_config("tiny", overrides="seed=1")
