from __future__ import annotations

import importlib.util
import re
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from prelar_ray.commands import demo, evaluate, finetune, pretrain, record, tune
from prelar_ray.commands.dry_run import summarise
from prelar_ray.config import RunConfig, load_config, preset_names
from prelar_ray.errors import CheckpointError, ConfigError, DataError, RenderingError, RunFolderError, UsageError
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.world_model_loss import Experience, finetune_loss, pretrain_loss
from prelar_ray.models.layers import parameter_count
from prelar_ray.models.noise import Deterministic
from prelar_ray.models.preprocess import preprocess_image
from tests.tiny import ACTION, tiny_batch, tiny_config

Main = Callable[[Sequence[str]], int]
WITH_CONFIG = [record, pretrain, finetune, demo]


def split(output: str, tmp_path: Path) -> tuple[RunConfig, str]:
    """The configuration, read back, and the tables after it."""
    at = output.index("parameters: pretrain")
    (tmp_path / "printed.yaml").write_text(output[:at])
    return load_config(None, tmp_path / "printed.yaml"), output[at:]


def rows(table: str) -> dict[str, str]:
    return dict(re.findall(r"^\W*([a-z][\w :,]*?) +\W? *([\d,.]+)\W*$", table, flags=re.MULTILINE))


def check(output: str, config: RunConfig, tmp_path: Path) -> None:
    printed, tables = split(output, tmp_path)
    assert printed == config
    pretraining, finetuning, memory = re.split("parameters: finetune\n|memory, float32", tables)[:3]
    counts = rows(pretraining)
    model = PretrainLearner(config).model
    for name, part in model.named_children():
        assert counts[name.replace("_", " ")] == f"{parameter_count(part):,}"
    assert counts["total"] == f"{parameter_count(model):,}"
    learner = FinetuneLearner(config, 4)
    trained = parameter_count(learner.model) + parameter_count(learner.actor_critic)
    assert rows(finetuning.split("parameters: ")[0])["total"] == f"{trained:,}"
    assert rows(memory)["replay at capacity"] == f"{config.replay.capacity_steps * 64 * 64 * 3 / 2**30:.2f}"
    assert "activations of one update" in memory


@pytest.mark.parametrize("command", WITH_CONFIG, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_dry_run_prints_configuration_counts_and_memory_and_makes_nothing(
    command: object, settings: str, minute_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main: Main = command.main  # type: ignore[attr-defined]
    assert main(["--config", settings, "--dry-run", "--out", str(out), "seed=11"]) == 0
    check(capsys.readouterr().out, load_config(None, None, ["seed=11"], base=minute_config), tmp_path)
    assert not out.exists()
    assert main(["--config", settings, "--dry-run"]) == 0  # needs no folder


def test_a_dry_run_of_evaluate_prints_the_checkpoint_s_configuration(
    finetuned: Path, minute_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(finetuned), "--dry-run", "evaluation.envs=3"]) == 0
    check(capsys.readouterr().out, load_config(None, None, ["evaluation.envs=3"], base=minute_config), tmp_path)


def test_counts_are_those_of_the_parts_that_learners_train() -> None:
    config = tiny_config()
    summary = summarise(config, ACTION)
    pretrain, finetune = PretrainLearner(config), FinetuneLearner(config, ACTION)
    assert finetune.bonus is not None
    parts = finetune.actor_critic
    assert summary.parameters["pretrain"] == {k: parameter_count(m) for k, m in pretrain.model.named_children()}
    expected = {k: parameter_count(m) for k, m in finetune.model.named_children()}
    expected |= {"actor": parameter_count(parts.actor), "critic": parameter_count(parts.critic)}
    assert summary.parameters["finetune"] == expected
    assert summary.parameters["finetune, not trained"] == {
        "slow critic": parameter_count(parts.critic),
        "bonus projection": finetune.bonus.projection.numel(),
    }
    total = sum(summary.parameters["pretrain"].values())
    assert summary.memory["pretrain: parameters, gradients, Adam"] == 4 * 4 * total


def kept_for_backward(forward: object) -> int:
    """Bytes of real tensors that autograd keeps, each storage once."""
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # type: ignore[operator]  # keeps the graph, and with it every address, alive
    assert result.total.requires_grad
    return sum(saved.values())


def test_activations_are_what_one_update_really_keeps() -> None:
    config = tiny_config()
    summary = summarise(config, ACTION)
    batch = tiny_batch(0)
    image = preprocess_image(torch.from_numpy(batch.image))
    action, reward, is_first = (torch.from_numpy(x).float() for x in (batch.action, batch.reward, batch.is_first))
    noise = Deterministic()
    pretrain, finetune = PretrainLearner(config), FinetuneLearner(config, ACTION)
    pretrain.model.train()
    finetune.model.train()
    real = {
        "pretrain": kept_for_backward(lambda: pretrain_loss(pretrain.model, config.loss, image, is_first, noise)),
        "finetune": kept_for_backward(
            lambda: finetune_loss(finetune.model, config.loss, None, Experience(image, action, reward, is_first), noise)
        ),
    }
    for phase, size in real.items():
        assert summary.memory[f"{phase}: activations of one update"] == pytest.approx(size, rel=0.001)


def test_heads_and_vectors_beside_the_image_are_counted() -> None:
    extra = ("behaviour.discount_head=always", "env.vector_key=state", "env.vector_size=3")
    parts = summarise(tiny_config(*extra), ACTION).parameters["finetune"]
    model = FinetuneLearner(tiny_config(*extra), ACTION).model
    found = {name: parameter_count(part) for name, part in model.named_children()}
    assert {"discount", "vector_encoder", "vector_head"} < found.keys() < parts.keys()
    assert found.items() < parts.items()


def test_replay_is_as_large_as_its_frames() -> None:
    summary = summarise(tiny_config("replay.capacity_steps=12345"), ACTION)
    assert summary.memory["replay at capacity"] == 12345 * 64 * 64 * 3


def largest_so_far() -> int:
    """Most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_summarised_without_allocating_it(preset: str) -> None:
    before = largest_so_far()
    summary = summarise(load_config(preset))
    assert all(value > 0 for part in summary.parameters.values() for value in part.values())
    assert all(value > 0 for value in summary.memory.values())
    largest = max(summary.memory.values())
    assert largest > 2**26
    assert largest_so_far() - before < largest / 2


# What a dry run says no to


@pytest.mark.render  # naming the nearest tasks loads the simulators
@pytest.mark.parametrize(
    ("command", "override"),
    [
        (finetune, "env.task=metaworld/raech-v3"),
        (pretrain, "env.task=metaworld/raech-v3"),
        (demo, "env.task=metaworld/raech-v3"),
        (record, "record.tasks=[prelar/point-reach,metaworld/raech-v3]"),
        (demo, "record.tasks=[metaworld/raech-v3]"),
    ],
)
def test_a_task_that_does_not_exist_is_refused(command: object, override: str, settings: str) -> None:
    main: Main = command.main  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"=metaworld/raech-v3: no such task; did you mean metaworld/reach-v3"):
        main(["--config", settings, "--dry-run", override])


def test_a_task_that_cannot_be_looked_up_here_is_a_warning(
    settings: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def headless(task: str, path: str) -> None:
        raise RenderingError("no display")

    monkeypatch.setattr("prelar_ray.commands.dry_run.check_task", headless)
    assert record.main(["--config", settings, "--dry-run"]) == 0
    assert "record.tasks.0=prelar/point-reach is not checked: no display" in caplog.text


@pytest.mark.parametrize("command", WITH_CONFIG, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_name_that_is_too_long_is_refused(command: object, settings: str, tmp_path: Path) -> None:
    main: Main = command.main  # type: ignore[attr-defined]
    for out, size in (
        (tmp_path / ("x" * 300), "a name of 300 bytes"),
        (tmp_path / (("x" * 200 + "/") * 20), "a path of"),
    ):
        with pytest.raises(RunFolderError, match=size):
            main(["--config", settings, "--dry-run", "--out", str(out)])


def test_a_folder_that_the_run_would_not_take_is_refused(settings: str, finetuned: Path, tmp_path: Path) -> None:
    line = ["--config", settings, "--dry-run", "--out"]
    with pytest.raises(RunFolderError, match="already holds a run"):
        finetune.main([*line, str(finetuned)])
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        pretrain.main([*line, str(tmp_path / "file")])
    with pytest.raises(RunFolderError, match="no run to --resume"):
        finetune.main([*line, str(tmp_path), "--resume"])


def test_a_start_or_a_resume_that_does_not_fit_is_refused(
    settings: str, finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        finetune.main(["--config", settings, "--dry-run", "--init", str(tmp_path / "nowhere")])
    with pytest.raises(DataError, match=r"nowhere: no such folder; .* correct video\.path"):
        pretrain.main(["--config", settings, "--dry-run", "--videos", str(tmp_path / "nowhere")])
    before = {path: path.read_bytes() for path in finetuned.rglob("*") if path.is_file()}
    line = ["--dry-run", "--resume", "--out", str(finetuned), "seed=5"]
    with pytest.raises(CheckpointError, match=r"made with seed=0 \(here 5\)"):
        finetune.main(line)
    assert finetune.main([*line, "--accept-changes"]) == 0
    assert {path: path.read_bytes() for path in finetuned.rglob("*") if path.is_file()} == before


def test_a_study_that_names_a_package_that_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = "name: study\npreset: tiny\nsearch: {kind: optuna}\n"
    study += "finetune: {methods: [dreamerv2], tasks: [prelar/point-reach], space: {behaviour.horizon: [3, 5]}}\n"
    (tmp_path / "sweep.yaml").write_text(study)
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "optuna" else found(name))
    with pytest.raises(UsageError, match=r"^search\.kind=optuna needs .*pip install 'prelar-ray\[optuna\]'$"):
        tune.main([str(tmp_path / "sweep.yaml"), "--dry-run", "--nodes", "8x0x64"])
    (tmp_path / "sweep.yaml").write_text(study.replace("study", "s" * 300).replace("optuna", "grid"))
    with pytest.raises(RunFolderError, match="a name of 300 bytes"):
        tune.main([str(tmp_path / "sweep.yaml"), "--dry-run", "--nodes", "8x0x64"])


def test_larger_frames_are_in_the_estimates() -> None:
    small, large = (summarise(tiny_config(f"env.image_size={size}"), ACTION) for size in (64, 128))
    replay, activations = "replay at capacity", "pretrain: activations of one update"
    assert large.memory[replay] == 4 * small.memory[replay]
    assert 2 * small.memory[activations] < large.memory[activations] < 5 * small.memory[activations]
    assert large.parameters["pretrain"]["encoder"] > small.parameters["pretrain"]["encoder"]
