from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from prelar_ray.commands import finetune
from prelar_ray.commands.cli import guarded
from prelar_ray.config import RunConfig, to_yaml

Main = Callable[[Sequence[str]], int]


@pytest.fixture(scope="session")
def settings(minute_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a configuration file: what ``--config`` takes."""
    path = tmp_path_factory.mktemp("settings") / "minute.yaml"
    path.write_text(to_yaml(minute_config))
    return str(path)


@pytest.fixture(scope="session")
def finetuned(settings: str, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished fine-tuning run; read only."""
    out = tmp_path_factory.mktemp("finetuned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prelar_ray.envs.point_reach.EPISODE_STEPS", 20)
        assert finetune.main(["--config", settings, "--init", str(pretrained), "--out", str(out)]) == 0
    return out


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run a command as the console script does, expect its exit code, and return what it wrote to stderr."""
    root, package = logging.getLogger(), logging.getLogger("prelar_ray")
    handlers, levels = root.handlers[:], (root.level, package.level)
    terminate = signal.getsignal(signal.SIGTERM)

    def run(main: Main, *arguments: object, code: int) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            guarded(lambda: main([str(argument) for argument in arguments]))
        assert exit_.value.code == code
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error

    yield run
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    package.setLevel(levels[1])
    signal.signal(signal.SIGTERM, terminate)
