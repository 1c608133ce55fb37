"""What is not a published checkpoint, or not a whole one, is refused by name and shape."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prelar_ray.errors import OfficialCheckpointError
from prelar_ray.published.convert import import_published
from tests.parity.folder import PUBLIC

CLASSES = "world_model.rssm.classes=4"  # of the published files here
INPUT = "wm.rssm._img_in.0.weight"

Change = Callable[[dict[str, Tensor]], object]


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(OfficialCheckpointError) as caught:
        import_published(path, None, None, overrides or (CLASSES,))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def changed(folder: Path, phase: str, change: Change) -> Path:
    """A copy of a published ``variables.pt`` after ``change``."""
    tensors = torch.load(PUBLIC / phase / "variables.pt", weights_only=True)
    change(tensors)
    torch.save(tensors, folder / "variables.pt")
    return folder / "variables.pt"


class Harmful:
    """Unpickling it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a checkpoint of PyTorch"),
        (b"hello, I am a text", "not a checkpoint of PyTorch"),
        (b"PK\x03\x04 and no more", "truncated or damaged"),
        (b"\x80\x02garbage", "damaged|refused"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "variables.pt"
    path.write_bytes(content)
    assert re.search(reason, refused(path))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_part_of_a_file_is_said_to_be_one(tmp_path: Path, share: float) -> None:
    content = (PUBLIC / "finetuned" / "variables.pt").read_bytes()
    path = tmp_path / "variables.pt"
    path.write_bytes(content[: int(len(content) * share)])
    assert "variables.pt: truncated or damaged (" in refused(path)


@pytest.mark.parametrize("by_torch", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, by_torch: bool) -> None:
    path, trace = tmp_path / "variables.pt", tmp_path / "trace"
    harmful = {INPUT: Harmful(trace)}
    torch.save(harmful, path) if by_torch else path.write_bytes(pickle.dumps(harmful, protocol=2))
    assert "nothing of it was run" in refused(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.zeros(2), "holds a Tensor, expected tensors by key"),
        ({}, "holds an empty dictionary"),
        ({"step": 3}, "step is a int, expected nothing but tensors"),
        ({"layer.weight": torch.zeros(2, 3)}, r"no key starts with wm\., the first is layer\.weight of shape \(2, 3\)"),
        ({"wm.rssm.unheard_of": torch.zeros(2)}, r"holds wm\.rssm\.unheard_of of shape \(2,\); no network here has it"),
    ],
)
def test_other_things_that_torch_saves_are_refused(tmp_path: Path, content: object, reason: str) -> None:
    torch.save(content, tmp_path / "variables.pt")
    assert re.search(reason, refused(tmp_path / "variables.pt"))


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "variables.pt")
    assert "objects (torch.nn.modules.linear.Linear) other than tensors" in refused(tmp_path / "variables.pt")


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "absent.pt")
    assert "holds neither variables.pt nor" in refused(tmp_path)


def test_missing_keys_are_named_with_their_shapes(tmp_path: Path) -> None:
    path = changed(tmp_path, "pretrained", lambda tensors: tensors.pop("wm.rssm._obs_out.0.bias"))
    assert "lacks wm.rssm._obs_out.0.bias, expected of shape (" in refused(path)


def test_extra_keys_are_named_with_their_shapes(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["wm.heads.reward._mlp_nn.dense_0.weight"] = torch.zeros(3, 4)

    path = changed(tmp_path, "pretrained", change)
    assert "also holds wm.heads.reward._mlp_nn.dense_0.weight of shape (3, 4)" in refused(path)


@pytest.mark.parametrize(
    "kinds_alone", [pytest.param(False, marks=pytest.mark.nightly, id="all"), pytest.param(True, id="one of a kind")]
)
@pytest.mark.parametrize("phase", ["pretrained", "finetuned"])
def test_a_wrong_shape_is_named_wherever_it_is(tmp_path: Path, phase: str, kinds_alone: bool) -> None:
    """Also where a width is read from it: the other tensors outvote it."""
    tensors = torch.load(PUBLIC / phase / "variables.pt", weights_only=True)
    homes = [
        key
        for key, value in tensors.items()
        if not key.startswith(("_expl_behavior.", "wm.af_rssm."))
        # Two tensors of the bonus, one against one: either may be the wrong one.
        and value.ndim > 1
        and "intr_bonus" not in key
    ]
    if kinds_alone:  # of layers that differ in their number
        homes = list({re.sub(r"\d+", "", key): key for key in homes}.values())
    named = 0
    for key in homes:
        for axis in range(tensors[key].ndim):
            wrong = tensors | {key: torch.cat([tensors[key], tensors[key].narrow(axis, 0, 1)], axis)}
            for alias, home in (("_expl_behavior.", "_task_behavior."), ("wm.af_rssm.", "wm.rssm.")):
                if key.startswith(home) and (copy := alias + key.removeprefix(home)) in wrong:
                    wrong[copy] = wrong[key]
            torch.save(wrong, tmp_path / "variables.pt")
            message = refused(tmp_path / "variables.pt")
            shape = str(tuple(wrong[key].shape))
            assert shape in message, (key, message)
            named += key in message
    assert named > 0.9 * sum(tensors[key].ndim for key in homes)


def test_a_wrong_type_is_refused(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["wm.rssm._obs_out.0.bias"] = tensors["wm.rssm._obs_out.0.bias"].half()

    message = refused(changed(tmp_path, "pretrained", change))
    assert re.search(r"has wm\.rssm\._obs_out\.0\.bias of shape \(\d+,\) float16, expected \(\d+,\) float32", message)


def test_networks_for_images_of_another_size_are_refused(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        """Four times the positions at the ends of the convolutions, as 128x128 images leave."""
        for key in ("wm.rssm._obs_out.0.weight",):
            weight = tensors[key]
            deter = tensors["wm.rssm._cell._norm.weight"].shape[0] // 3
            tensors[key] = torch.cat([weight[:, :deter], weight[:, deter:].repeat(1, 4)], 1)

    message = refused(changed(tmp_path, "pretrained", change))
    assert "is made for images of 128x128; published checkpoints are imported at 64x64" in message


def test_tensors_that_should_be_one_must_agree(tmp_path: Path) -> None:
    def other_value(tensors: dict[str, Tensor]) -> None:
        key = "_expl_behavior.actor._mlp_nn.dense_0.bias"
        tensors[key] = tensors[key] + 1  # not in place: both names share their storage

    assert "should be another name of" in refused(changed(tmp_path, "finetuned", other_value))

    def one_missing(tensors: dict[str, Tensor]) -> None:
        del tensors["_expl_behavior.actor._mlp_nn.dense_0.bias"]

    assert "lacks _expl_behavior.actor._mlp_nn.dense_0.bias" in refused(changed(tmp_path, "finetuned", one_missing))


def test_files_of_different_checkpoints_in_one_folder_are_refused(tmp_path: Path) -> None:
    for path in (PUBLIC / "pretrained").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    part = torch.load(tmp_path / "rssm_variables.pt", weights_only=True)
    part["_img_in.0.weight"] += 1
    torch.save(part, tmp_path / "rssm_variables.pt")
    message = refused(tmp_path)
    assert f"_img_in.0.weight of shape {tuple(part['_img_in.0.weight'].shape)} is not equal to {INPUT}" in message
    assert "the files are of different checkpoints" in message


def test_classes_that_do_not_divide_the_logits_are_refused_with_a_proposal() -> None:
    message = refused(PUBLIC / "pretrained", "world_model.rssm.classes=7")
    assert "logits are not groups of world_model.rssm.classes=7" in message
    assert "for example world_model.rssm.classes=" in message


def test_a_method_with_other_networks_is_refused() -> None:
    message = refused(PUBLIC / "pretrained", CLASSES, "method=apv")
    assert "method=apv has world_model.latent_action_source=zeros, the checkpoint inverse_dynamics" in message
    assert "it fits prelar" in message


def test_a_setting_that_contradicts_a_shape_is_refused() -> None:
    message = refused(PUBLIC / "pretrained", CLASSES, "world_model.rssm.deter=99")
    assert re.search(r"world_model\.rssm\.deter=99 contradicts wm\.rssm\._cell\._norm\.weight of shape", message)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_key(tmp_path: Path, value: float) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[INPUT][0, 0] = value

    assert f"{INPUT} holds NaN or infinity" in refused(changed(tmp_path, "pretrained", change))


@pytest.mark.parametrize("make", [lambda x: x.to("meta"), lambda x: x.to_sparse(), lambda x: x[:1, :1].expand(x.shape)])
def test_tensors_without_numbers_of_their_own_are_refused_by_key(
    tmp_path: Path, make: Callable[[Tensor], Tensor]
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        # With a storage of its own: the file is as small as it states.
        tensors[INPUT] = make(tensors[INPUT].clone()[:1, :1].clone().expand(tensors[INPUT].shape))

    assert INPUT in refused(changed(tmp_path, "pretrained", change))


def test_a_published_checkpoint_is_not_imported_at_another_image_size() -> None:
    path = PUBLIC / "pretrained" / "variables.pt"
    assert "env.image_size=128: published checkpoints are of 64x64 images" in refused(
        path, CLASSES, "env.image_size=128"
    )
