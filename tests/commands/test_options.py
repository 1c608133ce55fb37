from __future__ import annotations

from pathlib import Path

import pytest

from prelar_ray.commands import options
from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import ConfigError, DataError, RunFolderError


@pytest.fixture
def parser():
    parser = options.command_parser("finetune", "what it does", "examples:\n  one")
    parser.add_argument("--out", type=Path, default=Path("runs/x"))
    options.override_option(parser, "--skip-bad", "video.skip_bad", value="true", help="leave damaged shards out")
    options.override_option(parser, "--videos", "video.path", help="folder of videos")
    return parser


@pytest.mark.parametrize(
    "line",
    [
        "seed=3 env.camera=0 --preset tiny --out there --dry-run",
        "--preset tiny seed=3 --out there env.camera=0 --dry-run",
        "--dry-run --out there --preset tiny seed=3 env.camera=0",
    ],
)
def test_overrides_and_options_may_stand_in_any_order(parser, line: str):
    args = parser.parse_args(line.split())
    assert args.dry_run
    assert args.out == Path("there")
    assert options.resolve(args) == load_config("tiny", None, ["seed=3", "env.camera=0"])


def test_without_options_the_defaults_are_resolved(parser):
    args = parser.parse_args([])
    assert not args.dry_run
    assert options.resolve(args) == RunConfig()


def test_a_config_file_is_resolved(parser, tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("seed: 5")
    assert options.resolve(parser.parse_args(["--config", str(file)])).seed == 5


def test_resume_where_no_run_is_says_so(parser, tmp_path: Path):
    parser.add_argument("--resume", action="store_true")
    with pytest.raises(RunFolderError, match="nowhere: holds no run to --resume"):
        options.resolve(parser.parse_args(["--out", str(tmp_path / "nowhere"), "--resume"]))


def test_resume_starts_from_the_configuration_of_the_run_unless_told_otherwise(parser, tmp_path: Path):
    parser.add_argument("--resume", action="store_true")
    (tmp_path / "config.yaml").write_text("seed: 6")
    resumed = ["--out", str(tmp_path), "--resume"]
    assert options.resolve(parser.parse_args([*resumed, "evaluation.episodes=3"])) == load_config(
        None, None, ["seed=6", "evaluation.episodes=3"]
    )
    assert options.resolve(parser.parse_args([*resumed, "--preset", "tiny"])) == load_config("tiny")
    assert options.resolve(parser.parse_args(resumed[:2])) == RunConfig()


def test_options_that_are_short_for_overrides_reach_the_configuration(parser):
    video = options.resolve(parser.parse_args(["--skip-bad", "--videos", "a b #1", "seed=1"])).video
    assert video.skip_bad
    assert video.path == "a b #1"
    assert options.resolve(parser.parse_args([])).video == RunConfig().video


def test_a_malformed_override_is_a_config_error(parser):
    with pytest.raises(ConfigError, match="seed: not an override"):
        options.resolve(parser.parse_args(["seed"]))


def test_an_unknown_option_exits_with_2(parser, capsys):
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(["--prest", "tiny"])
    assert exit_.value.code == 2
    assert "--prest" in capsys.readouterr().err


def test_help_keeps_the_epilog_as_written_and_names_the_presets(parser):
    text = parser.format_help()
    assert "examples:\n  one" in text
    assert "cpu,demo,metaworld-experts,paper,small,tiny" in "".join(text.split())
    assert "short for video.skip_bad=true" in text


@pytest.fixture
def videos_parser():
    parser = options.plain_parser("test", "", "")
    options.video_options(parser)
    return parser


def test_videos_may_lie_at_an_address(videos_parser):
    args = videos_parser.parse_args(["--videos", "s3://bucket/videos"])
    assert options.chosen_videos(args, RunConfig()).paths == ("s3://bucket/videos",)


def test_chosen_videos_are_verified_again_when_asked(videos_parser, tmp_path: Path):
    options.chosen_videos(videos_parser.parse_args(["--videos", str(tmp_path)]), RunConfig())  # nothing is opened
    with pytest.raises(DataError, match="no manifest"):
        options.chosen_videos(videos_parser.parse_args(["--videos", str(tmp_path), "--verify"]), RunConfig())
