from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from prelar_ray.errors import ConfigError
from prelar_ray.study.plan import PlannedRun, plan_runs, recording
from prelar_ray.study.sweep import Sweep, read_sweep

ROOT = Path(__file__).parents[2]
TASK = "prelar/point-reach"


def study(**parts: Any) -> Sweep:
    return Sweep.model_validate({"name": "study", "preset": "tiny", **parts})


def plan(folder: Path, **parts: Any) -> list[PlannedRun]:
    return plan_runs(study(**parts), folder)


def finetunings(runs: list[PlannedRun]) -> list[PlannedRun]:
    return [run for run in runs if run.phase == "finetune"]


def test_each_distinct_pretraining_is_made_once_and_shared(tmp_path: Path) -> None:
    runs = plan(
        tmp_path,
        pretrain={"videos": {"a": "videos"}, "space": {"loss.consistency_weight": (0.1, 1.0)}},
        finetune={"methods": ("prelar", "prelar_naive", "dreamerv2"), "tasks": (TASK,), "seeds": (0, 1)},
    )
    pretrainings = [run for run in runs if run.phase == "pretrain"]
    assert [run.labels for run in pretrainings] == [{"loss.consistency_weight": v} for v in (0.1, 1.0)]
    assert [run.config.loss.consistency_weight for run in pretrainings] == [0.1, 1.0]
    assert {run.config.video.path for run in pretrainings} == {str(Path("videos").absolute())}
    counted = Counter((run.method, run.init) for run in finetunings(runs))
    first, second = (run.name for run in pretrainings)
    assert counted == {
        ("prelar", first): 2,
        ("prelar", second): 2,
        ("prelar_naive", first): 2,
        ("prelar_naive", second): 2,
        ("dreamerv2", None): 2,
    }
    assert len({run.name for run in runs}) == len(runs) == 12


def test_variants_are_compared_by_name_and_share_what_they_pretrain_alike(tmp_path: Path) -> None:
    runs = plan(
        tmp_path,
        pretrain={"videos": {"a": "videos"}},
        finetune={
            "variants": {
                "plain": {"method": "prelar"},
                "tied": {"method": "prelar", "settings": {"loss": {"tie_weight": 1.0}, "finetune.batch_size": 4}},
                "rehearsed": {"method": "prelar", "settings": {"finetune.rehearsal.share": 0.5}},
                "layer norm": {"method": "prelar", "settings": {"world_model.encoder.norm": "layer"}},
                "scratch": {"method": "dreamerv2", "settings": {"behaviour.horizon": 5}},
            },
            "tasks": (TASK,),
            "seeds": (0, 1),
        },
    )
    shared, own = (run for run in runs if run.phase == "pretrain")
    assert (shared.variants, own.variants) == (("plain", "tied", "rehearsed"), ("layer norm",))
    assert (shared.config.loss.tie_weight, own.config.world_model.encoder.norm) == (0.0, "layer")
    found = {run.labels["variant"]: run for run in finetunings(runs) if run.seed == 1}
    assert {name: run.init for name, run in found.items()} == {
        **dict.fromkeys(("plain", "tied", "rehearsed"), shared.name),
        "layer norm": own.name,
        "scratch": None,
    }
    assert found["tied"].config.loss.tie_weight == 1.0
    assert found["tied"].config.finetune.batch_size == 4
    assert found["scratch"].config.behaviour.horizon == 5
    videos = {name: run.config.video.path for name, run in found.items()}
    assert videos["rehearsed"] == str(Path("videos").absolute())  # it reads them
    assert videos["tied"] == ""
    assert len({run.name for run in runs}) == len(runs) == 2 + 5 * 2


def test_a_study_compares_methods_or_variants_and_checks_their_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give methods or variants; a variant names its method"):
        study(finetune={"methods": ("dreamerv2",), "variants": {"a": {"method": "dreamerv2"}}})
    with pytest.raises(ConfigError, match=r"finetune\.variants\.a\.settings\.seed: a study gives it in"):
        plan(tmp_path, finetune={"variants": {"a": {"method": "dreamerv2", "settings": {"seed": 3}}}})
    with pytest.raises(ConfigError, match=r"finetune: .*behaviour\.horizont"):
        plan(
            tmp_path,
            finetune={"variants": {"a": {"method": "dreamerv2", "settings": {"behaviour.horizont": 3}}}, "tasks": TASK},
        )


def test_methods_that_pretrain_otherwise_get_a_pretraining_of_their_own(tmp_path: Path) -> None:
    runs = plan(
        tmp_path,
        pretrain={"videos": {"a": "videos"}, "seeds": (0, 1)},
        finetune={"methods": ("prelar", "apv"), "tasks": (TASK,), "seeds": (5,)},
    )
    assert Counter(run.method for run in runs if run.phase == "pretrain") == {"prelar": 2, "apv": 2}
    for run in finetunings(runs):
        assert run.init is not None
        assert run.init.startswith(f"pretrain/{run.method}/")
        assert run.labels["pretrain.seed"] in (0, 1)
        assert run.config.seed == run.seed == 5


def test_what_a_pretraining_was_made_with_holds_for_what_starts_from_it(tmp_path: Path) -> None:
    runs = plan(
        tmp_path,
        pretrain={
            "videos": {"a": "videos"},
            "settings": {"world_model.latent_action": 7},
            "space": {"world_model.rssm.deter": (8, 16)},
        },
        finetune={"tasks": (TASK,), "seeds": (0,), "settings": {"finetune.env_steps": 2000}},
    )
    made = {run.name: run.config.world_model for run in runs if run.phase == "pretrain"}
    for run in finetunings(runs):
        assert run.init is not None
        assert run.config.world_model == made[run.init]
        assert run.config.world_model.latent_action == 7
        assert run.config.finetune.env_steps == 2000


def test_names_stay_when_seeds_tasks_and_methods_are_added_and_change_with_settings(tmp_path: Path) -> None:
    def names(**finetune: Any) -> set[str]:
        return {run.name for run in plan(tmp_path, finetune={"methods": ("dreamerv2",), "tasks": (TASK,), **finetune})}

    few = names(seeds=(0, 1))
    more = names(seeds=(0, 1, 2), tasks=(TASK, "metaworld/reach-v3"))
    assert few < more
    assert not few & names(seeds=(0, 1), settings={"behaviour.horizon": 3})


def test_names_do_not_depend_on_where_the_study_lies(tmp_path: Path) -> None:
    parts = {"pretrain": {"videos": {"a": {"record.tasks": (TASK,)}}}, "finetune": {"tasks": (TASK,)}}
    one, two = (plan(tmp_path / name, **parts) for name in ("one", "two"))
    assert [run.name for run in one] == [run.name for run in two]
    assert Path(one[0].config.video.path).parent == tmp_path / "one" / "videos"


def test_a_recording_with_other_settings_is_another_data_set(tmp_path: Path) -> None:
    def store(settings: dict[str, Any], **recording: Any) -> str:
        parts = {"a": {"record.tasks": (TASK,), **recording}}
        (run,) = plan(tmp_path, settings=settings, pretrain={"videos": parts})
        return f"{run.name} from {run.config.video.path}"

    stores = [store({}), store({}, **{"record.noise": 0.3}), store({"env.camera": "1"}), store({}, seed=5)]
    assert len(set(stores)) == 4
    assert store({"behaviour.horizon": 3}) == stores[0]
    assert store({}, **{"record.workers": 3}) == stores[0]


def test_a_run_that_is_asked_for_twice_is_planned_once(tmp_path: Path) -> None:
    finetune = {"methods": ("dreamerv2", "dreamerv2"), "tasks": (TASK,), "seeds": (0, 0, 1)}
    assert len(plan(tmp_path, finetune=finetune)) == 2
    few = {**finetune, "space": {"behaviour.horizon": (3, 5)}}
    runs = plan(tmp_path, finetune=few, search={"kind": "random", "samples": 20})
    assert sorted((run.labels["behaviour.horizon"], run.seed) for run in runs) == [(3, 0), (3, 1), (5, 0), (5, 1)]


def test_whatever_a_space_varies_makes_runs_of_their_own(tmp_path: Path) -> None:
    space = {"learner.norm_statistics": ("local", "synchronised"), "behaviour.horizon": (3, 5)}
    runs = plan(tmp_path, finetune={"methods": ("dreamerv2",), "tasks": (TASK,), "seeds": (0,), "space": space})
    assert len({run.name for run in runs}) == 4
    pretrain = {"videos": {"a": "videos"}, "space": {"learner.norm_statistics": ("local", "synchronised")}}
    runs = plan(tmp_path, pretrain=pretrain)
    assert [run.config.learner.norm_statistics for run in runs] == ["local", "synchronised"]


def test_methods_that_pretrain_alike_share_one_whichever_is_named_first(tmp_path: Path) -> None:
    def names(*methods: str) -> set[str]:
        finetune = {"methods": methods, "tasks": (TASK,), "seeds": (0,)}
        return {run.name for run in plan(tmp_path, pretrain={"videos": {"a": "videos"}}, finetune=finetune)}

    assert names("prelar_naive") < names("prelar", "prelar_naive") == names("prelar_naive", "prelar")


def test_draws_are_the_same_each_time_and_within_their_range(tmp_path: Path) -> None:
    parts = {
        "search": {"kind": "random", "samples": 20},
        "finetune": {
            "methods": ("dreamerv2",),
            "tasks": (TASK,),
            "seeds": (0,),
            "space": {
                "loss.action_kl_weight": {"log_uniform": (0.01, 10.0)},
                "behaviour.horizon": {"integers": (3, 5)},
                "behaviour.discount": {"uniform": (0.9, 0.99)},
                "finetune.batch_size": (4, 8),
            },
        },
    }
    one, two = plan(tmp_path, **parts), plan(tmp_path, **parts)
    assert [run.labels for run in one] == [run.labels for run in two]
    assert len({run.name for run in one}) == 20
    assert {run.config.behaviour.horizon for run in one} == {3, 4, 5}
    assert {run.config.finetune.batch_size for run in one} == {4, 8}
    weights = [run.config.loss.action_kl_weight for run in one]
    assert all(0.01 <= weight <= 10 for weight in weights)
    assert sum(weight < 0.3 for weight in weights) >= 5, "every power of ten is as likely"
    assert all(0.9 <= run.config.behaviour.discount <= 0.99 for run in one)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"finetune": {"methods": ("dreamer",)}},
            r"^finetune\.methods: method=dreamer: unknown method; nearest: dreamerv2",
        ),
        ({"finetune": {"methods": ("dreamerv2",), "tasks": ("metaworld/raech-v3",)}}, r"^finetune\.tasks: .*reach-v3"),
        (
            {"finetune": {"methods": ("dreamerv2",), "tasks": (TASK,), "space": {"behaviour.horizn": (1, 2)}}},
            r"^finetune: behaviour\.horizn=1: unknown key; nearest: behaviour\.horizon",
        ),
        (
            {"finetune": {"methods": ("dreamerv2",), "tasks": (TASK,), "settings": {"behaviour.horizon": 0}}},
            r"^finetune: behaviour\.horizon=0: must be",
        ),
        ({"finetune": {"tasks": (TASK,)}}, r"prelar starts from a pre-training, and nobody makes one; add a pretrain"),
        ({"pretrain": {"videos": {"a": "v"}, "methods": ("dreamerv2",)}}, r"dreamerv2 learns from scratch"),
        (
            {"pretrain": {"videos": {"a": {"record.task": "x"}}}},
            r"^pretrain\.videos: record\.task=x: unknown key; nearest: ",
        ),
        (
            {"pretrain": {"videos": {"a": "v"}, "space": {"behaviour.horizon": (3, 5)}}},
            r"^pretrain\.space\.behaviour\.horizon: this stage does not read it; vary it in finetune\.space",
        ),
        (
            {"finetune": {"methods": ("dreamerv2",), "tasks": (TASK,), "space": {"pretrain.batch_size": (8, 16)}}},
            r"^finetune\.space\.pretrain\.batch_size: this stage does not read it; vary it in pretrain\.space",
        ),
        (
            {"settings": {"env.task": TASK}, "finetune": {"methods": ("dreamerv2",), "tasks": (TASK,)}},
            r"^settings\.env\.task: a study gives it in finetune\.tasks",
        ),
        (
            {"finetune": {"methods": ("dreamerv2",), "tasks": (TASK,), "space": {"seed": (0, 1)}}},
            r"^finetune\.space\.seed: a study gives it in pretrain\.seeds and finetune\.seeds",
        ),
        (
            {"pretrain": {"videos": {"a": "v"}}, "finetune": {"tasks": (TASK,), "init": {"prelra": "runs/x"}}},
            r"^finetune\.init\.prelra: names no method .*; those are: prelar$",
        ),
        (
            {
                "finetune": {"methods": ("dreamerv2",), "tasks": (TASK,), "space": {"behaviour.horizn": (1, 2)}},
                "search": {"kind": "optuna"},
            },
            r"^finetune\.space: behaviour\.horizn=1: unknown key; nearest: behaviour\.horizon",
        ),
        (
            {
                "finetune": {
                    "methods": ("dreamerv2",),
                    "tasks": (TASK,),
                    "space": {"behaviour.horizon": {"integers": (0, 5)}},
                },
                "search": {"kind": "optuna"},
            },
            r"^finetune\.space: behaviour\.horizon=0: must be",
        ),
        ({"preset": "huge", "finetune": {"methods": ("dreamerv2",), "tasks": (TASK,)}}, r"preset=huge: unknown preset"),
    ],
)
def test_a_study_that_cannot_work_is_refused_as_a_whole(tmp_path: Path, parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(tmp_path, **parts)


def test_finished_pretrainings_of_elsewhere_may_be_named(tmp_path: Path) -> None:
    runs = plan(tmp_path, finetune={"tasks": (TASK,), "seeds": (0,), "init": {"prelar": "runs/pretrained"}})
    assert [run.init_path for run in runs] == [Path("runs/pretrained").absolute()]


@pytest.mark.parametrize("path", sorted((ROOT / "tune_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_can_be_planned(path: Path, tmp_path: Path) -> None:
    sweep = read_sweep(path)
    runs = plan_runs(sweep, tmp_path)
    assert sweep.name == path.stem
    assert runs
    for given in sweep.pretrain.videos.values() if sweep.pretrain else ():
        if not isinstance(given, str):
            recording(sweep, given)


def test_a_study_has_one_image_size(tmp_path: Path) -> None:
    parts: dict[str, Any] = {"pretrain": {"videos": {"a": "videos"}}, "finetune": {"tasks": (TASK,)}}
    runs = plan(tmp_path, settings={"env.image_size": 128}, **parts)
    assert {run.config.env.image_size for run in runs} == {128}
    parts["finetune"]["settings"] = {"env.image_size": 128}
    with pytest.raises(ConfigError, match=r"finetune: env\.image_size=128: the pre-training of prelar has 64"):
        plan(tmp_path, **parts)


def test_a_pretraining_of_its_own_seed_starts_each_seed_of_fine_tuning_where_seeds_are_paired(tmp_path: Path) -> None:
    runs = plan(
        tmp_path,
        pretrain={"videos": {"a": "videos"}, "paired_seeds": True},
        finetune={"methods": ("prelar", "dreamerv2"), "tasks": (TASK, "prelar/arena-wall"), "seeds": (3, 1)},
    )
    seeds = {run.name: run.seed for run in runs}
    assert [(run.phase, run.seed) for run in runs if run.phase == "pretrain"] == [("pretrain", 3), ("pretrain", 1)]
    assert [seeds[run.init] == run.seed for run in finetunings(runs) if run.init] == [True] * 4
    assert all("pretrain.seed" not in run.labels for run in runs)  # it is the run's seed, not something to choose


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"pretrain": {"videos": {"a": "v"}, "paired_seeds": True}}, "no finetune section"),
        (
            {
                "pretrain": {"videos": {"a": "v"}, "paired_seeds": True, "seeds": (0, 1)},
                "finetune": {"tasks": (TASK,)},
            },
            r"give pretrain\.seeds or pretrain\.paired_seeds",
        ),
    ],
)
def test_seeds_are_paired_with_those_of_fine_tuning_and_no_others(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        study(**parts)


@pytest.mark.parametrize("paired", [True, False])
def test_all_variants_run_with_one_seed_before_any_runs_with_the_next(tmp_path: Path, paired: bool) -> None:
    runs = plan(
        tmp_path,
        pretrain={"videos": {"a": "videos"}, "paired_seeds": paired},
        finetune={"methods": ("prelar", "apv", "dreamerv2"), "tasks": (TASK,), "seeds": (7, 0, 7)},
    )
    assert [(run.seed, run.method) for run in finetunings(runs)] == [
        (seed, method) for seed in (7, 0) for method in ("prelar", "apv", "dreamerv2")
    ]
    assert [run.phase for run in runs[:2]] == ["pretrain"] * 2
    assert [run.seed for run in runs] == sorted((run.seed for run in runs), key=(7, 0).index) or not paired


def test_optuna_keeps_the_seeds_of_a_proposal_together(tmp_path: Path) -> None:
    runs = plan(
        tmp_path,
        finetune={
            "methods": ("dreamerv2",),
            "tasks": (TASK,),
            "seeds": (0, 1),
            "space": {"behaviour.horizon": {"choice": [3, 4]}},
        },
        search={"kind": "optuna", "samples": 2},
    )
    assert [(run.slot, run.seed) for run in runs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
